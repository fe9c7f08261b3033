package feed

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A subvolume of btrfs looks like a file system of its own, and the kernel marks none (EXDEV). It marks the whole file system,
// though, if it is asked at the subvolume that all others lie in, and tells then what happens in every one of them.

// watch marks the whole file system on which path lies.
func watch(fan int, path string) error {
	err := mark(fan, unix.AT_FDCWD, path)
	if err != unix.EXDEV {
		return err
	}
	if markAbove(fan, path) == nil {
		return nil
	}
	top, err := openTop(path)
	if err != nil {
		return fmt.Errorf("open the top of its btrfs: %w", err)
	}
	defer func() { _ = unix.Close(top) }()
	return mark(fan, top, ".")
}

func mark(fan, at int, path string) error {
	return unix.FanotifyMark(fan, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, mask, at, path)
}

// markAbove tries the directories above path that the same mount shows: one of them may lie in the top subvolume.
func markAbove(fan int, path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	here, err := mountOf(fd)
	if err != nil {
		return err
	}
	for {
		up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_ = unix.Close(fd)
		fd = up
		switch now, err := mountOf(fd); {
		case err != nil:
			return err
		case now != here:
			return unix.EXDEV
		}
		if err := mark(fan, fd, "."); err != unix.EXDEV {
			return err
		}
	}
}

// mountOf is the number of the mount that an open file was reached by.
func mountOf(fd int) (string, error) {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", errors.New("the kernel does not tell by which mount a file was reached")
}

// openTop opens the top subvolume of the btrfs on which path lies, by a mount that nobody sees and that ends with the handle.
func openTop(path string) (int, error) {
	device, err := deviceUnder(path)
	if err != nil {
		return -1, err
	}
	fs, err := unix.Fsopen("btrfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(fs) }()
	for _, o := range [][2]string{{"source", device}, {"subvolid", topSubvolume}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("%s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("mount %s: %w", device, err)
	}
	top, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", device, err)
	}
	return top, nil
}

// topSubvolume is the number of the subvolume that all others lie in.
const topSubvolume = "5"

// deviceUnder is the device of the mount that path was reached by.
func deviceUnder(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	id, err := mountOf(fd)
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if number, _, _ := strings.Cut(line, " "); number != id {
			continue
		}
		if _, rest, ok := strings.Cut(line, " - "); ok {
			if f := strings.Fields(rest); len(f) > 1 {
				return f[1], nil
			}
		}
	}
	return "", fmt.Errorf("mount %s is not in /proc/self/mountinfo", id)
}
