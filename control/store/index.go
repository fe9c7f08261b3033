package store

import (
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"strings"

	"k8s.io/utils/third_party/forked/golang/btree"

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
	parts  map[By]*btree.BTree[*mobyfs.Volume]
	field  *placement.Field // where volumes can be placed, and what nodes owe
	labels labelSets
	free   *btree.FreeList[*mobyfs.Volume]
}

const (
	treeDegree = 32
	freeNodes  = 256
)

func newIndex() *index {
	return &index{parts: map[By]*btree.BTree[*mobyfs.Volume]{}, field: placement.NewField(), labels: labelSets{}, free: btree.NewFreeList[*mobyfs.Volume](freeNodes)}
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

// add takes a volume in, which from now on shares what it has in common with others.
func (x *index) add(v *mobyfs.Volume) {
	v.Spec.Labels = x.labels.share(v.Spec.Labels)
	partsOf(v, func(by By) {
		tree := x.parts[by]
		if tree == nil {
			tree = btree.NewWithFreeList(treeDegree, less, x.free)
			x.parts[by] = tree
		}
		tree.ReplaceOrInsert(v)
	})
	x.field.Add(*v)
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
	name := setName(labels)
	set := s[name]
	if set == nil {
		set = &labelSet{labels: labels}
		s[name] = set
	}
	set.uses++
	return set.labels
}

func (s labelSets) drop(labels map[string]string) {
	name := setName(labels)
	if set := s[name]; set != nil {
		if set.uses--; set.uses == 0 {
			delete(s, name)
		}
	}
}

// setName is the same for equal sets alone.
func setName(labels map[string]string) string {
	var b []byte
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		b = binary.AppendUvarint(b, uint64(len(key)))
		b = append(b, key...)
		b = binary.AppendUvarint(b, uint64(len(labels[key])))
		b = append(b, labels[key]...)
	}
	return string(b)
}

// Place is where a volume stands in the order of names: behind those of lesser names, and of lesser IDs among those of
// its name, which another volume may have while this one is being removed.
type Place struct {
	Name string
	ID   mobyfs.VolumeID
}

// Ordered yields the volumes that by names in the order of their names, those that stand behind a place.
func (v View) Ordered(by By, after Place) iter.Seq[mobyfs.Volume] {
	return func(yield func(mobyfs.Volume) bool) {
		tree := v.c.index.parts[by]
		if tree == nil {
			return
		}
		from := &mobyfs.Volume{Name: after.Name, ID: after.ID}
		tree.AscendGreaterOrEqual(from, func(x *mobyfs.Volume) bool { return !less(from, x) || yield(*x) })
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
