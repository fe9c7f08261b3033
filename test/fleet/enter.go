package fleet

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// hostEnv is what a command on a host finds, as Docker's exec gives it.
var hostEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "container=docker"}

// CmdOn is a command on a host, not run yet. It enters the host's namespaces by itself where it may: Docker's exec takes ten times as
// long, and the tests run thousands of commands.
func (f *Fleet) CmdOn(host string, args ...string) *exec.Cmd {
	pid, err := f.first(host)
	if err != nil {
		return exec.Command("docker", append([]string{"exec", "-i", f.Container(host)}, args...)...) // which tells what is wrong
	}
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(pid), "--all", "--"}, args...)...)
	cmd.Env = hostEnv
	return cmd
}

// first is the ID of a host's first process.
func (f *Fleet) first(host string) (int, error) {
	if known, ok := f.firsts.Load(host); ok && known.(*os.Process).Signal(syscall.Signal(0)) == nil {
		return known.(*os.Process).Pid, nil
	}
	if os.Geteuid() != 0 || os.Getenv("DOCKER_HOST") != "" {
		return 0, fmt.Errorf("the namespaces of %s can't be entered", host)
	}
	out, err := exec.Command("docker", "inspect", "--format", "{{.State.Pid}}", f.Container(host)).Output()
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err == nil && pid == 0 {
		err = fmt.Errorf("%s does not run", host)
	}
	if err != nil {
		return 0, err
	}
	p, err := os.FindProcess(pid) // by a descriptor, which never means another process
	if err == nil {
		f.firsts.Store(host, p)
	}
	return pid, err
}
