package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mobyfs/mobyfs/provision/host/hosttest"
)

// lab is a user's home directory with one key, and a server that accepts it.
type lab struct {
	*hosttest.Server
	t      *testing.T
	dialer *Dialer
	known  string
	target Target
}

func newLab(t *testing.T) *lab {
	t.Helper()
	home := t.TempDir()
	t.Setenv("SSH_AUTH_SOCK", "")
	pub := hosttest.WriteKey(t, filepath.Join(home, ".ssh", "id_ed25519"), "")
	d, err := NewDialer()
	if err != nil {
		t.Fatal(err)
	}
	d.Home, d.ConfigFile = home, "none"
	d.SSH = filepath.Join(home, "no-ssh") // not needed where nothing must be read
	d.Pause = time.Millisecond
	l := &lab{Server: hosttest.Start(t, pub), t: t, dialer: d, known: filepath.Join(home, ".ssh", "known_hosts")}
	d.KnownHosts = []string{l.known}
	d.SSH = writeScript(t, home, "ssh", "exit 0") // says nothing, so the defaults hold
	l.target = Target{
		Name: "vol-1", Address: l.Host, Port: l.Port, User: "ana", HostKey: l.Fingerprint(),
		IdentityFile: filepath.Join(home, ".ssh", "id_ed25519"), HostKeys: HostKeysStrict, Sudo: SudoAuto,
	}
	return l
}

func writeScript(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func (l *lab) knows(keys ...ssh.PublicKey) {
	l.t.Helper()
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(l.Known(k))
	}
	if err := os.WriteFile(l.known, []byte(text.String()), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) dial() (*Host, error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	defer cancel()
	h, err := l.dialer.Dial(ctx, l.target)
	if err == nil {
		l.t.Cleanup(h.Close)
	}
	return h, err
}

// mustFail wants a problem of the kind that names the host and says each of the words.
func (l *lab) mustFail(err error, k Kind, words ...string) {
	l.t.Helper()
	var p *Problem
	if !errors.As(err, &p) || !p.Of(k) {
		l.t.Fatalf("got %v, want a problem of kind %s (%s)", err, k.Code, k.Title)
	}
	report := p.Report()
	for _, w := range append(words, "vol-1", k.Code, "fix: ") {
		if !strings.Contains(report, w) {
			l.t.Errorf("the report does not say %q:\n%s", w, report)
		}
	}
}

func (l *lab) mustDial() *Host {
	l.t.Helper()
	h, err := l.dial()
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

func TestPinnedKeyNeedsNoKnownHosts(t *testing.T) {
	l := newLab(t)
	var out bytes.Buffer
	if err := l.mustDial().Exec(t.Context(), "echo hello; cat", strings.NewReader("there"), &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != "hello\nthere" {
		t.Errorf("got %q", out.String())
	}
	if _, err := os.Stat(l.known); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("known_hosts was touched: %v", err)
	}
}

func TestPinOfAnotherTypeOfKeyIsFound(t *testing.T) {
	l := newLab(t)
	ecdsa := hosttest.ECDSAKey(t)
	l.SetKeys(hosttest.Key(t), ecdsa)
	l.target.HostKey = ssh.FingerprintSHA256(ecdsa.PublicKey())
	l.mustDial()
}

func TestWrongPinIsRefused(t *testing.T) {
	l := newLab(t)
	l.SetKeys(hosttest.Key(t), hosttest.ECDSAKey(t))
	pin := l.target.HostKey
	_, err := l.dial()
	l.mustFail(err, HostKeyPin, pin, "now")
}

func TestChangedKeyIsRefusedUnderEveryPolicy(t *testing.T) {
	for _, policy := range []HostKeyPolicy{HostKeysAsk, HostKeysStrict, HostKeysAcceptNew} {
		l := newLab(t)
		l.target.HostKey, l.target.HostKeys = "", policy
		old := hosttest.Key(t).PublicKey()
		l.knows(old)
		_, err := l.dial()
		l.mustFail(err, HostKeyChanged, "known "+ssh.FingerprintSHA256(old), l.known+":1", "now   "+l.Fingerprint(), "ssh-keygen -R")
		if text, _ := os.ReadFile(l.known); string(text) != l.Known(old) {
			t.Errorf("%s: known_hosts was changed to %q", policy, text)
		}
	}
}

// A host that is known by its ECDSA key alone is asked for that one, though it has a better one.
func TestKnownTypeOfKeyIsAskedFor(t *testing.T) {
	l := newLab(t)
	ecdsa := hosttest.ECDSAKey(t)
	l.SetKeys(hosttest.Key(t), ecdsa)
	l.target.HostKey = ""
	l.knows(ecdsa.PublicKey())
	l.mustDial()
}

func TestUnknownKeys(t *testing.T) {
	for _, policy := range []HostKeyPolicy{HostKeysAsk, HostKeysStrict, HostKeysPinned} {
		l := newLab(t)
		l.target.HostKey, l.target.HostKeys = "", policy
		_, err := l.dial()
		l.mustFail(err, HostKeyUnknown, l.Fingerprint())
		var key *UnknownKey
		if !errors.As(err, &key) || key.MayBeTrusted() != (policy == HostKeysAsk) {
			t.Errorf("%s: the problem offers %+v", policy, key)
		}
		if _, err := os.Stat(l.known); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: known_hosts was written", policy)
		}
	}
}

func TestTrustedKeyIsRememberedAndOnlyThatOne(t *testing.T) {
	l := newLab(t)
	l.target.HostKey, l.target.HostKeys = "", HostKeysAsk
	if err := os.WriteFile(l.known, []byte("# mine, without an end of line"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := l.dial()
	var key *UnknownKey
	if !errors.As(err, &key) {
		t.Fatalf("got %v", err)
	}
	if err := l.dialer.Trust(key); err != nil {
		t.Fatal(err)
	}
	l.mustDial()
	l.SetKeys(hosttest.Key(t))
	_, err = l.dial()
	l.mustFail(err, HostKeyChanged)
}

func TestAcceptNewRemembers(t *testing.T) {
	l := newLab(t)
	l.target.HostKey, l.target.HostKeys = "", HostKeysAcceptNew
	l.mustDial()
	l.target.HostKeys = HostKeysStrict
	l.mustDial()
}

func TestLoginRefusedTellsWhichKeysWereTried(t *testing.T) {
	l := newLab(t)
	l.Authorized = nil
	l.target.IdentityFile = ""
	hosttest.WriteKey(t, filepath.Join(l.dialer.Home, ".ssh", "id_ecdsa"), "secret") // what is in it matters, not its name
	_, err := l.dial()
	l.mustFail(err, AuthRefused, "for ana", "SHA256:", "ed25519", "id_ed25519", "id_ecdsa: it is encrypted", "authorized_keys of ana")
}

func TestKeyFilesThatCantBeUsed(t *testing.T) {
	l := newLab(t)
	encrypted := filepath.Join(l.dialer.Home, "encrypted")
	hosttest.WriteKey(t, encrypted, "secret")
	junk := writeScript(t, l.dialer.Home, "junk", "no key")
	for file, words := range map[string][]string{
		encrypted:          {"encrypted", "ssh-add " + encrypted},
		"/no/such/file":    {"no such file", "identityFile"},
		junk:               {"junk", "identityFile"},
		l.dialer.Home + "": {"directory"},
	} {
		l.target.IdentityFile = file
		_, err := l.dial()
		l.mustFail(err, KeyUnusable, words...)
	}
	if n := l.Starts.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestNoKeyAtAll(t *testing.T) {
	l := newLab(t)
	l.target.IdentityFile = ""
	l.dialer.Home = t.TempDir()
	_, err := l.dial()
	l.mustFail(err, AuthRefused, "no key to log in with", "ssh-add")
}

func TestUnreachable(t *testing.T) {
	l := newLab(t)
	l.target.Port = 1 // nothing listens there
	_, err := l.dial()
	l.mustFail(err, Unreachable, "refuses connections", "sshd")
	l.target.Address = "no-such-host.invalid"
	_, err = l.dial()
	l.mustFail(err, Unreachable, "no-such-host.invalid", "address")
}

func TestSilentServerIsGivenUp(t *testing.T) {
	l := newLab(t)
	l.Silent.Store(true)
	l.dialer.HandshakeTimeout = 50 * time.Millisecond
	_, err := l.dial()
	l.mustFail(err, Unreachable, "does not let us log in within 50ms")
}

func TestDroppedStartsAreTriedAgain(t *testing.T) {
	l := newLab(t)
	l.Drop.Store(2)
	l.mustDial()
	if n := l.Starts.Load(); n != 3 {
		t.Errorf("it took %d connections, want 3", n)
	}
	l.Drop.Store(100)
	_, err := l.dial()
	l.mustFail(err, Unreachable, "closed the connection")
	if n := l.Starts.Load(); n != 7 {
		t.Errorf("%d connections in all, want 7: it must give up", n)
	}
}

func TestPenaltyIsNotMetWithMoreAttempts(t *testing.T) {
	l := newLab(t)
	l.Refuse.Store(true)
	_, err := l.dial()
	l.mustFail(err, Busy, "Not allowed at this time", "wait")
	if n := l.Starts.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestNotAnSSHServer(t *testing.T) {
	l := newLab(t)
	_, config := writeScript(t, l.dialer.Home, "http", "echo 'HTTP/1.1 400 Bad Request'; echo; sleep 0.05"), filepath.Join(l.dialer.Home, "ssh")
	writeScript(t, l.dialer.Home, "ssh", "echo proxycommand "+filepath.Join(l.dialer.Home, "http"))
	if _, err := os.Stat(config); err != nil {
		t.Fatal(err)
	}
	_, err := l.dial()
	l.mustFail(err, Unreachable, "is no SSH server")
}

// At one address only so many connections are being started at a time.
func TestStartsArePolite(t *testing.T) {
	l := newLab(t)
	l.dialer.PerEndpoint = 2
	l.Silent.Store(true)
	l.dialer.HandshakeTimeout = 30 * time.Millisecond
	var wg sync.WaitGroup
	began := time.Now()
	for range 6 {
		wg.Go(func() { _, _ = l.dial() })
	}
	wg.Wait()
	if took := time.Since(began); took < 90*time.Millisecond {
		t.Errorf("6 starts of 30 ms, 2 at a time, took %v", took)
	}
}

func TestCancelEndsTheDial(t *testing.T) {
	l := newLab(t)
	l.Silent.Store(true)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	time.AfterFunc(20*time.Millisecond, func() { cancel(stop) })
	if _, err := l.dialer.Dial(ctx, l.target); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
}

func TestExecTellsStatusAndStderr(t *testing.T) {
	h := newLab(t).mustDial()
	err := h.Exec(t.Context(), "echo broken >&2; exit 7", nil, io.Discard)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Status != 7 || exit.Stderr != "broken\n" {
		t.Errorf("got %v", err)
	}
}

func TestCancelClosesStdinAndLetsTheCommandEnd(t *testing.T) {
	h := newLab(t).mustDial()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	in, out := newPipe(t), &lineWaiter{want: "ready", seen: make(chan struct{})}
	file := filepath.Join(t.TempDir(), "ended")
	go func() {
		<-out.seen
		cancel(stop)
	}()
	err := h.Exec(ctx, "echo ready; cat >/dev/null; echo well > "+file, in, out)
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
	if text, _ := os.ReadFile(file); string(text) != "well\n" {
		t.Errorf("the command left %q, so it was not allowed to end by itself", text)
	}
}

func newPipe(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return r
}

type lineWaiter struct {
	want string
	seen chan struct{}
	once sync.Once
}

func (l *lineWaiter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), l.want) {
		l.once.Do(func() { close(l.seen) })
	}
	return len(p), nil
}

func TestCutConnectionIsALostOne(t *testing.T) {
	l := newLab(t)
	h := l.mustDial()
	out := &lineWaiter{want: "ready", seen: make(chan struct{})}
	go func() {
		<-out.seen
		l.Cut()
	}()
	err := h.Exec(t.Context(), "echo ready; cat", newPipe(t), out)
	l.mustFail(err, Lost, "broke")
}

func TestHostThatFallsSilentIsLost(t *testing.T) {
	l := newLab(t)
	l.dialer.KeepAlive = 10 * time.Millisecond
	h := l.mustDial()
	l.Frozen.Store(true)
	err := h.Exec(t.Context(), "true", nil, io.Discard)
	l.mustFail(err, Lost, "has not answered for 40ms")
}

func TestQuote(t *testing.T) {
	for _, word := range []string{"", "plain", "a b", "it's", "$(id)", "`id`", "a\nb", `back\slash`, "-x", "ünï", "*"} {
		h := newLab(t).mustDial()
		var out bytes.Buffer
		if err := h.Exec(t.Context(), Command("printf", "%s", word), nil, &out); err != nil {
			t.Fatal(err)
		}
		if out.String() != word {
			t.Errorf("%q arrives as %q", word, out.String())
		}
	}
}

func TestFingerprints(t *testing.T) {
	good := ssh.FingerprintSHA256(hosttest.Key(t).PublicKey())
	if err := CheckFingerprint(good); err != nil {
		t.Errorf("%s: %v", good, err)
	}
	for _, bad := range []string{"", "SHA256:", good + "=", good[:49], "MD5:" + good[7:], strings.ToLower(good[:7]) + good[7:]} {
		if CheckFingerprint(bad) == nil {
			t.Errorf("%q is taken for a fingerprint", bad)
		}
	}
}

// Every kind has a code of its own, a cause and a way out.
func TestKindsAreDistinct(t *testing.T) {
	codes := map[string]bool{}
	for _, k := range []Kind{
		Unreachable, AuthRefused, HostKeyChanged, HostKeyUnknown, HostKeyPin, Busy, KeyUnusable, Lost, SSHConfig, NoShell,
		NotRoot, SudoRefused, SudoPassword, NoSystemd, WrongOS, WrongArch, NoDocker, DockerDown, DockerOld, NoSpace, NoExec,
		ReadOnly, PortTaken, OtherCluster, OtherNode, OtherControl, NotOurs, SameMachine, ControlLost, ClockWrong, Facts, HasVolumes,
		VolumesInUse, ControlLast, Upload, StepFailed, Locked, NotSigned, Members, ControlDown, Stopped, NotReady, Undescribed, ProofFailed,
	} {
		if codes[k.Code] || k.Title == "" || k.Fix == "" {
			t.Errorf("%+v", k)
		}
		codes[k.Code] = true
		if text := fmt.Sprint(k.Problem("vol-1", "x")); !strings.HasPrefix(text, "vol-1: "+k.Title) {
			t.Errorf("%s reads %q", k.Code, text)
		}
	}
}
