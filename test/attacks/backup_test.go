package attacks

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// stolen is a backup of the victim in a file, the victim's key, and an empty root.
func (v *victim) stolen() (file string, key *seal.Key, root string) {
	v.t.Helper()
	ctx, ana := v.t.Context(), v.client(pki.RoleOperator, "ana")
	b, err := ana.MakeBackup(ctx)
	ok(v.t, err)
	var content bytes.Buffer
	ok(v.t, ana.Backup(ctx, b.ID, &content))
	file = filepath.Join(v.t.TempDir(), "backup")
	ok(v.t, os.WriteFile(file, content.Bytes(), 0o600))
	key, err = seal.Load(seal.PathIn(v.dir))
	ok(v.t, err)
	root, err = os.MkdirTemp("", "mobyfs")
	ok(v.t, err)
	v.t.Cleanup(func() { ok(v.t, os.RemoveAll(root)) })
	ok(v.t, os.Mkdir(filepath.Join(root, "pki"), 0o700))
	return file, key, root
}

// TestABackupOpensInNoOtherCluster: neither under another name, nor by the key of another cluster of the same name, nor
// beside another authority.
func TestABackupOpensInNoOtherCluster(t *testing.T) {
	v := newVictim(t)
	file, key, root := v.stolen()
	other, err := seal.Make(filepath.Join(t.TempDir(), "kek"))
	ok(t, err)
	renamed := filepath.Join(t.TempDir(), "renamed")
	text, err := os.ReadFile(file)
	ok(t, err)
	ok(t, os.WriteFile(renamed, bytes.Replace(text, []byte(`"cluster":"shop"`), []byte(`"cluster":"bank"`), 1), 0o600))
	bank, err := pki.NewAuthority(filepath.Join(t.TempDir(), "pki"), "shop")
	ok(t, err)
	foreign := pki.FilesIn(t.TempDir(), "control")
	csr, err := foreign.NewRequest()
	ok(t, err)
	cert, err := bank.Sign(csr, pki.Identity{Cluster: "shop", Role: pki.RoleControl, Name: "h9"})
	ok(t, err)
	ok(t, foreign.Install(cert, bank.CertPEM))
	cfg := control.RestoreConfig{
		Cluster: "shop", Name: "h9", Root: root, Identity: pki.FilesIn(filepath.Join(root, "pki"), "control"), From: file, Key: key,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	for what, attack := range map[string]func(c *control.RestoreConfig){
		"another cluster":               func(c *control.RestoreConfig) { c.Cluster = "bank" },
		"its name written over":         func(c *control.RestoreConfig) { c.Cluster, c.From = "bank", renamed },
		"a key of another cluster":      func(c *control.RestoreConfig) { c.Key = other },
		"beside another's certificates": func(c *control.RestoreConfig) { c.Identity = foreign },
	} {
		try := cfg
		attack(&try)
		if _, err := control.Restore(t.Context(), try); err == nil || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v, hint %q", what, err, mobyfs.HintOf(err))
		}
		if _, err := os.Stat(filepath.Join(root, "etcd")); err == nil {
			t.Fatalf("%s: a store was made", what)
		}
	}
}

// TestAnOldBackupBringsNoOldFenceBack: what was given before is refused by what is given after, and a node that says
// nothing of what it holds gets nothing.
func TestAnOldBackupBringsNoOldFenceBack(t *testing.T) {
	v := newVictim(t)
	file, key, root := v.stolen()
	cfg := control.RestoreConfig{
		Cluster: "shop", Name: "control", Root: root, Identity: pki.FilesIn(filepath.Join(root, "pki"), "control"), From: file, Key: key,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	if _, err := control.Restore(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c, err := control.Open(t.Context(), control.Config{Cluster: "shop", Root: root, Version: "v1", Identity: cfg.Identity, Log: cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ok(t, c.Close()) })
	tlsConfig, err := cfg.Identity.ControlTLS(c.Admit)
	ok(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	s := api.NewServer(c, cfg.Log)
	go func() { ok(t, s.Serve(l, tlsConfig)) }()
	t.Cleanup(func() { ok(t, s.Shutdown(t.Context())) })
	v.address = l.Addr().String()
	ctx, h1, h2, ana := t.Context(), v.client(pki.RoleNode, "h1"), v.client(pki.RoleNode, "h2"), v.client(pki.RoleOperator, "ana")

	if _, err := h2.Claim(ctx, v.pgdata.ID); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
		t.Errorf("before anybody has told what it holds, a claim: %v", err)
	}
	told := func(n *api.Client, name string, held ...mobyfs.Holding) {
		t.Helper()
		session, err := n.Report(ctx, mobyfs.Report{Address: name + ":8080", Version: "v1", Begins: true, Instance: "new", Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 40}})
		ok(t, err)
		ok(t, n.Inventory(ctx, mobyfs.Inventory{History: session.Tell, Holdings: held, Last: true}))
	}
	told(h1, "h1", mobyfs.Holding{ID: v.pgdata.ID, Bytes: true, Fence: v.pgdata.Fence}, mobyfs.Holding{ID: v.moving.ID, Bytes: true, Fence: v.moving.Fence})
	if _, err := ana.Converge(ctx, []string{"h2"}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if r, err := ana.RestoreStatus(ctx); err == nil && r.Backup == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it never decides again")
		}
	}
	if _, err := h2.Claim(ctx, v.pgdata.ID); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
		t.Errorf("a node that has not told what it holds claims: %v", err)
	}
	var g mobyfs.Grant
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // until what h1 told is put away
		if g, err = h1.Claim(ctx, v.pgdata.ID); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if g.Fence <= v.pgdata.Fence || g.Fence.Epoch() != 1 {
		t.Errorf("fence %v comes after %v", g.Fence, v.pgdata.Fence)
	}
	if err := h1.Release(ctx, v.pgdata.ID, v.pgdata.Fence); err != nil {
		t.Errorf("a release by an old fence is none: %v", err)
	}
	if now, err := ana.Volume(ctx, "pgdata"); err != nil || now.Lease == nil || now.Lease.Fence != g.Fence {
		t.Errorf("an old fence ended the lease of %v: %+v, %v", g.Fence, now.Lease, err)
	}
}
