package transfer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// inodeKey is what the kernel calls an inode.
type inodeKey struct{ dev, ino uint64 }

// sourceState is what the source remembers of an inode beyond what it has sent.
type sourceState struct {
	key    inodeKey
	stamp  stampNs // when it was read
	seen   int     // the round that listed it last
	sent   bool    // the destination has it
	listed *[]child

	dirty   bool         // it may have changed after it was read without its stamp telling
	partial bool         // not all was sent that it had when it was read
	again   []feed.Range // was read without having been told, so it is looked at once more
}

// toRead is what is to be read of a file of which these ranges were told; nil is all of it.
func (s *sourceState) toRead(told []feed.Range) []feed.Range {
	if told == nil || s.partial {
		return nil
	}
	return append(slices.Clip(told), s.again...)
}

// stampNs is a stamp that takes less memory.
type stampNs struct{ size, mtime, ctime int64 }

func (s stamp) ns() stampNs { return stampNs{s.size, s.mtime.Nano(), s.ctime.Nano()} }

// visit is an inode whose metadata and content are to be read anew.
type visit struct {
	at     spot
	node   *inode
	ranges []feed.Range // the content that may have changed; nil is all of it
}

// changeFinder finds out in each round what may have changed in a tree since the round before.
type changeFinder struct {
	root   int
	top    *inode
	known  map[inodeKey]*inode
	nextID uint64
	round  int

	listed []*inode // directories with a list of names of this round, parents first
	moved  []naming // directories that a feed's set found at another place, by the names that they had
	visits []visit
	count  plan
	paths  map[string][]feed.Range // that a feed told of
	silent bool                    // what stays where it was has not changed, or a feed would have told
	blocks blockMemory

	held      bool // the tree is what the destination holds of an earlier session, and was not looked at yet
	strangers []stranger
}

func newChangeFinder(root int) *changeFinder {
	top := &inode{kind: kindDir, dir: &listing{}, links: 1, src: &sourceState{sent: true}}
	return &changeFinder{root: root, top: top, known: map[inodeKey]*inode{}, nextID: 1}
}

// look finds out what changed: in everything, or in what the set names.
func (f *changeFinder) look(ctx context.Context, set feed.Set) error {
	f.round++
	f.listed, f.moved, f.visits, f.count = f.listed[:0], f.moved[:0], nil, plan{}
	f.paths, f.silent = set.Paths, false
	if set.All {
		err := scan(ctx, f.root, wantLive, (&fullLook{f: f}).visit)
		f.adoptMoved()
		return err
	}
	return f.lookAt(ctx, set.Paths)
}

// fullLook takes in the items of a scan.
type fullLook struct {
	f     *changeFinder
	stack []*inode
	under int // directories below one that was seen elsewhere already
}

func (l *fullLook) visit(it *item) error {
	if it.leave {
		if l.under > 0 {
			l.under--
		} else {
			l.stack = l.stack[:len(l.stack)-1]
		}
		return nil
	}
	if l.under > 0 {
		if it.kind == kindDir {
			l.under++
		}
		return nil
	}
	if len(l.stack) == 0 {
		l.f.seeRoot(it)
		l.stack = append(l.stack, l.f.top)
		return nil
	}
	parent := l.stack[len(l.stack)-1]
	n := l.f.see(parent, it)
	if it.kind == kindDir {
		if n == nil {
			l.under++
			return nil
		}
		l.stack = append(l.stack, n)
	}
	return nil
}

func (f *changeFinder) seeRoot(it *item) {
	s := f.top.src
	s.key = inodeKey{it.dev, it.ino}
	f.known[s.key] = f.top
	f.note(f.top, spot{}, it)
	f.list(f.top)
}

// list begins a new list of a directory's names.
func (f *changeFinder) list(n *inode) {
	n.src.listed = new([]child)
	n.src.seen = f.round
	f.listed = append(f.listed, n)
}

// see notes an entry of a directory that is being listed, and returns its inode: nil if it is a directory that was seen at
// another place in this round, because it was renamed meanwhile, or the name was seen before.
func (f *changeFinder) see(dir *inode, it *item) *inode {
	names := dir.src.listed
	if last := len(*names); last > 0 && (*names)[last-1].name == it.name {
		return nil
	}
	key := inodeKey{it.dev, it.ino}
	n := f.known[key]
	if n != nil && n.kind != it.kind {
		n = nil
	}
	if n == nil {
		n = f.adopt(dir, it)
	}
	if n == nil {
		n = &inode{kind: it.kind, src: &sourceState{partial: true}}
		if n.kind == kindDir {
			n.dir = &listing{}
		}
		if f.held && n.kind == kindFile {
			f.strangers = append(f.strangers, stranger{n, contentKey{it.size, it.sec, it.nsec}})
		}
	}
	if n.kind == kindDir && n.src.seen == f.round {
		return nil
	}
	n.src.key = key
	f.known[key] = n
	*names = append(*names, child{it.name, n})
	f.note(n, spot{dir, it.name}, it)
	if n.kind == kindDir {
		f.list(n)
	}
	n.src.seen = f.round
	return n
}

// note plans to visit an inode that may have changed, and counts it.
func (f *changeFinder) note(n *inode, at spot, it *item) {
	f.count.entries++
	if n.src.seen == f.round && n != f.top {
		return // by another name
	}
	f.count.space += it.blocks * 512
	if it.kind == kindFile {
		f.count.bytes += min(it.size, it.blocks*512)
	}
	ranges, told := f.toldOf(at)
	racy := n.src.dirty && !f.silent
	ranges = n.src.toRead(ranges)
	if racy || told || n.src.partial || n.src.stamp != it.stamp.ns() {
		f.visits = append(f.visits, visit{at, n, ranges})
	}
}

// toldOf tells whether a feed told of what is at a place, and what part of its content.
func (f *changeFinder) toldOf(at spot) (ranges []feed.Range, told bool) {
	if len(f.paths) == 0 || at.dir == nil {
		return nil, false
	}
	ranges, told = f.paths[at.path()]
	return ranges, told
}

// lookAt lists the directories and stats the files of a feed's set.
func (f *changeFinder) lookAt(ctx context.Context, paths map[string][]feed.Range) error {
	all := make([]string, 0, len(paths))
	for p := range paths {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b string) int { // a directory before what lies in it
		return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
	})
	for _, p := range all {
		if err := ctxErr(ctx); err != nil {
			return err
		}
		if err := f.lookAtPath(p, paths[p]); err != nil {
			return err
		}
	}
	return nil
}

func (f *changeFinder) lookAtPath(path string, ranges []feed.Range) error {
	if path == "" {
		return f.relist(f.top, f.root, ".", false)
	}
	n, dir := f.top, (*inode)(nil)
	var name string
	for name = range strings.SplitSeq(path, "/") {
		if n == nil || n.kind != kindDir {
			return nil // its parent is told of too, or it is gone
		}
		dir, n = n, nameNow(n, name)
	}
	if n == nil {
		return nil // new ones are found by the parent's list; others are gone
	}
	fd, shut, err := f.open(dir)
	if err != nil || fd < 0 {
		return err
	}
	defer shut()
	if n.kind == kindDir {
		return f.relist(n, fd, name, false)
	}
	it, err := statItem(fd, name)
	if err != nil || it == nil || (inodeKey{it.dev, it.ino}) != n.src.key || it.kind != n.kind {
		return err
	}
	if n.src.seen == f.round {
		return nil
	}
	n.src.seen = f.round
	ranges = n.src.toRead(ranges)
	f.visits = append(f.visits, visit{spot{dir, name}, n, ranges})
	return nil
}

// nameNow is what has a name by the list of this round, if there is one.
func nameNow(dir *inode, name string) *inode {
	if dir.src.listed == nil {
		return dir.dir.get(name)
	}
	for _, c := range *dir.src.listed {
		if c.name == name {
			return c.node
		}
	}
	return nil
}

// relist lists a directory that a feed told of. Directories in it that are new at their place are listed with all that lies below,
// as are all of them if it is to go deep.
func (f *changeFinder) relist(n *inode, at int, entry string, deep bool) error {
	if n.src.listed != nil {
		return nil
	}
	f.silent = !deep // events in a directory that was elsewhere may have been of no tree
	fd, err := openQuietly(at, entry, unix.O_DIRECTORY)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fault("read "+n.at.path(), err)
	}
	defer dirfd.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fault("read "+n.at.path(), err)
	}
	var it item
	it.take(&st)
	if (inodeKey{it.dev, it.ino}) != n.src.key {
		return nil
	}
	f.visits = append(f.visits, visit{n.at, n, nil})
	f.list(n)
	entries, err := dirfd.List(fd, make([]byte, 64<<10))
	if err != nil && !isGone(err) {
		return fault("list "+n.at.path(), err)
	}
	slices.SortFunc(entries, func(a, b dirfd.Entry) int { return strings.Compare(a.Name, b.Name) })
	var below []child
	for _, e := range entries {
		it, err := statItem(fd, e.Name)
		if err != nil {
			return err
		}
		if it == nil {
			continue
		}
		old := f.known[inodeKey{it.dev, it.ino}]
		stays := old != nil && old.kind == kindDir && it.kind == kindDir && old.at == spot{n, e.Name}
		switch {
		case stays:
			*n.src.listed = append(*n.src.listed, child{e.Name, old})
			old.src.seen = f.round
			if deep {
				below = append(below, child{e.Name, old})
			}
		case it.kind == kindDir:
			if got := f.seeDir(n, it); got != nil {
				below = append(below, child{e.Name, got})
			}
		default:
			f.see(n, it)
		}
	}
	for _, c := range below {
		if err := f.relist(c.node, fd, c.name, true); err != nil {
			return err
		}
	}
	return nil
}

// seeDir is see for relist, which lists directories itself.
func (f *changeFinder) seeDir(dir *inode, it *item) *inode {
	before := len(f.listed)
	n := f.see(dir, it)
	if n != nil {
		f.listed = f.listed[:before]
		n.src.listed = nil
		if n.at.dir != nil {
			f.moved = append(f.moved, naming{n.at, n})
		}
		n.at = spot{dir, it.name} // where relist looks for it; settleNames sets it again
	}
	return n
}

// statItem tells of an entry, or nil if it is gone.
func statItem(dir int, name string) (*item, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fault("read "+name, err)
	}
	it := &item{meta: meta{name: name}}
	it.take(&st)
	return it, nil
}

// isGone tells an entry that is not there any more, or is something else, from other errors.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE) || err == errGone
}

// open opens a directory of the tree. fd is -1 if it is not there now.
func (f *changeFinder) open(n *inode) (fd int, shut func(), err error) {
	if n == f.top {
		return f.root, func() {}, nil
	}
	if n.at.dir == nil {
		return -1, func() {}, nil
	}
	at, shutParent, err := f.open(n.at.dir)
	if err != nil || at < 0 {
		return -1, func() {}, err
	}
	defer shutParent()
	fd, err = openQuietly(at, n.at.name, unix.O_DIRECTORY)
	if isGone(err) {
		return -1, func() {}, nil
	}
	if err != nil {
		return -1, func() {}, fault("read "+n.at.path(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || (inodeKey{uint64(st.Dev), st.Ino}) != n.src.key {
		dirfd.Close(fd)
		return -1, func() {}, err
	}
	return fd, func() { dirfd.Close(fd) }, nil
}

// writeOut has the kernel write out what it holds back of the file system, so that a write to mapped memory after it changes a
// file's time again.
func writeOut(root int) error { return fault("sync the file system", unix.Syncfs(root)) }

// racyTime is how much younger than its time a change may be without a new time: what the clocks of file systems tick.
const racyTime = time.Second

// naming is one change of one name.
type naming struct {
	at   spot
	node *inode
}

// renames is how the names of two rounds differ.
type renames struct {
	gone  []naming // in the order in which they can be taken away
	fresh []naming // parents first
}

// settleNames makes the lists of this round the present ones and tells the difference.
func (f *changeFinder) settleNames() renames {
	var r renames
	var gone []naming
	for _, d := range f.listed {
		gone, r.fresh = compareNames(d, gone, r.fresh)
		d.dir.names, d.dir.live = *d.src.listed, len(*d.src.listed)
		d.src.listed = nil
	}
	for _, g := range gone {
		g.node.links--
		if g.node.kind == kindDir && g.node.at == g.at {
			g.node.at = spot{}
		}
	}
	for _, n := range r.fresh {
		n.node.links++
		if n.node.kind == kindDir {
			n.node.at = n.at
		}
	}
	f.bury(gone, &r)
	for _, m := range f.moved {
		if m.node.links > 1 { // it was renamed after the feed was asked, which will tell of the directory that it left
			m.at.dir.dir.drop(m.at.name, m.node)
			m.node.links--
			r.gone = append([]naming{m}, r.gone...)
		}
	}
	return r
}

// bury orders what lost its name: what lives on first, then what has no name any more, with all in it, from the leaves up.
func (f *changeFinder) bury(gone []naming, r *renames) {
	var dead []naming
	for i := 0; i < len(gone); i++ { // grows meanwhile
		g := gone[i]
		if g.node.links > 0 {
			r.gone = append(r.gone, g)
			continue
		}
		if f.known[g.node.src.key] == g.node {
			delete(f.known, g.node.src.key)
		}
		f.blocks.cut(g.node, 0)
		if g.node.kind != kindDir {
			r.gone = append(r.gone, g)
			continue
		}
		dead = append(dead, g)
		for _, c := range g.node.dir.names {
			c.node.links--
			if c.node.at.dir == g.node {
				c.node.at = spot{}
			}
			gone = append(gone, naming{spot{g.node, c.name}, c.node})
		}
		g.node.dir.names = nil
	}
	slices.Reverse(dead)
	r.gone = append(r.gone, dead...)
}

func compareNames(d *inode, gone, fresh []naming) (_, _ []naming) {
	old, now := d.dir.names, *d.src.listed
	for len(old) > 0 || len(now) > 0 {
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(now) == 0:
			order = -1
		default:
			order = strings.Compare(old[0].name, now[0].name)
		}
		if order == 0 && old[0].node == now[0].node {
			old, now = old[1:], now[1:]
			continue
		}
		if order <= 0 {
			gone = append(gone, naming{spot{d, old[0].name}, old[0].node})
			old = old[1:]
		}
		if order >= 0 {
			fresh = append(fresh, naming{spot{d, now[0].name}, now[0].node})
			now = now[1:]
		}
	}
	return gone, fresh
}

// forget takes a name back that was not sent, because what has it could not be read any more.
func (f *changeFinder) forget(at spot, n *inode) {
	at.dir.dir.drop(at.name, n)
	if n.links--; n.links == 0 && f.known[n.src.key] == n {
		delete(f.known, n.src.key)
	}
}

// notStill says that something changed after the source was frozen.
func notStill(at spot) error {
	return mobyfs.Errorf(mobyfs.CodeInUse, "%q changed after the volume was frozen", at.path()).
		WithHint("something writes into it that is no container: stop it, then try again")
}
