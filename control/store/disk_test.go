package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

// smallDiskVariable names the root of a store, in a process that TestFullDiskEndsTheProcessAndNothingElse starts.
const smallDiskVariable = "MOBYFS_TEST_SMALL_DISK"

// onASmallDisk is that process: it rewrites some volumes again and again, and says which of them was acknowledged. With
// the file named greedy beside its store it takes as much room as it can.
func onASmallDisk(root string) error {
	s, err := Open(context.Background(), Config{
		Root: root, Cluster: "shop", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Quota: 128 << 20, tempo: brisk,
	})
	if err != nil {
		return err
	}
	fmt.Println("open")
	fence := mobyfs.Fence(0)
	s.View(func(v View) {
		for known := range v.Volumes {
			fence = max(fence, known.Fence)
		}
	})
	for {
		fence++
		size := 64
		if _, err := os.Stat(filepath.Join(root, "greedy")); err != nil {
			size = 1
			time.Sleep(time.Millisecond)
		}
		v := large(int(fence%20), size)
		v.Fence = fence
		if err := s.Update(context.Background(), func(tx *Tx) error { return tx.PutVolume(&v) }); err != nil {
			fmt.Println("refused", err)
			time.Sleep(time.Millisecond)
			continue
		}
		fmt.Println("written", uint64(fence))
	}
}

// disker is a store in another process, on a small disk.
type disker struct {
	cmd     *exec.Cmd
	errs    bytes.Buffer
	open    chan struct{}
	written atomic.Uint64
	refused atomic.Int64
	ended   chan struct{}
}

func startOn(t *testing.T, root string) *disker {
	t.Helper()
	d := &disker{open: make(chan struct{}), ended: make(chan struct{})}
	d.cmd = exec.Command(os.Args[0], "-test.run=^TestFullDiskEndsTheProcessAndNothingElse$")
	d.cmd.Env = append(os.Environ(), smallDiskVariable+"="+root)
	d.cmd.Stderr = &d.errs
	out, err := d.cmd.StdoutPipe()
	if err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var n uint64
			switch line := lines.Text(); {
			case line == "open":
				close(d.open)
			case strings.HasPrefix(line, "refused"):
				d.refused.Add(1)
			default:
				if _, err := fmt.Sscanf(line, "written %d", &n); err == nil {
					d.written.Store(n)
				}
			}
		}
		_ = d.cmd.Wait() // its exit code is looked at by who cares
	}()
	t.Cleanup(func() { _ = d.cmd.Process.Kill(); <-d.ended })
	return d
}

// endedWell complains if the process did not say why it ended.
func (d *disker) endedWell(t *testing.T) {
	t.Helper()
	if code := d.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(d.errs.String(), "control ends: the disk of the store is full") {
		t.Errorf("it ended with %d, and said: %s", code, tailOf(d.errs.String()))
	}
}

// TestFullDiskEndsTheProcessAndNothingElse: a real filesystem, filled by somebody else under a store that is written to.
func TestFullDiskEndsTheProcessAndNothingElse(t *testing.T) {
	if root := os.Getenv(smallDiskVariable); root != "" {
		if err := onASmallDisk(root); err != nil {
			fmt.Fprintln(os.Stderr, err, mobyfs.HintOf(err))
			os.Exit(1)
		}
	}
	t.Parallel()
	disk := shortDir(t)
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	root := filepath.Join(disk, "r")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	b := ballast{filepath.Join(root, "etcd")}
	first := startOn(t, root)
	eventually(t, "it writes, and keeps room back", func() bool { return first.written.Load() > 20 && b.size() == ballastSize })

	waste := filepath.Join(disk, "waste")
	d, err := b.disk()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(waste, make([]byte, d.Free-diskFloor/2), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ballast is given up", func() bool { return b.size() == 0 })
	wrote := first.written.Load()
	eventually(t, "it goes on, or starts again on what was kept back", func() bool {
		if over(first.ended) { // etcd was faster in needing room than the ballast in giving it
			first.endedWell(t)
			first = startOn(t, root)
		}
		return first.written.Load() > wrote+20
	})

	if err := os.WriteFile(filepath.Join(root, "greedy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fillUp(t, waste) // the ballast's room too
	eventually(t, "it ends", func() bool { fillUp(t, waste); return over(first.ended) })
	first.endedWell(t)
	fillUp(t, waste)
	again := startOn(t, root)
	eventually(t, "it does not start", func() bool { return over(again.ended) })
	if said := again.errs.String(); !strings.Contains(said, "the disk of the store is full") || !strings.Contains(said, "make room there") {
		t.Errorf("on a full disk it said: %s", tailOf(said))
	}

	acknowledged := first.written.Load()
	if err := errors.Join(os.Remove(waste), os.Remove(filepath.Join(root, "greedy"))); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	third := startOn(t, root)
	eventually(t, "it is open", func() bool { return over(third.open) })
	took := time.Since(begun)
	eventually(t, "it writes", func() bool { return third.written.Load() > 0 })
	if n := third.written.Load(); n <= acknowledged {
		t.Errorf("write %d was acknowledged, and it goes on with %d", acknowledged, n)
	}
	eventually(t, "it keeps room back again", func() bool { return b.size() == ballastSize })
	t.Logf("%d writes before the disk was full, %d refused; open %v after there was room", acknowledged, first.refused.Load(), took.Round(time.Millisecond))
}

func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// fillUp writes to the end of a file until the disk is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, block := range [][]byte{make([]byte, 1<<20), make([]byte, 4<<10)} {
		for {
			if _, err := io.Copy(f, bytes.NewReader(block)); err != nil {
				break
			}
		}
	}
}

func tailOf(text string) string { return text[max(0, len(text)-2000):] }
