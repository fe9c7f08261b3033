package store

import (
	"cmp"
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
)

// By names some of the volumes: those that have something in common. The zero By names all.
type By struct{ what, key, value string }

// OfNode are the volumes that concern a node: it is their home, or they are on their way to it.
func OfNode(name string) By { return By{"node", name, ""} }

// WithLabel are the volumes whose label has the value.
func WithLabel(key, value string) By { return By{"label", key, value} }

// Moving are the volumes of which a migration is under way, Leased those that somebody has the lease of.
var (
	Moving = By{what: "moving"}
	Leased = By{what: "leased"}
)

// InCondition are the volumes of which Condition tells that word.
func InCondition(word string) By { return By{"condition", word, ""} }

// index keeps volumes in the order of their names: all, and for each By those that it names. So nobody who wants a few
// has to look at all.
type index struct {
	parts  parts
	field  *placement.Field // where volumes can be placed, and what nodes owe
	labels labelSets
}

func newIndex() *index {
	return &index{parts: parts{}, field: placement.NewField(), labels: labelSets{}}
}

func less(a, b *mobyfs.Volume) bool { return inOrderOfNames(a, b) < 0 }

func inOrderOfNames(a, b *mobyfs.Volume) int {
	if a.Name == b.Name {
		return strings.Compare(string(a.ID), string(b.ID))
	}
	return strings.Compare(a.Name, b.Name)
}

// partsOf calls each with what names the volume, once with each.
func partsOf(v *mobyfs.Volume, each func(By)) {
	each(By{})
	each(InCondition(v.Condition()))
	each(OfNode(v.Node))
	if m := v.Migration; m != nil {
		each(Moving)
		if m.To != v.Node {
			each(OfNode(m.To))
		}
	}
	if v.Lease != nil {
		each(Leased)
	}
	for key, value := range v.Spec.Labels {
		each(WithLabel(key, value))
	}
}

// parts are the volumes that a By names, in their order.
type parts map[By]*btree.BTreeG[*mobyfs.Volume]

// add takes a volume in, in a moment if it comes after all that are there.
func (p parts) add(by By, v *mobyfs.Volume) {
	tree := p[by]
	if tree == nil {
		tree = btree.NewBTreeGOptions(less, btree.Options{NoLocks: true}) // the cache has its lock
		p[by] = tree
	}
	tree.Load(v)
}

// add takes a volume in, which from now on shares what it has in common with others.
func (x *index) add(v *mobyfs.Volume) {
	v.Spec.Labels = x.labels.share(v.Spec.Labels)
	partsOf(v, func(by By) { x.parts.add(by, v) })
	x.field.Add(*v)
}

// lanes are kinds of parts whose trees are made beside each other; of those with many volumes there is one in each.
var lanes = [][]string{{"", "node"}, {"label"}, {"condition", "moving", "leased"}}

// indexOf is the index of all volumes, whose labels are shared already. It sorts them: to add volumes in their order takes
// a fraction of the time that it takes in no order.
func indexOf(all []*mobyfs.Volume, labels labelSets) *index {
	sortByName(all)
	x := newIndex()
	x.labels = labels
	made := make([]parts, len(lanes))
	var making sync.WaitGroup
	for i, lane := range lanes {
		made[i] = parts{}
		making.Go(func() {
			for _, v := range all {
				partsOf(v, func(by By) {
					if slices.Contains(lane, by.what) {
						made[i].add(by, v)
					}
				})
			}
		})
	}
	for _, v := range all {
		x.field.Add(*v)
	}
	making.Wait()
	for _, p := range made {
		maps.Copy(x.parts, p)
	}
	return x
}

// sortByName sorts by the eight bytes that come after what all names begin with, and looks at the names only where those
// are equal: a million names lie about in memory.
func sortByName(all []*mobyfs.Volume) {
	if len(all) == 0 {
		return
	}
	common := all[0].Name
	for _, v := range all {
		for !strings.HasPrefix(v.Name, common) {
			common = common[:len(common)-1]
		}
	}
	type keyed struct {
		key uint64
		v   *mobyfs.Volume
	}
	keys := make([]keyed, len(all))
	for i, v := range all {
		var next [8]byte
		copy(next[:], v.Name[len(common):])
		keys[i] = keyed{binary.BigEndian.Uint64(next[:]), v}
	}
	slices.SortFunc(keys, func(a, b keyed) int {
		if a.key == b.key {
			return inOrderOfNames(a.v, b.v)
		}
		return cmp.Compare(a.key, b.key)
	})
	for i, k := range keys {
		all[i] = k.v
	}
}

// remove takes a volume out, as it was added.
func (x *index) remove(v *mobyfs.Volume) {
	partsOf(v, func(by By) {
		tree := x.parts[by]
		tree.Delete(v)
		if tree.Len() == 0 {
			delete(x.parts, by)
		}
	})
	x.field.Drop(*v)
	x.labels.drop(v.Spec.Labels)
}

// setNode notes the record of a node, and whether it has a session.
func (x *index) setNode(n mobyfs.Node, session bool) {
	n.Ready = session
	x.field.Set(n)
}

// labelSets are the sets of labels that volumes have, each kept once, however many have it.
type labelSets map[string]*labelSet

type labelSet struct {
	labels map[string]string
	uses   int
}

func (s labelSets) share(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return labels
	}
	var room [setRoom]byte
	name := appendSetName(room[:0], labels)
	set := s[string(name)]
	if set == nil {
		set = &labelSet{labels: labels}
		s[string(name)] = set
	}
	set.uses++
	return set.labels
}

func (s labelSets) drop(labels map[string]string) {
	var room [setRoom]byte
	name := appendSetName(room[:0], labels)
	if set := s[string(name)]; set != nil {
		if set.uses--; set.uses == 0 {
			delete(s, string(name))
		}
	}
}

// setRoom is for the name of most sets, of a few labels: it is made on the stack.
const setRoom = 256

// appendSetName appends what is the same for equal sets alone.
func appendSetName(b []byte, labels map[string]string) []byte {
	var room [8]string
	keys := room[:0]
	for key := range labels {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		b = binary.AppendUvarint(b, uint64(len(key)))
		b = append(b, key...)
		b = binary.AppendUvarint(b, uint64(len(labels[key])))
		b = append(b, labels[key]...)
	}
	return b
}

// Place is where a volume stands in the order of names: behind those of lesser names, and of lesser IDs among those of
// its name, which another volume may have while this one is being removed.
type Place struct {
	Name string
	ID   mobyfs.VolumeID
}

// Ordered yields the volumes that by names in the order of their names, those that stand behind a place. They are the
// records themselves, which nobody may write to; a record that is kept stays as it was.
func (v View) Ordered(by By, after Place) iter.Seq[*mobyfs.Volume] {
	return func(yield func(*mobyfs.Volume) bool) {
		tree := v.c.index.parts[by]
		if tree == nil {
			return
		}
		from := &mobyfs.Volume{Name: after.Name, ID: after.ID}
		tree.Ascend(from, func(x *mobyfs.Volume) bool { return !less(from, x) || yield(x) })
	}
}

// Count tells how many volumes there are that by names.
func (v View) Count(by By) int {
	if tree := v.c.index.parts[by]; tree != nil {
		return tree.Len()
	}
	return 0
}

// Field is the nodes among which volumes are placed, and what they owe. It goes by records alone, so that every control
// process knows the same: a node is ready while its session is there.
func (v View) Field() *placement.Field { return v.c.index.field }
