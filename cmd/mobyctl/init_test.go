package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision"
	"github.com/mobyfs/mobyfs/provision/host"
)

// run is a command line of mobyctl, as in a shell without a terminal.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, endTrace: func(error) {}}
	cmd := newRootCommand(a)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	a.endTrace(err)
	if err != nil {
		a.printError(err)
	}
	return out.String(), errs.String(), err
}

func TestInitWritesWhatBootstrapReads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if _, stderr, err := run(t, "init", "--name", "shop", "-o", file, "root@10.0.1.11", "web-1.example:2222", "ana@web-1", "fe80::1"); err != nil {
		t.Fatal(stderr)
	}
	c, err := provision.LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []provision.HostConfig{
		{Name: "vol-1", Address: "10.0.1.11", User: "root"},
		{Name: "web-1", Address: "web-1.example", Port: 2222},
		{Name: "vol-3", Address: "web-1", User: "ana"},
		{Name: "vol-4", Address: "fe80::1"},
	}
	if diff := cmp.Diff(want, c.Hosts); diff != "" || c.Cluster != "shop" {
		t.Errorf("cluster %s, -want +got:\n%s", c.Cluster, diff)
	}
}

func TestInitOverwritesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := run(t, "init", "--sandbox", "demo", "-o", file)
	if mobyfs.CodeOf(err) != mobyfs.CodeExists || !strings.Contains(stderr, "hint: edit it") {
		t.Errorf("got %v: %s", err, stderr)
	}
	if text, _ := os.ReadFile(file); string(text) != "mine" {
		t.Errorf("the file is %q now", text)
	}
}

func TestInitRefusesWhatBootstrapWould(t *testing.T) {
	for _, args := range [][]string{
		{}, {"root;id@h"}, {"h:ssh"}, {"--sandbox", "demo", "h"}, {"--name", "Shop", "h"}, {"10.0.1.11", "10.0.1.11"},
	} {
		file := filepath.Join(t.TempDir(), "cluster.yaml")
		if _, _, err := run(t, append([]string{"init", "-o", file}, args...)...); err == nil {
			t.Errorf("init %v was accepted", args)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("init %v left a file", args)
		}
	}
}

// What is wrong in cluster.yaml is told with its place before any host is spoken to.
func TestBadClusterFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	text := "apiVersion: mobyfs.dev/v1\ncluster: shop\nhosts:\n  - name: vol-1\n    adress: 10.0.1.11\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"plan", "bootstrap", "reset"} {
		_, stderr, err := run(t, command, "-f", file)
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || !strings.Contains(stderr, file+`:5:5  unknown field "adress" — did you mean "address"?`) {
			t.Errorf("%s: got %v: %s", command, err, stderr)
		}
	}
}

func TestUnreachableHostIsExitCode4(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MOBYFS_HOME", dir)
	file := filepath.Join(dir, "cluster.yaml")
	text := "apiVersion: mobyfs.dev/v1\ncluster: shop\nssh: {user: root, identityFile: " + filepath.Join(dir, "key") + "}\n" +
		"hosts: [{name: vol-1, address: 127.0.0.1, port: 1}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := run(t, "bootstrap", "--yes", "-f", file)
	var exit *exitCode
	if !errors.As(err, &exit) || exit.code != exitPreflight || !strings.Contains(stderr, "✖ vol-1  MFS-S007") {
		t.Errorf("got %v: %s", err, stderr)
	}
}

func TestExitCodes(t *testing.T) {
	a := &app{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	locked, failed := host.Locked.Problem("vol-1", "x"), host.StepFailed.Problem("vol-2", "x")
	for _, tc := range []struct {
		err  error
		want int
	}{
		{a.planFailed(&provision.Preflight{Problems: []*host.Problem{failed}}), exitPreflight},
		{a.partial(&provision.Outcome{Failed: []*host.Problem{failed}}, ""), exitPartial},
		{a.partial(&provision.Outcome{Failed: []*host.Problem{locked, failed}}, ""), exitPartial},
		{a.partial(&provision.Outcome{Failed: []*host.Problem{locked}}, ""), exitLocked},
	} {
		var exit *exitCode
		if !errors.As(tc.err, &exit) || exit.code != tc.want {
			t.Errorf("%v ends with %+v, want %d", tc.err, exit, tc.want)
		}
	}
	if err := a.confirm(false, "Apply?"); err == nil || !strings.Contains(mobyfs.HintOf(err), "--yes") {
		t.Errorf("without a terminal: %v", err)
	}
}

func TestOperatorNames(t *testing.T) {
	for user, want := range map[string]string{"ana": "ana", "Ana.Lima": "ana-lima", "DOMAIN\\bob": "domain-bob", "__": "operator", "": "operator"} {
		if got := operatorName(user); got != want || mobyfs.CheckNodeName(got) != nil {
			t.Errorf("%q becomes %q, want %q", user, got, want)
		}
	}
}
