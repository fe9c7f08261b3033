package control

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/backup"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// backupFile makes a backup of the fleet's store and tells its file.
func (f *fleet) backupFile(name string) string {
	f.t.Helper()
	var b bytes.Buffer
	h := backup.Header{ID: f.control.newID(), Cluster: "shop", MadeAt: f.clock.Now().UTC()}
	if _, err := backup.Write(f.t.Context(), &b, f.control.store, f.control.keeper.seal, h); err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(f.t.TempDir(), name)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// restoreInto says how to restore a backup of the fleet into a root.
func (f *fleet) restoreInto(root, from string) RestoreConfig {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Join(root, "pki"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	return RestoreConfig{
		Cluster: "shop", Name: "h9", Root: root, Identity: pki.FilesIn(filepath.Join(root, "pki"), "control"), From: from,
		Key: f.control.keeper.seal, Log: slog.New(slog.DiscardHandler), Now: f.clock.Now,
	}
}

func emptyRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mobyfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// files tells what lies below a directory, with its content.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(path) == "lock" {
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestOnABareHostABackupAndItsKeyAreEnough(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	v := f.ready("pgdata", "h1")
	root := emptyRoot(t)
	cfg := f.restoreInto(root, f.backupFile("b"))
	result, err := Restore(t.Context(), cfg)
	if err != nil || !result.Identity || result.Again {
		t.Fatalf("got %+v, %v", result, err)
	}
	if again, err := Restore(t.Context(), cfg); err != nil || !again.Again {
		t.Errorf("run again: %+v, %v", again, err)
	}
	c, err := Open(t.Context(), Config{Cluster: "shop", Root: root, Identity: cfg.Identity, Version: "v1", Log: cfg.Log, Now: f.clock.Now, Clock: f.clock.since})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	got, err := c.named(t.Context(), "pgdata")
	if err != nil || got.ID != v.ID || got.Node != "h1" || got.Revision <= v.Revision {
		t.Errorf("pgdata is %+v, %v", got, err)
	}
	if _, err := c.keeper.issuer(pki.IssuerOperator); err != nil {
		t.Errorf("it can't sign for operators: %v", err)
	}
	if c.store.Epoch() != 1 {
		t.Errorf("its epoch is %d, want 1", c.store.Epoch())
	}
}

func TestARestoreThatIsRefusedChangesNothing(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.ready("pgdata", "h1")
	good := f.backupFile("good")
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flipped := bytes.Clone(text)
	flipped[len(flipped)-40] ^= 1
	other, err := seal.Make(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	bank, err := pki.NewAuthority(filepath.Join(t.TempDir(), "pki"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(c *RestoreConfig){
		"no such file":      func(c *RestoreConfig) { c.From += ".not" },
		"truncated":         func(c *RestoreConfig) { c.From = file("cut", text[:len(text)/2]) },
		"tampered":          func(c *RestoreConfig) { c.From = file("flip", flipped) },
		"another cluster's": func(c *RestoreConfig) { c.Cluster = "bank" },
		"a wrong key":       func(c *RestoreConfig) { c.Key = other },
		"an unknown schema": func(c *RestoreConfig) {
			c.From = file("schema", bytes.Replace(text, []byte(`"schema":1`), []byte(`"schema":2`), 1))
		},
		"another authority here": func(c *RestoreConfig) { c.Identity = f.files(bank, pki.RoleControl, "h9") },
	} {
		root := emptyRoot(t)
		cfg := f.restoreInto(root, good)
		before := filesBelow(t, root)
		spoil(&cfg)
		_, err := Restore(t.Context(), cfg)
		if err == nil || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v, hint %q", what, err, mobyfs.HintOf(err))
		}
		if after := filesBelow(t, root); len(after) != len(before) {
			t.Errorf("%s: it left %v", what, after)
		}
	}
}

func TestAStoreThatIsThereIsRefusedOrMovedAsideAndNeverDeleted(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.ready("pgdata", "h1")
	from := f.backupFile("b")
	root := f.cfg.Root
	cfg := f.restoreInto(root, from)
	cfg.Identity = f.cfg.Identity
	cfg.MoveAside = true
	if _, err := Restore(t.Context(), cfg); mobyfs.CodeOf(err) != mobyfs.CodeInUse {
		t.Errorf("while control runs on it: got %v, want %v", err, mobyfs.CodeInUse)
	}
	f.close()
	cfg.MoveAside = false
	if _, err := Restore(t.Context(), cfg); mobyfs.CodeOf(err) != mobyfs.CodeExists {
		t.Errorf("got %v, want %v", err, mobyfs.CodeExists)
	}
	before := filesBelow(t, filepath.Join(root, "etcd"))
	cfg.MoveAside = true
	result, err := Restore(t.Context(), cfg)
	if err != nil || len(result.Aside) != 1 {
		t.Fatalf("got %+v, %v", result, err)
	}
	after := filesBelow(t, result.Aside[0])
	for path, text := range before {
		moved := strings.Replace(path, filepath.Join(root, "etcd"), result.Aside[0], 1)
		if after[moved] != text {
			t.Errorf("%s is not what it was", moved)
		}
	}
	again, err := Restore(t.Context(), cfg)
	if err != nil || len(again.Aside) != 1 || again.Aside[0] == result.Aside[0] {
		t.Errorf("moved aside again: %+v, %v", again, err)
	}
	f.open(false)
	if got := f.record("pgdata"); got.Node != "h1" {
		t.Errorf("pgdata is on %q", got.Node)
	}
}
