package feed

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// resolution finds the paths of what events told.
type resolution struct {
	*tree
	ctx   context.Context
	at    string              // where the root lies
	paths map[string][]Range  // as Set.Paths
	big   map[string][]string // by handle: paths of files of which ranges may be told
	known map[string]bool     // handles that have been found under a path
	moved map[string]bool     // paths at which other directories lie than before
	links map[uint64]bool     // inodes that have more names than one, or none that is known
	last  bool                // as of narrower.look
}

func (t *tree) resolve(ctx context.Context, s seen, held map[string]bool, last bool) (Set, error) {
	at, err := pathOf(t.root)
	if err != nil {
		return Set{}, fmt.Errorf("find the tree: %w", err)
	}
	r := &resolution{
		tree: t, ctx: ctx, at: at, paths: map[string][]Range{}, big: map[string][]string{}, known: map[string]bool{},
		moved: map[string]bool{}, links: map[uint64]bool{}, last: last,
	}
	for handle, names := range s.dirs {
		if err := r.directory(handle, names); err != nil {
			return Set{}, err
		}
	}
	for handle, mask := range s.files {
		if err := r.file(handle, mask == nameless|unix.FAN_ATTRIB); err != nil {
			return Set{}, err
		}
	}
	for handle := range held {
		if err := r.file(handle, false); err != nil {
			return Set{}, err
		}
	}
	for _, path := range loopFiles() {
		if rel, ok := below(at, path); ok {
			r.paths[rel] = nil
		}
	}
	if len(r.links) > 0 {
		if err := namesOf(ctx, t.root, r.links, r.link); err != nil {
			return Set{}, fmt.Errorf("find all names of files that have several: %w", err)
		}
	}
	if err := r.ranges(); err != nil {
		return Set{}, err
	}
	return Set{Paths: r.paths}, nil
}

// directory looks at entries of one directory.
func (r *resolution) directory(handle string, names map[string]uint64) error {
	fd, err := openHandle(r.root, handle, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return unless(gone(err), wrap("open a directory that changed", err))
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 {
		return wrap("look at a directory that changed", err)
	}
	path, err := pathOf(fd)
	if err != nil {
		return wrap("find a directory that changed", err)
	}
	dir, ok := below(r.at, path)
	if !ok {
		return nil // moved away, of which the one above it tells
	}
	for name, mask := range names {
		if err := r.entry(fd, dir, name, mask); err != nil {
			return err
		}
	}
	return nil
}

// entry looks at one name in an open directory.
func (r *resolution) entry(fd int, dir, name string, mask uint64) error {
	path, renamed := join(dir, name), mask&nameMask != 0
	if renamed {
		r.paths[dir] = nil
		if mask&unix.FAN_ONDIR != 0 {
			r.moved[path] = true
		}
	}
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if gone(err) {
		r.paths[path] = nil
		return nil
	}
	if err != nil {
		return wrap("look at "+path, err)
	}
	return r.add(path, fd, name, &st, renamed)
}

// add notes an entry that exists.
func (r *resolution) add(path string, at int, name string, st *unix.Stat_t, whole bool) error {
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		r.paths[path] = nil
		return nil
	}
	handle, err := handleOf(at, name, 0)
	if gone(err) {
		r.paths[path] = nil
		return nil
	}
	if err != nil {
		return wrap("look at "+path, err)
	}
	r.known[handle] = true
	if st.Nlink > 1 {
		r.links[st.Ino] = true
	}
	if _, there := r.paths[path]; kind != unix.S_IFREG || st.Size < bigFile || whole || there {
		r.paths[path] = nil
		return nil
	}
	r.big[handle] = append(r.big[handle], path)
	return nil
}

// file looks for a file of which an event told, or that is held open, should it have no name that was told.
func (r *resolution) file(handle string, linked bool) error {
	if r.known[handle] {
		return nil
	}
	fd, err := openHandle(r.root, handle, unix.O_PATH)
	if err != nil {
		return unless(gone(err), wrap("open a file that changed", err))
	}
	defer func() { _ = unix.Close(fd) }()
	var st, there unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return wrap("look at a file that changed", err)
	}
	if st.Nlink > 1 {
		if !linked { // else only the number of its names changed, of which their directories tell
			r.links[st.Ino] = true
		}
		return nil
	}
	path, err := pathOf(fd)
	if err != nil {
		return wrap("find a file that changed", err)
	}
	if err := unix.Lstat(path, &there); err != nil || there.Dev != st.Dev || there.Ino != st.Ino {
		r.links[st.Ino] = true // renamed just now, or not in the kernel's cache under its name
		return nil
	}
	rel, ok := below(r.at, path)
	if !ok {
		return nil
	}
	return r.add(rel, unix.AT_FDCWD, path, &st, false)
}

// link is called for each name of an inode that has several.
func (r *resolution) link(path string) {
	if _, there := r.paths[path]; there {
		return
	}
	dir, err := openBelow(r.root, parent(path))
	if err != nil {
		r.paths[path] = nil
		return
	}
	defer func() { _ = unix.Close(dir) }()
	name := path[len(parent(path)):]
	if name[0] == '/' {
		name = name[1:]
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		err = r.add(path, dir, name, &st, false)
		if err == nil {
			return
		}
	}
	r.paths[path] = nil
}

// ranges finds out what changed in big files.
func (r *resolution) ranges() error {
	for handle := range r.big {
		if err := r.look(handle, r.last); err != nil {
			return err
		}
	}
	if err := r.narrow.looked(); err != nil {
		return err
	}
	elsewhere := r.tracker.directoriesMoved(r.dirty)
	for handle, paths := range r.big {
		ranges, ok := r.narrow.changed(handle)
		for _, path := range paths {
			if !ok || elsewhere || r.movedAbove(path) {
				r.paths[path] = nil
			} else if _, there := r.paths[path]; !there {
				r.paths[path] = append([]Range{}, ranges...)
			}
		}
	}
	return nil
}

// movedAbove tells whether path may have been another file's before, for a directory above it was renamed.
func (r *resolution) movedAbove(path string) bool {
	for path != "" {
		path = parent(path)
		if r.moved[path] {
			return true
		}
	}
	return false
}

// directoriesMoved tells whether the paths that have been found may not be those of the same files any more.
func (t *tracker) directoriesMoved(d *dirty) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drain()
	if d.why != "" {
		return true
	}
	for _, names := range d.dirs {
		for _, mask := range names {
			if mask&unix.FAN_ONDIR != 0 && mask&nameMask != 0 {
				return true
			}
		}
	}
	return false
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
