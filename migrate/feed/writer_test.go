package feed

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writer changes a tree at random, in all ways that come to mind.
type writer struct {
	t    testing.TB
	root string
	r    *rand.Rand
	maps [][]byte   // that stay over rounds
	open []*os.File // that stay open, perhaps without a name
	aio  uintptr    // a context of io_submit(2)
	log  []string
	ops  int
}

func newWriter(t testing.TB, root string, seed uint64) *writer {
	w := &writer{t: t, root: root, r: rand.New(rand.NewPCG(seed, 7))}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 8, uintptr(unsafe.Pointer(&w.aio)), 0); errno != 0 {
		t.Fatalf("io_setup: %v", errno)
	}
	for _, dir := range []string{"a", "a/b", "a/b/c", "d", "d/e", "f"} {
		dir = filepath.Join(root, dir)
		must(t, os.MkdirAll(dir, 0o755))
		for j := range 12 {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("small", j)), w.bytes(w.r.IntN(20000)), 0o644))
		}
		must(t, os.WriteFile(filepath.Join(dir, "big"), w.bytes(bigFile+w.r.IntN(2*bigFile)), 0o644))
	}
	return w
}

func (w *writer) close() {
	for _, m := range w.maps {
		_ = unix.Munmap(m)
	}
	for _, f := range w.open {
		_ = f.Close()
	}
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, w.aio, 0, 0)
}

func (w *writer) bytes(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.NativeEndian.PutUint64(b[i:], w.r.Uint64())
	}
	return b
}

// pick returns an entry of the tree of a kind, at random.
func (w *writer) pick(dirs bool, least int64) string {
	var found []string
	_ = filepath.WalkDir(w.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == w.root {
			return nil
		}
		info, err := d.Info()
		if err == nil && d.IsDir() == dirs && (dirs || info.Mode().IsRegular() && info.Size() >= least) {
			found = append(found, path)
		}
		return nil
	})
	if len(found) == 0 {
		return w.root
	}
	return found[w.r.IntN(len(found))]
}

// fresh is a path that may exist or not.
func (w *writer) fresh() string {
	return filepath.Join(w.pick(true, 0), fmt.Sprint("n", w.r.IntN(30)))
}

// with opens a file and calls do with it.
func (w *writer) with(path string, flags int, do func(f *os.File, size int64) error) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // what was not written is no loss here
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return do(f, info.Size())
}

func (w *writer) anywhere(size int64) int64 { return w.r.Int64N(max(size, 1)) }

func (w *writer) allocate(least int64, mode uint32, at func(size int64) (off, n int64)) error {
	return w.with(w.pick(false, least), os.O_WRONLY, func(f *os.File, size int64) error {
		off, n := at(size)
		return unix.Fallocate(int(f.Fd()), mode, off, n)
	})
}

// kinds are the ways to change something. An error means that it did not work out, as when a directory is to be moved into itself.
var kinds = []struct {
	name string
	do   func(w *writer) error
}{
	{"write", func(w *writer) error {
		return w.with(w.pick(false, 0), os.O_WRONLY, func(f *os.File, size int64) error {
			_, err := f.WriteAt(w.bytes(1+w.r.IntN(9000)), w.anywhere(size))
			return err
		})
	}},
	{"write big", func(w *writer) error {
		return w.with(w.pick(false, bigFile), os.O_WRONLY, func(f *os.File, size int64) error {
			_, err := f.WriteAt(w.bytes(8192), w.anywhere(size))
			return err
		})
	}},
	{"append", func(w *writer) error {
		return w.with(w.pick(false, 0), os.O_WRONLY|os.O_APPEND, func(f *os.File, _ int64) error {
			_, err := f.Write(w.bytes(1 + w.r.IntN(5000)))
			return err
		})
	}},
	{"direct", func(w *writer) error {
		return w.with(w.pick(false, bigFile), os.O_WRONLY|unix.O_DIRECT, func(f *os.File, size int64) error {
			b := aligned(w.bytes(8192))
			defer func() { _ = unix.Munmap(b) }()
			_, err := f.WriteAt(b, w.anywhere(size)&^4095)
			return err
		})
	}},
	{"mmap", func(w *writer) error {
		return w.with(w.pick(false, bigFile), os.O_RDWR, func(f *os.File, size int64) error {
			m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			m[w.anywhere(bigFile)]++
			return unix.Munmap(m)
		})
	}},
	{"mmap that stays", func(w *writer) error {
		if len(w.maps) > 2 {
			m := w.maps[w.r.IntN(len(w.maps))]
			m[w.anywhere(int64(len(m)))]++
			return nil
		}
		return w.with(w.pick(false, bigFile), os.O_RDWR, func(f *os.File, size int64) error {
			m, err := unix.Mmap(int(f.Fd()), 0, bigFile/2, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err == nil {
				m[0]++
				w.maps = append(w.maps, m)
			}
			return err
		})
	}},
	{"write to an open file", func(w *writer) error {
		if len(w.open) > 3 {
			f := w.open[w.r.IntN(len(w.open))]
			_, err := f.WriteAt(w.bytes(4096), w.anywhere(bigFile))
			return err
		}
		f, err := os.OpenFile(w.pick(false, 0), os.O_RDWR, 0)
		if err == nil {
			w.open = append(w.open, f)
		}
		return err
	}},
	{"asynchronous", func(w *writer) error {
		return w.with(w.pick(false, bigFile), os.O_WRONLY|unix.O_DIRECT, func(f *os.File, size int64) error {
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // so that it is not closed, which would be an event
			if err != nil {
				return err
			}
			w.open = append(w.open, os.NewFile(uintptr(fd), f.Name()))
			b := aligned(w.bytes(4096))
			defer func() { _ = unix.Munmap(b) }()
			return w.submit(f, b, w.anywhere(size)&^4095)
		})
	}},
	{"truncate", func(w *writer) error {
		path := w.pick(false, 0)
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() >= bigFile { // else what is mapped would end
			return os.Truncate(path, bigFile+w.anywhere(bigFile))
		}
		return os.Truncate(path, w.anywhere(2*info.Size()))
	}},
	{"punch", func(w *writer) error {
		return w.allocate(bigFile, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, func(size int64) (int64, int64) {
			return w.anywhere(size), 1 + w.anywhere(100000)
		})
	}},
	{"zero", func(w *writer) error {
		return w.allocate(bigFile, unix.FALLOC_FL_ZERO_RANGE, func(size int64) (int64, int64) {
			return w.anywhere(size), 1 + w.anywhere(100000)
		})
	}},
	{"allocate", func(w *writer) error {
		return w.allocate(bigFile, 0, func(size int64) (int64, int64) { return size, 1 + w.anywhere(100000) })
	}},
	{"collapse", func(w *writer) error {
		return w.allocate(2*bigFile, unix.FALLOC_FL_COLLAPSE_RANGE, func(int64) (int64, int64) {
			return w.anywhere(bigFile/2) &^ 4095, 8192
		})
	}},
	{"insert", func(w *writer) error {
		return w.allocate(bigFile, unix.FALLOC_FL_INSERT_RANGE, func(int64) (int64, int64) {
			return w.anywhere(bigFile/2) &^ 4095, 8192
		})
	}},
	{"copy a range", func(w *writer) error {
		return w.with(w.pick(false, bigFile), os.O_RDONLY, func(from *os.File, _ int64) error {
			return w.with(w.pick(false, bigFile), os.O_WRONLY, func(to *os.File, size int64) error {
				a, b := w.anywhere(bigFile)&^4095, w.anywhere(size)&^4095
				_, err := unix.CopyFileRange(int(from.Fd()), &a, int(to.Fd()), &b, 65536, 0)
				return err
			})
		})
	}},
	{"create", func(w *writer) error {
		path := w.fresh()
		if info, err := os.Lstat(path); err == nil && (!info.Mode().IsRegular() || info.Size() >= bigFile) {
			return os.ErrExist // a fifo would wait for a reader, and what is mapped would end
		}
		return os.WriteFile(path, w.bytes(w.r.IntN(9000)), 0o640)
	}},
	{"create big", func(w *writer) error {
		path := w.fresh()
		if _, err := os.Lstat(path); err == nil {
			return os.ErrExist // what is mapped would end
		}
		return os.WriteFile(path, w.bytes(bigFile+w.r.IntN(90000)), 0o640)
	}},
	{"mkdir", func(w *writer) error { return os.Mkdir(w.fresh(), 0o755) }},
	{"symlink", func(w *writer) error { return os.Symlink(fmt.Sprint("to", w.r.IntN(9)), w.fresh()) }},
	{"fifo", func(w *writer) error { return unix.Mkfifo(w.fresh(), 0o600) }},
	{"link", func(w *writer) error { return os.Link(w.pick(false, 0), w.fresh()) }},
	{"remove", func(w *writer) error { return os.Remove(w.pick(false, 0)) }},
	{"remove all", func(w *writer) error {
		if w.r.IntN(3) > 0 {
			return nil
		}
		if path := w.pick(true, 0); path != w.root {
			return os.RemoveAll(path)
		}
		return nil
	}},
	{"rename", func(w *writer) error { return os.Rename(w.pick(false, 0), w.fresh()) }},
	{"rename over", func(w *writer) error { return os.Rename(w.pick(false, 0), w.pick(false, 0)) }},
	{"rename big", func(w *writer) error { return os.Rename(w.pick(false, bigFile), w.fresh()) }},
	{"rename a directory", func(w *writer) error { return os.Rename(w.pick(true, 0), w.fresh()) }},
	{"exchange", func(w *writer) error {
		return unix.Renameat2(unix.AT_FDCWD, w.pick(w.r.IntN(2) == 0, 0), unix.AT_FDCWD, w.pick(w.r.IntN(2) == 0, 0), unix.RENAME_EXCHANGE)
	}},
	{"chmod", func(w *writer) error {
		return os.Chmod(w.pick(w.r.IntN(2) == 0, 0), os.FileMode(0o600+w.r.IntN(64))|0o300)
	}},
	{"chmod the root", func(w *writer) error { return os.Chmod(w.root, os.FileMode(0o700+w.r.IntN(64))) }},
	{"chown", func(w *writer) error { return os.Lchown(w.pick(w.r.IntN(2) == 0, 0), w.r.IntN(3), 0) }},
	{"utime", func(w *writer) error {
		tv := []unix.Timespec{{Sec: 1e9}, {Sec: int64(1e9 + w.r.IntN(1e6))}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, w.pick(w.r.IntN(2) == 0, 0), tv, 0)
	}},
	{"xattr", func(w *writer) error {
		return unix.Setxattr(w.pick(w.r.IntN(2) == 0, 0), "user.test", []byte(fmt.Sprint(w.r.IntN(1000))), 0)
	}},
}

// step changes something.
func (w *writer) step() {
	k := kinds[w.r.IntN(len(kinds))]
	err := k.do(w)
	w.log = append(w.log, fmt.Sprintf("%s: %v", k.name, err))
	if err == nil {
		w.ops++
	}
}

// submit writes with io_submit(2) and waits until it is done.
func (w *writer) submit(f *os.File, b []byte, off int64) error {
	cb := struct {
		data            uint64
		key, flags      uint32
		opcode          uint16
		prio            int16
		fd              uint32
		buf, bytes      uint64
		off             int64
		reserved        uint64
		flags2, eventfd uint32
	}{opcode: 1, fd: uint32(f.Fd()), buf: uint64(uintptr(unsafe.Pointer(&b[0]))), bytes: uint64(len(b)), off: off}
	list := []unsafe.Pointer{unsafe.Pointer(&cb)}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, w.aio, 1, uintptr(unsafe.Pointer(&list[0]))); errno != 0 {
		return errno
	}
	var done [32]byte
	if _, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, w.aio, 1, 1, uintptr(unsafe.Pointer(&done[0])), 0, 0); errno != 0 {
		return errno
	}
	if n := int64(binary.NativeEndian.Uint64(done[16:])); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}

// aligned returns the content of b, a multiple of a page, where O_DIRECT can take it from.
func aligned(b []byte) []byte {
	m, err := unix.Mmap(-1, 0, len(b), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	copy(m, b)
	return m
}
