package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// ready reports whether control hears the node.
func (s *shop) ready(c *api.Client, name string) bool {
	nodes, err := c.Nodes(s.t.Context())
	for _, n := range nodes {
		if err == nil && n.Name == name && n.Ready {
			return true
		}
	}
	return false
}

// A node that was switched off until its certificate had expired comes back by itself, with a fresh key.
func TestExpiredNodeRenewsItself(t *testing.T) {
	s := newShop(t)
	set := s.settingsOf("h1")
	csr, err := set.files().NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-pki.NodeLife - 30*time.Minute) // no longer ago than the authority is there
	chain, err := s.authority.Issuer(pki.IssuerNode).Sign(csr, pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h1"}, then)
	if err == nil {
		err = set.files().Install(chain, s.authority.CertPEM)
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(set.files().Key)
	if err != nil {
		t.Fatal(err)
	}
	s.control()
	ana := s.operator()
	defer ana.Close()
	s.run(set)
	s.eventually("h1 is heard again", func() bool { return s.ready(ana, "h1") })
	_, until, err := set.files().Identity()
	if err != nil || time.Until(until) < pki.NodeLife-time.Minute {
		t.Errorf("its certificate is good until %v, %v", until, err)
	}
	if now, err := os.ReadFile(set.files().Key); err != nil || bytes.Equal(now, key) {
		t.Errorf("it kept its key, %v", err)
	}
}

// A node whose clock is half a day ahead holds each new certificate for half over. It says so, and lets control rest.
func TestAClockAheadMakesNoHurry(t *testing.T) {
	s := newShop(t)
	set := s.settingsOf("h1")
	s.control()
	c := api.NewClient(set.control, nil)
	defer c.Close()
	var log said
	id := openIdentity(set, c, slog.New(slog.NewTextHandler(&log, nil)))
	id.now = func() time.Time { return time.Now().Add(pki.NodeLife/2 + 90*time.Minute) }
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go id.run(ctx)
	s.eventually("it says that a clock is wrong", func() bool { return len(log.lines(pki.ClockHint)) > 0 })
	time.Sleep(200 * time.Millisecond) // in which it would renew dozens of times
	if n := len(log.lines("was renewed")); n != 1 {
		t.Errorf("it renewed its certificate %d times", n)
	}
}

// The agents follow a rotation by themselves, and an eviction reaches them: none gives anything to an evicted node, also
// after a restart.
func TestAttackNodesFollowARotationAndRefuseWhoIsEvicted(t *testing.T) {
	s := newShop(t)
	s.control()
	ana := s.operator()
	defer ana.Close()
	h1, h2 := s.settingsOf("h1"), s.settingsOf("h2")
	stop1 := s.run(h1)
	s.run(h2)
	s.eventually("both are heard", func() bool { return s.ready(ana, "h1") && s.ready(ana, "h2") })
	first, err := ana.Rotation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := ana.Rotate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	// What both hold in the end is seen on their disks: the operator's own certificate is of the old root.
	s.eventually("both are below the new root alone", func() bool {
		_, one, err1 := h1.files().Held()
		_, two, err2 := h2.files().Held()
		roots, err3 := os.ReadFile(h1.files().CA)
		return err1 == nil && err2 == nil && err3 == nil && one == two && one != first.Root && one != "" && len(pki.Roots(roots)) == 1
	})
	t.Logf("the root was replaced on control and two nodes in %v", time.Since(begun).Round(10*time.Millisecond))
	authority, err := pki.OpenAuthority(filepath.Join(s.root, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	s.authority = authority
	eva := s.operator()
	defer eva.Close()
	s.eventually("both are still heard", func() bool { return s.ready(eva, "h1") && s.ready(eva, "h2") })

	if !letsIn(t, h1, h2.files()) {
		t.Fatal("h1 does not let h2 in before anything happened")
	}
	begun = time.Now()
	if err := eva.Evict(t.Context(), pki.RoleNode, "h2", "stolen"); err != nil {
		t.Fatal(err)
	}
	s.eventually("h1 refuses h2", func() bool { return !letsIn(t, h1, h2.files()) })
	t.Logf("another node refused the evicted one %v after the eviction was asked for", time.Since(begun).Round(time.Millisecond))
	stop1()
	id := openIdentity(h1, api.NewClient(h1.control, nil), quiet(t, "h1"))
	chain, err := h2.files().Chain()
	if err != nil {
		t.Fatal(err)
	}
	if mobyfs.CodeOf(id.admit(chain[0])) != mobyfs.CodeDenied {
		t.Error("started again, h1 has forgotten that h2 was evicted")
	}
}

// letsIn reports whether a node's port for others takes who has the files.
func letsIn(t *testing.T, set settings, files pki.Files) bool {
	t.Helper()
	config, err := files.ClientTLS(pki.RoleNode, set.node)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", set.advertise, config)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1)) // a refusal comes at once, otherwise nothing does
	return err == nil || os.IsTimeout(err) || strings.Contains(err.Error(), "i/o timeout")
}

func TestJoinWithAToken(t *testing.T) {
	s := newShop(t)
	s.control()
	ana := s.operator()
	defer ana.Close()
	token, err := ana.CreateToken(t.Context(), api.TokenRequest{Role: pki.RoleNode, Name: "h9"})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	join := func(stdin string, args ...string) (string, error) {
		var out bytes.Buffer
		cmd := newJoinCommand()
		cmd.SetArgs(append([]string{"--control", s.address, "--root", root}, args...))
		cmd.SetIn(strings.NewReader(stdin))
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	if _, err := join(token.Token, "--node", "h9"); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		t.Errorf("without --token-file: %v", err)
	}
	if _, err := join(token.Token, "--node", "h8", "--token-file", "-"); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
		t.Errorf("under another name: %v", err)
	}
	for range 2 { // it may be repeated
		out, err := join(token.Token+"\n", "--node", "h9", "--token-file", "-")
		if err != nil || !strings.Contains(out, "joined cluster shop as node/h9") {
			t.Errorf("it says %q, %v", out, err)
		}
	}
	info, err := os.Stat(filepath.Join(root, "pki", "node.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
}
