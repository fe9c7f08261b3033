package mountns

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Namespace is a mount namespace in which a place, or a part of it, is mounted.
type Namespace struct {
	Name   string // as /proc/PID/ns/mnt links to it
	Own    bool   // ours
	PIDs   []int  // of the processes in it
	Mounts []Mount
}

// Mount is one mount of a place.
type Mount struct {
	ID       int // in mountinfo and fdinfo
	Point    string
	ReadOnly bool
}

// Namespaces lists all namespaces that have the place mounted, our own included. It asks /proc alone, so a file system
// that does not answer does not hold it up.
func (p Place) Namespaces() ([]Namespace, error) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	members := map[string][]int{}
	err = eachProcess(func(pid int) error {
		ns, err := os.Readlink(proc(pid, "ns/mnt"))
		if err == nil {
			members[ns] = append(members[ns], pid)
		}
		return err
	})
	var all []Namespace
	for name, pids := range members {
		mounts, err := p.mountsOf(pids)
		if err != nil {
			return nil, err
		}
		if len(mounts) > 0 {
			all = append(all, Namespace{Name: name, Own: name == own, PIDs: pids, Mounts: mounts})
		}
	}
	return all, err
}

// mountsOf lists the mounts in the namespace that the processes share, as the first of them that still is there sees it.
func (p Place) mountsOf(pids []int) ([]Mount, error) {
	for _, pid := range pids {
		infos, err := p.mountedBy(pid)
		if err != nil {
			continue // it has ended
		}
		var mounts []Mount
		for _, m := range infos {
			mounts = append(mounts, Mount{ID: m.ID, Point: m.Mountpoint, ReadOnly: slices.Contains(strings.Split(m.Options, ","), "ro")})
		}
		return mounts, nil
	}
	return nil, nil
}

// Writers are the processes of the namespace that have something open for writing in one of its mounts. One that has
// only mapped a file is not seen.
func (n Namespace) Writers() []int {
	var writers []int
	for _, pid := range n.PIDs {
		fds, err := os.ReadDir(proc(pid, "fdinfo"))
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, fd := range fds {
			if info, err := os.ReadFile(proc(pid, "fdinfo", fd.Name())); err == nil && n.writes(string(info)) {
				writers = append(writers, pid)
				break
			}
		}
	}
	return writers
}

// writes reports whether a descriptor, as fdinfo tells of it, is open for writing in one of the mounts.
func (n Namespace) writes(fdinfo string) bool {
	var flags, mount int64 = 0, -1
	for line := range strings.Lines(fdinfo) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "flags":
			flags, _ = strconv.ParseInt(value, 8, 64)
		case "mnt_id":
			mount, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return flags&unix.O_ACCMODE != unix.O_RDONLY && slices.ContainsFunc(n.Mounts, func(m Mount) bool { return int64(m.ID) == mount })
}
