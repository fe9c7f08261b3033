package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// noCow is FS_NOCOW_FL of linux/fs.h.
const noCow = 0x00800000

// imageName is the last element of the path of each image: loop devices are searched by it.
const imageName = "image"

// makeImage makes a file system in a new file. Nothing of it is left to be written later: what the host's disk holds is
// there when this returns.
func makeImage(ctx context.Context, path string, spec mobyfs.VolumeSpec) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	keepInPlace(f)
	if err := allocate(path, spec.SizeBytes); err != nil {
		return err
	}
	failpoint.Reach("loop.mkfs.before")
	if spec.Filesystem == "xfs" {
		err = run(ctx, "mkfs.xfs", "-q", "-K", path)
	} else {
		// No blocks for root alone: the root of containers is root. Nothing is written behind our back later (lazy_*).
		err = run(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-e", "remount-ro",
			"-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1", path)
	}
	failpoint.Reach("loop.mkfs.after")
	if err != nil {
		return err
	}
	if err := allocate(path, spec.SizeBytes); err != nil { // should mkfs have made holes
		return err
	}
	return f.Sync()
}

// keepInPlace asks a file system that copies on write not to do so for an image, where it can: else room that is set aside
// is used once only.
func keepInPlace(f *os.File) {
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|noCow)
	}
}

// allocate sets room aside for a file of that many bytes, and makes it as long. When there is no room it is as it was.
func allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	failpoint.Reach("loop.allocate.after")
	switch {
	case err == nil:
		return f.Sync()
	case errors.Is(err, unix.ENOSPC):
		err = mobyfs.Errorf(mobyfs.CodeNoSpace, "set %s aside: %w", mobyfs.FormatSize(size), err).
			WithHint("make room on the file system that holds mobyfs' volumes, or ask for less")
	case errors.Is(err, unix.EOPNOTSUPP):
		err = mobyfs.Errorf(mobyfs.CodeInvalid, "the file system under %s can't set room aside", path).
			WithHint("let mobyfs' directory lie on ext4, xfs or btrfs, or use another backend")
	default:
		err = fmt.Errorf("set %s aside: %w", mobyfs.FormatSize(size), err)
	}
	return errors.Join(err, f.Truncate(before.Size()))
}

// reserve fills holes that an image has got, as far as there is room: without them a full disk can't reach it.
func reserve(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return // who opens it next says so
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		_ = unix.Fallocate(int(f.Fd()), 0, 0, info.Size())
	}
}

// kindOf tells which file system is in an image, by what it begins with.
func kindOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 2048)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("XFSB")):
		return "xfs", nil
	case head[1080] == 0x53 && head[1081] == 0xef:
		return "ext4", nil
	}
	return "", mobyfs.Errorf(mobyfs.CodeCorrupt, "%s holds no file system that mobyfs makes", path).
		WithHint("somebody changed it; put it back as it was, or move its directory away")
}

// run runs a program and tells what it said if it went wrong.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	said := strings.Join(strings.Fields(string(out)), " ")
	return fmt.Errorf("%s: %w: %.300s", name, err, said)
}
