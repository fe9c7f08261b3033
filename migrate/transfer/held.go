package transfer

import (
	"encoding/binary"
	"math"

	"github.com/mobyfs/mobyfs"
)

// What a destination tells of what it holds already, when a session goes on where an earlier one ended: entries in canonical order, as
// in a batch, each file's followed by the sums of its chunks. Inodes are numbered in this order, and names that an inode has besides
// are entries of kind h with its number.

// frames of a session that goes on; protocol.md tells which follows which.
const (
	frameTell frameType = 22 // server: say what is there
	frameHeld frameType = 28 // client: some of it
)

// What a client asks for in frameRound.
const (
	roundNext   = 0
	roundLast   = 1
	roundGoesOn = 2 // the first; an earlier session left something. Who does not know it takes it for roundNext
)

// opSums comes after a file's entry, and again if there are more: number of chunks, index and sum of each.
const opSums op = 'c'

// maxHeld is how much a destination may tell, in bytes: a volume of some ten million files.
const maxHeld = 1 << 30

// maxSums is how many sums go into one step: less than half of a frame.
const maxSums = 16 << 10

// weight is about how many bytes tell takes.
func (m *mirror) weight() (n int64) {
	for _, node := range m.nodes {
		n += int64(len(node.body)+24*len(node.chunks)) + int64(node.links)*64
	}
	return n
}

// tell passes on what the tree holds, in frames.
func (m *mirror) tell(pass func(frame []byte) error) error {
	t := &teller{pass: pass, told: map[*inode]bool{}}
	if err := t.visit("", m.nodes[0]); err != nil {
		return err
	}
	return t.flush()
}

type teller struct {
	pass  func([]byte) error
	frame []byte
	told  map[*inode]bool // of those with several names
}

func (t *teller) visit(name string, n *inode) error {
	if n.links > 1 && t.told[n] {
		link := meta{kind: kindLink, name: name, link: n.id}
		return t.add(appendOp(nil, opEntry, link.appendTo(nil)))
	}
	if n.links > 1 {
		t.told[n] = true
	}
	rec := append(appendString([]byte{byte(n.kind)}, name), n.body...)
	if err := t.add(appendOp(nil, opEntry, rec)); err != nil {
		return err
	}
	for all := n.chunks; len(all) > 0; {
		k := min(len(all), maxSums)
		if err := t.add(appendSums(nil, all[:k])); err != nil {
			return err
		}
		all = all[k:]
	}
	if n.kind != kindDir {
		return nil
	}
	n.dir.settle()
	for _, c := range n.dir.names {
		if err := t.visit(c.name, c.node); err != nil {
			return err
		}
	}
	return t.add([]byte{byte(opLeave)})
}

func appendSums(b []byte, all []chunkRecord) []byte {
	b = binary.AppendUvarint(append(b, byte(opSums)), uint64(len(all)))
	for _, c := range all {
		b = append(binary.AppendUvarint(b, uint64(c.index)), c.sum[:]...)
	}
	return b
}

func (t *teller) add(step []byte) error {
	if len(t.frame) > 0 && len(t.frame)+len(step) > chunkSize {
		if err := t.flush(); err != nil {
			return err
		}
	}
	t.frame = append(t.frame, step...)
	return nil
}

func (t *teller) flush() error {
	if len(t.frame) == 0 {
		return nil
	}
	err := t.pass(t.frame)
	t.frame = t.frame[:0]
	return err
}

// held is what a destination holds, as the source takes it in.
type held struct {
	top   *inode
	nodes []*inode
	stack []*inode
	last  *inode // a file whose sums may come
	size  int64  // of what was told
}

// take takes in a frame.
func (h *held) take(b []byte) error {
	if h.size += int64(len(b)); h.size > 2*maxHeld {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "what the destination holds takes more than %d bytes to tell", 2*maxHeld)
	}
	d := &decoder{b: b}
	for len(d.b) > 0 {
		if err := h.step(d); err != nil {
			return err
		}
	}
	return nil
}

func (h *held) step(d *decoder) error {
	switch o := op(d.byte()); o {
	case opEntry:
		m, err := decodeMeta(d.bytes(int(d.uint(maxMeta))))
		if d.err != nil {
			err = d.err
		}
		if err != nil {
			return decoded("entry", err)
		}
		return h.enter(&m)
	case opSums:
		return h.sums(d)
	case opLeave:
		if len(h.stack) == 0 {
			return corrupt("what is held leaves a directory that it is not in")
		}
		h.stack, h.last = h.stack[:len(h.stack)-1], nil
		return nil
	default:
		return corrupt("there is no step %q in what is held", o)
	}
}

// enter takes in an entry.
func (h *held) enter(m *meta) error {
	h.last = nil
	if h.top == nil {
		if m.kind != kindDir || m.name != "" {
			return corrupt("what is held begins with %q", m.name)
		}
		h.top = h.made(m, spot{})
		return nil
	}
	if len(h.stack) == 0 || len(h.stack) > maxDepth || m.name == "" {
		return corrupt("%q is held at no place of the tree", m.name)
	}
	dir := h.stack[len(h.stack)-1]
	if all := dir.dir.names; len(all) > 0 && all[len(all)-1].name >= m.name {
		return corrupt("%q is held after %q", m.name, all[len(all)-1].name)
	}
	if m.kind != kindLink {
		n := h.made(m, spot{dir, m.name})
		dir.dir.add(m.name, n)
		return nil
	}
	if m.link >= uint64(len(h.nodes)) || h.nodes[m.link].kind == kindDir {
		return corrupt("%q is held as another name of inode %d", m.name, m.link)
	}
	n := h.nodes[m.link]
	n.links++
	dir.dir.add(m.name, n)
	return nil
}

// made gives an inode its number. What it is at the source is not known yet, so it has no key there, and it is to be read.
func (h *held) made(m *meta, at spot) *inode {
	n := &inode{id: uint64(len(h.nodes)), kind: m.kind, body: string(m.appendBody(nil)), links: 1, src: &sourceState{sent: true, partial: true}}
	h.nodes = append(h.nodes, n)
	switch n.kind {
	case kindDir:
		n.dir, n.at = &listing{}, at
		h.stack = append(h.stack, n)
	case kindFile:
		n.chunks, n.sum = []chunkRecord{}, sumOfChunks(nil)
		h.last = n
	}
	return n
}

// sums takes in sums of the file that was told last.
func (h *held) sums(d *decoder) error {
	n := h.last
	if n == nil {
		return corrupt("sums of no file are held")
	}
	for k := d.uint(maxSums); k > 0 && d.err == nil; k-- {
		c := chunkRecord{int64(d.uint(math.MaxInt64/chunkSize - 1)), d.sum()}
		if all := n.chunks; len(all) > 0 && all[len(all)-1].index >= c.index || c.sum == (sum{}) {
			return corrupt("the sum of chunk %d is held at the wrong place", c.index)
		}
		n.chunks = append(n.chunks, c)
	}
	n.sum = sumOfChunks(n.chunks)
	return decoded("sums", d.err)
}

// finder begins to look for what changed since the destination had what it holds.
func (h *held) finder(root int) (*changeFinder, error) {
	if len(h.stack) > 0 {
		return nil, corrupt("what is held ends in %q", h.stack[len(h.stack)-1].at.path())
	}
	f := newChangeFinder(root)
	f.top, f.nextID, f.held = h.top, uint64(len(h.nodes)), true
	return f, nil
}

// adopt finds what the destination holds at the place of an entry that is not known, if it is of its kind. Whether it is the same
// does not matter: it is read and compared.
func (f *changeFinder) adopt(dir *inode, it *item) *inode {
	if !f.held {
		return nil
	}
	n := dir.dir.get(it.name)
	if n == nil || n.kind != it.kind || n.src.key != (inodeKey{}) {
		return nil
	}
	return n
}

// content is what files that were renamed are known by.
type contentKey struct {
	size, sec int64
	nsec      uint32
}

// stranger is a file of which the destination holds nothing at its place.
type stranger struct {
	node *inode
	key  contentKey
}

// adoptMoved finds what the destination holds elsewhere of files at whose place it holds nothing, by size and time.
func (f *changeFinder) adoptMoved() {
	if !f.held {
		return
	}
	f.held = false
	left := map[*inode][]spot{} // what has no place any more
	heldFiles(f.top, left)
	byKey := map[contentKey]*inode{}
	for n := range left {
		if m, err := decodeBody(kindFile, n.body); err == nil && m.size > 0 {
			byKey[contentKey{m.size, m.sec, m.nsec}] = n
		}
	}
	for _, s := range f.strangers {
		if old := byKey[s.key]; old != nil {
			delete(byKey, s.key)
			s.node.replace(old, left[old])
		}
	}
	f.strangers = nil
}

// heldFiles collects the names of files that the source has not at their place.
func heldFiles(dir *inode, left map[*inode][]spot) {
	for _, c := range dir.dir.names {
		switch {
		case c.node.kind == kindDir:
			heldFiles(c.node, left)
		case c.node.kind == kindFile && c.node.src.key == (inodeKey{}):
			left[c.node] = append(left[c.node], spot{dir, c.name})
		}
	}
}

// replace makes n what the destination holds under these names.
func (n *inode) replace(old *inode, names []spot) {
	n.id, n.body, n.sum, n.chunks, n.links = old.id, old.body, old.sum, old.chunks, old.links
	n.src.sent = true
	for _, at := range names {
		if i, found := at.dir.dir.find(at.name); found {
			at.dir.dir.names[i].node = n
		}
	}
}
