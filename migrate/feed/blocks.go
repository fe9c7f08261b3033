package feed

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// blocks finds what changed in files on a file system that writes a block where it lies: a program in the kernel marks which chunks of
// the device are written. What lies where it lay, in chunks that were not written since, has not changed.
type blocks struct {
	geometry
	kind    string // of file system
	program *ebpf.Program
	marks   *ebpf.Map
	link    link.Link
	memory  []byte // of marks
	seen    []uint16
	time    uint16
	missed  uint64 // writes that are known not to have been noted
	files   map[string]*placed
	shifts  *shifts
	shifted uint64
}

// placed is where a file lay, and at which time of blocks that was. next is set between look and changed.
type placed struct {
	list, next []extent
	looked     bool
	time       uint16
	shifted    uint64  // how often content had been moved then
	emptied    []Range // what was told as a hole that was none before
}

// newBlocks begins to note writes to the device of a file system of a kind.
func newBlocks(dev uint64, kind string) (_ *blocks, err error) {
	major, minor := unix.Major(dev), unix.Minor(dev)
	if err := plain(major, minor); err != nil {
		return nil, err
	}
	start, size, err := sizeOf(major, minor)
	if err != nil {
		return nil, err
	}
	layout, err := kernelLayout()
	if err != nil {
		return nil, err
	}
	b := &blocks{kind: kind, geometry: newGeometry(major, minor, start, size), files: map[string]*placed{}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.shifts, err = watchShifts(kind); err != nil {
		return nil, err
	}
	b.seen = make([]uint16, b.chunks)
	if b.marks, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "mobyfs_blocks", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(b.bytes()), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	}); err != nil {
		return nil, fmt.Errorf("make a map of written blocks: %w", err)
	}
	page := int64(os.Getpagesize())
	if b.memory, err = unix.Mmap(b.marks.FD(), 0, int((b.bytes()+page-1)/page*page), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("look into the map of written blocks: %w", err)
	}
	if b.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "mobyfs_blocks", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "block_bio_queue",
		Instructions: blockProgram(b.geometry, layout, b.marks), License: "GPL",
	}); err != nil {
		return nil, fmt.Errorf("load what notes written blocks: %w", err)
	}
	if b.link, err = link.AttachTracing(link.TracingOptions{Program: b.program, AttachType: ebpf.AttachTraceRawTp}); err != nil {
		return nil, fmt.Errorf("attach what notes written blocks: %w", err)
	}
	return b, nil
}

func (b *blocks) name() string { return "fanotify+ebpf" }

func (b *blocks) look(handle string, file int, _ bool) error {
	list, err := []extent(nil), errElsewhere
	if b.inPlace(file) {
		list, err = fiemap(file)
	}
	if err != nil {
		delete(b.files, handle)
		return nil
	}
	f := b.files[handle]
	if f == nil {
		f = &placed{}
		b.files[handle] = f
	}
	f.next, f.looked = list, true
	return nil
}

var errElsewhere = errors.New("its content is not written to its place on the device, or not at once")

// inPlace reports whether the content of a file is written to its place on the device, and by way of it.
func (b *blocks) inPlace(file int) bool {
	var st unix.Statx_t
	if err := unix.Statx(file, "", unix.AT_EMPTY_PATH, 0, &st); err != nil || st.Attributes&unix.STATX_ATTR_DAX != 0 {
		return false
	}
	if b.kind == "xfs" {
		var flags struct { // fsxattr
			xflags uint32
			_      [24]byte
		}
		return ioctl(file, ioctlGetXattr, unsafe.Pointer(&flags)) == nil && flags.xflags&realtime == 0
	}
	flags, err := unix.IoctlGetUint32(file, unix.FS_IOC_GETFLAGS)
	return err == nil && flags&journalled == 0
}

const (
	journalled    = 0x4000     // FS_JOURNAL_DATA_FL: content goes to the journal first
	ioctlGetXattr = 0x801c581f // FS_IOC_FSGETXATTR
	realtime      = 1          // FS_XFLAG_REALTIME: content lies on another device, or in a part of this one that is counted apart
)

// looked takes the marks. They are of the device, so each chunk's time is kept: a file may be asked for later.
func (b *blocks) looked() error {
	if b.time == 1<<16-1 {
		return errors.New("asked too often")
	}
	b.time++
	b.shifted = b.shifts.now()
	odd := b.harvest()
	if odd {
		return errors.New("a write lay outside of the device")
	}
	stats, err := b.program.Stats()
	if err != nil {
		return fmt.Errorf("ask whether writes were missed: %w", err)
	}
	if missed := stats.RecursionMisses - b.missed; missed > 0 {
		b.files, b.missed = map[string]*placed{}, stats.RecursionMisses
		return fmt.Errorf("%d writes were not noted", missed)
	}
	return nil
}

func (b *blocks) harvest() (odd bool) {
	for i := int64(0); i < b.bytes(); i += 8 {
		word := (*uint64)(unsafe.Pointer(&b.memory[i]))
		if atomic.LoadUint64(word) == 0 {
			continue
		}
		bits := atomic.SwapUint64(word, 0)
		for j, set := range (*[8]byte)(unsafe.Pointer(&bits)) {
			switch at := i + int64(j); {
			case set == 0:
			case at < b.chunks:
				b.seen[at] = b.time
			case at < b.odd():
				for c := (at - b.chunks) << coarse; c < min((at-b.chunks+1)<<coarse, b.chunks); c++ {
					b.seen[c] = b.time
				}
			default:
				odd = true
			}
		}
	}
	return odd
}

// changed also tells what was noted when it was told last: a direct write may have been on its way then. And what became a hole it tells
// twice: something may lie there between two times that nobody sees in the end but who reads it.
func (b *blocks) changed(handle string) (r []Range, ok bool) {
	f := b.files[handle]
	if f == nil || !f.looked {
		delete(b.files, handle)
		return nil, false
	}
	since := f.time
	if ok = since > 0 && f.shifted == b.shifted; ok {
		var emptied []Range
		compare(f.list, f.next, func(off, end, place int64) {
			if r = addRange(r, off, end); place < 0 {
				emptied = addRange(emptied, off, end)
			}
		}, func(off, end, place int64) {
			for at := off; at < end; {
				chunk := (place + at - off) >> b.shift
				until := min(end, off+(chunk+1)<<b.shift-place)
				if chunk >= b.chunks || b.seen[chunk] >= since {
					r = addRange(r, at, until)
				}
				at = until
			}
		})
		r, f.emptied = Union(r, f.emptied), emptied
	} else {
		f.emptied = nil
	}
	f.list, f.next, f.looked, f.time, f.shifted = f.next, nil, false, b.time, b.shifted
	return r, ok
}

func (b *blocks) close() {
	if b.shifts != nil {
		b.shifts.close()
	}
	if b.link != nil {
		_ = b.link.Close()
	}
	if b.program != nil {
		_ = b.program.Close()
	}
	if b.memory != nil {
		_ = unix.Munmap(b.memory)
	}
	if b.marks != nil {
		_ = b.marks.Close()
	}
}

// plain fails if the file system on a device writes content anywhere else than to its place there.
func plain(major, minor uint32) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	dev, found := fmt.Sprintf("%d:%d", major, minor), false
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[2] != dev {
			continue
		}
		found = true
		for o := range strings.SplitSeq(f[len(f)-1], ",") {
			if o == "data=journal" || o == "dax" || o == "dax=always" || o == "dax=inode" {
				return errors.New("the file system is mounted with " + o)
			}
		}
	}
	if !found {
		return errors.New("the file system is mounted out of sight")
	}
	return nil
}

// sizeOf tells where a device begins on its disk and how long it is, in bytes.
func sizeOf(major, minor uint32) (start, size int64, err error) {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/", major, minor)
	read := func(name string) int64 {
		text, e := os.ReadFile(dir + name)
		n, e2 := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		err = errors.Join(err, e, e2)
		return n << 9
	}
	size = read("size")
	if _, e := os.Stat(dir + "partition"); e == nil {
		start = read("start")
	}
	return start, size, err
}
