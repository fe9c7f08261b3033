// Package backendtest is the suite that every backend must pass: the promises of package backend, one test each.
package backendtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// Opener opens the backend under test in a directory of the test's own. Opening the same root again, with no
// goodbye to the first, is what a restarted agent does and must show the same state.
type Opener func(t *testing.T, root string) backend.Backend

// Run runs the whole suite.
func Run(t *testing.T, open Opener) { RunWith(t, mobyfs.VolumeSpec{}, open) }

// RunWith runs the whole suite with volumes of a spec. A backend that bounds its volumes must be given a size. None may
// leave a mount or a loop device behind.
func RunWith(t *testing.T, spec mobyfs.VolumeSpec, open Opener) {
	all := promises
	if spec.SizeBytes > 0 {
		all = slices.Concat(promises, sizePromises)
	}
	if _, ok := open(t, t.TempDir()).(backend.Live); ok {
		all = slices.Concat(all, livePromises)
	}
	if _, ok := open(t, t.TempDir()).(backend.Trash); ok {
		all = slices.Concat(all, trashPromises)
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			root := t.TempDir()
			s := &subject{T: t, Backend: open(t, root), ctx: t.Context(), spec: spec}
			s.spec.Backend = s.Name()
			s.reopen = func() { s.Backend = open(t, root) }
			defer func() {
				s.clear()
				if left := leftovers(t, root); len(left) > 0 {
					t.Errorf("left are %q", left)
				}
			}()
			p.check(s)
		})
	}
}

// clear removes all that a test has made.
func (s *subject) clear() {
	s.reopen()
	held, staged, err := s.List(s.ctx)
	s.must(err)
	for _, h := range held {
		s.must(s.Remove(s.ctx, h.ID, 1<<40))
	}
	for _, st := range staged {
		s.must(s.Discard(s.ctx, st.Migration))
	}
	s.must(s.Purge(s.ctx, later()))
}

// leftovers are the mounts and loop devices of this host that are of a directory.
func leftovers(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, root+"/") {
			all = append(all, "mount "+at)
		}
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if of, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(of), root+"/") {
			all = append(all, "loop device of "+strings.TrimSpace(string(of)))
		}
	}
	return all
}

type promise struct {
	name  string
	check func(*subject)
}

var promises = slices.Concat(lifePromises, fencePromises, migrationPromises)

// subject is one backend under test with words for what the tests do to it.
type subject struct {
	*testing.T
	backend.Backend
	ctx    context.Context
	spec   mobyfs.VolumeSpec // of the volumes that the tests make
	reopen func()            // a new instance over the same root takes the place of Backend
}

// IDs as control gives them out.
const (
	volA = mobyfs.VolumeID("01jcx0000000000000000000va")
	volB = mobyfs.VolumeID("01jcx0000000000000000000vb")
	mig1 = mobyfs.MigrationID("01jcx0000000000000000000m1")
	mig2 = mobyfs.MigrationID("01jcx0000000000000000000m2")
)

var receipt = mobyfs.Receipt{Digest: "d1", Progress: mobyfs.Progress{Files: 1, Bytes: 4, TotalBytes: 4}}

func (s *subject) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *subject) wantCode(what string, err error, want mobyfs.Code) {
	s.Helper()
	if got := mobyfs.CodeOf(err); got != want {
		s.Errorf("%s: got code %q (%v), want %q", what, got, err, want)
	}
}

func (s *subject) create(id mobyfs.VolumeID) {
	s.Helper()
	s.must(s.Create(s.ctx, id, s.spec))
}

func (s *subject) attach(id mobyfs.VolumeID, fence mobyfs.Fence) string {
	s.Helper()
	path, err := s.Attach(s.ctx, id, fence)
	s.must(err)
	return path
}

// volume makes a volume at the fence that holds one file with the content.
func (s *subject) volume(id mobyfs.VolumeID, fence mobyfs.Fence, content string) {
	s.Helper()
	s.create(id)
	s.write(s.attach(id, fence), content)
}

// stage stages a migration that brought one file with the content, sealed or not.
func (s *subject) stage(id mobyfs.VolumeID, m mobyfs.MigrationID, content string, seal bool) string {
	s.Helper()
	dir, err := s.Stage(s.ctx, id, m, s.spec)
	s.must(err)
	s.write(dir, content)
	if seal {
		s.must(s.Seal(s.ctx, m, receipt))
	}
	return dir
}

func (s *subject) write(dir, content string) {
	s.Helper()
	s.must(os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o644))
}

// wantContent attaches the volume at the fence and compares what write put there. "" stands for an empty volume.
func (s *subject) wantContent(id mobyfs.VolumeID, fence mobyfs.Fence, want string) {
	s.Helper()
	path, err := s.Attach(s.ctx, id, fence)
	if err != nil {
		s.Errorf("attach %s at fence %d: %v", id, fence, err)
		return
	}
	got, err := os.ReadFile(filepath.Join(path, "file"))
	if err != nil && !os.IsNotExist(err) {
		s.Error(err)
	}
	if string(got) != want {
		s.Errorf("volume %s: got content %q, want %q", id, got, want)
	}
}

// wantHere compares List with what should be here.
func (s *subject) wantHere(held []backend.Held, staged []backend.Staged) {
	s.Helper()
	gotHeld, gotStaged, err := s.List(s.ctx)
	s.must(err)
	for i := range gotHeld {
		gotHeld[i].SizeBytes = 0 // sizePromises are about it
	}
	for i := range gotStaged {
		gotStaged[i].SizeBytes = 0
	}
	slices.SortFunc(gotHeld, func(a, b backend.Held) int { return strings.Compare(string(a.ID), string(b.ID)) })
	slices.SortFunc(gotStaged, func(a, b backend.Staged) int {
		return strings.Compare(string(a.Migration), string(b.Migration))
	})
	if d := cmp.Diff(held, gotHeld); d != "" {
		s.Errorf("volumes here (-want +got):\n%s", d)
	}
	if d := cmp.Diff(staged, gotStaged); d != "" {
		s.Errorf("staged here (-want +got):\n%s", d)
	}
}

// sync makes all that was written to the file system of a directory durable.
func (s *subject) sync(dir string) {
	s.Helper()
	f, err := os.Open(dir)
	s.must(err)
	defer f.Close()
	s.must(unix.Syncfs(int(f.Fd())))
}

func (s *subject) wantEmptyDir(dir string) {
	s.Helper()
	entries, err := os.ReadDir(dir)
	s.must(err)
	if len(entries) != 0 {
		s.Errorf("%s holds %v, want nothing", dir, entries)
	}
}

// later is a time after everything that was put into the trash so far.
func later() time.Time { return time.Now().Add(time.Hour) }

// hostile are strings that must never become part of a path.
var hostile = []string{
	"", ".", "..", "../x", "a/b", "/etc", "a/../../b", "a\x00b", "a\nb", ".hidden", "a b", "ä",
	strings.Repeat("a", 300), fmt.Sprintf("%c", 0x202e),
}
