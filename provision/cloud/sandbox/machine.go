package sandbox

import (
	"context"
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// machine is what decides how a container becomes a host here.
type machine struct {
	missing  []string // capabilities that no process of this machine can have
	cgroupV2 bool     // Docker uses the unified hierarchy
}

// lookAtMachine refuses a machine on which no host can run.
func lookAtMachine(ctx context.Context) (machine, error) {
	if runtime.GOOS != "linux" {
		return machine{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the sandbox needs Linux, this is %s", runtime.GOOS).
			WithHint("run mobyctl in a Linux virtual machine that has Docker Engine")
	}
	out, err := docker(ctx, "info", "--format", "{{json .}}")
	if err != nil {
		return machine{}, err
	}
	m, err := parseInfo(out)
	if err != nil {
		return machine{}, err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return machine{}, err
	}
	if m.missing, err = missingCapabilities(string(status)); err != nil {
		return machine{}, err
	}
	for _, need := range []string{"SYS_ADMIN", "NET_ADMIN", "MKNOD"} {
		if slices.Contains(m.missing, need) {
			return machine{}, mobyfs.Errorf(mobyfs.CodeDenied, "hosts can't run in containers here: CAP_%s is missing on this machine", need).
				WithHint("use a machine or a virtual machine of your own")
		}
	}
	return m, nil
}

// checkInotify refuses more hosts than the machine's inotify instances allow: systemd in the last ones would die
// without a word. A user's instances are counted on the machine as a whole, so all fleets count.
func checkInotify(ctx context.Context, f Fleet) error {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return err
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeInternal, "decode fs.inotify.max_user_instances: %w", err)
	}
	others, err := lines(ctx, "ps", "-q", "--filter", "label="+labelFleet)
	if err != nil {
		return err
	}
	mine, err := lines(ctx, "ps", "-q", "--filter", "label="+labelFleet+"="+f.Name)
	if err != nil {
		return err
	}
	return enoughInotify(limit, len(others)-len(mine), f)
}

// enoughInotify goes by what hosts were measured to use: 5.5 instances of root's, 7 with Docker. The machine itself
// needs some too.
func enoughInotify(limit, others int, f Fleet) error {
	need := 10 + 7*others
	for _, h := range f.Hosts {
		need += 7
		if h.Light {
			need--
		}
	}
	if need <= limit {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeNoSpace, "%d hosts need about %d inotify instances, and this machine allows a user %d",
		others+len(f.Hosts), need, limit).WithHint("allow more: sudo sysctl fs.inotify.max_user_instances=%d", max(1024, 2*need))
}

// parseInfo reads what docker info tells.
func parseInfo(out []byte) (machine, error) {
	var info struct {
		ServerVersion   string
		ServerErrors    []string
		OSType          string
		CgroupVersion   string
		SecurityOptions []string
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return machine{}, mobyfs.Errorf(mobyfs.CodeInternal, "decode docker info: %w", err)
	}
	switch {
	case len(info.ServerErrors) > 0:
		return machine{}, dockerError(context.Background(), []string{"info"}, nil, info.ServerErrors[0])
	case info.OSType != "linux":
		return machine{}, mobyfs.Errorf(mobyfs.CodeInvalid, "Docker runs %s containers, hosts need linux", info.OSType)
	case slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.Contains(o, "name=rootless") }):
		return machine{}, mobyfs.Errorf(mobyfs.CodeInvalid, "Docker runs rootless, hosts need an Engine that runs as root").
			WithHint("choose it: docker context use default")
	}
	return machine{cgroupV2: info.CgroupVersion == "2"}, nil
}

// hostFlags are the flags of docker create that give a container what a host needs: mounts, network, devices, and
// control groups of its own, in which systemd and the host's Docker make theirs.
func (m machine) hostFlags() []string {
	flags := []string{
		"--cgroupns=private", "--userns=host", "--stop-signal", "SIGRTMIN+3", "--stop-timeout", "30",
		"--tmpfs", "/run", "--tmpfs", "/tmp:exec,mode=1777", "--env", "container=docker",
	}
	if len(m.missing) == 0 {
		return append(flags, "--privileged")
	}
	flags = append(flags, "--cap-add", "ALL")
	for _, c := range m.missing { // --privileged and plain ALL fail where one is missing
		flags = append(flags, "--cap-drop", c)
	}
	return append(flags, "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--security-opt", "systempaths=unconfined", "--device-cgroup-rule", "a *:* rwm")
}

// masked are units that would change the machine itself, or have no place in a container.
var masked = []string{"systemd-modules-load.service", "systemd-sysctl.service", "getty.target"}

// maskedWhenLight are the units of Docker.
var maskedWhenLight = []string{"docker.service", "docker.socket", "containerd.service"}

// initCommand is what a host starts with: boot.sh, which ends by becoming systemd with these arguments. systemd in
// a container reads them as it reads a kernel's command line.
func (m machine) initCommand(light bool) []string {
	command := []string{"/bin/sh", "-c", bootScript, "boot", "/sbin/init"}
	if !m.cgroupV2 { // systemd 256 and later refuse the old hierarchy otherwise
		command = append(command, "systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
	}
	units := masked
	if light {
		units = slices.Concat(masked, maskedWhenLight)
	}
	for _, u := range units {
		command = append(command, "systemd.mask="+u)
	}
	return command
}

// missingCapabilities tells which of the capabilities 0–40 are not in the bounding set, by what /proc/self/status
// says. Newer ones that this list does not know are taken as there.
func missingCapabilities(status string) ([]string, error) {
	for line := range strings.Lines(status) {
		hex, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return nil, mobyfs.Errorf(mobyfs.CodeInternal, "decode the capability bounding set: %w", err)
		}
		var missing []string
		for bit, name := range strings.Fields(capabilities) {
			if set&(1<<bit) == 0 {
				missing = append(missing, name)
			}
		}
		return missing, nil
	}
	return nil, mobyfs.Errorf(mobyfs.CodeInternal, "find the capability bounding set: no line CapBnd in /proc/self/status")
}

// capabilities in the order of their numbers (linux/capability.h).
const capabilities = `CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
	SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
	SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`
