package placement

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

const gib = 1 << 30

func node(name string, ready bool, free int64, volumes int) mobyfs.Node {
	return mobyfs.Node{Name: name, Ready: ready, Volumes: volumes, Capacity: mobyfs.Capacity{TotalBytes: 100 * gib, FreeBytes: free}}
}

func TestChoose(t *testing.T) {
	unknown := mobyfs.Node{Name: "new", Ready: true}
	for _, tc := range []struct {
		name       string
		candidates []Candidate
		need       int64
		want       string
		explain    string
	}{
		{"nobody", nil, 0, "", "no node has joined the cluster"},
		{"most room wins", []Candidate{{node("a", true, 10*gib, 0), 0}, {node("b", true, 20*gib, 9), 0}}, 0, "b",
			"b: 20 GiB free for new volumes; a: 10 GiB free for new volumes"},
		{"promises count", []Candidate{{node("a", true, 10*gib, 0), 0}, {node("b", true, 20*gib, 0), 15 * gib}}, gib, "a",
			"a: 10 GiB free for new volumes; b: 5.0 GiB free for new volumes"},
		{"equal room: fewer volumes", []Candidate{{node("a", true, gib, 2), 0}, {node("b", true, gib, 1), 0}}, 0, "b",
			"b: 1.0 GiB free for new volumes; a: 1.0 GiB free for new volumes"},
		{"all equal: by name", []Candidate{{node("b", true, gib, 1), 0}, {node("a", true, gib, 1), 0}}, 0, "a",
			"a: 1.0 GiB free for new volumes; b: 1.0 GiB free for new volumes"},
		{"silent nodes get nothing", []Candidate{{node("a", false, 90*gib, 0), 0}, {node("b", true, gib, 0), 0}}, 0, "b",
			"a: not ready; b: 1.0 GiB free for new volumes"},
		{"exactly fits", []Candidate{{node("a", true, gib, 0), 0}}, gib, "a", "a: 1.0 GiB free for new volumes"},
		{"one byte short", []Candidate{{node("a", true, gib, 0), 1}}, gib, "", "a: 1024 MiB free for new volumes, 1.0 GiB needed"},
		{"full takes not even a volume without a size", []Candidate{{node("a", true, 0, 0), 0}}, 0, "", "a: 0 B free for new volumes, 0 B needed"},
		{"promised too much", []Candidate{{node("a", true, gib, 0), 2 * gib}}, 0, "", "a: 0 B free for new volumes, 0 B needed"},
		{"capacity unknown", []Candidate{{unknown, 0}}, 0, "", "new: has not told its capacity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, verdicts := Choose(tc.candidates, tc.need)
			if got != tc.want || Explain(verdicts) != tc.explain {
				t.Errorf("got %q because %q\nwant %q because %q", got, Explain(verdicts), tc.want, tc.explain)
			}
		})
	}
}

func TestPromised(t *testing.T) {
	sized := func(node string, size, used int64) mobyfs.Volume {
		return mobyfs.Volume{Node: node, UsedBytes: used, Spec: mobyfs.VolumeSpec{SizeBytes: size}, State: mobyfs.VolumeReady}
	}
	moving := sized("a", 10, 4)
	moving.Migration = &mobyfs.Migration{From: "a", To: "b"}
	bigger := sized("a", 0, 7)
	bigger.Migration = &mobyfs.Migration{From: "a", To: "b"}
	removing := sized("c", 50, 0)
	removing.State = mobyfs.VolumeRemoving
	got := Promised([]mobyfs.Volume{sized("a", 100, 30), sized("a", 5, 9), sized("d", 0, 1), moving, bigger, removing})
	if want := map[string]int64{"a": 70 + 6, "b": 10 + 7, "d": 0}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
