// Package mountns asks the kernel who uses a directory: which other mount namespaces have it, or a part of it,
// mounted, and which processes hold files in it open. What anybody else remembers about mounts is a hint; this is
// the truth.
//
// A namespace that no process lives in (kept by a bind mount of its file alone) and one that a single thread has
// entered are not seen.
package mountns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
)

// User is a process that keeps a directory in use: one for each mount namespace, or one for each process that has
// a file open.
type User struct {
	PID     int
	Command string // as the kernel shortens it
	Path    string // where the directory is mounted in the process's namespace, or the file that is open
}

// Ended is the Command of a process that ended before it could be asked.
const Ended = "ended"

func (u User) String() string { return fmt.Sprintf("process %d (%s) at %s", u.PID, u.Command, u.Path) }

// Users lists the mount namespaces, other than our own, in which dir or something below it is mounted: one User
// for each mount. A namespace that was made as a copy of ours has all our mounts: if one of them is at dir, its copy at
// the same place is no use. A dir that does not exist is fs.ErrNotExist.
func Users(dir string) ([]User, error) {
	where, err := Locate(dir)
	if err != nil {
		return nil, err
	}
	at, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{own: true}
	var users []User
	err = eachProcess(func(pid int) error {
		ns, err := os.Readlink(proc(pid, "ns/mnt"))
		if err != nil || seen[ns] {
			return err
		}
		mounts, err := where.mountedBy(pid)
		if err != nil {
			return err
		}
		seen[ns] = true
		for _, m := range mounts {
			if m.Mountpoint != at {
				users = append(users, User{pid, command(pid), m.Mountpoint})
			}
		}
		return nil
	})
	return users, err
}

// Open lists the processes, other than our own, that have a file, a directory, their root or their working
// directory in dir, seen from our own mount namespace. It reads every descriptor of every process: ask it before
// destroying something, not on a timer.
func Open(dir string) ([]User, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	var users []User
	err = eachProcess(func(pid int) error {
		if pid == os.Getpid() {
			return nil
		}
		links := []string{proc(pid, "cwd"), proc(pid, "root")}
		fds, err := os.ReadDir(proc(pid, "fd"))
		if err != nil {
			return err
		}
		for _, fd := range fds {
			links = append(links, proc(pid, "fd", fd.Name()))
		}
		for _, l := range links {
			if target, err := os.Readlink(l); err == nil && Within(target, dir) {
				users = append(users, User{pid, command(pid), target})
				break
			}
		}
		return nil
	})
	return users, err
}

// Place is a directory as every mount namespace knows it: a file system and a path in it. It holds for as long as the
// file system is mounted.
type Place struct {
	Major int    `json:"major"`
	Minor int    `json:"minor"`
	Path  string `json:"path"`
}

// Locate finds dir's place by our own mount table. (The device number that stat tells is another one on btrfs.)
func Locate(dir string) (Place, error) {
	dir, err := resolve(dir)
	if err != nil {
		return Place{}, err
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return Place{}, err
	}
	var best *mountinfo.Info
	for _, m := range mounts { // of mounts on one point the last one is on top
		if Within(dir, m.Mountpoint) && (best == nil || len(m.Mountpoint) >= len(best.Mountpoint)) {
			best = m
		}
	}
	if best == nil {
		return Place{}, fmt.Errorf("find the mount that holds %s: there is none", dir)
	}
	rel, err := filepath.Rel(best.Mountpoint, dir)
	if err != nil {
		return Place{}, err
	}
	return Place{best.Major, best.Minor, filepath.Join(best.Root, rel)}, nil
}

// resolve is the absolute path of a directory without symbolic links, as mount tables tell it.
func resolve(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// mountedBy lists the mounts in a process's namespace whose root lies in the place.
func (p Place) mountedBy(pid int) ([]*mountinfo.Info, error) {
	f, err := os.Open(proc(pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		root := strings.TrimSuffix(m.Root, "//deleted")
		return m.Major != p.Major || m.Minor != p.Minor || !Within(root, p.Path), false
	})
}

// eachProcess calls do for every process. One that ends meanwhile is passed over, and so is an init that does not
// let us look, for no container is an init's own. Any other error ends the walk: who may not look can't say that
// nobody is there.
func eachProcess(do func(pid int) error) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		err = do(pid)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH), errors.Is(err, syscall.EINVAL):
		case pid == 1 && errors.Is(err, fs.ErrPermission):
		default:
			return fmt.Errorf("look at process %d: %w", pid, err)
		}
	}
	return nil
}

func proc(pid int, names ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, names...)...)
}

func command(pid int) string {
	name, err := os.ReadFile(proc(pid, "comm"))
	if err != nil {
		return Ended
	}
	return strings.TrimSpace(string(name))
}

// Within reports whether path is dir or lies below it. Both are clean.
func Within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
