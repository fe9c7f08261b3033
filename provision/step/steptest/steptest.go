// Package steptest is a host in a directory, for tests: a systemd that only keeps books, and the programs that a host
// runs. A test's own binary plays all of them: its TestMain calls Main first.
package steptest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/step"
)

// Host is a directory that stands for a machine's root.
type Host struct {
	Root string
	Bin  string // first in PATH: systemctl, docker, dockerd
}

// NewHost makes a machine that was booted with systemd and runs Docker.
func NewHost(t *testing.T) *Host {
	t.Helper()
	h := &Host{Root: inMemory(t), Bin: t.TempDir()}
	for _, dir := range []string{"run/systemd/system", "usr/bin", "etc/systemd/system", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(h.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write(t, filepath.Join(h.Root, "etc/machine-id"), hex.EncodeToString([]byte(filepath.Base(h.Root)))+"\n", 0o644)
	h.write(t, filepath.Join(h.Root, "run/docker.pid"), strconv.Itoa(os.Getpid()), 0o644)
	h.Docker(t, "26.1.5")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.Script(t, "systemctl", "[ \"$1\" = show ] || exit 3; exec env MOBYFS_TEST_PROGRAM=systemctl "+self+" \"$@\"")
	h.Script(t, "ss", "exit 0")
	h.Script(t, "uname", `case $1 in -n) echo `+filepath.Base(h.Root)+`;; *) exec /usr/bin/uname "$@";; esac`)
	return h
}

// inMemory is a directory that takes no disk's time to sync, if the machine has one that is big enough and lets
// programs run; otherwise one on disk.
func inMemory(t *testing.T) string {
	t.Helper()
	const noexec = 8 // ST_NOEXEC of statvfs
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &fs); err != nil || fs.Flags&noexec != 0 || fs.Bavail*uint64(fs.Bsize) < 1<<30 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "mobyfs-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Docker sets the version of the daemon that runs; "" is one that does not run.
func (h *Host) Docker(t *testing.T, version string) {
	t.Helper()
	h.Script(t, "docker", "echo "+version)
	h.Script(t, "dockerd", "exit 1")
	if version == "" {
		if err := os.Remove(filepath.Join(h.Root, "run/docker.pid")); err != nil {
			t.Fatal(err)
		}
	}
}

// Activated makes the daemon that runs one that has used the driver.
func (h *Host) Activated(t *testing.T) {
	t.Helper()
	h.Script(t, "docker", `case $1 in info) echo "local mobyfs " ;; *) echo 26.1.5 ;; esac`)
}

// Script puts a shell script in front of the machine's programs.
func (h *Host) Script(t *testing.T, name, text string) {
	t.Helper()
	h.write(t, filepath.Join(h.Bin, name), "#!/bin/sh\n"+text+"\n", 0o755)
}

func (h *Host) write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// Env is what commands on the host run with.
func (h *Host) Env() []string {
	path := h.Bin + ":/usr/sbin:/usr/bin:/sbin:/bin"
	return []string{"MOBYFS_HOST_ROOT=" + h.Root, "MOBYFS_HOST_PATH=" + path, "PATH=" + path, "MOBYFS_TEST_PROGRAM=mobyfs", "GORACE=atexit_sleep_ms=0"}
}

// Facts gathers the host's facts as mobyctl does.
func (h *Host) Facts(t *testing.T) step.Facts {
	t.Helper()
	cmd := exec.Command("sh", "-s", "--", "8080", "7946")
	cmd.Env, cmd.Stdin = append(os.Environ(), h.Env()...), strings.NewReader(step.FactsScript)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := step.ParseFacts(out)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Tree is a fingerprint of all files: path, mode, time of change and content. What only systemd's books hold is left
// out, and of keys, certificates and what depends on them only the path if stable is set.
func (h *Host) Tree(t *testing.T, stable bool) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(h.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, h.Root)
		if name == "" || name == "/run/systemd/books.json" || name == "/run/systemd/calls" || name == "/run/systemd" || name == "/run" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", name, info.Mode())
		if !stable {
			line += " " + info.ModTime().String()
		}
		if d.Type().IsRegular() && (!stable || !strings.Contains(name, "/pki/") && name != step.JournalPath && name != "/etc/machine-id") {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + digest(text)
		}
		if d.Type()&os.ModeSymlink != 0 {
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " " + to
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Calls is what systemd was asked to do, in order, and forgets it.
func (h *Host) Calls(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(h.Root, "run/systemd/calls")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// Main plays a program of the host if the test's binary was started as one, and then ends the process.
func Main() {
	program := os.Getenv("MOBYFS_TEST_PROGRAM")
	if program == "" {
		return
	}
	if name := filepath.Base(os.Args[0]); name == step.Control {
		program = name
	}
	root := os.Getenv("MOBYFS_HOST_ROOT")
	var err error
	switch {
	case program == "systemctl":
		err = books{root: root}.show(os.Stdout)
	case program == step.Control && os.Args[1] == "member":
		err = member(root, os.Args[2:])
	case program == step.Control && os.Args[1] == "sign":
		err = sign(root, os.Args[3], os.Args[5])
	case program == step.Agent && len(os.Args) == 3 && os.Args[1] == "host" && os.Args[2] == "apply":
		err = apply(root)
	case program == step.Agent && len(os.Args) == 3 && os.Args[1] == "host" && os.Args[2] == "plugins":
		report := discovery.Look(context.Background(), root, root+"/run/docker.sock", discovery.SockEndpoint, nil)
		err = json.NewEncoder(os.Stdout).Encode(report)
	default:
		err = fmt.Errorf("%s does not know %v", program, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func apply(root string) error {
	k := newKiller()
	hand := step.Hand{
		Root:    root,
		Systemd: &Systemd{books{root: root}, k},
		Probe:   func(context.Context, discovery.Endpoint) error { return nil },
		Command: func(_ context.Context, name string, args ...string) error {
			k.moment()
			defer k.moment()
			return initControl(root, args[2])
		},
	}
	return hand.Apply(context.Background(), os.Stdin, &eventWriter{os.Stdout, k})
}

// killer ends the process at its nth moment.
type killer struct{ left int }

func newKiller() *killer {
	n, _ := strconv.Atoi(os.Getenv("MOBYFS_TEST_KILL_AT"))
	return &killer{n}
}

func (k *killer) moment() {
	if k == nil {
		return
	}
	if k.left--; k.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// eventWriter makes every event a moment.
type eventWriter struct {
	io.Writer
	k *killer
}

func (w *eventWriter) Write(p []byte) (int, error) {
	w.k.moment()
	return w.Writer.Write(p)
}

func initControl(root, cluster string) error {
	dir := root + step.ControlRoot + "/pki"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	a, err := pki.NewAuthority(dir, cluster)
	if err != nil {
		return err
	}
	f := pki.FilesIn(dir, "control")
	csr, err := f.NewRequest()
	if err != nil {
		return err
	}
	cert, err := a.Sign(csr, pki.Identity{Cluster: cluster, Role: pki.RoleControl, Name: "control"})
	if err != nil {
		return err
	}
	if err := f.Install(cert, a.CertPEM); err != nil {
		return err
	}
	peer := pki.PeerFiles(dir)
	if csr, err = peer.NewRequest(); err != nil {
		return err
	}
	if cert, err = a.Sign(csr, pki.Identity{Cluster: cluster, Role: pki.RolePeer, Name: "control"}); err != nil {
		return err
	}
	return peer.Install(cert, a.CertPEM)
}

// member plays mobyfs-control member: the members of the store stand in a file, one a line.
func member(root string, args []string) error {
	store := root + step.ControlRoot + "/etcd"
	text, err := os.ReadFile(store + "/client.sock")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lines := strings.Fields(string(text)) // name=URL
	switch args[0] {
	case "ls":
		for _, l := range lines {
			name, url, _ := strings.Cut(l, "=")
			fmt.Println(name, "voter", url, "ok")
		}
		return nil
	case "add":
		for i := 1; i+1 < len(args); i += 2 {
			lines = append(lines, args[i]+"="+args[i+1])
		}
	case "rm":
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, args[1]+"=") })
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	fmt.Println(strings.Join(lines, ","))
	if err := os.MkdirAll(store, 0o700); err != nil {
		return err
	}
	return os.WriteFile(store+"/client.sock", []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

func sign(root, role, name string) error {
	a, err := pki.OpenAuthority(root + step.ControlRoot + "/pki")
	if err != nil {
		return err
	}
	csr, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	cert, err := a.Sign(csr, pki.Identity{Cluster: a.Cluster, Role: role, Name: name})
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(bytes.Clone(cert), a.CertPEM...))
	return err
}

// books is what systemd knows, kept in a file.
type books struct{ root string }

type unit struct {
	Active bool
	Loaded string // digest of the file as it was read
}

func (b books) path() string { return b.root + "/run/systemd/books.json" }

func (b books) read() (map[string]unit, error) {
	units := map[string]unit{}
	text, err := os.ReadFile(b.path())
	if errors.Is(err, os.ErrNotExist) {
		return units, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &units)
	}
	return units, err
}

func (b books) change(f func(map[string]unit) error) error {
	units, err := b.read()
	if err != nil {
		return err
	}
	if err := f(units); err != nil {
		return err
	}
	text, err := json.Marshal(units)
	if err != nil {
		return err
	}
	return os.WriteFile(b.path(), text, 0o644)
}

func (b books) file(name string) string {
	if name == step.KeptUnit {
		return b.root + step.KeptUnitPath
	}
	return b.root + step.UnitDir + "/" + name
}

// allUnits are those that systemctl is asked for.
func allUnits() []string {
	return []string{step.SocketUnit, step.KeptUnit, step.AgentUnit, step.ControlUnit, step.StubUnit}
}

// wants lists the links by which targets want a unit.
func (b books) wants(name string) ([]string, error) {
	return filepath.Glob(b.root + step.UnitDir + "/*.wants/" + name)
}

// show prints what systemctl show prints.
func (b books) show(w io.Writer) error {
	units, err := b.read()
	if err != nil {
		return err
	}
	for i, name := range allUnits() {
		load, reload, active, state := "not-found", "no", "inactive", ""
		text, err := os.ReadFile(b.file(name))
		if err == nil {
			load, state = "loaded", "disabled"
			if units[name].Loaded != "" && units[name].Loaded != digest(text) {
				reload = "yes"
			}
		}
		if links, _ := b.wants(name); len(links) > 0 {
			state = "enabled"
		}
		if units[name].Active {
			active = "active"
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "MainPID=0\nId=%s\nLoadState=%s\nActiveState=%s\nUnitFileState=%s\nNeedDaemonReload=%s\n", name, load, active, state, reload)
	}
	return nil
}

// Systemd keeps books instead of running anything. Every call is two moments for the killer.
type Systemd struct {
	books
	k *killer
}

func (s *Systemd) call(what string, f func(map[string]unit) error) error {
	s.k.moment()
	defer s.k.moment()
	log, err := os.OpenFile(s.root+"/run/systemd/calls", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	fmt.Fprintln(log, what)
	log.Close()
	if fail := os.Getenv("MOBYFS_TEST_FAIL"); fail != "" && fail == what {
		return &step.UnitError{Unit: "x", Act: what, Result: "failed", Log: []string{"it does not like this host"}}
	}
	return s.change(f)
}

// Enable makes the links that the unit's [Install] section names.
func (s *Systemd) Enable(_ context.Context, names []string) error {
	return s.call("enable "+strings.Join(names, " "), func(map[string]unit) error {
		for _, name := range names {
			text, err := os.ReadFile(s.file(name))
			if err != nil {
				return err
			}
			_, wanted, _ := strings.Cut(string(text), "\nWantedBy=")
			wanted, _, _ = strings.Cut(wanted, "\n")
			for target := range strings.FieldsSeq(wanted) {
				dir := s.root + step.UnitDir + "/" + target + ".wants"
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				if err := os.Symlink(step.UnitDir+"/"+name, dir+"/"+name); err != nil && !errors.Is(err, os.ErrExist) {
					return err
				}
			}
		}
		return nil
	})
}

// Disable removes them.
func (s *Systemd) Disable(_ context.Context, names []string) error {
	return s.call("disable "+strings.Join(names, " "), func(map[string]unit) error {
		for _, name := range names {
			links, err := s.wants(name)
			if err != nil {
				return err
			}
			for _, link := range links {
				if err := os.Remove(link); err != nil {
					return err
				}
				_ = os.Remove(filepath.Dir(link)) // if it is empty
			}
		}
		return nil
	})
}

// Reload reads the unit files.
func (s *Systemd) Reload(context.Context) error {
	return s.call("reload", func(units map[string]unit) error {
		for _, name := range allUnits() {
			u := units[name]
			u.Loaded = ""
			if text, err := os.ReadFile(s.file(name)); err == nil {
				u.Loaded = digest(text)
			}
			units[name] = u
		}
		return nil
	})
}

// Start notes that a unit runs; its file must be there.
func (s *Systemd) Start(_ context.Context, name string) error { return s.run("start", name) }

// Restart does the same.
func (s *Systemd) Restart(_ context.Context, name string) error { return s.run("restart", name) }

func (s *Systemd) run(act, name string) error {
	return s.call(act+" "+name, func(units map[string]unit) error {
		text, err := os.ReadFile(s.file(name))
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, ".socket") && units[step.AgentUnit].Active {
			return &step.UnitError{Unit: name, Act: act, Result: "its service runs"}
		}
		units[name] = unit{Active: true, Loaded: digest(text)}
		if name == step.ControlUnit { // its store has data from now on
			if err := os.MkdirAll(s.root+step.ControlRoot+"/etcd/data/member", 0o700); err != nil {
				return err
			}
		}
		for _, path := range listens(string(text)) {
			if err := os.MkdirAll(filepath.Dir(s.root+path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(s.root+path, nil, 0o600); err != nil {
				return err
			}
		}
		return nil
	})
}

// listens lists the paths that a unit listens at.
func listens(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "ListenStream=/"); ok {
			all = append(all, "/"+path)
		}
	}
	return all
}

// StartTransient notes that a unit without a file runs. A stub has the plugin's socket.
func (s *Systemd) StartTransient(_ context.Context, name string, t step.Transient) error {
	return s.call("run "+name, func(units map[string]unit) error {
		if _, err := os.Stat(s.root + t.Command[0]); err != nil {
			return err
		}
		units[name] = unit{Active: true}
		return os.WriteFile(s.root+discovery.SockPath, nil, 0o600)
	})
}

// Stop notes that a unit does not run. Its sockets stay where they are, unless the unit says otherwise; those of a stub
// go.
func (s *Systemd) Stop(_ context.Context, name string) error {
	return s.call("stop "+name, func(units map[string]unit) error {
		if name == step.StubUnit && units[name].Active {
			if err := os.Remove(s.root + discovery.SockPath); err != nil {
				return err
			}
		}
		u := units[name]
		was := u.Active
		u.Active = false
		units[name] = u
		text, err := os.ReadFile(s.file(name))
		if err != nil || !was || !strings.Contains(string(text), "RemoveOnStop=yes") {
			return nil
		}
		for _, path := range append(listens(string(text)), step.KeptPath) {
			if err := os.Remove(s.root + path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// RestartDocker does what systemd does with our units when dockerd ends and another one starts.
func (h *Host) RestartDocker(t *testing.T) {
	t.Helper()
	s := &Systemd{books{root: h.Root}, nil}
	if err := s.Stop(t.Context(), step.KeptUnit); err != nil {
		t.Fatal(err)
	}
}
