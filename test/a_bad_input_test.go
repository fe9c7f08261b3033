package test

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// clusterFile writes a cluster.yaml of the given hosts.
func clusterFile(t *testing.T, user, key, known string, hosts ...string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: mobyfs.dev/v1\ncluster: bad\nssh:\n  user: %s\n  identityFile: %s\n  knownHosts: %s\n  hostKeys: strict\nhosts:\n",
		user, key, known)
	for i, h := range hosts {
		fmt.Fprintf(&b, "  - name: n%d\n    address: %s\n", i+1, h)
	}
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostTree sums up everything on a host that an installer could touch: names, modes, times, contents. The three files that
// are written anew whenever the container starts that is the host are left out, and backups, which come when it is time.
func hostTree(t *testing.T, host string) string {
	t.Helper()
	return the.Sh(t, host, `cd /
		look() {
			find etc usr/bin usr/lib/mobyfs usr/lib/systemd usr/local var/lib/mobyfs var/lib/mobyfs-control run/docker/plugins \( \
				-path var/lib/mobyfs/state -o -path var/lib/mobyfs-control/etcd -o -path '*/backups' \
				-o -path etc/hosts -o -path etc/hostname -o -path etc/resolv.conf \) -prune -o "$@"
		}
		{
			look \( -type f -printf '%p %m %U:%G %T@\n' -o -printf '%p %m %U:%G %l\n' \)
			look -type f -print0 | xargs -0r sha256sum
		} 2>/dev/null | sort`)
}

// TestBadInputIsRefusedBeforeAnythingChanges: each mistake is told with its cause and the way out, and the hosts
// are left as they were.
func TestBadInputIsRefusedBeforeAnythingChanges(t *testing.T) {
	h1, h2 := the.Hosts["h1"], the.Hosts["h2"]
	before := hostTree(t, "h1")
	otherKey := filepath.Join(t.TempDir(), "known_hosts")
	known, err := os.ReadFile(the.Known)
	if err != nil {
		t.Fatal(err)
	}
	h2key := ""
	for line := range strings.Lines(string(known)) {
		if host, key, ok := strings.Cut(line, " "); ok && host == h2 {
			h2key += h1 + " " + key
		}
	}
	if h2key == "" {
		t.Fatalf("known_hosts has no line for %s:\n%s", h2, known)
	}
	if err := os.WriteFile(otherKey, []byte(h2key), 0o600); err != nil {
		t.Fatal(err)
	}
	unreachable := h1[:strings.LastIndex(h1, ".")] + ".250"
	nothingKnown := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(nothingKnown, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	for _, tc := range []struct {
		name    string
		user    string
		key     string // the fleet's if empty
		known   string
		hosts   []string
		prepare string // on h1
		undo    string
		want    []string
	}{
		{name: "unreachable host", user: "root", known: the.Known, hosts: []string{h1, unreachable}, want: []string{"n2", unreachable}},
		{name: "host key changed", user: "root", known: otherKey, hosts: []string{h1}, want: []string{"n1", "HOST KEY CHANGED", "SHA256:"}},
		{name: "host key unknown", user: "root", known: nothingKnown, hosts: []string{h1}, want: []string{"n1", "SHA256:"}},
		{name: "wrong key", user: "root", key: stranger, known: the.Known, hosts: []string{h1}, want: []string{"n1", "root", stranger}},
		{name: "user refused", user: "nobodyhere", known: the.Known, hosts: []string{h1}, want: []string{"n1", "nobodyhere"}},
		{name: "no sudo", user: "nosudo", known: the.Known, hosts: []string{h1}, want: []string{"n1", "sudo"}},
		{name: "no Docker", user: "root", known: the.Known, hosts: []string{h1}, prepare: "systemctl stop docker.socket docker", undo: "systemctl start docker.socket docker", want: []string{"n1", "Docker"}},
		{name: "port taken", user: "root", known: the.Known, hosts: []string{h1}, prepare: "busybox nc -l -p 8080 </dev/zero >/dev/null 2>&1 & echo $! > /run/taken.pid; sleep 0.3", undo: "kill $(cat /run/taken.pid); rm /run/taken.pid", want: []string{"n1", "8080"}},
		{name: "disk full", user: "root", known: the.Known, hosts: []string{h1}, prepare: "mkdir -p /var/lib/mobyfs && mount -t tmpfs -o size=1m tmpfs /var/lib/mobyfs", undo: "umount /var/lib/mobyfs", want: []string{"n1", "/var/lib"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.prepare != "" {
				the.Sh(t, "h1", tc.prepare)
				defer the.Sh(t, "h1", tc.undo)
			}
			r := the.Try(t, "bootstrap", "-f", clusterFile(t, tc.user, cmp.Or(tc.key, the.Key), tc.known, tc.hosts...), "--yes")
			if r.Code != 4 {
				t.Errorf("exit code %d, want 4 (a check before the first change failed)", r.Code)
			}
			fleet.Has(t, r.Stderr, tc.want...)
			if strings.Contains(r.Stderr, "exit status") || strings.Contains(r.Stderr, "goroutine") {
				t.Errorf("the message speaks of innards:\n%s", r.Stderr)
			}
			t.Logf("says:\n%s", r.Stderr)
		})
	}
	the.Sh(t, "h1", "rmdir /var/lib/mobyfs 2>/dev/null || true")
	if after := hostTree(t, "h1"); after != before {
		t.Errorf("h1 was changed:\n%s", diffLines(before, after))
	}
}

func TestUnknownFieldIsShownWithItsPlaceAndTheRightWord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	text := "apiVersion: mobyfs.dev/v1\ncluster: bad\nhosts:\n  - name: n1\n    adress: 10.0.0.1\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r := the.Try(t, "bootstrap", "-f", path, "--yes")
	if r.Code == 0 {
		t.Fatal("an unknown field was accepted")
	}
	fleet.Has(t, r.Stderr, "cluster.yaml:5:5", `"adress"`, `did you mean "address"?`)
}

// diffLines gives the lines that only one of two texts has.
func diffLines(a, b string) string {
	in := func(s string) map[string]bool {
		m := map[string]bool{}
		for line := range strings.Lines(s) {
			m[strings.TrimSpace(line)] = true
		}
		return m
	}
	as, bs := in(a), in(b)
	var out strings.Builder
	for l := range as {
		if !bs[l] {
			fmt.Fprintln(&out, "-", l)
		}
	}
	for l := range bs {
		if !as[l] {
			fmt.Fprintln(&out, "+", l)
		}
	}
	return out.String()
}
