package transfer

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// BenchmarkAgainstTar moves the tree of the acceptance test (10,000 files of 4 KiB, one of 300 MB) by Pull, which
// encrypts, verifies and syncs, and by tar | nc | tar, which does none of it, in turns, and prints both medians and
// their ratio. Run it with -benchtime 5x for five turns.
func BenchmarkAgainstTar(b *testing.B) {
	src := b.TempDir()
	benchTree(b, src)
	f := newFleet(b, src).start(b)
	var pull, tar, tarSync []time.Duration
	for b.Loop() {
		pull = append(pull, timed(b, func(into string) {
			if _, err := f.client.Pull(b.Context(), f.from(), into, nil); err != nil {
				b.Fatal(err)
			}
		}))
		var sync time.Duration
		both := timed(b, func(into string) {
			tarPipe(b, src, into)
			begin := time.Now()
			syncTree(b, into)
			sync = time.Since(begin)
		})
		tar, tarSync = append(tar, both-sync), append(tarSync, both)
	}
	for _, l := range [][]time.Duration{pull, tar, tarSync} {
		slices.Sort(l)
	}
	p, t, ts := pull[len(pull)/2], tar[len(tar)/2], tarSync[len(tarSync)/2]
	b.ReportMetric(p.Seconds(), "pull-s")
	b.ReportMetric(t.Seconds(), "tar-s")
	b.ReportMetric(ts.Seconds(), "tar+sync-s")
	b.ReportMetric(t.Seconds()/p.Seconds(), "x-of-tar")
	b.ReportMetric(ts.Seconds()/p.Seconds(), "x-of-tar+sync")
}

func benchTree(b *testing.B, dir string) {
	data := random(4<<10, 1)
	for i := range 100 {
		sub := filepath.Join(dir, fmt.Sprintf("d%02d", i))
		must(b, os.Mkdir(sub, 0o755))
		for j := range 100 {
			must(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%03d", j)), data, 0o644))
		}
	}
	must(b, os.WriteFile(filepath.Join(dir, "big"), random(300_000_000, 2), 0o644))
	syncTree(b, dir)
}

func syncTree(b *testing.B, dir string) {
	fd, err := dirfd.OpenRoot(dir)
	must(b, err)
	must(b, unix.Syncfs(fd))
	must(b, unix.Close(fd))
}

// timed measures do with a new directory on a file system that has nothing else to write. The directory stays until
// the end, for ext4 creates files slowly for a minute after many were removed.
func timed(b *testing.B, do func(into string)) time.Duration {
	into, err := os.MkdirTemp(b.TempDir(), "into")
	must(b, err)
	syncTree(b, into)
	begin := time.Now()
	do(into)
	took := time.Since(begin)
	syncTree(b, into)
	return took
}

// tarPipe is tar c | nc → nc | tar x over loopback. The two nc are loops of this process with nc's 16 KiB buffer.
func tarPipe(b *testing.B, src, into string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer l.Close()
	c := exec.Command("tar", "-C", src, "-cf", "-", ".")
	out, err := c.StdoutPipe()
	must(b, err)
	x := exec.Command("tar", "-C", into, "-xpf", "-")
	in, err := x.StdinPipe()
	must(b, err)
	must(b, c.Start())
	must(b, x.Start())
	go func() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return
		}
		netcat(conn, out)
		_ = conn.Close()
	}()
	conn, err := l.Accept()
	must(b, err)
	netcat(in, conn)
	must(b, in.Close())
	must(b, x.Wait())
	must(b, c.Wait())
}

func netcat(to io.Writer, from io.Reader) {
	type plain struct{ io.Writer } // no splice: nc has none
	_, _ = io.CopyBuffer(plain{to}, struct{ io.Reader }{from}, make([]byte, 16<<10))
}
