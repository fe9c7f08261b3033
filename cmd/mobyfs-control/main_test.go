package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// program is the real program, built for these tests.
type program struct {
	t    *testing.T
	bin  string
	root string
}

func build(t *testing.T) program {
	t.Helper()
	root, err := os.MkdirTemp("", "mobyfs") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	bin := filepath.Join(t.TempDir(), "mobyfs-control")
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=v9", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program{t, bin, filepath.Join(root, "control")}
}

// command is the program with its settings in the environment, as systemd starts it.
func (p program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.bin, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "MOBYFS_CLUSTER=shop", "MOBYFS_CONTROL_ROOT=" + p.root, "MOBYFS_CONTROL_LISTEN=127.0.0.1:0"}
	return cmd
}

// run runs the program to its end.
func (p program) run(stdin string, args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	cmd := p.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (p program) mustRun(stdin string, args ...string) string {
	p.t.Helper()
	out, errs, code := p.run(stdin, args...)
	if code != 0 {
		p.t.Fatalf("mobyfs-control %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

var readyLine = regexp.MustCompile(`msg="control is ready".* address=(\S+)`)

// start starts the program and waits until it serves. listen may be empty.
func (p program) start(listen string) (cmd *exec.Cmd, address string) {
	p.t.Helper()
	cmd = p.command("start")
	if listen != "" {
		cmd.Args = append(cmd.Args, "--listen", listen)
	}
	log, err := cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	var said strings.Builder
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := readyLine.FindStringSubmatch(lines.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return cmd, m[1]
		}
		fmt.Fprintln(&said, lines.Text())
	}
	p.t.Fatalf("it did not start:\n%s", said.String())
	return nil, ""
}

// client speaks to the program with a certificate that the program has signed, as bootstrap does it.
func (p program) client(role, name, address string) *api.Client {
	p.t.Helper()
	files := pki.FilesIn(p.t.TempDir(), name)
	csr, err := files.NewRequest()
	if err != nil {
		p.t.Fatal(err)
	}
	signed := p.mustRun(string(csr), "sign", "--role", role, "--name", name)
	cert, ca, err := pki.SplitAnswer([]byte(signed))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := files.Install(cert, ca); err != nil {
		p.t.Fatal(err)
	}
	tlsConfig, err := files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		p.t.Fatal(err)
	}
	c := api.NewClient([]string{address}, tlsConfig)
	p.t.Cleanup(c.Close)
	return c
}

func TestInitMakesOnceAndKeeps(t *testing.T) {
	p := build(t)
	first := p.mustRun("", "init")
	if !strings.Contains(first, "cluster shop\n") {
		t.Errorf("it says %q", first)
	}
	read := func() string {
		var all strings.Builder
		for _, name := range []string{"ca.key", "ca.crt", "node-ca.key", "node-ca.crt", "operator-ca.key", "peer-ca.key", "peer-ca.crt", "control.key", "control.crt", "peer.key", "peer.crt"} {
			data, err := os.ReadFile(filepath.Join(p.root, "pki", name))
			if err != nil {
				t.Fatal(err)
			}
			all.Write(data)
		}
		return all.String()
	}
	files := read()
	if second := p.mustRun("", "init"); second != first || read() != files {
		t.Errorf("run again it made something new: %q", second)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, "pki": 0o700, "pki/ca.key": 0o600, "pki/node-ca.key": 0o600, "pki/operator-ca.key": 0o600, "pki/peer-ca.key": 0o600, "pki/peer.key": 0o600, "pki/control.key": 0o600} {
		info, err := os.Stat(filepath.Join(p.root, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
	if err := os.Remove(filepath.Join(p.root, "pki", "control.crt")); err != nil { // killed before it was written
		t.Fatal(err)
	}
	p.mustRun("", "init")
	if _, _, code := p.run("", "init", "--cluster", "bank"); code == 0 {
		t.Error("the authority of shop was taken for that of bank")
	}
	for _, bad := range []string{"", "Shop", "a/b", "../x"} {
		_, errs, code := p.run("", "init", "--cluster", bad, "--root", t.TempDir())
		if code != 1 || !strings.Contains(errs, "hint:") {
			t.Errorf("cluster %q: exit code %d, %q", bad, code, errs)
		}
	}
}

func TestCertificateIsRenewedInTime(t *testing.T) {
	dir := t.TempDir()
	s := settings{cluster: "shop", name: "h1", root: dir}
	authority, first, err := initialise(s)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(first); left < pki.LeafLife-time.Hour {
		t.Errorf("the first one lasts %v", left)
	}
	// One of a node in its place stands for all that must not stay: too old, another's, broken.
	csr, err := s.identity().NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	other, err := authority.Sign(csr, pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.identity().Install(other, authority.CertPEM); err != nil {
		t.Fatal(err)
	}
	if _, _, err := initialise(s); err != nil {
		t.Fatal(err)
	}
	who, _, err := s.identity().Identity()
	if err != nil || who.Role != pki.RoleControl {
		t.Errorf("after init the certificate is that of %v, %v", who, err)
	}
	if renewed, err := needsNew(s.identity(), authority, s.who(pki.RoleControl), time.Now()); err != nil || renewed {
		t.Errorf("a fresh certificate is to be renewed: %v, %v", renewed, err)
	}
	if renewed, err := needsNew(s.identity(), authority, s.who(pki.RoleControl), time.Now().Add(pki.LeafLife+time.Hour)); err != nil || !renewed {
		t.Errorf("an old certificate is not to be renewed: %v, %v", renewed, err)
	}
}

func TestSignRefusesWhatItMustNotSign(t *testing.T) {
	p := build(t)
	_, errs, code := p.run("", "sign", "--role", "node", "--name", "h1")
	if code != 1 || !strings.Contains(errs, "mobyfs-control init") {
		t.Errorf("before init: exit code %d, %q", code, errs)
	}
	p.mustRun("", "init")
	csr, err := pki.FilesIn(t.TempDir(), "x").NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"no role":       {"--name", "h1"},
		"unknown role":  {"--role", "root", "--name", "h1"},
		"no name":       {"--role", "node"},
		"a path":        {"--role", "node", "--name", "../../operator/ana"},
		"capitals":      {"--role", "node", "--name", "H1"},
		"other cluster": {"--role", "node", "--name", "h1", "--cluster", "bank"},
	} {
		out, errs, code := p.run(string(csr), append([]string{"sign"}, args...)...)
		if code != 1 || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, code, out, errs)
		}
	}
	for _, request := range []string{"", "junk", strings.Repeat("x", 2*maxRequest)} {
		if out, _, code := p.run(request, "sign", "--role", "node", "--name", "h1"); code != 1 || out != "" {
			t.Errorf("junk was signed: exit code %d, %q", code, out)
		}
	}
	if out := p.mustRun(string(csr), "sign", "--role", "node", "--name", "h1"); strings.Count(out, "BEGIN CERTIFICATE") != 3 {
		t.Errorf("the answer is %q, want three certificates", out)
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	p := build(t)
	if out := p.mustRun("", "version"); out != "mobyfs-control v9\n" {
		t.Errorf("version prints %q", out)
	}
	_, errs, code := p.run("", "start")
	if code != 1 || !strings.Contains(errs, "mobyfs-control init --cluster shop") {
		t.Errorf("before init: exit code %d, %q", code, errs)
	}
	p.mustRun("", "init")
	_, errs, code = p.run("", "start", "--cluster", "bank")
	if code != 1 || !strings.Contains(errs, "spiffe://shop/control/control") {
		t.Errorf("for another cluster: exit code %d, %q", code, errs)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, errs, code = p.run("", "start", "--listen", l.Addr().String())
	if code != 1 || !strings.Contains(errs, "address already in use") || !strings.Contains(errs, "hint:") {
		t.Errorf("with the port taken: exit code %d, %q", code, errs)
	}
	p.start("")
	_, errs, code = p.run("", "start")
	if code != 1 || !strings.Contains(errs, "another mobyfs-control has") {
		t.Errorf("with another one running: exit code %d, %q", code, errs)
	}
}

func TestSystemdIsToldAndSigtermEndsItWell(t *testing.T) {
	p := build(t)
	p.mustRun("", "init")
	socket := filepath.Join(filepath.Dir(p.root), "notify")
	systemd, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = systemd.Close() }()
	cmd := p.command("start")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		if err := systemd.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := systemd.ReadFrom(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("systemd is told %q, %v; want %q", buf[:n], err, want)
		}
	}
	told("READY=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	told("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// known is what a writer was told of one volume.
type known struct {
	volume mobyfs.Volume
	gone   bool // its removal is complete
	open   bool // something more was asked and not answered
}

// write makes volumes and takes each through its life until a call fails. It returns what it was told.
func write(ctx context.Context, c *api.Client, prefix string) []known {
	var all []known
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s-%d", prefix, i)
		v, err := c.CreateVolume(ctx, name, mobyfs.VolumeSpec{Labels: map[string]string{"n": name}}, "h1")
		if err != nil {
			return all
		}
		k := known{volume: v}
		for step := range 4 {
			k.open = true
			switch step {
			case 0:
				v, err = c.Created(ctx, v.ID)
			case 1:
				var g mobyfs.Grant
				g, err = c.Claim(ctx, v.ID)
				v = g.Volume
			case 2:
				if i%3 == 0 {
					k.open = false
					continue // it stays in use
				}
				if err = c.Release(ctx, v.ID, v.Fence); err == nil {
					v, err = c.Volume(ctx, name)
				}
			case 3:
				if i%3 < 2 {
					k.open = false
					continue // it stays
				}
				if err = c.RemoveVolume(ctx, name); err == nil {
					err = c.Removed(ctx, v.ID)
					k.gone = err == nil
				}
			}
			if err != nil {
				return append(all, k)
			}
			k.volume, k.open = v, false
		}
		all = append(all, k)
	}
}

func TestKilledControlKeepsEveryAnswer(t *testing.T) {
	p := build(t)
	p.mustRun("", "init")
	cmd, address := p.start("")
	h1, ana := p.client("node", "h1", address), p.client("operator", "ana", address)
	var all []known
	for round := range 4 {
		_, err := h1.Report(t.Context(), mobyfs.Report{Address: "h1:8080", Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 40}})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var writing sync.WaitGroup
		for w := range 4 {
			writing.Go(func() {
				told := write(t.Context(), h1, fmt.Sprintf("vol-%d-%d", round, w))
				mu.Lock()
				defer mu.Unlock()
				all = append(all, told...)
			})
		}
		time.Sleep(time.Duration(200+rand.IntN(400)) * time.Millisecond) // the moment of the kill is the experiment
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		writing.Wait()
		cmd, _ = p.start(address)
		check(t, ana, all)
	}
	t.Logf("4 kills, %d volumes known", len(all))
	if len(all) < 20 {
		t.Errorf("only %d volumes were written, the test tests nothing", len(all))
	}
}

// check compares what control knows with what it said before it was killed.
func check(t *testing.T, ana *api.Client, all []known) {
	t.Helper()
	list, err := ana.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now := map[mobyfs.VolumeID]mobyfs.Volume{}
	for _, v := range list {
		now[v.ID] = v
	}
	for _, k := range all {
		v, there := now[k.volume.ID]
		switch {
		case k.gone && there:
			t.Errorf("%s is back", k.volume.Name)
		case k.gone || !there && k.open: // the removal may have happened
		case !there:
			t.Errorf("%s is lost", k.volume.Name)
		case v.Fence < k.volume.Fence:
			t.Errorf("%s: fence %d was given out, now it is %d", v.Name, k.volume.Fence, v.Fence)
		case !k.open && (v.Revision != k.volume.Revision || v.State != k.volume.State || (v.Lease == nil) != (k.volume.Lease == nil)):
			t.Errorf("%s was %+v and is %+v", v.Name, k.volume, v)
		}
	}
}

func TestBadTimesBetweenBackupsAreRefusedWithTheWayOut(t *testing.T) {
	for text, good := range map[string]bool{"": true, "1s": true, "24h": true, "10ms": false, "25h": false, "often": false, "-1h": false} {
		t.Setenv("MOBYFS_BACKUP_EVERY", text)
		s := settings{cluster: "shop", name: "h1"}
		s.addStart(pflag.NewFlagSet("start", pflag.ContinueOnError))
		err := s.checkStart()
		if good != (err == nil) || !good && !strings.Contains(mobyfs.HintOf(err), "MOBYFS_BACKUP_EVERY") {
			t.Errorf("%q: got %v, hint %q", text, err, mobyfs.HintOf(err))
		}
	}
}

func TestBadSessionTimesAreRefusedWithTheWayOut(t *testing.T) {
	for text, good := range map[string]bool{"": true, "4s": true, "1h0m0s": true, "3s": false, "4500ms": false, "61m": false, "soon": false, "-4s": false} {
		t.Setenv("MOBYFS_SESSION_TTL", text)
		s := settings{cluster: "shop", name: "h1"}
		s.addStart(pflag.NewFlagSet("start", pflag.ContinueOnError))
		err := s.checkStart()
		if good != (err == nil) || !good && !strings.Contains(mobyfs.HintOf(err), "MOBYFS_SESSION_TTL") {
			t.Errorf("%q: got %v, hint %q", text, err, mobyfs.HintOf(err))
		}
	}
}

func TestBadQuotasAreRefusedWithTheWayOut(t *testing.T) {
	for text, good := range map[string]bool{"": true, "8GiB": true, "16MiB": true, "32G": true, "15M": false, "33G": false, "much": false, "-1G": false, "0": false} {
		t.Setenv("MOBYFS_CONTROL_QUOTA", text)
		s := settings{cluster: "shop", name: "h1"}
		s.addStart(pflag.NewFlagSet("start", pflag.ContinueOnError))
		_, err := s.storeQuota()
		if good != (err == nil) || !good && !strings.Contains(mobyfs.HintOf(err), "MOBYFS_CONTROL_QUOTA") {
			t.Errorf("%q: got %v, hint %q", text, err, mobyfs.HintOf(err))
		}
	}
}
