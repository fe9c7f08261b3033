//go:build bench

package movebench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The writer is a small database: 200 commits a second, each a record in a log that is synced, and then eight pages of
// 8 KiB anywhere in one big file. What a page holds follows from its number and the commit that wrote it last, and which
// pages a commit writes from the commit's number, so that the whole file can be checked from the log alone.
const (
	pageSize       = 8 << 10
	pagesPerCommit = 8
	commitPause    = 5 * time.Millisecond
)

// acks is where the writer says, outside of the volume, what it has acknowledged and when: "commit nanoseconds".
const acks = "/acks"

func fillPage(buf []byte, page int64, commit uint64) {
	binary.LittleEndian.PutUint64(buf, uint64(page))
	binary.LittleEndian.PutUint64(buf[8:], commit)
	rng := rand.NewPCG(uint64(page), commit)
	for at := 16; at < len(buf); at += 8 {
		binary.LittleEndian.PutUint64(buf[at:], rng.Uint64())
	}
}

func pagesOf(commit uint64, pages int64) (list [pagesPerCommit]int64) {
	rng := rand.New(rand.NewPCG(commit, 7))
	for i := range list {
		list[i] = rng.Int64N(pages)
	}
	return list
}

// makeDatabase makes the file of so many bytes, before any commit.
func makeDatabase(t *testing.T, dir string, size int64) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	f, err := os.Create(filepath.Join(dir, "data"))
	must(t, err)
	w := bufio.NewWriterSize(f, 1<<20)
	buf := make([]byte, pageSize)
	for page := range size / pageSize {
		fillPage(buf, page, 0)
		_, err := w.Write(buf)
		must(t, err)
	}
	must(t, w.Flush())
	must(t, f.Close())
	must(t, syncfs(dir))
}

// write is the writer: it takes up where the log ends, and goes on until it is killed.
func write(dir string) error {
	data, err := os.OpenFile(filepath.Join(dir, "data"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := data.Stat()
	if err != nil {
		return err
	}
	pages := st.Size() / pageSize
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	commit, end, err := lastCommit(log)
	if err != nil {
		return err
	}
	if _, err := log.Seek(end, io.SeekStart); err != nil {
		return err
	}
	told, err := os.OpenFile(acks, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	buf := make([]byte, pageSize)
	apply := func(commit uint64) error {
		for _, page := range pagesOf(commit, pages) {
			fillPage(buf, page, commit)
			if _, err := data.WriteAt(buf, page*pageSize); err != nil {
				return err
			}
		}
		return nil
	}
	if commit > 0 { // its pages may not have been written
		if err := apply(commit); err != nil {
			return err
		}
	}
	for next := time.Now(); ; next = next.Add(commitPause) {
		time.Sleep(time.Until(next))
		commit++
		if _, err := log.Write(logRecord(commit)); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(log.Fd())); err != nil {
			return err
		}
		if err := apply(commit); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(told, "%d %d\n", commit, now()); err != nil {
			return err
		}
	}
}

func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}

const recordSize = 12

func logRecord(commit uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, commit)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// lastCommit reads the log: its last whole record, and where it ends.
func lastCommit(log *os.File) (commit uint64, end int64, err error) {
	r := bufio.NewReaderSize(log, 1<<20)
	var b [recordSize]byte
	for {
		_, err := io.ReadFull(r, b[:])
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return commit, end, nil
		}
		if err != nil {
			return 0, 0, err
		}
		next := binary.LittleEndian.Uint64(b[:])
		if crc32.ChecksumIEEE(b[:8]) != binary.LittleEndian.Uint32(b[8:]) || next != commit+1 {
			return commit, end, nil
		}
		commit, end = next, end+recordSize
	}
}

// checkDatabase checks each page of the file against the log, and returns the log's last commit.
func checkDatabase(t *testing.T, dir string) uint64 {
	t.Helper()
	log, err := os.Open(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()
	last, _, err := lastCommit(log)
	must(t, err)
	data, err := os.Open(filepath.Join(dir, "data"))
	must(t, err)
	defer data.Close()
	st, err := data.Stat()
	must(t, err)
	pages := st.Size() / pageSize
	of := make([]uint64, pages)
	for commit := uint64(1); commit <= last; commit++ {
		for _, page := range pagesOf(commit, pages) {
			of[page] = commit
		}
	}
	final := pagesOf(last, pages) // may not have been written: the log says what they are to be
	r := bufio.NewReaderSize(data, 1<<20)
	have, want := make([]byte, pageSize), make([]byte, pageSize)
	wrong := 0
	for page := range pages {
		_, err := io.ReadFull(r, have)
		must(t, err)
		fillPage(want, page, of[page])
		if string(have) != string(want) && !slices.Contains(final[:], page) {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%s: %d of %d pages are not what the log says", dir, wrong, pages)
	}
	return last
}

// database is the writer in a container.
type database struct {
	name string
	acks string // file on this machine
}

// contain makes, but does not start, a container of the writer with a directory as its volume.
func contain(t *testing.T, l *lab, name, dir string) *database {
	t.Helper()
	d := &database{name: fmt.Sprintf("movebench-%d-%s", os.Getpid(), name), acks: filepath.Join(l.dir, "acks-"+name)}
	must(t, os.WriteFile(d.acks, nil, 0o644))
	self, err := os.Executable()
	must(t, err)
	d.remove()
	must(t, command("docker", "create", "--name", d.name, "--network", "host", "--read-only",
		"-v", self+":/writer:ro", "-v", dir+":/data", "-v", d.acks+":"+acks,
		"-e", roleVariable+"=write", "-e", orderVariable+`={"Dir":"/data"}`, image, "/writer"))
	t.Cleanup(d.remove)
	return d
}

func (d *database) remove() { _ = exec.Command("docker", "rm", "-f", d.name).Run() }

// do has dockerd do something with the container.
func (d *database) do(t *testing.T, what func(ctx context.Context, id string) error) {
	t.Helper()
	must(t, what(t.Context(), d.name))
}

// kill returns once the writer has ended.
func (d *database) kill(t *testing.T) {
	t.Helper()
	_, err := dockerd.Kill(t.Context(), d.name)
	must(t, err)
}

// ack is an acknowledged commit.
type ack struct {
	commit uint64
	at     time.Duration
}

// acked lists what the writer has acknowledged.
func (d *database) acked(t *testing.T) (list []ack) {
	t.Helper()
	text, err := os.ReadFile(d.acks)
	must(t, err)
	for line := range strings.Lines(string(text)) {
		commit, at, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		c, err1 := strconv.ParseUint(commit, 10, 64)
		n, err2 := strconv.ParseInt(at, 10, 64)
		if ok && err1 == nil && err2 == nil {
			list = append(list, ack{c, time.Duration(n)})
		}
	}
	return list
}

// wait waits until the writer has acknowledged so many commits since it was asked.
func (d *database) wait(t *testing.T, commits int) {
	t.Helper()
	before := len(d.acked(t))
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
		if len(d.acked(t)) >= before+commits {
			return
		}
	}
	out, _ := exec.Command("docker", "logs", d.name).CombinedOutput()
	t.Fatalf("the writer in %s acknowledges nothing: %s", d.name, out)
}
