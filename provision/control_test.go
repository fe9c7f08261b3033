package provision

import (
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs/provision/cloud"
)

func TestQuotaAndSessionsOfControlComeFromTheFile(t *testing.T) {
	const file = "apiVersion: mobyfs.dev/v1\ncluster: shop\nhosts: [{name: h1, address: a}]\n"
	c, err := ParseConfig("cluster.yaml", []byte(file+"control: {host: h1, quota: 2GiB, sessionTTL: 10s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFleet(c, []cloud.HostSpec{{Name: "h1", Address: "a"}})
	if err != nil || f.Quota != "2GiB" || f.SessionTTL != "10s" || len(f.Controls) != 1 {
		t.Errorf("the fleet has quota %q, sessions of %q, %v", f.Quota, f.SessionTTL, err)
	}
	for text, want := range map[string]string{
		"control: {quota: 1MiB}":          "no size from 16M to 32G",
		"control: {quota: much}":          "no size",
		"control: {quota: 64GiB}":         "no size",
		"control: {sessionTTL: 1s}":       "no time of whole seconds",
		"control: {sessionTTL: 10500ms}":  "no time of whole seconds",
		"control: {sessionTTL: tomorrow}": "no time of whole seconds",
	} {
		if _, err := ParseConfig("cluster.yaml", []byte(file+text+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
