package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/backup"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// backupOf makes a backup of the store in a root on which no control runs.
func backupOf(t *testing.T, root string) string {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Root: root, Cluster: "shop", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Self: store.Self{Name: "control"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	key, err := seal.Load(seal.PathIn(root))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := backup.Write(t.Context(), &b, s, key, backup.Header{ID: "01jexa3tq2000000000000000a", Cluster: "shop", MadeAt: time.Now().UTC()}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRestoreKilledAtAnyMomentIsRunAgain: on a bare host, and beside a store that was there.
func TestRestoreKilledAtAnyMomentIsRunAgain(t *testing.T) {
	p := build(t)
	p.mustRun("", "init")
	cmd, address := p.start("")
	v, err := p.client(pki.RoleNode, "h1", address).CreateVolume(t.Context(), "pgdata", mobyfs.VolumeSpec{}, "")
	if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable { // no node is there; its node has to join
		t.Fatalf("got %v, %v", v, err)
	}
	h1 := p.client(pki.RoleNode, "h1", address)
	if _, err := h1.Report(t.Context(), mobyfs.Report{Address: "h1:7947", Instance: "a", Begins: true, Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 40}}); err != nil {
		t.Fatal(err)
	}
	if _, err := h1.CreateVolume(t.Context(), "pgdata", mobyfs.VolumeSpec{}, "h1"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	from, key := backupOf(t, p.root), filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(p.mustRun("", "backup", "key")), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "mobyfs-control")
	if out, err := exec.Command("go", "build", "-tags", "failpoints", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, moment := range []string{
		"control.restore.scratch", "store.fill.before", "store.fill.after", "control.restored-note.before", "control.restored-note.after",
		"seal.key.before", "seal.key.after", "pki.ca.before", "pki.ca.after", "pki.cert.before", "pki.cert.after",
		"control.restored.before", "control.restored.after", "control.aside.before", "control.aside.after",
	} {
		t.Run(moment, func(t *testing.T) {
			root, err := os.MkdirTemp("", "mobyfs")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(root) })
			q := program{t, bin, filepath.Join(root, "control")}
			args := []string{"restore", "--from", from, "--key", key}
			if strings.HasPrefix(moment, "control.aside") {
				q.mustRun("", args...)
				args = append(args, "--move-aside")
			}
			at := filepath.Join(root, "at")
			if err := os.WriteFile(at, []byte(moment), 0o600); err != nil {
				t.Fatal(err)
			}
			killed := q.command(args...)
			killed.Env = append(killed.Env, "MOBYFS_KILL_AT="+at)
			out, _ := killed.CombinedOutput()
			if w, ok := killed.ProcessState.Sys().(syscall.WaitStatus); !ok || w.Signal() != syscall.SIGKILL {
				t.Fatalf("it was not killed: %v %s", killed.ProcessState, out)
			}
			if _, err := os.Stat(filepath.Join(q.root, "etcd")); err == nil && moment != "control.restored.after" && moment != "control.aside.before" {
				t.Error("a store is in its place before it is whole")
			}
			if said := q.mustRun("", args...); !strings.Contains(said, "backup") {
				t.Errorf("run again it says %q", said)
			}
			restored, err := store.Open(t.Context(), store.Config{Root: q.root, Cluster: "shop", Log: slog.New(slog.DiscardHandler), Self: store.Self{Name: "control"}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = restored.Close() }()
			restored.View(func(v store.View) {
				if n := v.Count(store.By{}); n != 1 || restored.Epoch() != 1 {
					t.Errorf("%d volumes, epoch %d", n, restored.Epoch())
				}
			})
			if left, _ := filepath.Glob(filepath.Join(q.root, "restoring*")); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}

func TestKeyIsPrintedOrWrittenForItsOwnerAlone(t *testing.T) {
	p := build(t)
	if _, errs, code := p.run("", "backup", "key"); code != 1 || !strings.Contains(errs, "hint:") {
		t.Errorf("before init: exit code %d, %q", code, errs)
	}
	p.mustRun("", "init")
	out := filepath.Join(t.TempDir(), "key")
	p.mustRun("", "backup", "key", "-o", out)
	text, err := os.ReadFile(out)
	if err != nil || string(text) != p.mustRun("", "backup", "key") {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	_, errs, code := p.run("", "restore", "--from", out)
	if code != 1 || !strings.Contains(errs, "no backup") || !strings.Contains(errs, "hint:") {
		t.Errorf("restore of what is none: exit code %d, %q", code, errs)
	}
}
