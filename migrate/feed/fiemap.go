package feed

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/fiemap.h.
const (
	ioctlFiemap = 0xc020660b
	fiemapSync  = 1

	extentLast      = 0x1
	extentUnwritten = 0x800
	// extentVague are the extents of which their place says nothing: UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED,
	// DATA_INLINE and DATA_TAIL.
	extentVague = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400

	fiemapHead   = 32
	fiemapExtent = 56
	fiemapAtOnce = 1000
	maxExtents   = 1 << 20 // of one file that are remembered
)

// extent is where a stretch of a file lies on its device, in bytes.
type extent struct {
	off, len int64
	place    int64
	flags    uint32
}

func (e extent) end() int64 { return e.off + e.len }

var errExtents = errors.New("a map of extents that nobody understands")

// fiemap returns where a file lies, in order. What is in none of the extents is a hole. The kernel writes out first what it holds back.
func fiemap(fd int) ([]extent, error) {
	buf := make([]byte, fiemapHead+fiemapAtOnce*fiemapExtent)
	var list []extent
	for from := int64(0); ; {
		clear(buf[:fiemapHead])
		binary.NativeEndian.PutUint64(buf, uint64(from))
		binary.NativeEndian.PutUint64(buf[8:], ^uint64(0)-uint64(from))
		binary.NativeEndian.PutUint32(buf[16:], fiemapSync)
		binary.NativeEndian.PutUint32(buf[24:], fiemapAtOnce)
		if err := ioctl(fd, ioctlFiemap, unsafe.Pointer(&buf[0])); err != nil {
			return nil, err
		}
		more, last, err := extents(buf, from)
		if err != nil {
			return nil, err
		}
		if list = append(list, more...); last || len(more) == 0 {
			return list, nil
		}
		if from = list[len(list)-1].end(); len(list) > maxExtents {
			return nil, errors.New("too many extents")
		}
	}
}

// extents takes apart what the kernel answered when asked from an offset on, and tells whether that was the last of it.
func extents(buf []byte, from int64) (list []extent, last bool, err error) {
	if len(buf) < fiemapHead {
		return nil, false, errExtents
	}
	n := int(binary.NativeEndian.Uint32(buf[20:]))
	if n > (len(buf)-fiemapHead)/fiemapExtent {
		return nil, false, errExtents
	}
	for i := range n {
		b := buf[fiemapHead+i*fiemapExtent:]
		e := extent{
			off: int64(binary.NativeEndian.Uint64(b)), place: int64(binary.NativeEndian.Uint64(b[8:])),
			len: int64(binary.NativeEndian.Uint64(b[16:])), flags: binary.NativeEndian.Uint32(b[40:]),
		}
		if e.off < 0 || e.len <= 0 || e.end() < e.off || e.place < 0 || e.end() <= from || len(list) > 0 && e.off < list[len(list)-1].end() {
			return nil, false, errExtents
		}
		list, last = append(list, e), e.flags&extentLast != 0
	}
	return list, last, nil
}

// compare calls differs with each stretch that does not lie where it lay, in order, and same with each that does. The place of one that
// is a hole now is less than 0.
func compare(old, now []extent, differs, same func(off, end, place int64)) {
	for at := int64(0); ; {
		o, until := stretch(&old, at)
		n, end := stretch(&now, at)
		if end = min(until, end); end == never {
			return
		}
		switch {
		case o == nil && n == nil: // a hole, as before
		case o == nil || n == nil || (o.flags|n.flags)&extentVague != 0 || (o.flags^n.flags)&extentUnwritten != 0 || o.place-o.off != n.place-n.off:
			place := int64(-1)
			if n != nil {
				place = n.place + at - n.off
			}
			differs(at, end, place)
		default:
			same(at, end, n.place+at-n.off)
		}
		at = end
	}
}

const never = 1<<63 - 1

// stretch returns the extent that at lies in, if any, and up to where that is so. Extents before at are dropped.
func stretch(list *[]extent, at int64) (*extent, int64) {
	for len(*list) > 0 && (*list)[0].end() <= at {
		*list = (*list)[1:]
	}
	if len(*list) == 0 {
		return nil, never
	}
	e := &(*list)[0]
	if e.off > at {
		return nil, e.off
	}
	return e, e.end()
}

// addRange appends a stretch to ranges that are in order, and joins it with the one before where they meet.
func addRange(r []Range, off, end int64) []Range {
	if n := len(r); n > 0 && off <= r[n-1].Off+r[n-1].Len {
		r[n-1].Len = max(r[n-1].Len, end-r[n-1].Off)
		return r
	}
	return append(r, Range{off, end - off})
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}
