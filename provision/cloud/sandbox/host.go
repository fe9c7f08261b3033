package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mobyfs/mobyfs"
)

// labelHost is on containers: the name of the host.
const labelHost = "mobyfs.sandbox.host"

//go:embed boot.sh
var bootScript string

//go:embed busybox.sh
var busyboxScript string

// createHost makes the container of a host, which is not started yet. /var/lib/docker is a volume because overlayfs
// does not stack, and /var/lib/mobyfs because a container's own file system refuses to rename directories. Both go
// with the container.
func createHost(ctx context.Context, m machine, f Fleet, h Host) error {
	args := []string{
		"create", "--name", h.Container, "--hostname", h.Name, "--label", labelFleet + "=" + f.Name, "--label", labelHost + "=" + h.Name,
		"--network", f.Network, "--network-alias", h.Name, "--ip", h.Address,
	}
	for _, dir := range []string{"/var/lib/docker", "/var/lib/mobyfs"} {
		args = append(args, "--mount", "type=volume,dst="+dir+",volume-label="+labelFleet+"="+f.Name)
	}
	args = append(args, m.hostFlags()...)
	args = append(args, h.Image)
	_, err := docker(ctx, append(args, m.initCommand(h.Light)...)...)
	return err
}

// giveKey lets the fleet's key in as root, and as the two users that the images made here have.
func giveKey(ctx context.Context, h Host, public string) error {
	type user struct {
		home string
		id   int
	}
	users := []user{{"root", 0}}
	if h.Distro != "" {
		users = append(users, user{"home/mobyfs", 1000}, user{"home/nosudo", 1001})
	}
	var b bytes.Buffer
	now := time.Now()
	w := tar.NewWriter(&b)
	for _, u := range users {
		dir := &tar.Header{Typeflag: tar.TypeDir, Name: u.home + "/.ssh/", Mode: 0o700, Uid: u.id, Gid: u.id, ModTime: now}
		file := &tar.Header{Name: u.home + "/.ssh/authorized_keys", Mode: 0o600, Uid: u.id, Gid: u.id, ModTime: now,
			Size: int64(len(public))}
		if err := errors.Join(w.WriteHeader(dir), w.WriteHeader(file)); err != nil {
			return err
		}
		if _, err := w.Write([]byte(public)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err := dockerWith(ctx, &b, "cp", "-a", "-", h.Container+":/")
	return err
}

// start makes a host's container run, whatever it does now. An empty status is that of a new one.
func start(ctx context.Context, h Host, status string) error {
	command := "start"
	switch status {
	case "running":
		return nil
	case "paused":
		command = "unpause"
	}
	_, err := docker(ctx, command, h.Container)
	return err
}

// waitUntilUp waits until systemd has started everything, Docker answers, and the fleet's key is let in. Units that
// failed and that no test needs are only told to log.
func waitUntilUp(ctx context.Context, f Fleet, h Host, log func(string)) (hostKeys, error) {
	failed, err := waitForSystemd(ctx, h)
	if err != nil {
		return nil, err
	}
	if bad := needed(failed, h.Light); len(bad) > 0 {
		return nil, mobyfs.Errorf(mobyfs.CodeInternal, "units failed: %s", strings.Join(bad, ", "))
	}
	if len(failed) > 0 && log != nil {
		log(fmt.Sprintf("%s: these units failed, and it goes on without them: %s", h.Name, strings.Join(failed, ", ")))
	}
	if !h.Light {
		if err := poll(ctx, func() error {
			_, err := docker(ctx, "exec", h.Container, "docker", "version", "--format", "{{.Server.Version}}")
			return err
		}); err != nil {
			return nil, mobyfs.Errorf(mobyfs.CodeOf(err), "wait for the host's Docker: %w", err)
		}
	}
	keys, err := readHostKeys(ctx, h)
	if err != nil {
		return nil, err
	}
	private, err := os.ReadFile(f.Key)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return nil, err
	}
	return keys, login(ctx, f, h, signer, keys)
}

// waitForSystemd waits until systemd has nothing left to start, and returns the units that failed.
func waitForSystemd(ctx context.Context, h Host) (failed []string, err error) {
	err = poll(ctx, func() error {
		out, err := docker(ctx, "exec", h.Container, "systemctl", "is-system-running", "--wait")
		switch state := strings.TrimSpace(string(out)); state {
		case "running", "degraded":
			return nil
		default:
			return final(h.stillRuns(ctx), mobyfs.Errorf(mobyfs.CodeUnavailable, "systemd is %s: %w", orNothing(state), err))
		}
	})
	if err != nil {
		return nil, err
	}
	out, err := docker(ctx, "exec", h.Container, "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			failed = append(failed, fields[0])
		}
	}
	return failed, err
}

// needed picks the failed units without which a host is of no use.
func needed(failed []string, light bool) []string {
	var bad []string
	for _, unit := range failed {
		switch strings.TrimSuffix(strings.TrimSuffix(unit, ".service"), ".socket") {
		case "ssh", "sshd", "dbus", "systemd-journald":
			bad = append(bad, unit)
		case "docker", "containerd":
			if !light {
				bad = append(bad, unit)
			}
		}
	}
	return bad
}

// stillRuns tells why a container ended, or nil if it has not.
func (h Host) stillRuns(ctx context.Context) error {
	found, err := containers(ctx, "name=^/"+h.Container+"$")
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return mobyfs.Errorf(mobyfs.CodeNotFound, "its container %s was removed", h.Container)
	case found[0].State.Status != "running":
		return mobyfs.Errorf(mobyfs.CodeInternal, "its container has %s", found[0].State.Status).
			WithHint("an image for hosts needs systemd at /sbin/init, sh, mount and sshd")
	}
	return nil
}

// giveBusybox makes an image busybox in the host's Docker, from the host's own busybox, so that containers can be
// run without any registry. A host without busybox is left without.
func giveBusybox(ctx context.Context, h Host) error {
	_, err := docker(ctx, "exec", h.Container, "sh", "-c", busyboxScript)
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeOf(err), "make an image busybox: %w", err)
	}
	return nil
}

// withJournal adds what the host said last to an error about it, as its hint.
func withJournal(ctx context.Context, h Host, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	said, err := docker(ctx, "exec", h.Container, "journalctl", "--no-pager", "-q", "-o", "cat", "-n", "12")
	if err != nil {
		said, err = docker(ctx, "logs", "--tail", "12", h.Container)
	}
	last := strings.TrimSpace(string(said))
	if err != nil || last == "" {
		return cause
	}
	return mobyfs.Errorf(mobyfs.CodeOf(cause), "%w", cause).
		WithHint("%slast lines of its journal:\n    %s", hintBefore(cause), strings.ReplaceAll(last, "\n", "\n    "))
}

func hintBefore(err error) string {
	if hint := mobyfs.HintOf(err); hint != "" {
		return hint + "; "
	}
	return ""
}

func orNothing(state string) string {
	if state == "" {
		return "silent"
	}
	return state
}
