package transfer

import (
	"slices"
	"strings"
)

// inode is what an end of a live session knows of a file, a directory or anything else in the tree, whatever names it
// has. Both ends number them alike.
type inode struct {
	id     uint64
	kind   kind
	body   string        // its metadata but for the name, encoded
	sum    sum           // of a file's content
	chunks []chunkRecord // of a file whose content came in chunks, in order; those of zeros alone are left out
	links  int           // names
	at     spot          // one of its names; the source keeps it of directories only
	dir    *listing      // of a directory

	blocks map[int64][]uint64 // by chunk: see blockMemory

	more map[spot]bool // at the destination: its other names
	src  *sourceState  // at the source
}

// chunkRecord is the sum of one chunk.
type chunkRecord struct {
	index int64
	sum   sum
}

// spot is a place where an inode can be named. dir is nil for the root, and where there is none.
type spot struct {
	dir  *inode
	name string
}

// path is the path of a spot below the root, for messages.
func (s spot) path() string {
	name := s.name
	for d := s.dir; d != nil && d.at.dir != nil; d = d.at.dir {
		name = d.at.name + "/" + name
	}
	return name
}

// child is a name in a directory.
type child struct {
	name string
	node *inode
}

// listing is the names of a directory. What is added and removed between two calls of settle is kept apart, so that a change of a
// huge directory does not cost its size each time.
type listing struct {
	names   []child // sorted; a node that is nil was removed
	added   map[string]*inode
	removed bool
	live    int
}

func (l *listing) find(name string) (int, bool) {
	return slices.BinarySearchFunc(l.names, name, func(c child, name string) int { return strings.Compare(c.name, name) })
}

// get returns what has a name, or nil.
func (l *listing) get(name string) *inode {
	if n := l.added[name]; n != nil {
		return n
	}
	if i, ok := l.find(name); ok {
		return l.names[i].node
	}
	return nil
}

// add gives a free name away.
func (l *listing) add(name string, n *inode) {
	l.live++
	if last := len(l.names); len(l.added) == 0 && (last == 0 || l.names[last-1].name < name) {
		l.names = append(l.names, child{name, n})
		return
	}
	if l.added == nil {
		l.added = map[string]*inode{}
	}
	l.added[name] = n
}

// remove takes back a name that is there.
func (l *listing) remove(name string) {
	l.live--
	if _, ok := l.added[name]; ok {
		delete(l.added, name)
		return
	}
	if i, ok := l.find(name); ok {
		l.names[i].node, l.removed = nil, true
	}
}

// drop takes a name of a list that is complete back, if n has it.
func (l *listing) drop(name string, n *inode) {
	l.names = slices.DeleteFunc(l.names, func(c child) bool { return c.name == name && c.node == n })
}

// settle makes names complete.
func (l *listing) settle() {
	if l.removed {
		l.names = slices.DeleteFunc(l.names, func(c child) bool { return c.node == nil })
		l.removed = false
	}
	if len(l.added) == 0 {
		return
	}
	for name, n := range l.added {
		l.names = append(l.names, child{name, n})
	}
	l.added = nil
	slices.SortFunc(l.names, func(a, b child) int { return strings.Compare(a.name, b.name) })
}

// digestKnown makes the digest of the tree below root of what is known of it, and counts it.
func digestKnown(root *inode) *tree {
	w := manifestWalk{tree: newTree(liveDigest), numbers: map[*inode]uint64{}}
	w.visit("", root)
	return w.tree
}

type manifestWalk struct {
	tree    *tree
	numbers map[*inode]uint64 // of those with several names
	rec     []byte
}

func (w *manifestWalk) visit(name string, n *inode) {
	if number, again := w.numbers[n]; again {
		m := meta{kind: kindLink, name: name, link: number}
		w.rec = m.appendTo(w.rec[:0])
		w.tree.addRecord(kindLink, w.rec, sum{})
		return
	}
	if n.links > 1 {
		w.numbers[n] = uint64(w.tree.entries)
	}
	w.rec = append(appendString(append(w.rec[:0], byte(n.kind)), name), n.body...)
	w.tree.addRecord(n.kind, w.rec, n.sum)
	if n.kind != kindDir {
		return
	}
	n.dir.settle()
	for _, c := range n.dir.names {
		w.visit(c.name, c.node)
	}
	w.tree.leave()
}

// findChunk tells where the record of a chunk is, or would be.
func findChunk(all []chunkRecord, index int64) (int, bool) {
	if n := len(all); n == 0 || all[n-1].index < index {
		return n, false
	}
	return slices.BinarySearchFunc(all, index, func(c chunkRecord, index int64) int {
		switch {
		case c.index < index:
			return -1
		case c.index > index:
			return 1
		}
		return 0
	})
}

// setChunk notes the sum of a chunk.
func (n *inode) setChunk(index int64, s sum) {
	i, found := findChunk(n.chunks, index)
	switch {
	case found && s == (sum{}):
		n.chunks = slices.Delete(n.chunks, i, i+1)
	case found:
		n.chunks[i].sum = s
	case s != (sum{}):
		n.chunks = slices.Insert(n.chunks, i, chunkRecord{index, s})
	}
}

// cutChunks forgets what lies beyond the size.
func (n *inode) cutChunks(size int64) {
	i, _ := findChunk(n.chunks, (size+chunkSize-1)/chunkSize)
	n.chunks = n.chunks[:i]
}

// sumOfChunks is the sum of the whole content.
func sumOfChunks(all []chunkRecord) sum {
	var whole contentSum
	for _, c := range all {
		whole.add(c.index, c.sum)
	}
	return whole.sum()
}
