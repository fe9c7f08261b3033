package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

const control = "/dev/loop-control"

// device is a loop device that an image is under. It stays at least until Close.
type device struct {
	number int
	file   *os.File
}

func (d *device) path() string { return devicePath(d.number) }

func devicePath(number int) string { return "/dev/loop" + strconv.Itoa(number) }

// Close lets go of the device. If nothing of it is mounted it is free then.
func (d *device) Close() { _ = d.file.Close() }

// deviceOf finds the loop device that an image is under, or nil. It goes by the image's inode: names may have changed.
func deviceOf(image string) (*device, error) {
	var want unix.Stat_t
	if err := unix.Stat(image, &want); err != nil {
		return nil, fmt.Errorf("look at %s: %w", image, err)
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, path := range backing {
		name, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(filepath.Base(strings.TrimSpace(string(name))), imageName) {
			continue // it was let go meanwhile, or is of somebody else
		}
		number, err := strconv.Atoi(strings.TrimPrefix(strings.Split(path, "/")[3], "loop"))
		if err != nil {
			continue
		}
		d, err := openDevice(number)
		if err != nil {
			return nil, err
		}
		info, err := unix.IoctlLoopGetStatus64(int(d.file.Fd()))
		if err == nil && info.Device == want.Dev && info.Inode == want.Ino {
			return d, nil
		}
		d.Close()
	}
	return nil, nil
}

// openDevice opens a loop device. Where nobody makes its node (a container without udev), it is made.
func openDevice(number int) (*device, error) {
	path := devicePath(number)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		err = unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(number))))
		if err == nil || errors.Is(err, os.ErrExist) {
			f, err = os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open a loop device: %w", err)
	}
	return &device{number, f}, nil
}

// attach puts an image under a free loop device, which goes with its last user.
func attach(image string) (*device, error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ctl, err := os.OpenFile(control, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for a loop device: %w", err)
	}
	defer ctl.Close()
	for range 64 { // others may take the one that was free
		number, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("ask for a loop device: %w", err)
		}
		d, err := openDevice(number)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:len(config.Info.File_name)-1], image)
		err = unix.IoctlLoopConfigure(int(d.file.Fd()), &config)
		failpoint.Reach("loop.configure.after")
		if err == nil {
			d.keepReserved()
			return d, nil
		}
		d.Close()
		if err != unix.EBUSY {
			return nil, fmt.Errorf("put %s under a loop device: %w", image, err)
		}
	}
	return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "put %s under a loop device: others take them all", image).WithHint("try again")
}

// keepReserved sees to it that nothing that is done in the volume gives room back to the host, and that what is written
// is not kept in memory twice. Where the kernel can't, it goes without.
func (d *device) keepReserved() {
	queue := "/sys/block/loop" + strconv.Itoa(d.number) + "/queue/"
	_ = os.WriteFile(queue+"discard_max_bytes", []byte("0"), 0o200)
	_ = unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_SET_DIRECT_IO, 1)
}

// refresh tells the device that its image has grown.
func (d *device) refresh() error {
	if err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("tell %s its new size: %w", d.path(), err)
	}
	return nil
}

// isMountedAt reports whether what is at a place is the root of the file system on the device.
func (d *device) isMountedAt(at string) (bool, error) {
	var dev, has unix.Stat_t
	if err := unix.Fstat(int(d.file.Fd()), &dev); err != nil {
		return false, fmt.Errorf("look at %s: %w", d.path(), err)
	}
	if err := unix.Stat(at, &has); err != nil {
		return false, fmt.Errorf("look at %s: %w", at, err)
	}
	return has.Dev == dev.Rdev, nil
}

// mount shows the file system on the device.
func (d *device) mount(kind, at string) error {
	data := ""
	if kind == "xfs" {
		data = "nouuid" // a copy of an image may be mounted beside it
	}
	failpoint.Reach("loop.mount.before")
	err := unix.Mount(d.path(), at, kind, unix.MS_NODEV, data)
	failpoint.Reach("loop.mount.after")
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "mount the volume's file system at %s: %w", at, err).
			WithHint("the kernel's log says why: dmesg | tail; e2fsck or xfs_repair may repair the image beside it")
	}
	return nil
}
