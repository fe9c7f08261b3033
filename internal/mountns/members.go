package mountns

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Members lists the processes that live in a mount namespace other than ours in which dir or something below it is
// mounted, so that each of them can reach what is there. Users lists one of them for each mount. A dir that does not exist
// is fs.ErrNotExist.
func Members(dir string) ([]User, error) {
	place, err := Locate(dir)
	if err != nil {
		return nil, err
	}
	at, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	all, err := place.Namespaces()
	if err != nil {
		return nil, err
	}
	var members []User
	for _, n := range all {
		if n.Own {
			continue
		}
		for _, m := range n.Mounts {
			if m.Point == at { // a copy of our own mount
				continue
			}
			for _, pid := range n.PIDs {
				members = append(members, User{pid, command(pid), m.Point})
			}
			break
		}
	}
	return members, nil
}

// Suspects lists the processes that may have something in dir open or mapped: all of the host, whatever they have mounted, for a file
// that is open can be handed over. Left out are those that don't let us look at them and live where no mount leads to dir; an init
// that does not let us look is passed over, as in Users.
func Suspects(dir string) (pids []int, err error) {
	place, err := Locate(dir)
	if err != nil {
		return nil, err
	}
	err = eachProcess(func(pid int) error { // whoever asks may find out that it can't look at one
		_, err := os.Readlink(proc(pid, "ns/mnt"))
		if errors.Is(err, fs.ErrPermission) && pid != 1 {
			var reaches bool
			if reaches, err = place.reachedBy(pid); !reaches {
				return err
			}
		}
		if err == nil {
			pids = append(pids, pid)
		}
		return err
	})
	return pids, err
}

// reachedBy reports whether a mount in a process's namespace leads to the place or to a part of it.
func (p Place) reachedBy(pid int) (bool, error) {
	f, err := os.Open(proc(pid, "mountinfo"))
	if err != nil {
		return false, err
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		same := m.Major == p.Major && m.Minor == p.Minor && (Within(m.Root, p.Path) || Within(p.Path, m.Root))
		return !same, same
	})
	return len(mounts) > 0, err
}

// InGroup reports whether a process is in a control group, of whichever version, in whose path name stands; as the ID of a
// container does in those of its processes. One that has ended is in none.
func InGroup(pid int, name string) (bool, error) {
	text, err := os.ReadFile(proc(pid, "cgroup"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	return err == nil && strings.Contains(string(text), name), err
}

// EndGroup sends SIGKILL to all processes in control groups in whose path name stands, but not to spare. Processes that
// are frozen die too, or as soon as they are let go on, and before they run another instruction. They must be frozen or
// ended, or one of them may have a child meanwhile.
func EndGroup(name string, spare int) error {
	return eachProcess(func(pid int) error {
		in, err := InGroup(pid, name)
		if err != nil || !in || pid == spare {
			return err
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("pidfd_open "+strconv.Itoa(pid), err)
		}
		defer func() { _ = unix.Close(fd) }()
		if in, err := InGroup(pid, name); err != nil || !in { // another process has its ID by now
			return err
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("pidfd_send_signal "+strconv.Itoa(pid), err)
		}
		return nil
	})
}
