package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/spf13/pflag"

	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/driver"
	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// said is a log that a test reads.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) lines(part string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.text.String()) {
		if strings.Contains(line, part) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// reloadable is a node whose settings come from its environment file.
type reloadable struct {
	*shop
	set    settings
	hangup chan os.Signal
	shown  *slog.LevelVar
	log    said
}

func (s *shop) runReloadable(set settings) *reloadable {
	s.t.Helper()
	r := &reloadable{shop: s, set: set, hangup: make(chan os.Signal), shown: new(slog.LevelVar)}
	flags := pflag.NewFlagSet("start", pflag.ContinueOnError)
	var bound settings
	bound.bind(flags, func(string) string { return "" })
	for name, value := range map[string]string{
		"root": set.root, "endpoint": string(set.endpoint), "env-file": set.envFile, "kept": set.kept, "docker": set.docker,
		"linger": set.linger.String(),
	} {
		if err := flags.Set(name, value); err != nil {
			s.t.Fatal(err)
		}
	}
	again := reload{hangup: r.hangup, flags: flags, shown: r.shown}
	s.runWith(set, again, slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: r.shown})))
	return r
}

// write fills the environment file with the settings that the node was started with, and what replaces them.
func (r *reloadable) write(lines ...string) {
	r.t.Helper()
	text := fmt.Sprintf("# of %s\nMOBYFS_CLUSTER=shop\nMOBYFS_NODE=%s\nMOBYFS_CONTROL=%s\nMOBYFS_ADVERTISE=%s\nMOBYFS_PORT=%d\n%s\n",
		r.set.node, r.set.node, r.set.control[0], r.set.advertise, r.set.port, strings.Join(lines, "\n"))
	if err := os.WriteFile(r.set.envFile, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// hup sends a signal and returns the line that answers it.
func (r *reloadable) hup(part string) string {
	r.t.Helper()
	before := len(r.log.lines(part))
	r.hangup <- syscall.SIGHUP
	r.eventually("the log says "+part, func() bool { return len(r.log.lines(part)) > before })
	lines := r.log.lines(part)
	return lines[len(lines)-1]
}

func TestHangupTakesOverWhatItCanAndNamesTheRest(t *testing.T) {
	s := newShop(t)
	real := s.address
	s.control()
	set := s.settingsOf("h1")
	set.control, set.log = []string{freeport.At(t)}, "info" // nobody answers there
	r := s.runReloadable(set)
	const answer = "were read again"

	r.write("MOBYFS_LOG=info")
	if line := r.hup(answer); !strings.Contains(line, "changed=nothing") || !strings.Contains(line, `restart=nothing`) {
		t.Errorf("nothing changed: %s", line)
	}
	r.write(`MOBYFS_LOG="debug"`, "MOBYFS_CONTROL="+real, "MOBYFS_ADVERTISE=127.0.0.1:9", "MOBYFS_PORT=9", "MOBYFS_ENDPOINT=tcp://127.0.0.1:9")
	line := r.hup(answer)
	for _, want := range []string{`changed="log level, control, advertised address"`, `restart=port`, "until="} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is missing in: %s", want, line)
		}
	}
	if r.shown.Level() != slog.LevelDebug {
		t.Errorf("the level is %v", r.shown.Level())
	}
	ana := s.operator()
	r.eventually("the node joined under its new address at the control plane that is there", func() bool {
		nodes, err := ana.Nodes(t.Context())
		return err == nil && len(nodes) == 1 && nodes[0].Address == "127.0.0.1:9"
	})
}

func TestHangupWithBadSettingsChangesNothing(t *testing.T) {
	s := newShop(t)
	r := s.runReloadable(s.settingsOf("h1"))
	for _, bad := range []string{"MOBYFS_LOG=loud", "MOBYFS_CONTROL=10.0.0.1", "MOBYFS_NODE=h2"} {
		r.write("MOBYFS_LOG=info", bad)
		r.hup("they stay as they are")
	}
	if err := os.Remove(r.set.envFile); err != nil {
		t.Fatal(err)
	}
	r.hup("they stay as they are")
	if r.shown.Level() != slog.LevelInfo {
		t.Errorf("the level is %v", r.shown.Level())
	}
	must(t, r.set, "List", nil)
}

func TestHangupDropsNoCall(t *testing.T) {
	s := newShop(t)
	set := s.settingsOf("h1")
	r := s.runReloadable(set)
	done := load(t, set, 4, 100)
	n := 0
	for busy := true; busy; n++ {
		r.write("MOBYFS_LOG=" + []string{"info", "warn"}[n%2])
		s.certify(set.files(), pki.RoleNode, "h1")
		select {
		case r.hangup <- syscall.SIGHUP:
		case <-done:
			busy = false
		}
	}
	t.Logf("800 calls, %d signals", n)
	if n < 3 {
		t.Errorf("only %d signals came between the calls, the test tests nothing", n)
	}
}

// load makes calls from several callers at once; each that fails or is answered an error fails the test.
func load(t *testing.T, set settings, callers, rounds int) (done chan struct{}) {
	var calls sync.WaitGroup
	for i := range callers {
		calls.Go(func() {
			for range rounds {
				for method, body := range map[string]map[string]any{"Unmount": {"Name": "nobody", "ID": fmt.Sprint(i)}, "List": {}} {
					ans, err := callWith(set, nil, "VolumeDriver."+method, body)
					if err != nil || ans["Err"] != "" {
						t.Errorf("%s: %v, %v", method, ans, err)
					}
				}
			}
		})
	}
	done = make(chan struct{})
	go func() { calls.Wait(); close(done) }()
	return done
}

// Each life takes the doors over from the one before, as with the sockets that systemd holds.
func TestC16NoCallIsLostBetweenTwoAgents(t *testing.T) {
	s := newShop(t)
	set := s.settingsOf("h1")
	control := api.NewClient(set.control, nil)
	a, err := openAgent(set, control, openIdentity(set, control, quiet(t, "h1")), nil, quiet(t, "h1"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	l, err := listen(set.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	held, err := l.(*net.UnixListener).File() // what systemd would keep
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_ = l.Close()
	done := load(t, set, 4, 200)
	lives := 0
	for busy := true; busy; lives++ {
		again, err := net.FileListener(held)
		if err != nil {
			t.Fatal(err)
		}
		again.(*net.UnixListener).SetUnlinkOnClose(false)
		life := serveDocker([]door{{again, set.endpoint}}, driver.New(a, quiet(t, "driver")), quiet(t, "h1"))
		must(t, set, "List", nil) // it serves
		life.finish(quiet(t, "h1"))
		select {
		case <-done:
			busy = false
		default:
		}
	}
	t.Logf("1600 calls over %d lives", lives)
	if lives < 3 {
		t.Errorf("there were %d lives only, the test tests nothing", lives)
	}
}
