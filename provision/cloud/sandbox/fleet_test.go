package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

// TestSandboxFleet lives one fleet's life on this machine's Docker. It needs root (once, for the images), Docker
// Engine, debootstrap and ssh: tools/prepare.sh brings what is missing.
func TestSandboxFleet(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	name := fmt.Sprintf("sbt%d", os.Getpid())
	t.Cleanup(func() {
		if err := Down(context.Background(), name); err != nil {
			t.Errorf("down: %v", err)
		}
	})
	options := Options{Name: name, Hosts: 2, Distros: []string{"bookworm", "trixie"}, Log: func(line string) { t.Log(line) }}
	began := time.Now()
	f, err := Up(t.Context(), options)
	if err != nil {
		t.Fatalf("up: %v\n  hint: %s", err, mobyfs.HintOf(err))
	}
	t.Logf("up took %v", time.Since(began).Round(100*time.Millisecond))

	t.Run("ssh works with the hosts' real keys only", func(t *testing.T) { testSSH(t, f) })
	t.Run("docker run works without a registry", func(t *testing.T) { testBusybox(t, f) })
	t.Run("a restart and a power cut keep what is on disk", func(t *testing.T) { testRestart(t, f) })
	t.Run("a paused host answers nothing", func(t *testing.T) { testPause(t, f) })
	t.Run("up again is the same fleet", func(t *testing.T) { testUpAgain(t, f, options) })
	t.Run("a host that was removed comes back", func(t *testing.T) { testComesBack(t, f, options) })
	t.Run("an up that fails leaves what was", func(t *testing.T) { testUpThatFails(t, f) })
	t.Run("one more host", func(t *testing.T) { f = testOneMore(t, f, options) })
	t.Run("the provider pins each host", func(t *testing.T) { testProvider(t, f) })
	t.Run("down of all spares other users' fleets", func(t *testing.T) { testDownAllSparesOthers(t, f) })
	t.Run("down leaves nothing", func(t *testing.T) { testDown(t, f) })
}

// sshAs runs a command on a host as a user would, and returns what it prints.
func sshAs(t *testing.T, f Fleet, user, host string, command ...string) (string, error) {
	t.Helper()
	f.User = user
	line, err := f.SSH(host, command...)
	if err != nil {
		t.Fatal(err)
	}
	line = slices.Insert(line, 1, "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
	out, err := exec.CommandContext(t.Context(), line[0], line[1:]...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func testSSH(t *testing.T, f Fleet) {
	for _, h := range f.Hosts {
		for _, tc := range []struct{ user, command, want string }{
			{"root", "id -u; hostname", "0\n" + h.Name},
			{"mobyfs", "id -un; sudo -n id -u", "mobyfs\n0"},
			{"nosudo", "id -un; sudo -n id -u 2>/dev/null || echo refused", "nosudo\nrefused"},
		} {
			if got, err := sshAs(t, f, tc.user, h.Name, tc.command); err != nil || got != tc.want {
				t.Errorf("%s@%s: got %q, %v; want %q", tc.user, h.Name, got, err, tc.want)
			}
		}
	}
	forged := f
	forged.KnownHosts = filepath.Join(t.TempDir(), "known_hosts")
	known, err := os.ReadFile(f.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	swapped := strings.ReplaceAll(string(known), f.Hosts[0].Address+" ", "203.0.113.1 ")
	swapped = strings.ReplaceAll(swapped, f.Hosts[1].Address+" ", f.Hosts[0].Address+" ")
	if err := os.WriteFile(forged.KnownHosts, []byte(swapped), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := sshAs(t, forged, "root", "h1", "true"); err == nil || !strings.Contains(got, "HOST IDENTIFICATION HAS CHANGED") {
		t.Errorf("with h2's keys for h1: got %q, %v; want a refusal", got, err)
	}
	ids := map[string]bool{}
	for _, h := range f.Hosts {
		id, err := f.Exec(t.Context(), h.Name, "cat", "/etc/machine-id")
		if err != nil || len(id) != 32 || ids[id] {
			t.Errorf("%s: machine-id %q, %v; want 32 digits of its own", h.Name, id, err)
		}
		ids[id] = true
	}
}

func testBusybox(t *testing.T, f Fleet) {
	for i, version := range []string{"20.10.", "26.1."} {
		host := f.Hosts[i].Name
		if got, err := f.Exec(t.Context(), host, "docker", "version", "--format", "{{.Server.Version}}"); err != nil || !strings.HasPrefix(got, version) {
			t.Errorf("%s: Docker is %q, %v; want %s…", host, got, err, version)
		}
		got, err := f.Exec(t.Context(), host, "docker", "run", "--rm", "-v", "vol:/data", "busybox", "sh", "-c", "echo written >/data/x && cat /data/x && id -un")
		if want := "written\nroot"; err != nil || got != want {
			t.Errorf("%s: docker run printed %q, %v; want %q", host, got, err, want)
		}
	}
}

func testRestart(t *testing.T, f Fleet) {
	if _, err := f.Exec(t.Context(), "h2", "sh", "-c", "echo 1 >/etc/kept; echo 2 >/var/lib/mobyfs/kept; echo 3 >/run/lost"); err != nil {
		t.Fatal(err)
	}
	look := func(after string) {
		t.Helper()
		got, err := f.Exec(t.Context(), "h2", "sh", "-c", "cat /etc/kept /var/lib/mobyfs/kept; cat /run/lost 2>/dev/null || docker run --rm -v vol:/data busybox cat /data/x")
		if want := "1\n2\nwritten"; err != nil || got != want {
			t.Errorf("after %s: got %q, %v; want %q", after, got, err, want)
		}
	}
	if err := f.Restart(t.Context(), "h2"); err != nil {
		t.Fatal(err)
	}
	look("a restart")
	if err := f.Stop(t.Context(), "h2"); err != nil {
		t.Fatal(err)
	}
	if err := f.Start(t.Context(), "h2"); err != nil {
		t.Fatal(err)
	}
	look("a power cut")
	if got, err := sshAs(t, f, "root", "h2", "echo same key"); err != nil || got != "same key" {
		t.Errorf("ssh after a power cut: got %q, %v", got, err)
	}
}

func testPause(t *testing.T, f Fleet) {
	if err := f.Pause(t.Context(), "h1"); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", f.Hosts[0].Address+":22", 5*time.Second)
	if err != nil {
		t.Fatalf("a paused host's kernel should take the connection: %v", err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := c.Read(make([]byte, 8)); err == nil {
		t.Errorf("sshd of a paused host said %d bytes", n)
	}
	if err := f.Unpause(t.Context(), "h1"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 8)); err != nil {
		t.Errorf("sshd of a host that goes on: %v", err)
	}
}

func testUpAgain(t *testing.T, f Fleet, o Options) {
	if err := f.Stop(t.Context(), "h1"); err != nil {
		t.Fatal(err)
	}
	o.Hosts, o.Distros = 0, nil
	again, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(f, again); d != "" {
		t.Errorf("fleet (-first +again):\n%s", d)
	}
}

func testComesBack(t *testing.T, f Fleet, o Options) {
	if err := removeContainers(t.Context(), []string{f.Hosts[0].Container}); err != nil {
		t.Fatal(err)
	}
	if got := states(t, f.Name); !slices.Equal(got, []string{"missing", "running"}) {
		t.Errorf("list: got %q, want h1 missing and h2 running", got)
	}
	again, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if again.Hosts[0].HostKey == f.Hosts[0].HostKey || again.Hosts[1].HostKey != f.Hosts[1].HostKey {
		t.Errorf("h1 is new and h2 is not: keys were %v, are %v", f.Hosts, again.Hosts)
	}
	if got, err := sshAs(t, again, "root", "h1", "echo new key known"); err != nil || got != "new key known" {
		t.Errorf("ssh: got %q, %v", got, err)
	}
}

func testUpThatFails(t *testing.T, f Fleet) {
	tag := f.Name + "-nothing:1"
	if _, err := dockerWith(t.Context(), emptyTar(t), "import", "-", tag); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := docker(context.Background(), "rmi", tag); err != nil {
			t.Error(err)
		}
	}()
	before, err := Load(t.Context(), f.Name)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Up(t.Context(), Options{Name: f.Name, Hosts: 3, Image: tag})
	if err == nil || !strings.Contains(err.Error(), "host h3") || !strings.Contains(err.Error(), "/bin/sh") {
		t.Errorf("an image without anything: got %v, want an error that names h3 and what it lacks", err)
	}
	after, err := Load(t.Context(), f.Name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("fleet (-before +after):\n%s", d)
	}
	if got := states(t, f.Name); !slices.Equal(got, []string{"running", "running"}) {
		t.Errorf("list: got %q, want both hosts running and nothing else", got)
	}

	other := f.Name + "b"
	if _, err = Up(t.Context(), Options{Name: other, Hosts: 2, Image: tag}); err == nil {
		t.Error("a fleet of nothing was made")
	}
	if left := leftOf(t, other); len(left) > 0 {
		t.Errorf("left of the fleet that failed: %v", left)
	}
}

func testOneMore(t *testing.T, f Fleet, o Options) Fleet {
	o.Hosts, o.Light = 3, true
	more, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(more.Hosts) != 3 || !more.Hosts[2].Light || more.Hosts[0].Light || more.Hosts[2].Distro != "bookworm" {
		t.Fatalf("got %+v, want h3 added, light, bookworm", more.Hosts)
	}
	if got, err := sshAs(t, more, "root", "h3", "systemctl is-active docker"); err == nil || got != "inactive" {
		t.Errorf("Docker on a light host: got %q, %v; want inactive", got, err)
	}
	if got, err := more.Exec(t.Context(), "h3", "getent", "hosts", "h1"); err != nil || !strings.HasPrefix(got, f.Hosts[0].Address) {
		t.Errorf("h3 looks h1 up: got %q, %v; want %s", got, err, f.Hosts[0].Address)
	}
	return more
}

func testProvider(t *testing.T, f Fleet) {
	specs, err := Provider{Fleet: f.Name}.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range specs {
		h := f.Hosts[i]
		if s.Name != h.Name || s.Address != h.Address || s.User != "root" || s.IdentityFile != f.Key || !strings.HasPrefix(s.HostKey, "SHA256:") {
			t.Errorf("got %+v for %+v", s, h)
		}
	}
	if _, err := (Provider{Fleet: "no-such-fleet"}).Hosts(t.Context()); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		t.Errorf("unknown fleet: got %v, want not-found", err)
	}
}

func testDownAllSparesOthers(t *testing.T, f Fleet) {
	t.Setenv("XDG_DATA_HOME", t.TempDir()) // another user's, who has no fleet
	removed, others, err := DownAll(t.Context())
	if err != nil || len(removed) != 0 || !slices.Contains(others, f.Name) {
		t.Errorf("got removed %v, others %v, %v; want %s among the others and none removed", removed, others, err, f.Name)
	}
	if got := states(t, f.Name); !slices.Equal(got, []string{"running", "running", "running"}) {
		t.Errorf("list: got %q, want all three running", got)
	}
}

func testDown(t *testing.T, f Fleet) {
	made, err := containers(t.Context(), "label="+labelFleet+"="+f.Name)
	if err != nil || len(made) != 3 {
		t.Fatalf("containers before: %v, %v; want 3", made, err)
	}
	if err := f.Pause(t.Context(), "h1"); err != nil { // a paused one must go too
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing, which is fine
		if err := Down(t.Context(), f.Name); err != nil {
			t.Fatal(err)
		}
	}
	if left := leftOf(t, f.Name); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, c := range made {
		for _, pattern := range []string{"docker/", "*/docker/", "system.slice/docker-"} {
			if groups, _ := filepath.Glob("/sys/fs/cgroup/" + pattern + c.ID + "*"); len(groups) > 0 {
				t.Errorf("control groups left: %v", groups)
			}
		}
	}
}

// leftOf tells what is left of a fleet, of any kind.
func leftOf(t *testing.T, name string) []string {
	t.Helper()
	var left []string
	label := "label=" + labelFleet + "=" + name
	for kind, args := range map[string][]string{
		"container": {"ps", "-aq", "--filter", label},
		"volume":    {"volume", "ls", "-q", "--filter", label},
		"network":   {"network", "ls", "-q", "--filter", label},
	} {
		ids, err := lines(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			left = append(left, kind+" "+id)
		}
	}
	s, err := stateOf(name)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(s.root, "*"+name+"*"))
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := filepath.Glob(filepath.Join(s.root, "."+name+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, hidden...) {
		if base := filepath.Base(file); base == name || base == "."+name+".lock" {
			left = append(left, file)
		}
	}
	return left
}

// states are those of a fleet's hosts, as List tells them.
func states(t *testing.T, name string) []string {
	t.Helper()
	fleets, err := List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range fleets {
		for _, h := range f.Hosts {
			if f.Name == name {
				found = append(found, h.State)
			}
		}
	}
	return found
}
