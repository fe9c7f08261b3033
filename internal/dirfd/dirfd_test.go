package dirfd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListTellsAllNamesOnce(t *testing.T) {
	dir := t.TempDir()
	want := []string{"...", ".hidden", "bad \xff utf8", "new\nline"}
	for i := range 600 { // more than one system call brings
		want = append(want, fmt.Sprintf("file-%d", i))
	}
	for _, name := range want {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	entries, err := List(fd, make([]byte, 4<<10))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name)
		if e.Type != unix.DT_REG && e.Type != unix.DT_UNKNOWN {
			t.Errorf("%q has type %d", e.Name, e.Type)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %d names, want %d", len(got), len(want))
	}
}

func TestOpenFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(root)
	if fd, err := Open(root, "link"); err == nil {
		Close(fd)
		t.Error("a symbolic link was opened as a directory")
	}
	if fd, err := OpenRoot(filepath.Join(dir, "link")); err == nil {
		Close(fd)
		t.Error("a symbolic link was opened as a root")
	}
}
