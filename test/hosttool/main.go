// Command hosttool is what the tests run on a host: it makes trees and sums them up, to compare a volume before
// and after a move, and speaks to Docker's socket in ways that docker does not offer.
//
//	hosttool make DIR FILES BYTES    a tree with every kind of file, FILES small ones and one of BYTES
//	hosttool sum DIR                 a line for each file (all that lstat, listxattr and its content tell), sorted
//	hosttool post SOCKET PATH JSON   POSTs to an HTTP server on a unix socket and prints the answer
//	hosttool uses FILE VOLUME        how many mounts of a volume the agent's file counts
//	hosttool load SOCKET METHOD PATH JSON RATE SECONDS
//	                                 calls RATE times a second, as Docker's client would, and prints what came of it
//	hosttool tls ADDRESS CA CERT KEY the serial number of a server's certificate; "-" for no certificate of one's own
//	hosttool wire SOCKET N           sends the requests that stdin lists, N at once, byte for byte; prints the answers
//	hosttool pace SOCKET VOLUME N    N calls of one client that keeps its connections, with pauses of any length
//	hosttool record SOCKET TO LOG    hands all calls at SOCKET on to the socket TO and writes them down in LOG
//	hosttool calls SOCKET N CALL…    makes N rounds of calls to a volume driver and prints how long each took
//	hosttool fill SOCKET NAME A B    creates the volumes NAME-A up to before NAME-B
//	hosttool write DIR ADDRESS NAME PAUSE
//	                                 appends records to a file and tells a ledger of each that is on the disk
//
// It shares no code with the product, so that a mistake there can't hide here.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/test/ledger"
)

// command is one of hosttool's: how many arguments it takes, or with more how many at least, and what it does.
type command struct {
	args int
	more bool
	run  func(args []string) error
}

var commands = map[string]command{
	"make": {args: 3, run: func(a []string) error {
		files, err1 := strconv.Atoi(a[1])
		size, err2 := strconv.ParseInt(a[2], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return makeTree(a[0], files, size)
	}},
	"sum": {args: 1, run: func(a []string) error {
		lines, err := sumTree(a[0])
		for _, l := range lines {
			fmt.Println(l)
		}
		return err
	}},
	"post": {args: 3, run: func(a []string) error { return post(a[0], a[1], a[2]) }},
	"uses": {args: 2, run: func(a []string) error {
		n, err := uses(a[0], a[1])
		if err == nil {
			fmt.Println(n)
		}
		return err
	}},
	"load": {args: 6, run: func(a []string) error { return load(a[0], a[1], a[2], a[3], a[4], a[5]) }},
	"tls":  {args: 4, run: func(a []string) error { return handshake(a[0], a[1], a[2], a[3]) }},
	"wire": {args: 2, run: func(a []string) error {
		atOnce, err := strconv.Atoi(a[1])
		if err != nil {
			return err
		}
		return wire(a[0], atOnce, os.Stdin, os.Stdout)
	}},
	"pace": {args: 3, run: func(a []string) error {
		calls, err := strconv.Atoi(a[2])
		if err != nil {
			return err
		}
		return pace(a[0], a[1], calls)
	}},
	"record": {args: 3, run: func(a []string) error { return record(a[0], a[1], a[2]) }},
	"calls": {args: 3, more: true, run: func(a []string) error {
		rounds, err := strconv.Atoi(a[1])
		if err != nil {
			return err
		}
		return timeCalls(a[0], rounds, a[2:])
	}},
	"fill": {args: 4, run: func(a []string) error {
		from, err1 := strconv.Atoi(a[2])
		to, err2 := strconv.Atoi(a[3])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return createMany(a[0], a[1], from, to)
	}},
	"write": {args: 4, run: func(a []string) error {
		pause, err := time.ParseDuration(a[3])
		if err != nil {
			return err
		}
		return ledger.Write(a[0], a[1], a[2], pause)
	}},
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("hosttool knows the commands that its source begins with")
	}
	c, known := commands[os.Args[1]]
	args := os.Args[2:]
	if !known || len(args) < c.args || len(args) > c.args && !c.more {
		log.Fatalf("hosttool %s: see the commands that its source begins with", strings.Join(os.Args[1:], " "))
	}
	if err := c.run(args); err != nil {
		log.Fatal(err)
	}
}

func post(socket, path, body string) error {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Post("http://socket"+path, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func makeTree(dir string, files int, size int64) error {
	rng := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 4096)
	for i := range files {
		sub := filepath.Join(dir, "small", fmt.Sprintf("%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		_, _ = rng.Read(buf)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%05d", i)), buf[:1+i%len(buf)], fs.FileMode(0o600+i%64)); err != nil {
			return err
		}
	}
	if err := makeBig(filepath.Join(dir, "big"), size, rng); err != nil {
		return err
	}
	return makeKinds(filepath.Join(dir, "kinds"))
}

func makeBig(path string, size int64, rng *rand.ChaCha8) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(buf)) {
		_, _ = rng.Read(buf)
		if _, err := f.Write(buf[:min(left, int64(len(buf)))]); err != nil {
			return err
		}
	}
	return f.Sync()
}

// makeKinds makes one of every kind of file and attribute that a volume may hold.
func makeKinds(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "empty"), 0o700); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	old := unix.NsecToTimespec(time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC).UnixNano())
	times := []unix.Timespec{old, old}
	acl := []byte{2, 0, 0, 0, // POSIX ACL v2: user::rw-, user:1234:rw-, group::r--, mask::rw-, other::---
		1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
		2, 0, 6, 0, 0xd2, 4, 0, 0,
		4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
		16, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
		32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service+ep
	steps := []func() error{
		func() error { return os.WriteFile(at("plain"), []byte("plain"), 0o640) },
		func() error { return os.Lchown(at("plain"), 1000, 1001) },
		func() error { return os.Link(at("plain"), at("hardlink")) },
		func() error { return os.Symlink("plain", at("symlink")) },
		func() error { return os.Lchown(at("symlink"), 1002, 1003) },
		func() error { return os.Symlink("/nowhere/at/all", at("dangling")) },
		func() error { return os.WriteFile(at("zero"), nil, 0o000) },
		func() error { return os.WriteFile(at("setuid"), []byte("x"), 0o755) },
		func() error { return unix.Chmod(at("setuid"), 0o6755) },
		func() error { return unix.Setxattr(at("setuid"), "security.capability", capability, 0) },
		func() error { return os.WriteFile(at("xattr"), []byte("x"), 0o644) },
		func() error { return unix.Setxattr(at("xattr"), "user.colour", []byte("blue\x00green"), 0) },
		func() error { return unix.Setxattr(at("xattr"), "trusted.secret", []byte("t"), 0) },
		func() error { return os.WriteFile(at("acl"), []byte("x"), 0o660) },
		func() error { return unix.Setxattr(at("acl"), "system.posix_acl_access", acl, 0) },
		func() error { return unix.Mkfifo(at("fifo"), 0o622) },
		func() error { return unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		func() error { return unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0) },
		func() error { return makeSparse(at("sparse")) },
		func() error { return os.WriteFile(at("not-utf8-\xff\xfe"), []byte("n"), 0o644) },
		func() error { return os.WriteFile(at("new\nline"), []byte("n"), 0o644) },
		func() error { return unix.Chmod(at("empty"), 0o1777) },
		func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, at("plain"), times, 0) },
		func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, at("symlink"), times, unix.AT_SYMLINK_NOFOLLOW) },
		func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, at("empty"), times, 0) },
		func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, dir, times, 0) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// makeSparse makes a file of 64 MiB with 4 KiB of content in the middle.
func makeSparse(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte("s"), 4096), 32<<20); err != nil {
		return err
	}
	return f.Truncate(64 << 20)
}

func sumTree(dir string) ([]string, error) {
	var lines []string
	inodes := map[uint64]string{} // first name of each file with several, in the order of the walk
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line, err := sumFile(path, rel, inodes)
		lines = append(lines, line)
		return err
	})
	sort.Strings(lines)
	return lines, err
}

func sumFile(path, rel string, inodes map[uint64]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%q mode=%o uid=%d gid=%d mtime=%d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		first, seen := inodes[st.Ino]
		if !seen {
			first = rel
			inodes[st.Ino] = rel
		}
		line += fmt.Sprintf(" links=%d of=%q", st.Nlink, first)
	}
	attrs, err := xattrs(path)
	if err != nil {
		return "", err
	}
	line += attrs
	switch kind {
	case unix.S_IFREG:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(data)
		line += fmt.Sprintf(" size=%d sha256=%s", st.Size, hex.EncodeToString(sum[:]))
		if sparse := st.Blocks*512 < st.Size/2; sparse {
			line += " sparse"
		}
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" to=%q", to)
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" dev=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return line, nil
}

func xattrs(path string) (string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var out []string
	for _, name := range bytes.Split(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return "", err
		}
		out = append(out, fmt.Sprintf(" %s=%x", name, value[:m]))
	}
	sort.Strings(out)
	line := ""
	for _, s := range out {
		line += s
	}
	return line, nil
}

// uses reads the agent's file of counts.
func uses(file, volume string) (n int, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var entries map[string]struct {
		Uses map[string]int `json:"uses"`
	}
	if err := json.Unmarshal(data, &entries); err != nil {
		return 0, err
	}
	for _, count := range entries[volume].Uses {
		n += count
	}
	return n, nil
}
