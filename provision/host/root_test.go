package host

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// as makes the lab's commands see a user and a sudo of the test's own.
func (l *lab) as(uid, sudo string) string {
	l.t.Helper()
	dir := l.t.TempDir()
	writeScript(l.t, dir, "id", "echo "+uid)
	if sudo != "" {
		writeScript(l.t, dir, "sudo", sudo)
	}
	for _, tool := range []string{"sh", "cat", "echo"} {
		path, err := filepath.EvalSymlinks("/bin/" + tool)
		if err != nil {
			l.t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, tool)); err != nil {
			l.t.Fatal(err)
		}
	}
	l.Env = append(l.Env, "PATH="+dir)
	return dir
}

const nopasswd = `[ "$1" = -n ] || exit 9; shift; exec "$@"`

// withPassword is a sudo that reads the password as the real one does, byte by byte, and leaves the rest of stdin.
const withPassword = `
if [ "$1" = -n ]; then echo "sudo: a password is required" >&2; exit 1; fi
[ "$1 $2 $3" = "-S -k -p" ] || exit 9
shift 4
IFS= read -r line
if [ "$line" != secret ]; then echo "Sorry, try again." >&2; exit 1; fi
exec "$@"`

func (l *lab) script(h *Host) (string, error) {
	out, err := h.Script(l.t.Context(), "echo \"arguments: $*\"; exit 0\n", "a b", "c")
	return string(out), err
}

func TestWaysToBecomeRoot(t *testing.T) {
	for _, tc := range []struct {
		name, uid, sudo string
		execs           int
	}{
		{"root", "0", "", 1},
		{"sudo without a password", "1000", nopasswd, 1},
		{"sudo with a password", "1000", withPassword, 3},
	} {
		l := newLab(t)
		l.as(tc.uid, tc.sudo)
		l.dialer.Password = func(context.Context, string, string) (string, error) { return "secret", nil }
		h := l.mustDial()
		out, err := l.script(h)
		if err != nil || out != "arguments: a b c\n" {
			t.Errorf("%s: got %q, %v", tc.name, out, err)
		}
		if h.Execs() != tc.execs {
			t.Errorf("%s took %d commands, want %d", tc.name, h.Execs(), tc.execs)
		}
		payload := bytes.Repeat([]byte("secret\n\x00\xff"), 10000)
		var back bytes.Buffer
		if err := h.Root(t.Context(), "cat", bytes.NewReader(payload), &back); err != nil || !bytes.Equal(back.Bytes(), payload) {
			t.Errorf("%s: %d bytes went to root, %d came back, %v", tc.name, len(payload), back.Len(), err)
		}
	}
}

func TestPasswordIsAskedOnce(t *testing.T) {
	l := newLab(t)
	l.as("1000", withPassword)
	asked := 0
	l.dialer.Password = func(context.Context, string, string) (string, error) { asked++; return "secret", nil }
	for range 3 {
		if _, err := l.script(l.mustDial()); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestWrongPasswordIsTriedOnce(t *testing.T) {
	l := newLab(t)
	l.as("1000", withPassword)
	l.dialer.Password = func(context.Context, string, string) (string, error) { return "wrong", nil }
	_, err := l.script(l.mustDial())
	l.mustFail(err, SudoPassword, `"ana"`, "Sorry, try again.")
	if n := l.Execs.Load(); n != 2 {
		t.Errorf("%d commands, want 2: the probe and one try of the password", n)
	}
}

func TestNotRoot(t *testing.T) {
	for _, tc := range []struct {
		name, sudo string
		policy     SudoPolicy
		kind       Kind
		words      []string
	}{
		{"needs a password", withPassword, SudoAuto, SudoRefused, []string{"a password is required", "--sudo-password", "NOPASSWD"}},
		{"not in sudoers", `echo "ana is not in the sudoers file." >&2; exit 1`, SudoAuto, SudoRefused, []string{"not in the sudoers file"}},
		{"no sudo", "", SudoAuto, NotRoot, []string{"there is no sudo", "install sudo"}},
		{"not wanted", nopasswd, SudoNever, NotRoot, []string{"never"}},
	} {
		l := newLab(t)
		l.as("1000", tc.sudo)
		l.target.Sudo = tc.policy
		out, err := l.script(l.mustDial())
		l.mustFail(err, tc.kind, tc.words...)
		if out != "" {
			t.Errorf("%s: the script ran all the same: %q", tc.name, out)
		}
	}
}

func TestLoginWithoutAShell(t *testing.T) {
	l := newLab(t)
	l.Server.Run = nil
	l.Env = append(l.Env, "PATH=/nowhere")
	_, err := l.script(l.mustDial())
	l.mustFail(err, NoShell)
}

// What a login shell's start files print comes before our own words and is not taken for an answer.
func TestNoiseOfStartFilesIsDropped(t *testing.T) {
	out := &after{}
	for _, chunk := range []string{"Welcome to vol-1\nmoby", "fs-runs-as-root\nfirst\n", "mobyfs-runs-as-sudo\n"} {
		if _, err := out.Write([]byte(chunk)); err != nil {
			t.Fatal(err)
		}
	}
	if out.mark() != "root" || string(out.rest()) != "first\nmobyfs-runs-as-sudo\n" || out.noise() != "Welcome to vol-1\n" {
		t.Errorf("got mark %q, rest %q, noise %q", out.mark(), out.rest(), out.noise())
	}
}

func TestRootBeforeScriptIsAnError(t *testing.T) {
	l := newLab(t)
	if err := l.mustDial().Root(t.Context(), "id", nil, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "not known yet") {
		t.Errorf("got %v", err)
	}
	if n := l.Execs.Load(); n != 0 {
		t.Errorf("%d commands were run", n)
	}
}
