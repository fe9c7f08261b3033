package feed

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Writes through a mapping and those of asynchronous I/O raise no event until the file is closed. So a file that somebody has open
// for writing or has mapped shared may have changed at any time; closing it is an event.

// holders calls each with the handles of the files on a device that processes hold that way, and may name one twice.
func holders(dev uint64, pids []int, each func(handle string)) error {
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		if err := errors.Join(opened(dir, dev, each), mapped(dir, dev, each)); err != nil {
			return err
		}
	}
	return nil
}

// over tells of an error that means that the process or its file is no more.
func over(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) }

// opened looks through a process's open files.
func opened(dir string, dev uint64, each func(string)) error {
	d, err := os.Open(dir + "/fd")
	if err != nil {
		return unless(over(err), err)
	}
	defer d.Close() //nolint:errcheck // it was only read
	names, err := d.Readdirnames(-1)
	if err != nil {
		return unless(over(err), err)
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(d.Fd()), name, &st, 0); err != nil || st.Dev != dev || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue // closed meanwhile, or nothing that can be written here
		}
		info, err := os.ReadFile(dir + "/fdinfo/" + name)
		if err != nil {
			if over(err) {
				continue
			}
			return err
		}
		_, flags, _ := bytes.Cut(info, []byte("flags:"))
		flags, _, _ = bytes.Cut(flags, []byte("\n"))
		if mode, err := strconv.ParseUint(string(bytes.TrimSpace(flags)), 8, 32); err == nil && mode&unix.O_ACCMODE == unix.O_RDONLY {
			continue
		}
		if err := hold(int(d.Fd()), name, each); err != nil {
			return err
		}
	}
	return nil
}

// mapped looks through a process's shared mappings. One that can't be written now could be before.
func mapped(dir string, dev uint64, each func(string)) error {
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return unless(over(err), err)
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasSuffix(f[1], "s") || f[4] == "0" {
			continue
		}
		// The kernel writes a mapping's name there without leading zeros.
		from, to, _ := strings.Cut(f[0], "-")
		name := dir + "/map_files/" + trimZeros(from) + "-" + trimZeros(to)
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
				return err
			}
			continue
		}
		if st.Dev != dev || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if err := hold(unix.AT_FDCWD, name, each); err != nil {
			return err
		}
	}
	return nil
}

func trimZeros(s string) string {
	if t := strings.TrimLeft(s, "0"); t != "" {
		return t
	}
	return "0"
}

func hold(at int, name string, each func(string)) error {
	handle, err := handleOf(at, name, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return unless(over(err), err)
	}
	each(handle)
	return nil
}

func unless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

// allPIDs lists all processes of the host.
func allPIDs() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // it was only read
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// loopFiles lists the files that are loop devices of this host: the kernel writes them without a word.
func loopFiles() []string {
	found, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var files []string
	for _, f := range found {
		if name, err := os.ReadFile(f); err == nil {
			files = append(files, strings.TrimSuffix(string(name), "\n"))
		}
	}
	return files
}
