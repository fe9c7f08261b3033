package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
)

func TestWriteFileReplacesContentAndPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("an older and longer content"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, perm := range []fs.FileMode{0o600, 0o644} {
		if err := WriteFile("test.write", path, []byte(perm.String()), perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != perm.String() {
			t.Errorf("got %q, %v, want %q", got, err, perm)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != perm {
			t.Errorf("got mode %v, %v, want %v", info.Mode(), err, perm)
		}
	}
	if names := list(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("the directory holds %v, want the file alone", names)
	}
}

func TestWriteFileThatCannotSucceedLeavesTheOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(path, 0o755); err != nil { // a directory can't be replaced by a file
		t.Fatal(err)
	}
	if err := WriteFile("test.write", path, []byte("x"), 0o600); err == nil {
		t.Error("a file took the place of a directory")
	}
	if names := list(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("the directory holds %v, want the old entry alone", names)
	}
}

func TestReadJSONTellsMissingFromDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	var got struct{ N int }
	if err := ReadJSON(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v, want fs.ErrNotExist", err)
	}
	if err := WriteJSON("test.write", path, struct{ N int }{7}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &got); err != nil || got.N != 7 {
		t.Errorf("got %v, %v, want 7", got, err)
	}
	if err := os.WriteFile(path, []byte(`{"N":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &got); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("half a file: got %v, want an error that names it", err)
	}
}

func TestRenameNeverReplacesADirectory(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for _, d := range []string{from, to} {
		if err := Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := Rename("test.rename", from, to); err == nil {
		t.Error("an empty directory was replaced")
	}
	if err := Rename("test.rename", from, filepath.Join(to, "in")); err != nil {
		t.Errorf("across directories: %v", err)
	}
	if names := list(t, to); len(names) != 1 || names[0] != "in" {
		t.Errorf("got %v, want [in]", names)
	}
}

func TestMkdirAndRemoveMayBeRepeated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	for range 2 {
		if err := Mkdir(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("got %v, %v, want mode 0711", info, err)
	}
	for range 2 {
		if err := Remove("test.remove", filepath.Join(dir, "gone")); err != nil {
			t.Error(err)
		}
	}
}

// TestLife is what TestKilledWriteLeavesOldOrNew kills. By itself it is a plain test of the same calls.
func TestLife(t *testing.T) {
	dir := os.Getenv("DURABLE_TEST_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	path := filepath.Join(dir, "state.json")
	for _, n := range []int{1, 2} {
		if err := WriteJSON([]string{"", "test.first", "test.second"}[n], path, n, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Rename("test.rename", path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := Remove("test.remove", path+".moved"); err != nil {
		t.Fatal(err)
	}
}

func TestKilledWriteLeavesOldOrNew(t *testing.T) {
	child := killtest.Build(t)
	for _, tc := range []struct {
		moment, file string
		want         int // 0: there is no file
	}{
		{"test.first.before", "state.json", 0},
		{"test.first.after", "state.json", 1},
		{"test.second.before", "state.json", 1},
		{"test.second.after", "state.json", 2},
		{"test.rename.before", "state.json", 2},
		{"test.rename.after", "state.json.moved", 2},
		{"test.remove.before", "state.json.moved", 2},
		{"test.remove.after", "state.json.moved", 0},
	} {
		dir := t.TempDir()
		if !child.Run("TestLife", tc.moment, "DURABLE_TEST_DIR="+dir) {
			t.Errorf("%s: the child was not killed", tc.moment)
			continue
		}
		var got int
		err := ReadJSON(filepath.Join(dir, tc.file), &got)
		if tc.want == 0 && !errors.Is(err, fs.ErrNotExist) || tc.want != 0 && (err != nil || got != tc.want) {
			t.Errorf("%s: got %d, %v, want %d", tc.moment, got, err, tc.want)
		}
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
