//go:build bench

package movebench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// bigFiles are eight files with so many bytes together. half makes every second KiB easy to compress.
func bigFiles(t *testing.T, dir string, all int64, half bool) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	rng := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for i := range 8 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("file-%d", i)))
		must(t, err)
		for range all / 8 >> 20 {
			_, _ = rng.Read(buf)
			for at := 0; half && at < len(buf); at += 2048 {
				clear(buf[at : at+1024])
			}
			_, err := f.Write(buf)
			must(t, err)
		}
		must(t, f.Close())
	}
	must(t, syncfs(dir))
}

// smallFiles are so many files, 200 in a directory, of 1 to 12 KiB.
func smallFiles(t *testing.T, dir string, n int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	stuff := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(stuff)
	for i := range n {
		if i%200 == 0 {
			must(t, os.MkdirAll(smallDir(dir, i), 0o755))
		}
		size := 1<<10 + rng.IntN(11<<10)
		at := rng.IntN(len(stuff) - size)
		must(t, os.WriteFile(smallFile(dir, i), stuff[at:at+size], 0o644))
	}
	must(t, syncfs(dir))
}

func smallDir(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("d%04d", i/200)) }
func smallFile(dir string, i int) string {
	return filepath.Join(smallDir(dir, i), fmt.Sprintf("f%06d", i))
}

// changePages overwrites a hundredth of all 8 KiB pages of big files, anywhere, and returns how many bytes that were.
func changePages(t *testing.T, dir string, seed uint64) int64 {
	t.Helper()
	const page = 8 << 10
	rng := rand.New(rand.NewPCG(seed, 3))
	buf := make([]byte, page)
	var all int64
	for i := range 8 {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("file-%d", i)), os.O_WRONLY, 0)
		must(t, err)
		st, err := f.Stat()
		must(t, err)
		pages := st.Size() / page
		for range pages / 100 {
			for j := range buf[:64] {
				buf[j] = byte(rng.Uint32())
			}
			_, err := f.WriteAt(buf, rng.Int64N(pages)*page)
			must(t, err)
			all += page
		}
		must(t, f.Close())
	}
	return all
}

// changeFiles touches a hundredth of the small files: of ten two are made anew, one is removed, one gets another name, one
// another mode, and five are overwritten. It returns the bytes that were written.
func changeFiles(t *testing.T, dir string, n int, seed uint64) int64 {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 4))
	var all int64
	for i := range n / 100 {
		file := smallFile(dir, rng.IntN(n))
		text := bytes.Repeat([]byte{byte(rng.Uint32())}, 1<<10+rng.IntN(11<<10))
		var err error
		switch i % 10 {
		case 0, 1:
			err = os.WriteFile(file+fmt.Sprintf(".new%d", seed), text, 0o644)
			all += int64(len(text))
		case 2:
			err = os.Remove(file)
		case 3:
			err = os.Rename(file, file+fmt.Sprintf(".old%d", seed))
		case 4:
			err = os.Chmod(file, 0o600)
		default:
			err = os.WriteFile(file, text, 0o644)
			all += int64(len(text))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // one that was removed before
			t.Fatal(err)
		}
	}
	return all
}

// equal compares two trees whole, entry by entry and byte by byte.
func equal(t *testing.T, a, b string) {
	t.Helper()
	names := func(dir string) map[string]fs.FileInfo {
		found := map[string]fs.FileInfo{}
		must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			found[path[len(dir):]] = info
			return err
		}))
		return found
	}
	left, right := names(a), names(b)
	for name := range right {
		if left[name] == nil {
			t.Errorf("%s is on the destination only", name)
		}
	}
	one, two := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, name := range slices.Sorted(maps.Keys(left)) { // as they lie on the disk, nearly
		info, other := left[name], right[name]
		switch {
		case other == nil:
			t.Errorf("%s is missing on the destination", name)
		case info.Mode() != other.Mode(), !info.IsDir() && info.Size() != other.Size():
			t.Errorf("%s: %v of %d bytes became %v of %d", name, info.Mode(), info.Size(), other.Mode(), other.Size())
		case info.Mode().IsRegular():
			sameBytes(t, a+name, b+name, one, two)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// sameBytes compares two files, in pieces as large as one and two, which are written to.
func sameBytes(t *testing.T, a, b string, one, two []byte) {
	t.Helper()
	left, err := os.Open(a)
	must(t, err)
	defer left.Close()
	right, err := os.Open(b)
	must(t, err)
	defer right.Close()
	for at := int64(0); ; {
		n, err := io.ReadFull(left, one)
		m, _ := io.ReadFull(right, two)
		if !bytes.Equal(one[:n], two[:m]) {
			t.Errorf("%s: the piece at %d differs", a, at)
			return
		}
		if at += int64(n); err != nil {
			return
		}
	}
}

// warm reads a tree into the kernel's memory.
func warm(t *testing.T, dir string) {
	t.Helper()
	must(t, command("sh", "-c", "find "+dir+" -type f -print0 | xargs -0 cat >/dev/null"))
}

// cold drops what the kernel holds of all files.
func cold(t *testing.T) {
	t.Helper()
	unix.Sync()
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}
