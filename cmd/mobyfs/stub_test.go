package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/process"
)

func TestMain(m *testing.M) {
	if os.Getenv("MOBYFS_TEST_MAIN") != "" { // the test's binary plays the program
		main()
		return
	}
	if socket := os.Getenv("MOBYFS_TEST_STRANGER"); socket != "" {
		playStranger(socket)
		return
	}
	os.Exit(m.Run())
}

// service is mobyfs as systemd runs it: it holds the socket, and starts the program again when it ends.
type service struct {
	t        *testing.T
	set      settings
	run      string // directory of the record of starts
	listener *net.UnixListener
	systemd  *net.UnixConn // hears what the program tells

	mu  sync.Mutex
	cmd *exec.Cmd
	log bytes.Buffer // under mu
}

// newService holds a socket for the node with the settings. What the settings say stands in its environment file.
func (s *shop) newService(set settings) *service {
	s.t.Helper()
	v := &service{t: s.t, set: set, run: s.t.TempDir()}
	v.configure(fmt.Sprintf("MOBYFS_CLUSTER=%s\nMOBYFS_NODE=%s\nMOBYFS_CONTROL=%s\nMOBYFS_ADVERTISE=%s\nMOBYFS_PORT=%d\n",
		set.cluster, set.node, set.control[0], set.advertise, set.port))
	if err := os.MkdirAll(filepath.Dir(set.endpoint.Path()), 0o755); err != nil {
		s.t.Fatal(err)
	}
	var err error
	if v.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: set.endpoint.Path(), Net: "unix"}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { v.listener.Close() })
	if v.systemd, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(v.run, "notify"), Net: "unixgram"}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = v.systemd.Close() })
	return v
}

func (v *service) configure(env string) {
	v.t.Helper()
	if err := os.WriteFile(v.set.envFile, []byte(env), 0o644); err != nil {
		v.t.Fatal(err)
	}
}

func (v *service) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.log.Write(p)
}

// start begins one life of the program, and returns what it tells systemd first and a channel with how it ended.
func (v *service) start() (ended <-chan error) {
	v.t.Helper()
	env, err := os.ReadFile(v.set.envFile)
	if err != nil {
		v.t.Fatal(err)
	}
	socket, err := v.listener.File()
	if err != nil {
		v.t.Fatal(err)
	}
	defer socket.Close()
	cmd := exec.Command("sh", "-c", `export LISTEN_PID=$$; exec "$0" "$@"`, os.Args[0], "start",
		"--root", v.set.root, "--run", v.run, "--env-file", v.set.envFile, "--docker", "")
	cmd.Env = append(append(os.Environ(), strings.Fields(string(env))...), "LISTEN_FDS=1", "LISTEN_FDNAMES=unix", "MOBYFS_TEST_MAIN=1",
		"NOTIFY_SOCKET="+filepath.Join(v.run, "notify"))
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = v
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.cmd = cmd
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	v.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return done
}

func (v *service) signal(s syscall.Signal) { _ = v.cmd.Process.Signal(s) }

// says waits until the program has told systemd something that holds the words.
func (v *service) says(words string) {
	v.t.Helper()
	buf := make([]byte, 4096)
	_ = v.systemd.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		n, err := v.systemd.Read(buf)
		if err != nil {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.t.Fatalf("systemd did not hear %q: %v; the log:\n%s", words, err, v.log.String())
		}
		if strings.Contains(string(buf[:n]), words) {
			return
		}
	}
}

// refused makes a Mount, which must be answered with a text that has the words.
func (v *service) refused(words string) {
	v.t.Helper()
	began := time.Now()
	text := fmt.Sprint(call(v.t, v.set, "VolumeDriver.Mount", map[string]any{"Name": "pgdata", "ID": "x"})["Err"])
	if !strings.Contains(text, words) || strings.Contains(text, "\n") || time.Since(began) > 5*time.Second {
		v.t.Errorf("after %v Mount was answered %q, want a line with %q", time.Since(began), text, words)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whatever keeps the agent from being opened, Docker is answered, and once it is mended the agent is back by itself.
func TestC91StubAnswersUntilTheAgentCanBeOpened(t *testing.T) {
	move := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, words string
		knows       bool // whether the stub can read the catalogue
		spoil, mend func(*testing.T, settings)
	}{
		{"no certificate", "no such file or directory – mobyctl bootstrap gives it one", true,
			func(t *testing.T, s settings) { move(t, s.root+"/pki", s.root+"/away") },
			func(t *testing.T, s settings) { move(t, s.root+"/away", s.root+"/pki") }},
		{"a certificate that can't be read", "mobyfs on this host is not working", true,
			func(t *testing.T, s settings) {
				move(t, s.files().Cert, s.root+"/away")
				writeFile(t, s.files().Cert, "garbage")
			},
			func(t *testing.T, s settings) { move(t, s.root+"/away", s.files().Cert) }},
		{"volumes is a file", "not a directory", true,
			func(t *testing.T, s settings) {
				move(t, s.root+"/volumes", s.root+"/away")
				writeFile(t, s.root+"/volumes", "")
			},
			func(t *testing.T, s settings) {
				if err := os.Remove(s.root + "/volumes"); err != nil {
					t.Fatal(err)
				}
				move(t, s.root+"/away", s.root+"/volumes")
			}},
		{"the root is away", "no certificate", false,
			func(t *testing.T, s settings) { move(t, s.root, s.root+".away") },
			func(t *testing.T, s settings) { move(t, s.root+".away", s.root) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShop(t)
			s.control()
			h1 := s.settingsOf("h1")
			h1.endpoint = discovery.Endpoint("unix://" + filepath.Join(t.TempDir(), "mobyfs.sock"))
			h1.envFile = filepath.Join(t.TempDir(), "mobyfs.env")
			v := s.newService(h1)
			ended := v.start()
			v.says("READY=1")
			s.eventually("the volume is there", func() bool {
				return call(t, h1, "VolumeDriver.Create", map[string]any{"Name": "pgdata"})["Err"] == ""
			})
			path := must(t, h1, "Mount", map[string]any{"Name": "pgdata", "ID": "a"})["Mountpoint"]
			v.signal(syscall.SIGTERM)
			if err := <-ended; err != nil {
				t.Fatalf("it ended with %v", err)
			}

			tc.spoil(t, h1)
			ended = v.start()
			v.says("STATUS=A stub answers Docker")
			v.says("READY=1")
			call(t, h1, "Plugin.Activate", nil)
			must(t, h1, "Capabilities", nil)
			v.refused(tc.words)
			list := must(t, h1, "List", nil)["Volumes"].([]any)
			if tc.knows {
				if got := must(t, h1, "Get", map[string]any{"Name": "pgdata"})["Volume"].(map[string]any)["Mountpoint"]; got != path || len(list) != 1 {
					t.Errorf("the stub tells of %v and lists %v, want %v", got, list, path)
				}
			} else if len(list) != 0 {
				t.Errorf("the stub lists %v", list)
			}

			tc.mend(t, h1)
			v.says("STATUS=The agent answers")
			if got := must(t, h1, "Mount", map[string]any{"Name": "pgdata", "ID": "b"})["Mountpoint"]; got != path {
				t.Errorf("after it was mended the volume is at %v, was at %v", got, path)
			}
			v.signal(syscall.SIGTERM)
			if err := <-ended; err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// Bad settings come from systemd, which reads them only when it starts the program: so it ends when they change.
func TestStubOfBadSettingsEndsWhenTheyChange(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	h1.endpoint = discovery.Endpoint("unix://" + filepath.Join(t.TempDir(), "mobyfs.sock"))
	v := s.newService(h1)
	good, err := os.ReadFile(h1.envFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ env, words string }{
		{"X=1\n", "this node's name is missing – set MOBYFS_NODE"},
		{strings.Replace(string(good), "MOBYFS_PORT=", "MOBYFS_PORT=eighty", 1), "MOBYFS_PORT"},
		{string(good) + "MOBYFS_LOG=loud\n", "debug, info, warn or error"},
	} {
		v.configure(tc.env)
		ended := v.start()
		v.says("READY=1")
		v.refused(tc.words)
		v.configure(string(good))
		if err := <-ended; err != nil {
			t.Errorf("after %q it ended with %v", tc.words, err)
		}
		if _, err := os.Stat(v.run + "/starts.json"); !os.IsNotExist(err) {
			t.Errorf("after %q that counts as a crash (%v)", tc.words, err)
		}
	}
	v.start()
	v.says("READY=1")
	must(t, h1, "Unmount", map[string]any{"Name": "pgdata", "ID": "x"}) // a stub would refuse
}

// An agent that crashes again and again takes Docker's calls with it. So its next life leaves them to the stub at first.
func TestC91CrashLoopIsServedByTheStub(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	h1.endpoint = discovery.Endpoint("unix://" + filepath.Join(t.TempDir(), "mobyfs.sock"))
	v := s.newService(h1)
	for life := range 3 {
		ended := v.start()
		v.says("READY=1")
		must(t, h1, "Unmount", map[string]any{"Name": "pgdata", "ID": fmt.Sprint(life)}) // an agent
		v.signal(syscall.SIGKILL)
		if err := <-ended; err == nil {
			t.Error("it was killed and ended in order")
		}
	}
	ended := v.start()
	v.says("READY=1")
	v.refused("it crashed 3 times soon after its start and is tried again in 1s – journalctl")
	v.says("STATUS=The agent answers") // the agent, after a second
	must(t, h1, "Unmount", map[string]any{"Name": "pgdata", "ID": "x"})
	v.signal(syscall.SIGTERM)
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	v.start()
	v.says("READY=1")
	must(t, h1, "Unmount", map[string]any{"Name": "pgdata", "ID": "y"}) // it ended in order, so nothing is held against it
}

// By hand there is a terminal to say it at, and nobody waits in a socket.
func TestStartedByHandEndsWithTheError(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	if err := os.RemoveAll(h1.root + "/pki"); err != nil {
		t.Fatal(err)
	}
	err := start(t.Context(), h1, still(), quiet(t, "h1"))
	if err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(h1.endpoint.Path()); !os.IsNotExist(err) {
		t.Errorf("it made a socket that nobody answers at (%v)", err)
	}
}

// dockerd is a process that can be ended, and a socket at which somebody remembers volumes.
type dockerd struct {
	socket string
	end    func()
	life   process.Life

	mu    sync.Mutex
	asked []string // paths
}

func newDockerd(t *testing.T, plugin string) *dockerd {
	t.Helper()
	d := &dockerd{socket: filepath.Join(t.TempDir(), "docker.sock")}
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.end = sync.OnceFunc(func() { stdin.Close(); _ = cmd.Wait() })
	t.Cleanup(d.end)
	if d.life, err = process.Of(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.asked = append(d.asked, r.URL.Path)
		d.mu.Unlock()
		switch name, one := strings.CutPrefix(r.URL.Path, "/volumes/"); {
		case one: // as Docker does, it asks the driver, and forgets what is not there
			if ans := call(t, settings{endpoint: discovery.Endpoint("unix://" + plugin)}, "VolumeDriver.Get", map[string]any{"Name": name}); ans["Err"] != "no such volume" {
				t.Errorf("Get of %s was answered %v", name, ans)
			}
			http.NotFound(w, r)
		default: // it lists what it remembers of a driver that can't list
			if ans := call(t, settings{endpoint: discovery.Endpoint("unix://" + plugin)}, "VolumeDriver.List", nil); ans["Err"] == "" {
				t.Errorf("List was answered %v, so that Docker forgets what it remembers", ans)
			}
			fmt.Fprint(w, `{"Volumes":[{"Name":"pgdata","Driver":"mobyfs"},{"Name":"mine","Driver":"local"},{"Name":"logs","Driver":"mobyfs"}]}`)
		}
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return d
}

func TestC25StubAnswersUntilDockerdEndsAndLeavesNothing(t *testing.T) {
	plugin := filepath.Join(t.TempDir(), "mobyfs.sock")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(root, "state", "catalogue.json"), `{"volumes":[{"id":"v1","name":"elsewhere"},{"id":"v2","name":"logs"}]}`)
	d := newDockerd(t, plugin)
	ended := make(chan error, 1)
	go func() {
		ended <- gone{settings: settings{root: root, docker: d.socket}, life: d.life, endpoints: []string{"unix://" + plugin}}.run(t.Context(), quiet(t, "stub"))
	}()
	(&shop{t: t}).eventually("Docker is asked for what it remembers of ours", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return strings.Join(d.asked, " ") == "/volumes /volumes/elsewhere /volumes/logs /volumes/pgdata"
	})
	if ans := call(t, settings{endpoint: discovery.Endpoint("unix://" + plugin)}, "VolumeDriver.List", nil); ans["Err"] != "" {
		t.Errorf("afterwards List was answered %v", ans)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended before dockerd: %v", err)
	default:
	}
	d.end()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(plugin); !os.IsNotExist(err) {
		t.Errorf("its socket is still there (%v)", err)
	}
}

// Whoever has put another socket in its place meanwhile keeps it.
func TestC25StubTakesNobodyElsesSocketAway(t *testing.T) {
	plugin := filepath.Join(t.TempDir(), "mobyfs.sock")
	d := newDockerd(t, plugin)
	ended := make(chan error, 1)
	go func() {
		ended <- gone{settings: settings{docker: "/nowhere"}, life: d.life, endpoints: []string{"unix://" + plugin}}.run(t.Context(), quiet(t, "stub"))
	}()
	(&shop{t: t}).eventually("it answers", func() bool {
		c, err := net.Dial("unix", plugin)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err := os.Remove(plugin); err != nil {
		t.Fatal(err)
	}
	other, err := listenUnix(plugin)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	d.end()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(plugin); err != nil {
		t.Errorf("it took away a socket of somebody else's: %v", err)
	}
}
