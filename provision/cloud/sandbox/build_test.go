package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// emptyTar is an archive with one empty file, nothing that could run.
func emptyTar(t *testing.T) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "empty-" + filepath.Base(t.TempDir()), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestSandboxBuildThatWasKilledIsSweptAway: the next run removes the directory and the image without a name.
func TestSandboxBuildThatWasKilledIsSweptAway(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	unlock, err := lockImages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	root, err := stateRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, buildPrefix+"bookworm-1")
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := dockerWith(t.Context(), emptyTar(t), "import", "--change", "LABEL "+labelRecipe+"=0", "-")
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(string(out))
	if err := sweepBuilds(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if _, err := docker(t.Context(), "image", "inspect", id); err == nil || !isGone(err) {
		t.Errorf("image %s is left: %v", id, err)
	}
	if err := sweepBuilds(t.Context()); err != nil {
		t.Errorf("sweep again: %v", err)
	}
}

// TestSandboxTreeThatCannotBeReadWholeBecomesNoImage: Docker would take half an archive for a whole one.
func TestSandboxTreeThatCannotBeReadWholeBecomesNoImage(t *testing.T) {
	dir := t.TempDir()
	id, err := importTree(t.Context(), filepath.Join(dir, "missing"), "0")
	if err == nil {
		t.Error("a tree that is not there became an image")
	}
	if id != "" {
		if _, err := docker(t.Context(), "image", "inspect", id); err == nil {
			t.Errorf("image %s is left", id)
		}
	}
}

// TestSandboxProgramsApartDieWithTheirChildren: what a build that was stopped had started does not run on, and its
// mounts were never seen outside.
func TestSandboxProgramsApartDieWithTheirChildren(t *testing.T) {
	mounted, started := t.TempDir(), filepath.Join(t.TempDir(), "started")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- runApart(ctx, "sh", "-c", `mount -t tmpfs none "$1" && echo >"$2" && tail -f "$2" & wait`, "x", mounted, started)
	}()
	if err := poll(ctx, func() error { _, err := os.Stat(started); return err }); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), mounted) {
		t.Errorf("its mount on %s is seen outside", mounted)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("a program that was stopped succeeded")
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), started) {
			t.Errorf("%s runs on: %q", p, line)
		}
	}
}

func TestControlGroupsThatAreLeftAreRemoved(t *testing.T) {
	root := t.TempDir() // directories stand for groups
	for _, dir := range []string{"memory/docker/aa/system.slice/x.service", "docker/aa/init.scope", "memory/docker/bb"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeControlGroups(root, []string{"aa", "cc"}); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(root, "*", "docker", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || filepath.Base(left[0]) != "bb" {
		t.Errorf("left: %v, want bb only", left)
	}
	busy := filepath.Join(root, "docker", "dd")
	if err := os.MkdirAll(busy, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(busy, "cgroup.procs"), []byte("42\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	err = removeControlGroups(root, []string{"dd"})
	if err == nil || !strings.Contains(mobyfs.HintOf(err), "42") {
		t.Errorf("a group in use: got %v (hint %q), want an error that names process 42", err, mobyfs.HintOf(err))
	}
}
