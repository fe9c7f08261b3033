package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// insideDir is set, to a directory for this run, in the process that lives in namespaces of its own.
const insideDir = "MOBYFS_CHAOS_DIR"

// dirPrefix begins the names of such directories, and of control groups.
const dirPrefix = "mobyfs-chaos-"

// mountExt4 makes a file system of ext4 in a file and mounts it, so that a control has a disk whose space, syncs and
// errors are those of a real one. It goes with the last namespace that has it mounted.
func mountExt4(image, at string, size int64) error {
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	return os.Chmod(at, 0o700)
}

// Where the kernel limits what control groups do with disks: of version 1 or 2.
const (
	groupsV1 = "/sys/fs/cgroup/blkio"
	groupsV2 = "/sys/fs/cgroup"
)

// throttle lets a program do no more than so many writes a second on the disk of its host, until undo.
func throttle(m *machine, writes int) (undo func(), err error) {
	var st unix.Stat_t
	if err := unix.Stat(m.root, &st); err != nil {
		return nil, err
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	root, file, line := groupsV1, "blkio.throttle.write_iops_device", fmt.Sprintf("%s %d", device, writes)
	if _, err := os.Stat(filepath.Join(root, file)); err != nil {
		root, file, line = groupsV2, "io.max", fmt.Sprintf("%s wiops=%d", device, writes)
		if err := write(filepath.Join(root, "cgroup.subtree_control"), "+io"); err != nil {
			return nil, fmt.Errorf("this kernel limits no disk: %w", err)
		}
	}
	group := filepath.Join(root, filepath.Base(os.Getenv(insideDir))+"-"+filepath.Base(filepath.Dir(m.at))+"-"+m.name)
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil, err
	}
	undo = func() {
		members, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		for _, pid := range strings.Fields(string(members)) {
			_ = write(filepath.Join(root, "cgroup.procs"), pid)
		}
		_ = os.Remove(group)
	}
	pid, err := m.pid()
	if err == nil {
		err = write(filepath.Join(group, file), line)
	}
	if err == nil {
		err = write(filepath.Join(group, "cgroup.procs"), fmt.Sprint(pid))
	}
	if err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

func write(file, text string) error { return os.WriteFile(file, []byte(text), 0) }
