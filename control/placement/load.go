package placement

import (
	"maps"

	"github.com/mobyfs/mobyfs"
)

// Load is what a node owes to volumes that are there or on their way.
type Load struct {
	PromisedBytes int64          `json:"promised_bytes,omitempty"` // and not yet used by them
	Volumes       int            `json:"volumes,omitempty"`        // at home there, those that are being removed too
	Arriving      int            `json:"arriving,omitempty"`       // migrations to it
	Leaving       int            `json:"leaving,omitempty"`        // migrations from it
	Apart         map[string]int `json:"apart,omitempty"`          // volumes of each group that are to be kept apart
	Revision      int64          `json:"-"`                        // of the record in the store
}

// Loads are the loads of nodes by name.
type Loads map[string]Load

// LoadsOf tells what one volume takes of which nodes: of its home the part of the promised size that it does not use
// yet, and of the node to which it moves all that it needs, for it uses nothing there yet.
func LoadsOf(v mobyfs.Volume) Loads {
	home := Load{Volumes: 1}
	if v.State != mobyfs.VolumeRemoving {
		home.PromisedBytes = max(v.Spec.SizeBytes-v.UsedBytes, 0)
		home.Apart = apart(v)
	}
	l := Loads{v.Node: home}
	if m := v.Migration; m != nil {
		home.Leaving = 1
		l[v.Node] = home
		l.Add(Loads{m.To: {Arriving: 1, PromisedBytes: Need(v), Apart: apart(v)}}, 1)
	}
	return l
}

func apart(v mobyfs.Volume) map[string]int {
	if v.Spec.Apart == "" {
		return nil
	}
	return map[string]int{v.Spec.Apart: 1}
}

// Add adds others, each times factor.
func (l Loads) Add(others Loads, factor int) {
	for node, o := range others {
		sum := l[node]
		sum.PromisedBytes += o.PromisedBytes * int64(factor)
		sum.Volumes += o.Volumes * factor
		sum.Arriving += o.Arriving * factor
		sum.Leaving += o.Leaving * factor
		sum.Apart = maps.Clone(sum.Apart)
		for group, n := range o.Apart {
			if sum.Apart == nil {
				sum.Apart = map[string]int{}
			}
			if sum.Apart[group] += n * factor; sum.Apart[group] == 0 {
				delete(sum.Apart, group)
			}
		}
		l[node] = sum
	}
}

// Equal reports whether two loads are the same but for their revisions.
func (l Load) Equal(o Load) bool {
	return l.PromisedBytes == o.PromisedBytes && l.Volumes == o.Volumes && l.Arriving == o.Arriving &&
		l.Leaving == o.Leaving && maps.Equal(l.Apart, o.Apart)
}

// None reports whether the node owes nothing.
func (l Load) None() bool { return l.Equal(Load{}) }
