package host

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What holds is what ssh itself says, Match exec and all.
func TestSettingsAreThoseOfSSH(t *testing.T) {
	l := newLab(t)
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatalf("this test needs the OpenSSH client: %v", err)
	}
	l.dialer.SSH, l.dialer.KnownHosts = program, nil
	l.dialer.ConfigFile = filepath.Join(l.dialer.Home, "config")
	config := `Match host vol-a exec "false"
  User wrong
Host vol-a
  HostName 10.0.1.11
  Port 2222
  User ubuntu
  HostKeyAlias volume-a
  IdentityFile ~/.ssh/fleet
  IdentitiesOnly yes
  UserKnownHostsFile ~/.ssh/fleet_hosts
  GlobalKnownHostsFile none
Host vol-b
  HostName 10.0.1.12
  User ubuntu
  ProxyCommand nc -X connect %h %p
Host vol-c
  User ubuntu
  ProxyJump ana@gate:2022,inner
`
	if err := os.WriteFile(l.dialer.ConfigFile, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	home := l.dialer.Home
	me, err := user.Current() // ssh itself resolves ~ in some places, and does not look at HOME for it
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.dialer.settings(t.Context(), Target{Name: "a", Address: "vol-a"})
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		user: "ubuntu", host: "10.0.1.11", port: 2222, alias: "volume-a", identitiesOnly: true,
		identities: []string{home + "/.ssh/fleet"}, known: []string{me.HomeDir + "/.ssh/fleet_hosts"},
	}
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(settings{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	s, err = l.dialer.settings(t.Context(), Target{Name: "b", Address: "vol-b", User: "root", Port: 22})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.proxy, " "); s.user != "root" || got != "/bin/sh -c exec nc -X connect 10.0.1.12 22" {
		t.Errorf("got user %s, proxy %q", s.user, got)
	}
	s, err = l.dialer.settings(t.Context(), Target{Name: "c", Address: "vol-c"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.proxy[1:], " "); got != "-o BatchMode=yes -F "+l.dialer.ConfigFile+" -J ana@gate:2022 -W [vol-c]:22 -- inner" {
		t.Errorf("got proxy %q", got)
	}
}

func TestBrokenSSHConfigurationIsToldInItsOwnWords(t *testing.T) {
	l := newLab(t)
	writeScript(t, l.dialer.Home, "ssh", "echo 'config line 3: Bad configuration option: usr' >&2; exit 255")
	_, err := l.dial()
	l.mustFail(err, SSHConfig, "line 3: Bad configuration option: usr", "ssh -G")
}

// A host behind a proxy is reached through the program that the configuration names.
func TestProxyCommand(t *testing.T) {
	l := newLab(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("MOBYFS_TEST_NETCAT", "1")
	writeScript(t, l.dialer.Home, "ssh", "echo proxycommand "+self+" %h %p; echo hostname "+l.Host)
	h := l.mustDial()
	if _, err := l.script(h); err != nil {
		t.Error(err)
	}
	writeScript(t, l.dialer.Home, "ssh", "echo \"proxycommand sh -c 'echo gate is closed >&2'\"")
	_, err = l.dial()
	l.mustFail(err, Unreachable, "gate is closed")
}

// A proxy program may close the connection first and say why after that.
func TestProxyCommandsLastWordsAreWaitedFor(t *testing.T) {
	l := newLab(t)
	writeScript(t, l.dialer.Home, "ssh", "echo \"proxycommand sh -c 'exec >&-; sleep 0.1; echo gate is closed >&2'\"")
	_, err := l.dial()
	l.mustFail(err, Unreachable, "gate is closed")
}
