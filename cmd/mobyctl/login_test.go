package main

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// served is a cluster named shop, and a home in which ana is its operator, as bootstrap leaves it.
func served(t *testing.T) (address, anasHome string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mobyfs") // t.TempDir is too long for a socket
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	authority, err := pki.NewAuthority(filepath.Join(dir, "pki"), "shop")
	must(t, err)
	certify := func(files pki.Files, role, name string) pki.Files {
		csr, err := files.NewRequest()
		must(t, err)
		cert, err := authority.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
		must(t, err)
		must(t, files.Install(cert, authority.CertPEM))
		return files
	}
	quiet := slog.New(slog.DiscardHandler)
	identity := certify(pki.FilesIn(t.TempDir(), "control"), pki.RoleControl, "control")
	c, err := control.Open(t.Context(), control.Config{Cluster: "shop", Root: dir, Version: "v1", Identity: identity, Log: quiet})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	tlsConfig, err := identity.ControlTLS(c.Admit)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := api.NewServer(c, quiet)
	go func() { _ = s.Serve(l, tlsConfig) }()
	t.Cleanup(func() { must(t, s.Shutdown(context.Background())) })

	anasHome = t.TempDir()
	t.Setenv("MOBYFS_HOME", anasHome)
	must(t, os.Mkdir(filepath.Join(anasHome, "shop"), 0o700))
	files, err := operatorFiles("shop")
	must(t, err)
	certify(files, pki.RoleOperator, "ana")
	must(t, saveContext(clusterContext{Cluster: "shop", Control: []string{l.Addr().String()}}))
	return l.Addr().String(), anasHome
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mobyctl runs a command in a home.
func mobyctl(t *testing.T, home, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	t.Setenv("MOBYFS_HOME", home)
	var out, errs bytes.Buffer
	a := &app{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs}
	cmd := newRootCommand(a)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

func TestPersonLogsInWithATokenAndIsShutOut(t *testing.T) {
	address, ana := served(t)
	token, told, err := mobyctl(t, ana, "", "operator", "add", "vic", "--role", "viewer")
	must(t, err)
	if strings.Contains(told, strings.TrimSpace(token)) || !strings.Contains(told, "mobyctl login vic --control "+address) {
		t.Errorf("stderr says %q", told)
	}
	vic := filepath.Join(t.TempDir(), "home")
	said, _, err := mobyctl(t, vic, token, "login", "vic", "--control", address)
	must(t, err)
	if said != "logged in to cluster shop as viewer vic\n" {
		t.Errorf("it says %q", said)
	}
	if _, _, err := mobyctl(t, vic, "", "volume", "ls"); err != nil {
		t.Errorf("vic lists volumes: %v", err)
	}
	if _, _, err := mobyctl(t, vic, "", "volume", "create", "pgdata"); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
		t.Errorf("a viewer creates a volume: %v", err)
	}
	must(t, filepath.WalkDir(vic, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && (d.IsDir() && info.Mode().Perm() != 0o700 || strings.HasSuffix(path, ".key") && info.Mode().Perm() != 0o600 ||
			strings.HasSuffix(path, ".json") && info.Mode().Perm() != 0o600 || strings.Contains(path, ".login-")) {
			t.Errorf("%s is left with the mode %v", path, info.Mode().Perm())
		}
		return err
	}))
	listed, _, err := mobyctl(t, ana, "", "operator", "ls")
	must(t, err)
	if !strings.Contains(listed, "vic") || !strings.Contains(listed, "viewer") {
		t.Errorf("ls lists %q", listed)
	}
	if _, _, err := mobyctl(t, ana, "", "operator", "rm", "vic"); err != nil {
		t.Error(err)
	}
	if _, _, err := mobyctl(t, vic, "", "volume", "ls"); err == nil {
		t.Error("vic is shut out and lists volumes")
	}
	if _, _, err := mobyctl(t, ana, "", "operator", "rm", "vic"); mobyfs.CodeOf(err) != mobyfs.CodeNotFound || mobyfs.HintOf(err) == "" {
		t.Errorf("to shut out who is not there: %v", err)
	}
}

// Killed after the join and before the context is written: the same command ends it, with the same key.
func TestLoginThatWasKilledGoesOn(t *testing.T) {
	address, ana := served(t)
	token, _, err := mobyctl(t, ana, "", "operator", "add", "bob", "--role", "operator")
	must(t, err)
	bob := t.TempDir()
	invitation, err := pki.ParseInvitation(token)
	must(t, err)
	staging := filepath.Join(bob, ".login-"+invitation.ID)
	must(t, os.Mkdir(staging, 0o700))
	half := pki.FilesIn(staging, "operator")
	_, err = half.NewRequest()
	must(t, err)
	key, err := os.ReadFile(half.Key)
	must(t, err)
	for range 2 { // and again, when all is done
		_, _, err = mobyctl(t, bob, token, "login", "bob", "--control", address)
		if err == nil {
			now, err := os.ReadFile(filepath.Join(bob, "shop", "operator.key"))
			must(t, err)
			if !bytes.Equal(now, key) {
				t.Error("the key is not the one that was made first")
			}
			must(t, os.MkdirAll(staging, 0o700))
			must(t, os.WriteFile(half.Key, key, 0o600))
		}
		must(t, err)
	}
}

// Whatever comes in place of a token, nothing is written where a context lies.
func TestLoginWithWhatIsNoTokenLeavesTheContextAlone(t *testing.T) {
	address, ana := served(t)
	before, err := os.ReadFile(filepath.Join(ana, "shop", "operator.crt"))
	must(t, err)
	node, _, err := mobyctl(t, ana, "", "token", "create", "--role", "node")
	must(t, err)
	other, err := pki.NewAuthority(t.TempDir(), "shop")
	must(t, err)
	foreign, err := pki.NewInvitation(pki.RoleOperator, "01abc", other.CertPEM)
	must(t, err)
	good, _, err := mobyctl(t, ana, "", "operator", "add", "eve", "--role", "viewer")
	must(t, err)
	for name, try := range map[string]struct {
		token, as, control string
		want               mobyfs.Code
	}{
		"nothing":                  {"", "eve", address, mobyfs.CodeInvalid},
		"of a node":                {node, "eve", address, mobyfs.CodeInvalid},
		"of another cluster":       {foreign.String(), "eve", address, mobyfs.CodeDenied},
		"for another name":         {good, "mallory", address, mobyfs.CodeDenied},
		"with a path in its ID":    {strings.Replace(foreign.String(), "01abc", "../shop", 1), "eve", address, mobyfs.CodeInvalid},
		"as a name with a path":    {good, "../eve", address, mobyfs.CodeInvalid},
		"to what is no address":    {good, "eve", "h1", mobyfs.CodeInvalid},
		"with a role that is none": {strings.Replace(good, ".viewer.", ".admin.", 1), "eve", address, mobyfs.CodeDenied},
	} {
		_, _, err := mobyctl(t, ana, try.token, "login", try.as, "--control", try.control)
		if mobyfs.CodeOf(err) != try.want || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v (hint %q), want %v", name, err, mobyfs.HintOf(err), try.want)
		}
	}
	after, err := os.ReadFile(filepath.Join(ana, "shop", "operator.crt"))
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("ana's certificate was replaced")
	}
}
