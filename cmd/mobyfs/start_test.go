package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// shop is a cluster on this machine: an authority, and a control plane if one was started.
type shop struct {
	t         *testing.T
	authority *pki.Authority
	address   string // of control; nobody need answer there
	root      string // of control
	ctl       *control.Control
	tracer    trace.Tracer // of control; nil: it records nothing
}

func newShop(t *testing.T) *shop {
	t.Helper()
	root := t.TempDir()
	a, err := pki.NewAuthority(filepath.Join(root, "pki"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return &shop{t: t, authority: a, address: freeport.At(t), root: root}
}

func (s *shop) certify(f pki.Files, role, name string) pki.Files {
	s.t.Helper()
	csr, err := f.NewRequest()
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := s.authority.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
	if err == nil {
		err = f.Install(cert, s.authority.CertPEM)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// control starts the real control plane. stop stops it and waits.
func (s *shop) control() (stop func()) {
	s.t.Helper()
	root := s.root
	files := s.certify(pki.FilesIn(filepath.Join(root, "pki"), "control"), pki.RoleControl, "control")
	ctl, err := control.Open(tracing.With(s.t.Context(), s.tracer), control.Config{Cluster: "shop", Root: root, Identity: files, Version: "test", Log: quiet(s.t, "control")})
	if err != nil {
		s.t.Fatal(err)
	}
	s.ctl = ctl
	config, err := files.ControlTLS(ctl.Admit)
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	server := api.NewServer(ctl, quiet(s.t, "api"))
	server.Tracer = s.tracer
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l, config) }()
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		<-done
		if err := ctl.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

func quiet(t *testing.T, who string) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", who)
	}
	return slog.New(slog.DiscardHandler)
}

// still is a reload that no signal reaches.
func still() reload {
	return reload{flags: pflag.NewFlagSet("start", pflag.ContinueOnError), shown: new(slog.LevelVar)}
}

// operator is a client of the control plane.
func (s *shop) operator() *api.Client {
	s.t.Helper()
	files := s.certify(pki.FilesIn(s.t.TempDir(), "operator"), pki.RoleOperator, "ana")
	config, err := files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		s.t.Fatal(err)
	}
	return api.NewClient([]string{s.address}, config)
}

// settingsOf makes a node with a certificate.
func (s *shop) settingsOf(name string) settings {
	s.t.Helper()
	root := s.t.TempDir()
	address := freeport.At(s.t)
	set := settings{cluster: "shop", node: name, control: []string{s.address}, advertise: address,
		root: root, endpoint: discovery.Endpoint("unix://" + filepath.Join(root, "plugins", "mobyfs.sock")), log: "debug", trash: mobyfs.DefaultTrash, envFile: filepath.Join(root, "mobyfs.env")}
	s.certify(set.files(), pki.RoleNode, name)
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		err = set.port.Set(port)
	}
	if err == nil {
		err = set.check()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return set
}

// run starts a node and returns once its socket answers. stop stops it and waits.
func (s *shop) run(set settings) (stop func()) {
	s.t.Helper()
	return s.runWith(set, still(), quiet(s.t, set.node))
}

func (s *shop) runWith(set settings, again reload, log *slog.Logger) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- start(ctx, set, again, log) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("%s ended with %v", set.node, err)
		}
	})
	s.t.Cleanup(stop)
	s.eventually("the endpoint of "+set.node+" answers", func() bool {
		network, address := set.endpoint.Listen()
		c, err := net.Dial(network, address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return stop
}

func (s *shop) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// call makes a call as Docker does and returns the answer.
func call(t *testing.T, set settings, method string, body map[string]any) map[string]any {
	t.Helper()
	ans, err := callWith(set, nil, method, body)
	if err != nil {
		t.Fatalf("%s on %s: %v", method, set.node, err)
	}
	return ans
}

// callWith is call with what Docker would show and believe at an endpoint that takes TLS.
func callWith(set settings, config *tls.Config, method string, body map[string]any) (ans map[string]any, err error) {
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			network, address := set.endpoint.Listen()
			return new(net.Dialer).DialContext(ctx, network, address)
		}}}
	base := "http://plugin.moby.localhost/"
	if _, address := set.endpoint.Listen(); set.endpoint.TLS() {
		base = "https://" + address + "/"
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, base+method, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&ans)
	return ans, err
}

// must is call of something that has to succeed.
func must(t *testing.T, set settings, method string, body map[string]any) map[string]any {
	t.Helper()
	ans := call(t, set, "VolumeDriver."+method, body)
	if ans["Err"] != "" {
		t.Fatalf("%s on %s: %v", method, set.node, ans["Err"])
	}
	return ans
}

// All real: two agents, a control plane with its etcd, TLS, the transfer of the bytes.
func TestVolumeFollowsItsContainer(t *testing.T) {
	s := newShop(t)
	s.control()
	h1, h2 := s.settingsOf("h1"), s.settingsOf("h2")
	s.run(h1)
	stop2 := s.run(h2)
	pgdata := map[string]any{"Name": "pgdata"}
	mount := func(id string) map[string]any { return map[string]any{"Name": "pgdata", "ID": id} }

	s.eventually("both nodes have joined", func() bool {
		return call(t, h1, "VolumeDriver.Create", map[string]any{"Name": "probe1"})["Err"] == "" &&
			call(t, h2, "VolumeDriver.Create", map[string]any{"Name": "probe2"})["Err"] == ""
	})
	must(t, h1, "Create", map[string]any{"Name": "pgdata", "Opts": map[string]string{"size": "10M"}})
	path := must(t, h1, "Mount", mount("a"))["Mountpoint"].(string)
	if err := os.WriteFile(filepath.Join(path, "rows"), []byte("1,2,3"), 0o640); err != nil {
		t.Fatal(err)
	}
	if ans := call(t, h2, "VolumeDriver.Mount", mount("b")); !strings.Contains(fmt.Sprint(ans["Err"]), "h1") {
		t.Errorf("while h1 uses it, h2 was answered %v", ans)
	}
	must(t, h1, "Unmount", mount("a"))
	began := time.Now()
	path = must(t, h2, "Mount", mount("b"))["Mountpoint"].(string)
	t.Logf("the mount on h2 took %v", time.Since(began))
	info, err := os.Stat(filepath.Join(path, "rows"))
	if data, _ := os.ReadFile(filepath.Join(path, "rows")); err != nil || string(data) != "1,2,3" || info.Mode().Perm() != 0o640 {
		t.Errorf("on h2: %q, %v, %v", data, info, err)
	}
	got := must(t, h1, "Get", pgdata)["Volume"].(map[string]any)
	if status := got["Status"].(map[string]any); status["node"] != "h2" {
		s.eventually("h1 hears where the volume is", func() bool {
			return must(t, h1, "Get", pgdata)["Volume"].(map[string]any)["Status"].(map[string]any)["node"] == "h2"
		})
	}

	stop2() // the agent ends; its container goes on
	s.run(h2)
	if ans := call(t, h1, "VolumeDriver.Mount", mount("c")); !strings.Contains(fmt.Sprint(ans["Err"]), "h2") {
		t.Errorf("after a restart of h2's agent h1 was answered %v", ans)
	}
	must(t, h2, "Unmount", mount("b"))
	path = must(t, h1, "Mount", mount("c"))["Mountpoint"].(string)
	if data, _ := os.ReadFile(filepath.Join(path, "rows")); string(data) != "1,2,3" {
		t.Errorf("back on h1: %q", data)
	}
	must(t, h1, "Unmount", mount("c"))
	must(t, h2, "Remove", pgdata)
	s.eventually("the volume is gone on h1", func() bool {
		return call(t, h1, "VolumeDriver.Get", pgdata)["Err"] == "no such volume"
	})
	s.eventually("the bytes are gone from h1", func() bool {
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist)
	})
}

func TestC01DockerIsAnsweredWithoutControl(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	notify := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = systemd.Close() }()
	t.Setenv("NOTIFY_SOCKET", notify)
	t.Setenv("WATCHDOG_USEC", "300000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	stop := s.run(h1)
	began := time.Now()
	call(t, h1, "Plugin.Activate", nil)
	must(t, h1, "Capabilities", nil)
	must(t, h1, "List", nil)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	var said []string
	hear := func() {
		buf := make([]byte, 256)
		_ = systemd.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := systemd.Read(buf)
		if err != nil {
			t.Fatalf("systemd heard %v, then %v", said, err)
		}
		said = append(said, string(buf[:n]))
	}
	for range 3 {
		hear()
	}
	if strings.Join(said, " ") != "READY=1 WATCHDOG=1 WATCHDOG=1" {
		t.Errorf("systemd heard %v", said)
	}
	stop()
	for said[len(said)-1] != "STOPPING=1" {
		hear()
	}
}

func TestC19And20SocketIsPrivateAndItsNameStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plugins", "mobyfs.sock")
	old, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want 0600", info, err)
	}
	if _, err := listenUnix(path); mobyfs.CodeOf(err) != mobyfs.CodeExists {
		t.Errorf("a second one at the same path: %v", err)
	}
	old.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("closing took the name away: %v", err)
	}
}

// The old one has stopped answering, the new one binds, and only then the old one closes.
func TestC20OldInstanceLeavesTheSocketOfTheNewOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plugins", "mobyfs.sock")
	old, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := old.(*net.UnixListener).File() // keeps the socket when old is closed
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(int(f.Fd()), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	fresh, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	old.Close()
	f.Close()
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("nobody answers at the new socket: %v", err)
	} else {
		c.Close()
	}
}

func TestC21SecondInstanceNamesTheFirst(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	s.run(h1)
	err := start(t.Context(), h1, still(), quiet(t, "second"))
	if mobyfs.CodeOf(err) != mobyfs.CodeExists || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	must(t, h1, "Capabilities", nil)
}

func TestPortThatIsTakenDoesNotKeepDockerWaiting(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	l, err := net.Listen("tcp", ":"+h1.port.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.run(h1)
	must(t, h1, "List", nil)
}

func TestStopFinishesCallsUnderWay(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	stop := s.run(h1)
	c, err := net.Dial("unix", h1.endpoint.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: 3\r\n\r\n{")
	time.AfterFunc(300*time.Millisecond, func() { fmt.Fprint(c, "}\n") })
	time.AfterFunc(100*time.Millisecond, stop)
	answer := make([]byte, 1024)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(answer)
	if err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 200") {
		t.Errorf("got %q, %v", answer[:n], err)
	}
	stop()
	if _, err := os.Stat(h1.endpoint.Path()); err != nil {
		t.Errorf("the socket's name is gone: %v", err)
	}
}

func TestSettingsSayWhatIsWrongAndHowToMendIt(t *testing.T) {
	s := newShop(t)
	good := s.settingsOf("h1")
	for name, spoil := range map[string]func(*settings){
		"no node":      func(s *settings) { s.node = "" },
		"bad node":     func(s *settings) { s.node = "H 1" },
		"no cluster":   func(s *settings) { s.cluster = "" },
		"no control":   func(s *settings) { s.control = nil },
		"bad control":  func(s *settings) { s.control = []string{"10.0.0.1"} },
		"bad port":     func(s *settings) { s.port = 0 },
		"relative":     func(s *settings) { s.root = "var" },
		"bad log":      func(s *settings) { s.log = "loud" },
		"bad linger":   func(s *settings) { s.linger = -1 },
		"long linger":  func(s *settings) { s.linger = time.Hour },
		"bad address":  func(s *settings) { s.advertise = "h1" },
		"another node": func(s *settings) { s.node = "h2" },
		"another shop": func(s *settings) { s.cluster = "mall" },
		"no identity":  func(s *settings) { s.root = "/nowhere" },
	} {
		bad := good
		spoil(&bad)
		err := bad.check()
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := good.check(); err != nil {
		t.Error(err)
	}
}

func TestFlagsOverrideTheEnvironment(t *testing.T) {
	t.Setenv("MOBYFS_NODE", "h1")
	t.Setenv("MOBYFS_CONTROL", "a:1, b:2")
	t.Setenv("MOBYFS_PORT", "9090")
	var s settings
	flags := pflag.NewFlagSet("start", pflag.ContinueOnError)
	s.bind(flags, os.Getenv)
	if err := flags.Parse([]string{"-p", "8080"}); err != nil {
		t.Fatal(err)
	}
	if s.node != "h1" || s.port != 8080 || strings.Join(s.control, " ") != "a:1 b:2" || s.root != "/var/lib/mobyfs" {
		t.Errorf("got %+v", s)
	}
}
