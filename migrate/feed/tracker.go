package feed

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	initFlags = unix.FAN_CLASS_NOTIF | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK | unix.FAN_UNLIMITED_QUEUE | unix.FAN_REPORT_FID | unix.FAN_REPORT_DFID_NAME
	nameMask  = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO
	mask      = nameMask | unix.FAN_MODIFY | unix.FAN_ATTRIB | unix.FAN_CLOSE_WRITE | unix.FAN_ONDIR

	maxOwners = 1 << 16 // directories that are remembered
	maxDirty  = 1 << 20 // entries that are remembered of one tree
	rest      = 20 * time.Millisecond
)

// tracker collects what happens on one file system, for all armed trees on it. It begins with the first and ends with the last.
type tracker struct {
	fan, wake int // fanotify group; eventfd that ends the reader
	done      chan struct{}
	users     int // under Feeds.mu

	mu     sync.Mutex
	buf    []byte
	trees  map[*dirty]bool
	owners map[string][]*dirty // by handle of a directory: the trees it lies in
}

// dirty is what happened in one tree since it was last taken.
type dirty struct {
	root   int    // open directory
	handle string // of root
	seen
}

// seen is what events told.
type seen struct {
	dirs    map[string]map[string]uint64 // by handle of the directory and name there: what happened
	files   map[string]uint64            // by handle: what happened to it under any name
	entries int
	why     string // not complete
}

func newSeen() seen {
	return seen{dirs: map[string]map[string]uint64{}, files: map[string]uint64{}}
}

// openTracker watches the file system on which path lies.
func openTracker(path string) (_ *tracker, err error) {
	fan, err := unix.FanotifyInit(initFlags, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("watch a file system (fanotify): %w", err)
	}
	if err = watch(fan, path); err != nil {
		_ = unix.Close(fan)
		return nil, fmt.Errorf("watch the file system of %s (fanotify): %w", path, err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fan)
		return nil, fmt.Errorf("watch the file system of %s: %w", path, err)
	}
	t := &tracker{
		fan: fan, wake: wake, done: make(chan struct{}), buf: make([]byte, 256<<10),
		trees: map[*dirty]bool{}, owners: map[string][]*dirty{},
	}
	go t.read()
	return t, nil
}

// close ends the reader and the watch.
func (t *tracker) close() {
	_, _ = unix.Write(t.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-t.done
	_ = unix.Close(t.wake)
	_ = unix.Close(t.fan)
}

// read takes events out of the kernel until close. It rests between, so that the kernel has time to merge what repeats.
func (t *tracker) read() {
	defer close(t.done)
	fds := []unix.PollFd{{Fd: int32(t.wake), Events: unix.POLLIN}, {Fd: int32(t.fan), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			t.mu.Lock()
			t.broken("wait for events: " + err.Error())
			t.mu.Unlock()
			return
		}
		if fds[0].Revents != 0 {
			return
		}
		t.mu.Lock()
		t.drain()
		t.mu.Unlock()
		nap := []unix.PollFd{fds[0]}
		_, _ = unix.Poll(nap, int(rest.Milliseconds()))
	}
}

// drain takes all events that are queued. With it has come what happened before it was called. mu is held.
func (t *tracker) drain() {
	for {
		n, err := unix.Read(t.fan, t.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil || n == 0:
			t.broken(fmt.Sprintf("read events: %v", err))
			return
		}
		if err := events(t.buf[:n], t.event); err != nil {
			t.broken(err.Error())
		}
	}
}

// broken tells all trees that something may be missing.
func (t *tracker) broken(why string) {
	for d := range t.trees {
		d.why = why
	}
}

func (t *tracker) event(e event) {
	switch {
	case e.mask&unix.FAN_Q_OVERFLOW != 0:
		t.broken("the kernel's queue of events overflowed")
	case e.dir != nil:
		for _, d := range t.ownersOf(e.dir) {
			d.add(e)
		}
		if e.mask&unix.FAN_ONDIR != 0 && e.file != nil { // a tree's root itself is told as an entry of the directory above it
			for d := range t.trees {
				if d.handle == string(e.file) {
					d.add(event{mask: e.mask &^ nameMask, dir: e.file, name: []byte(".")})
				}
			}
		}
		if e.mask&unix.FAN_ONDIR != 0 && e.mask&(unix.FAN_MOVED_FROM|unix.FAN_MOVED_TO) != 0 {
			clear(t.owners) // it may have come into another tree, with all below it
		}
	case e.file != nil: // it has no name, or the kernel knows none
		for d := range t.trees {
			d.add(e)
		}
	default:
		t.broken("an event told of nothing")
	}
}

// add notes an event. All trees of a file system get what has no directory: it is looked at when it is taken.
func (d *dirty) add(e event) {
	if d.entries >= maxDirty {
		if d.why == "" {
			d.seen = newSeen()
			d.entries, d.why = maxDirty, "too much changed to be remembered"
		}
		return
	}
	if e.dir != nil {
		names := d.dirs[string(e.dir)]
		if names == nil {
			names = map[string]uint64{}
			d.dirs[string(e.dir)] = names
		}
		if _, known := names[string(e.name)]; !known {
			d.entries++
		}
		names[string(e.name)] |= e.mask
	}
	if e.file != nil && e.mask&unix.FAN_ONDIR == 0 {
		m := e.mask
		if e.dir == nil {
			m |= nameless
		}
		if _, known := d.files[string(e.file)]; !known {
			d.entries++
		}
		d.files[string(e.file)] |= m
	}
}

// nameless marks a handle that came without a name at least once. The kernel has no event with that bit here.
const nameless = 1 << 63

// ownersOf tells in which trees a directory lies. Most events are of others: they cost one look into a map.
func (t *tracker) ownersOf(handle []byte) []*dirty {
	if owners, known := t.owners[string(handle)]; known {
		return owners
	}
	owners, err := t.findOwners(string(handle))
	if gone(err) {
		return nil // with it went its entry in the directory above, which has an event of its own
	}
	if err != nil {
		t.broken("find a directory that changed: " + err.Error())
		return nil
	}
	if len(t.owners) >= maxOwners {
		clear(t.owners)
	}
	t.owners[string(handle)] = owners
	return owners
}

func (t *tracker) findOwners(handle string) (owners []*dirty, err error) {
	for d := range t.trees {
		path, err := pathOfHandle(d.root, handle)
		if err != nil {
			return nil, err
		}
		root, err := pathOf(d.root)
		if err != nil {
			return nil, err
		}
		if _, ok := below(root, path); ok {
			owners = append(owners, d)
		}
	}
	return owners, nil
}

// pathOfHandle is where an inode lies now, seen through the mount of root.
func pathOfHandle(root int, handle string) (string, error) {
	fd, err := openHandle(root, handle, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Nlink == 0 {
		return "", unix.ESTALE
	}
	return pathOf(fd)
}

// subscribe begins to collect for a tree.
func (t *tracker) subscribe(root int, handle string) *dirty {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drain() // what happened before is of no interest
	d := &dirty{root: root, handle: handle, seen: newSeen()}
	t.trees[d] = true
	clear(t.owners)
	return d
}

func (t *tracker) unsubscribe(d *dirty) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.trees, d)
	clear(t.owners)
}

// take returns all that happened in a tree before it was called and was not taken yet.
func (t *tracker) take(d *dirty) seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drain()
	s := d.seen
	d.seen = newSeen()
	return s
}

// tracker returns the one of a device, which the caller must give back.
func (f *Feeds) tracker(dev uint64, path string) (*tracker, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.trackers[dev]
	if t == nil {
		var err error
		if t, err = openTracker(path); err != nil {
			return nil, err
		}
		f.trackers[dev] = t
	}
	t.users++
	return t, nil
}

// giveBack ends a tracker that nobody uses any more.
func (f *Feeds) giveBack(dev uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.trackers[dev]
	if t.users--; t.users == 0 {
		delete(f.trackers, dev)
		t.close()
	}
}
