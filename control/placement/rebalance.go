package placement

import (
	"cmp"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Move is a volume that is better off elsewhere.
type Move struct {
	Volume mobyfs.VolumeID `json:"volume"`
	Name   string          `json:"name"`
	From   string          `json:"from"`
	To     string          `json:"to"`
	Bytes  int64           `json:"bytes" doc:"that it uses, and that are copied"`
	Gain   float64         `json:"gain" doc:"how much less full its node is then than its node was before, of 1"`
}

// Rebalance plans the moves after which no node is much fuller than others that could have its volumes. A volume moves
// only if its new node, with the volume on it, is emptier by minGain than the old one was; so it never moves back, and
// once the plan is carried out there is nothing to plan. Each move fits when those before it are done. volumes are all
// those that the field was made of, as they were added; those that are in use, on their way, or on a silent node stay.
func Rebalance(f *Field, volumes []mobyfs.Volume, p Policy, minGain float64) []Move {
	b := balance{field: f.Clone(), policy: p, minGain: minGain, on: map[string][]*mobyfs.Volume{}}
	for _, v := range volumes {
		if movable(v) {
			b.on[v.Node] = append(b.on[v.Node], &v)
		}
	}
	for i := range b.field.candidates {
		b.order = append(b.order, &b.field.candidates[i])
	}
	first := map[mobyfs.VolumeID]string{} // the home before the plan
	var moved []*mobyfs.Volume            // in the order of their last moves
	for {
		v, to := b.best()
		if v == nil {
			break
		}
		if _, again := first[v.ID]; again {
			moved = slices.DeleteFunc(moved, func(m *mobyfs.Volume) bool { return m.ID == v.ID })
		} else {
			first[v.ID] = v.Node
		}
		moved = append(moved, v)
		b.move(v, to)
	}
	return inOrder(f.Clone(), p, moved, first)
}

// movable reports whether a volume can be moved now without anybody's noticing, and whether that makes room.
func movable(v mobyfs.Volume) bool {
	return v.State == mobyfs.VolumeReady && v.Lease == nil && v.Migration == nil &&
		!mobyfs.SharesBytes(v.Spec.WithDefaults().Backend) && need(v) > 0
}

// balance is a field while moves are tried on it.
type balance struct {
	field   *Field
	policy  Policy
	minGain float64
	on      map[string][]*mobyfs.Volume // movable, by node
	order   []*Candidate                // see best
}

// best is the move that helps the fullest node most that can be helped; nil if there is none.
func (b *balance) best() (v *mobyfs.Volume, to string) {
	slices.SortFunc(b.order, func(x, y *Candidate) int {
		return cmp.Or(cmp.Compare(b.fill(x, 0), b.fill(y, 0)), strings.Compare(x.Node.Name, y.Node.Name))
	})
	for _, from := range slices.Backward(b.order) {
		if b.fill(from, 0)-b.fill(b.order[0], 0) < b.minGain {
			return nil, ""
		}
		if !from.Node.Ready {
			continue
		}
		var least float64
		for _, w := range b.on[from.Node.Name] {
			if c := b.target(from, w); c != nil {
				fuller := max(b.fill(from, -need(*w)), b.fill(c, need(*w)))
				if v == nil || fuller < least || fuller == least && w.ID < v.ID {
					v, to, least = w, c.Node.Name, fuller
				}
			}
		}
		if v != nil {
			return v, to
		}
	}
	return nil, ""
}

// target is the emptiest node to which it is worth while to move a volume, or nil.
func (b *balance) target(from *Candidate, v *mobyfs.Volume) *Candidate {
	q := ForMove(*v, b.policy)
	most := b.fill(from, 0) - b.minGain
	for _, c := range b.order {
		if b.fill(c, 0) > most {
			return nil
		}
		if b.fill(c, need(*v)) <= most && refusal(b.field, c, &q) == nil && untolerated(c, &q, mobyfs.TaintPreferNot) == nil {
			return c
		}
	}
	return nil
}

// fill is how full a node is with so many bytes more, of 1.
func (b *balance) fill(c *Candidate, more int64) float64 {
	limit := b.policy.limit(c.Node.Capacity.TotalBytes)
	if limit <= 0 {
		return 1
	}
	return 1 - float64(c.room(&b.policy)-more)/float64(limit)
}

// move makes a move in the field.
func (b *balance) move(v *mobyfs.Volume, to string) {
	from := v.Node
	b.on[from] = slices.DeleteFunc(b.on[from], func(w *mobyfs.Volume) bool { return w.ID == v.ID })
	b.on[to] = append(b.on[to], v)
	b.field.carry(v, to)
}

// carry makes another node the home of a volume, with all its bytes.
func (f *Field) carry(v *mobyfs.Volume, to string) {
	f.Drop(*v)
	f.find(v.Node).Node.Capacity.FreeBytes += v.UsedBytes
	v.Node = to
	f.find(to).Node.Capacity.FreeBytes -= v.UsedBytes
	f.Add(*v)
}

// inOrder are the moves from where the volumes were to where they are, each when there is room for it.
func inOrder(f *Field, p Policy, moved []*mobyfs.Volume, first map[mobyfs.VolumeID]string) []Move {
	b := balance{field: f, policy: p}
	var plan []Move
	for progress := true; progress; {
		progress = false
		var later []*mobyfs.Volume
		for _, v := range moved {
			was := *v
			was.Node = first[v.ID]
			if was.Node == v.Node {
				continue
			}
			q := ForMove(was, p)
			if refusal(f, f.find(v.Node), &q) != nil {
				later = append(later, v)
				continue
			}
			before := b.fill(f.find(was.Node), 0)
			f.carry(&was, v.Node)
			plan = append(plan, Move{
				Volume: v.ID, Name: v.Name, From: first[v.ID], To: v.Node, Bytes: v.UsedBytes,
				Gain: before - b.fill(f.find(v.Node), 0),
			})
			progress = true
		}
		moved = later
	}
	return plan
}
