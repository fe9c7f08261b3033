package placement

import (
	"iter"
	"maps"

	"github.com/mobyfs/mobyfs"
)

// Load is what a node owes to volumes. Loads add up.
type Load struct {
	PromisedBytes int64 // to volumes that are there or on their way, and not yet used by them
	ArrivingBytes int64 // of volumes that are on their way to it
	Volumes       int   // that are there or on their way
	Moves         int   // of volumes to it or from it, and of those the ones that are being made there
}

func (l *Load) add(more Load, times int) {
	l.PromisedBytes += int64(times) * more.PromisedBytes
	l.ArrivingBytes += int64(times) * more.ArrivingBytes
	l.Volumes += times * more.Volumes
	l.Moves += times * more.Moves
}

// Owes tells what a volume makes nodes owe: its home the part of the promised size that it does not use yet, and the node
// to which it moves all of it, for it uses nothing there yet. Bytes that all nodes see lie on none of them.
func Owes(v mobyfs.Volume, each func(node string, l Load)) {
	there := Load{Volumes: 1}
	if !mobyfs.SharesBytes(v.Spec.WithDefaults().Backend) && v.State != mobyfs.VolumeRemoving {
		there.PromisedBytes = max(v.Spec.SizeBytes-v.UsedBytes, 0)
	}
	if v.Migration != nil || v.State == mobyfs.VolumeCreating {
		there.Moves = 1
	}
	each(v.Node, there)
	if v.Migration != nil {
		each(v.Migration.To, Load{PromisedBytes: need(v), ArrivingBytes: v.UsedBytes, Volumes: 1, Moves: 1})
	}
}

// need is the room that a volume takes on a node to which it moves, in bytes.
func need(v mobyfs.Volume) int64 { return max(v.Spec.SizeBytes, v.UsedBytes) }

// Candidate is a node and what it owes already.
type Candidate struct {
	Node mobyfs.Node // Ready while it has a session
	Load
	zone     int // in Field.zones
	release  release
	released bool
}

// Field is the nodes among which placement chooses, kept as records of nodes and volumes change, so that a choice need
// not look at records. It is for one writer, or many readers.
type Field struct {
	candidates []Candidate
	at         map[string]int            // where in candidates a node is
	elsewhere  map[string]Load           // of nodes without a record
	groups     map[string]map[string]int // Apart group to node to volumes of it that are there or on their way
	zones      []zone
	volumes    int
}

// zone is the nodes that can fail together. Nodes without a zone are in the zone without a name.
type zone struct {
	name           string
	nodes, volumes int
}

// NewField makes one without nodes.
func NewField() *Field {
	return &Field{at: map[string]int{}, elsewhere: map[string]Load{}, groups: map[string]map[string]int{}}
}

// Set notes the record of a node that is new or has changed. What it owes stays.
func (f *Field) Set(n mobyfs.Node) {
	i, known := f.at[n.Name]
	if !known {
		i = len(f.candidates)
		f.at[n.Name] = i
		f.candidates = append(f.candidates, Candidate{Load: f.elsewhere[n.Name]})
		delete(f.elsewhere, n.Name)
	} else {
		f.tally(&f.candidates[i], -1)
	}
	c := &f.candidates[i]
	c.Node, c.zone = n, f.zoneNamed(n.Zone)
	c.release, c.released = releaseOf(n.Version)
	f.tally(c, 1)
}

// Remove takes a node out. What it owes is remembered, in case it comes back.
func (f *Field) Remove(node string) {
	i, known := f.at[node]
	if !known {
		return
	}
	f.tally(&f.candidates[i], -1)
	if l := f.candidates[i].Load; l != (Load{}) {
		f.elsewhere[node] = l
	}
	last := len(f.candidates) - 1
	f.candidates[i] = f.candidates[last]
	f.at[f.candidates[i].Node.Name] = i
	f.candidates[last] = Candidate{}
	f.candidates = f.candidates[:last]
	delete(f.at, node)
}

// tally counts a node among those of its zone, or takes it out.
func (f *Field) tally(c *Candidate, times int) {
	f.zones[c.zone].nodes += times
	f.zones[c.zone].volumes += times * c.Volumes
	f.volumes += times * c.Volumes
}

// zoneNamed tells where in zones a zone is, which is new if need be. There are few, and those that nobody is in any more
// stay.
func (f *Field) zoneNamed(name string) int {
	for i := range f.zones {
		if f.zones[i].name == name {
			return i
		}
	}
	f.zones = append(f.zones, zone{name: name})
	return len(f.zones) - 1
}

// Add notes a volume, and Drop takes out one that was added, as it was then.
func (f *Field) Add(v mobyfs.Volume) { f.count(v, 1) }

// Drop is the reverse of Add.
func (f *Field) Drop(v mobyfs.Volume) { f.count(v, -1) }

func (f *Field) count(v mobyfs.Volume, times int) {
	Owes(v, func(node string, l Load) {
		f.owe(node, l, times)
		if v.Spec.Apart != "" && v.State != mobyfs.VolumeRemoving {
			f.join(v.Spec.Apart, node, times)
		}
	})
}

func (f *Field) owe(node string, l Load, times int) {
	c := f.find(node)
	if c == nil {
		sum := f.elsewhere[node]
		if sum.add(l, times); sum == (Load{}) {
			delete(f.elsewhere, node)
			return
		}
		f.elsewhere[node] = sum
		return
	}
	c.add(l, times)
	f.zones[c.zone].volumes += times * l.Volumes
	f.volumes += times * l.Volumes
}

// join counts a volume of a group on a node.
func (f *Field) join(group, node string, times int) {
	nodes := f.groups[group]
	if nodes == nil {
		nodes = map[string]int{}
		f.groups[group] = nodes
	}
	if nodes[node] += times; nodes[node] == 0 {
		delete(nodes, node)
	}
	if len(nodes) == 0 {
		delete(f.groups, group)
	}
}

// others is how many volumes of the group that the question is of are on a node, beside the one that it is of.
func (f *Field) others(q *Question, node string) int {
	n := f.groups[q.Spec.Apart][node]
	if node == q.From {
		n--
	}
	return max(n, 0)
}

func (f *Field) find(node string) *Candidate {
	if i, ok := f.at[node]; ok {
		return &f.candidates[i]
	}
	return nil
}

// Candidate tells of one node.
func (f *Field) Candidate(node string) (Candidate, bool) {
	if c := f.find(node); c != nil {
		return *c, true
	}
	return Candidate{}, false
}

// All yields all nodes, in no order.
func (f *Field) All() iter.Seq[Candidate] {
	return func(yield func(Candidate) bool) {
		for _, c := range f.candidates {
			if !yield(c) {
				return
			}
		}
	}
}

// Len is how many nodes there are.
func (f *Field) Len() int { return len(f.candidates) }

// Owed tells what a node owes, whether or not it has a record.
func (f *Field) Owed(node string) Load {
	if c := f.find(node); c != nil {
		return c.Load
	}
	return f.elsewhere[node]
}

// Clone is a field that changes by itself.
func (f *Field) Clone() *Field {
	g := *f
	g.candidates = append([]Candidate(nil), f.candidates...)
	g.at, g.elsewhere = maps.Clone(f.at), maps.Clone(f.elsewhere)
	g.zones = append([]zone(nil), f.zones...)
	g.groups = make(map[string]map[string]int, len(f.groups))
	for group, nodes := range f.groups {
		g.groups[group] = maps.Clone(nodes)
	}
	return &g
}
