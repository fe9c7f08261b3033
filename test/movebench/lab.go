//go:build bench

package movebench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
)

// side is one of the two hosts: a network namespace, a control group that counts what its processes take, and a disk.
type side struct {
	name    string
	address string
	ns      string // of the network, as a path
	group   string // directory of the control group
	disk    string // where its file system is mounted
}

// lab is two hosts with a cable between them.
type lab struct {
	dir  string
	a, b *side
}

// newLab makes both hosts. Their namespaces end with the process that made them; disks of one that was killed, which Docker
// has to see and so everybody does, are taken off by the next one.
func newLab(t *testing.T) *lab {
	t.Helper()
	must(t, clearOld(groups(t)))
	l := &lab{dir: fmt.Sprintf("%s%d", labs, os.Getpid())}
	must(t, os.Mkdir(l.dir, 0o700))
	t.Cleanup(func() {
		if err := os.RemoveAll(l.dir); err != nil {
			t.Error(err)
		}
	})
	l.a, l.b = l.host(t, hostNames[0], "10.77.0.1"), l.host(t, hostNames[1], "10.77.0.2")
	must(t, command("ip", "link", "add", "cable", "netns", l.a.ns, "type", "veth", "peer", "name", "cable", "netns", l.b.ns))
	for _, s := range []*side{l.a, l.b} {
		must(t, s.run("ip", "link", "set", "lo", "up"))
		must(t, s.run("ip", "address", "add", s.address+"/24", "dev", "cable"))
		must(t, s.run("ip", "link", "set", "cable", "up"))
	}
	return l
}

func (l *lab) host(t *testing.T, name, address string) *side {
	t.Helper()
	holder := exec.Command("/proc/self/exe", "-test.run=^$")
	holder.Env = append(os.Environ(), roleVariable+"=hold")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	must(t, holder.Start())
	s := &side{name: name, address: address, ns: fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)}
	s.group = group(groups(t), os.Getpid(), name)
	must(t, os.Mkdir(s.group, 0o755))
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
		if err := os.Remove(s.group); err != nil {
			t.Errorf("processes are left of host %s: %v", name, err)
		}
	})
	return s
}

var hostNames = [2]string{"a", "b"}

// labs is where labs are; a process ID follows.
const labs = "/var/tmp/movebench-"

// clearOld takes off what processes left that were killed.
func clearOld(groups string) error {
	dirs, err := filepath.Glob(labs + "*")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.TrimPrefix(dir, labs))
		if err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		for _, name := range hostNames {
			if err := end(group(groups, pid, name)); err != nil {
				return err
			}
		}
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if err := command("umount", m.Mountpoint); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// end kills the processes of a control group and removes it. That there is none is fine.
func end(group string) error {
	err := os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0)
	for begun := time.Now(); err == nil && time.Since(begun) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
		if err := os.Remove(group); !errors.Is(err, syscall.EBUSY) {
			return err
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("end what runs in %s: %w", group, cmp.Or(err, error(syscall.EBUSY)))
}

// group is the control group of a host of a process's lab.
func group(groups string, pid int, name string) string {
	return filepath.Join(groups, fmt.Sprintf("movebench-%d-%s", pid, name))
}

// groups is where control groups of version 2 are; they count the CPU without any controller.
func groups(t *testing.T) string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	must(t, err)
	if len(mounts) == 0 {
		t.Fatal("there are no control groups of version 2: mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	return mounts[0].Mountpoint
}

// cable sets the rate of the cable in both directions, in bits a second, as tc names it; "" is no limit.
func (l *lab) cable(t *testing.T, rate string) {
	t.Helper()
	for _, s := range []*side{l.a, l.b} {
		_ = s.run("tc", "qdisc", "del", "dev", "cable", "root")
		if rate != "" {
			must(t, s.run("tc", "qdisc", "add", "dev", "cable", "root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms"))
		}
	}
}

// cpu is what the processes of both hosts have taken so far.
func (l *lab) cpu(t *testing.T) time.Duration {
	t.Helper()
	var all time.Duration
	for _, s := range []*side{l.a, l.b} {
		text, err := os.ReadFile(filepath.Join(s.group, "cpu.stat"))
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if n, ok := strings.CutPrefix(line, "usage_usec "); ok {
				us, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
				must(t, err)
				all += time.Duration(us) * time.Microsecond
			}
		}
	}
	return all
}

// cmd is a command that will run on the host.
func (s *side) cmd(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + s.ns, "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, UseCgroupFD: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	group, err := os.Open(s.group)
	if err != nil {
		cmd.Err = err
		return cmd
	}
	cmd.SysProcAttr.CgroupFD = int(group.Fd())
	context.AfterFunc(ctx, func() { _ = group.Close() })
	return cmd
}

// run runs a command on the host to its end.
func (s *side) run(args ...string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return finish(s.cmd(ctx, args...))
}

// shell runs a line of bash on the host; a part of a pipe that fails is an error.
func (s *side) shell(format string, args ...any) error {
	return s.run("bash", "-c", "set -o pipefail; "+fmt.Sprintf(format, args...))
}

// begin starts a command on the host and returns what stops it and waits for its end.
func (s *side) begin(t *testing.T, args ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := s.cmd(ctx, args...)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	return func() { cancel(); _ = cmd.Wait() }
}

func command(name string, args ...string) error { return finish(exec.Command(name, args...)) }

func finish(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// listening waits until something listens at the port on the host.
func (s *side) listening(t *testing.T, port int) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		if s.shell("ss -Hltn 'sport = :%d' | grep -q .", port) == nil {
			return
		}
	}
	t.Fatalf("nothing listens at port %d on host %s", port, s.name)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
