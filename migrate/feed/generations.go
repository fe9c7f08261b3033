package feed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// generations finds what changed in files on btrfs, which writes nothing to where it lay: each extent of a file tells in which transaction
// it was written. All that was written since a transaction is in the extents of that one and of later ones. A stretch that became a
// hole has no extent, so holes are remembered and compared; and an extent that is shared with another file keeps the transaction in
// which that was written, so files into which anything was cloned count as changed as a whole.
type generations struct {
	files   map[string]*aged
	now     uint64 // the transaction that was under way when this time of asking began; 0 if it has not begun
	shifts  *shifts
	shifted uint64
	buf     []byte
}

// aged is a file as it was. next is set between look and changed.
type aged struct {
	since   uint64 // what is written from now on is of this transaction or of later ones
	holes   []Range
	shifted uint64 // how often content had been moved then

	next    *aged
	ranges  []Range // that changed until next
	emptied []Range // of these, what became a hole
}

// newGenerations fails where extents can't be asked for, or nobody tells of clones.
func newGenerations(root int) (_ *generations, err error) {
	g := &generations{files: map[string]*aged{}, buf: make([]byte, 1<<20)}
	if _, err := g.extentsSince(root, 0, ^uint64(0)); err != nil {
		return nil, err
	}
	if g.shifts, err = watchShifts("btrfs"); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *generations) name() string { return "fanotify+generations" }

func (g *generations) look(handle string, file int, last bool) error {
	old := g.files[handle]
	if old == nil {
		old = &aged{}
	}
	old.next, old.ranges = nil, nil
	if err := g.age(old, file, last); err != nil {
		delete(g.files, handle)
		return nil
	}
	g.files[handle] = old
	return nil
}

// age finds out what changed in a file since it was old, and how it is now.
func (g *generations) age(old *aged, file int, last bool) error {
	flags, err := unix.IoctlGetUint32(file, unix.FS_IOC_GETFLAGS)
	if err == nil && flags&noCopyOnWrite != 0 {
		err = errElsewhere
	}
	if err == nil && g.now == 0 && !last {
		_ = unix.Fdatasync(file)
		g.now, err = commit(file) // so that little is of the same transaction as what comes next
	}
	if err == nil {
		err = unix.Fdatasync(file)
	}
	if err != nil {
		return err
	}
	next := &aged{since: g.now}
	if next.holes, err = holesIn(file); err != nil {
		return err
	}
	if old.since > 0 {
		var st unix.Stat_t
		if err := unix.Fstat(file, &st); err != nil {
			return err
		}
		if old.ranges, err = g.extentsSince(file, st.Ino, old.since); err != nil {
			return err
		}
		// What became a hole is told twice: something may lie there between two times that nobody sees in the end but who reads it.
		next.emptied = without(next.holes, old.holes)
		old.ranges = Union(old.ranges, next.emptied, old.emptied)
	}
	old.next = next
	return nil
}

func (g *generations) looked() error {
	g.shifted, g.now = g.shifts.now(), 0
	return nil
}

func (g *generations) changed(handle string) (r []Range, ok bool) {
	f := g.files[handle]
	if f == nil || f.next == nil {
		delete(g.files, handle)
		return nil, false
	}
	r, ok = f.ranges, f.since > 0 && f.shifted == g.shifted
	f.next.shifted = g.shifted
	g.files[handle] = f.next
	return r, ok
}

func (g *generations) close() { g.shifts.close() }

// extentsSince are where in a file there is something of a transaction or of later ones.
func (g *generations) extentsSince(file int, ino, transaction uint64) (all []Range, err error) {
	for from := uint64(0); ; {
		search := (*wideSearch)(unsafe.Pointer(&g.buf[0]))
		*search = wideSearch{
			searchKey: searchKey{minObject: ino, maxObject: ino, minOffset: from, maxOffset: ^uint64(0), minTransaction: transaction, maxTransaction: ^uint64(0),
				minType: extentDataKey, maxType: extentDataKey, items: ^uint32(0)},
			size: uint64(len(g.buf)) - uint64(unsafe.Sizeof(*search)),
		}
		if err := ioctl(file, ioctlTreeSearch2, unsafe.Pointer(search)); err != nil {
			return nil, fmt.Errorf("ask btrfs for extents: %w", err)
		}
		items := search.items
		if items == 0 {
			return all, nil
		}
		more, next, err := readExtents(g.buf[unsafe.Sizeof(*search):], int(items), transaction)
		if err != nil {
			return nil, err
		}
		for _, r := range more {
			all = addRange(all, r.Off, r.Off+r.Len)
		}
		if from = next; len(all) > maxExtents {
			return nil, errors.New("too many extents")
		}
	}
}

// readExtents reads what a search found, each item after a head of 32 bytes, and tells where the next search is to begin. What is of a
// transaction before since is left out: it only stands beside what is not.
func readExtents(b []byte, n int, since uint64) (all []Range, next uint64, err error) {
	for range n {
		if len(b) < 32 {
			return nil, 0, errSearch
		}
		off, size := binary.NativeEndian.Uint64(b[16:]), int(binary.NativeEndian.Uint32(b[28:]))
		if b = b[32:]; size < 21 || size > len(b) || off > never {
			return nil, 0, errSearch
		}
		item := b[:size]
		b, next = b[size:], off+1
		length := binary.LittleEndian.Uint64(item[8:]) // of an extent that lies in the item itself
		if item[20] != inlineExtent {
			if size < 53 {
				return nil, 0, errSearch
			}
			length = binary.LittleEndian.Uint64(item[45:])
		}
		if length > never-off {
			return nil, 0, errSearch
		}
		if binary.LittleEndian.Uint64(item) >= since {
			all = addRange(all, int64(off), int64(off+length))
		}
	}
	return all, next, nil
}

// commit begins to commit the transaction that is under way, and tells its number. What is written from now on has none before it.
func commit(file int) (transaction uint64, err error) {
	if err := ioctl(file, ioctlStartSync, unsafe.Pointer(&transaction)); err != nil {
		return 0, fmt.Errorf("begin to commit a transaction of btrfs: %w", err)
	}
	if transaction == 0 {
		return 0, errors.New("btrfs does not tell its transaction")
	}
	return transaction, nil
}

// holesIn lists the holes of a file.
func holesIn(file int) (all []Range, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return nil, err
	}
	for at := int64(0); at < st.Size; {
		hole, err := unix.Seek(file, at, unix.SEEK_HOLE)
		if err == unix.ENXIO { // it was cut shorter meanwhile
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := unix.Seek(file, hole, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data, err = st.Size, nil
		}
		if err != nil {
			return nil, err
		}
		if hole < data {
			all = append(all, Range{hole, data - hole})
		}
		if at = max(data, at+1); len(all) > maxExtents {
			return nil, errors.New("too many holes")
		}
	}
	return all, nil
}

// without is what lies in ranges, but in none of others. Both are in order and apart.
func without(ranges, others []Range) (rest []Range) {
	for _, r := range ranges {
		at, end := r.Off, r.Off+r.Len
		for len(others) > 0 && others[0].Off+others[0].Len <= at {
			others = others[1:]
		}
		for _, o := range others {
			if o.Off >= end {
				break
			}
			if o.Off > at {
				rest = append(rest, Range{at, o.Off - at})
			}
			at = o.Off + o.Len
		}
		if at < end {
			rest = append(rest, Range{at, end - at})
		}
	}
	return rest
}

// Numbers and structures of linux/btrfs.h, linux/btrfs_tree.h and linux/fs.h.
const (
	ioctlTreeSearch2 = 0xc0709411
	ioctlStartSync   = 0x80089418
	extentDataKey    = 108
	inlineExtent     = 0
	noCopyOnWrite    = 0x800000 // FS_NOCOW_FL: it is written where it lies
)

// wideSearch is a search with room for what is found behind it.
type wideSearch struct {
	searchKey
	size uint64
}
