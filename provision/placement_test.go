package provision

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
)

const placed = "apiVersion: mobyfs.dev/v1\ncluster: shop\nhosts: [{name: h1, address: a}]\nvolumes:\n"

func TestHowVolumesArePlacedComesFromTheFile(t *testing.T) {
	for text, want := range map[string]placement.Policy{
		"": placement.DefaultPolicy(),
		"  placement: {strategy: binpack, overcommit: 1.5, headroom: 0}\n": {Strategy: placement.BinPack, Overcommit: 1.5},
	} {
		c, err := ParseConfig("cluster.yaml", []byte(placed+"  linger: 5s\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Volumes.Placement.policy(); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"  placement: {strategy: best}\n":                     "can't be placed by",
		"  placement: {overcommit: 0.5}\n":                    "overcommit of 0.5",
		"  placement: {headroom: 1}\n":                        "headroom of 1",
		"  classes: [{name: fast, zone: a b}]\n":              "zone of a volume",
		"  classes: [{name: fast, tolerations: [\"a:b\"]}]\n": "is no toleration",
	} {
		if _, err := ParseConfig("cluster.yaml", []byte(placed+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestClassesSayWhereTheirVolumesMayBe(t *testing.T) {
	c, err := ParseConfig("cluster.yaml", []byte(placed+"  classes: [{name: fast, zone: east, apart: db, nodeLabels: {disk: ssd}, tolerations: [gpu]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := c.classes()[0].Fill(mobyfs.VolumeSpec{NodeLabels: map[string]string{"disk": "nvme", "rack": "r1"}})
	want := mobyfs.VolumeSpec{Class: "fast", Zone: "east", Apart: "db", NodeLabels: map[string]string{"disk": "nvme", "rack": "r1"}, Tolerations: []string{"gpu"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
