package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// receiveStream fills into from a stream that begins after the plan, as Pull does.
func receiveStream(ctx context.Context, stream []byte, pl plan, into string) (mobyfs.Receipt, error) {
	root, err := openEmpty(into)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	defer dirfd.Close(root)
	ctx, cancel := context.WithCancel(ctx)
	p := &pull{conn: bytes.NewReader(stream), w: deaf(), frames: make(chan incoming, 4)}
	done := make(chan struct{})
	go func() { defer close(done); p.read(ctx) }()
	defer func() { cancel(); <-done }()
	return p.receive(ctx, root, pl)
}

// streamOf is what a server sends of a tree, from the plan on.
func streamOf(t testing.TB, dir string) (plan, []byte) {
	t.Helper()
	root, err := dirfd.OpenRoot(dir)
	must(t, err)
	defer dirfd.Close(root)
	pl, err := survey(t.Context(), root, func() error { return nil })
	must(t, err)
	var out bytes.Buffer
	_, err = send(t.Context(), root, &frameWriter{w: &out, flush: func() error { return nil }})
	must(t, err)
	return pl, out.Bytes()
}

// memory mounts an empty file system for a test that makes many trees.
func memory(t testing.TB, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "tmpfs", 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func TestStreamCutAnywhereNeverSucceeds(t *testing.T) {
	src := smallTree(t)
	want := describe(t, src)
	pl, stream := streamOf(t, src)
	mem := memory(t, "size=64m")
	try := func(n int) (string, error) {
		into := filepath.Join(mem, fmt.Sprint(n))
		must(t, os.Mkdir(into, 0o700))
		_, err := receiveStream(t.Context(), stream[:n], pl, into)
		got := ""
		if err == nil {
			got = describe(t, into)
		}
		must(t, os.RemoveAll(into))
		return got, err
	}
	for n := 0; n < len(stream); n++ {
		if n > 700 && n < len(stream)-200 && n%37 != 0 { // content
			continue
		}
		if _, err := try(n); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
			t.Fatalf("cut after %d of %d bytes: got %v, want CodeUnavailable", n, len(stream), err)
		}
	}
	if got, err := try(len(stream)); err != nil || got != want {
		t.Errorf("the whole stream: %v\n%s", err, diff(want, got))
	}
}

func TestDamagedStreamNeverMakesAnotherTree(t *testing.T) {
	src := smallTree(t)
	want := describe(t, src)
	pl, stream := streamOf(t, src)
	mem := memory(t, "size=64m")
	same := 0
	for n := 0; n < len(stream); n++ {
		if n > 700 && n < len(stream)-200 && n%61 != 0 {
			continue
		}
		for _, bit := range []byte{1, 0x80} {
			damaged := bytes.Clone(stream)
			damaged[n] ^= bit
			into := filepath.Join(mem, fmt.Sprint(n, "-", bit))
			must(t, os.Mkdir(into, 0o700))
			if _, err := receiveStream(t.Context(), damaged, pl, into); err == nil {
				same++
				if d := diff(want, describe(t, into)); d != "" {
					t.Errorf("byte %d, bit %d: accepted as\n%s", n, bit, d)
				}
			}
			must(t, os.RemoveAll(into))
		}
	}
	if same > 4 { // the flag that more names will follow, set where none do
		t.Errorf("%d damaged streams were accepted", same)
	}
}

// script builds streams that a real server would not send.
type script struct{ bytes.Buffer }

func (s *script) frame(t frameType, payload ...byte) *script {
	_ = (&frameWriter{w: s, flush: func() error { return nil }}).write(t, payload, nil)
	return s
}

// batch adds a batch of entries, each made by entry, small or raw bytes.
func (s *script) batch(entries ...[]byte) *script {
	return s.frame(frameBatch, bytes.Join(entries, nil)...)
}

func (s *script) trailer() *script { return s.frame(frameTrailer, appendString(nil, "mfs1-x")...) }

func entry(o op, m meta) []byte {
	if m.mode == 0 {
		m.mode = 0o755
	}
	return appendOp(nil, o, m.appendTo(nil))
}

func small(name, content string) []byte {
	m := meta{kind: kindFile, name: name, size: int64(len(content))}
	s := sumSmall([]byte(content))
	return append(append(entry(opSmall, m), content...), s[:]...)
}

func dir(name string) []byte { return entry(opEntry, meta{kind: kindDir, name: name}) }

func symlink(name, target string) []byte {
	return entry(opEntry, meta{kind: kindSymlink, name: name, target: target})
}

func big(name string, size int64) []byte {
	return entry(opBig, meta{kind: kindFile, name: name, size: size})
}

var leave = []byte{byte(opLeave)}

func chunkFrame(index int64, data []byte, segs ...segment) []byte {
	return append(appendChunkHead(nil, index, sumChunk(data), segs), data...)
}

func TestHostileSenderIsRefused(t *testing.T) {
	root := dir("")
	mb := random(chunkSize, 1)
	long := strings.Repeat("n", 256)
	for what, s := range map[string]*script{
		"no root":                     new(script).batch(small("f", "x")),
		"root is a file":              new(script).batch(small("", "x")),
		"root is a link":              new(script).batch(symlink("", "/etc")),
		"root with a name":            new(script).batch(dir("x")),
		"two roots":                   new(script).batch(root, root),
		"second root after the first": new(script).batch(root, leave, root),
		"entry after the root":        new(script).batch(root, leave, small("f", "x")),
		"name ..":                     new(script).batch(root, small("..", "x")),
		"directory ..":                new(script).batch(root, dir("..")),
		"name .":                      new(script).batch(root, dir(".")),
		"name with slash":             new(script).batch(root, small("a/b", "x")),
		"name up and out":             new(script).batch(root, small("../../escaped", "x")),
		"absolute name":               new(script).batch(root, small("/tmp/escaped", "x")),
		"name with NUL":               new(script).batch(root, small("a\x00b", "x")),
		"empty name":                  new(script).batch(root, small("", "x")),
		"name too long":               new(script).batch(root, small(long, "x")),
		"leave more than entered":     new(script).batch(root, leave, leave),
		"leave at once":               new(script).batch(leave),
		"same name twice":             new(script).batch(root, small("f", "x"), small("f", "y")),
		"names out of order":          new(script).batch(root, small("g", "x"), small("f", "y")),
		"file through a link":         new(script).batch(root, symlink("l", "/tmp"), dir("l"), small("escaped", "x")),
		"file over a link":            new(script).batch(root, symlink("l", "/tmp/escaped"), small("l", "x")),
		"big file over a link":        new(script).batch(root, symlink("l", "/tmp/escaped"), big("l", 1)),
		"link target empty":           new(script).batch(root, symlink("l", "")),
		"link target with NUL":        new(script).batch(root, symlink("l", "a\x00b")),
		"link target too long":        new(script).batch(root, symlink("l", strings.Repeat("l", 5000))),
		"hard link to nothing":        new(script).batch(root, small("f", "x"), entry(opEntry, meta{kind: kindLink, name: "g", link: 7})),
		"hard link to the root":       new(script).batch(root, entry(opEntry, meta{kind: kindLink, name: "g", link: 0})),
		"hard link to one-name file":  new(script).batch(root, small("f", "x"), entry(opEntry, meta{kind: kindLink, name: "g", link: 1})),
		"hard link ahead":             new(script).batch(root, entry(opEntry, meta{kind: kindLink, name: "g", link: math.MaxInt64})),
		"hard link past the numbers":  new(script).batch(root, entry(opEntry, meta{kind: kindLink, name: "g", link: math.MaxUint64})),
		"directory with more names":   new(script).batch(root, entry(opEntry|opLinks, meta{kind: kindDir, name: "d"})),
		"unknown kind":                new(script).batch(root, entry(opEntry, meta{kind: 'x', name: "x"})),
		"unknown operation":           new(script).batch(root, entry('x', meta{kind: kindDir, name: "d"})),
		"file without content":        new(script).batch(root, entry(opEntry, meta{kind: kindFile, name: "f"})),
		"directory with content":      new(script).batch(root, entry(opSmall, meta{kind: kindDir, name: "d"})),
		"mode out of range":           new(script).batch(root, entry(opEntry, meta{kind: kindDir, name: "d", mode: 0o10000})),
		"owner that means none":       new(script).batch(root, entry(opEntry, meta{kind: kindDir, name: "d", uid: math.MaxUint32})),
		"nanoseconds out of range":    new(script).batch(root, entry(opEntry, meta{kind: kindDir, name: "d", nsec: 1e9})),
		"attribute of the host":       new(script).batch(root, entry(opEntry, meta{kind: kindDir, name: "d", attrs: []attr{{"security.selinux", []byte("x")}}})),
		"attribute twice":             new(script).batch(root, entry(opEntry, meta{kind: kindDir, name: "d", attrs: []attr{{"user.a", nil}, {"user.a", nil}}})),
		"attribute with NUL":          new(script).batch(root, entry(opEntry, meta{kind: kindDir, name: "d", attrs: []attr{{"user.a\x00b", nil}}})),
		"attribute too large":         new(script).batch(root, entry(opEntry, meta{kind: kindDir, name: "d", attrs: []attr{{"user.a", mb[:70_000]}}})),
		"entry cut":                   new(script).batch(root, dir("d")[:5]),
		"entry longer than the batch": new(script).batch(root, []byte{byte(opEntry), 0xff, 0xff, 0x03}),
		"content cut":                 new(script).batch(root, small("f", "content")[:20]),
		"content is another":          new(script).batch(root, bytes.Replace(small("f", "content"), []byte("content"), []byte("CONTENT"), 1)),
		"small file that is big":      new(script).batch(root, entry(opSmall, meta{kind: kindFile, name: "f", size: smallFile + 1})),
		"size beyond what was said":   new(script).batch(root, big("f", 1<<30)),
		"size that is negative":       new(script).batch(root, entry(opBig, meta{kind: kindFile, name: "f", size: -1})),
		"more entries than were said": new(script).batch(root, dir("a"), leave, dir("b"), leave, dir("c"), leave, dir("d"), leave, dir("e"), leave, dir("f"), leave),
		"entries after a big file":    new(script).batch(root, big("f", 1), small("g", "x")),
		"batch inside a file":         new(script).batch(root, big("f", 2*chunkSize)).batch(small("g", "x")),
		"chunk of no file":            new(script).batch(root).frame(frameChunk, chunkFrame(0, mb, segment{0, chunkSize})...),
		"chunk past the end":          new(script).batch(root, big("f", 9)).frame(frameChunk, chunkFrame(0, mb, segment{0, chunkSize})...),
		"chunk far past the end":      new(script).batch(root, big("f", 9)).frame(frameChunk, chunkFrame(math.MaxInt64/chunkSize, mb[:1], segment{0, 1})...),
		"chunk index overflows":       new(script).batch(root, big("f", 9)).frame(frameChunk, chunkFrame(math.MaxInt64, mb[:1], segment{0, 1})...),
		"chunk twice":                 new(script).batch(root, big("f", chunkSize)).frame(frameChunk, chunkFrame(0, mb, segment{0, chunkSize})...).frame(frameChunk, chunkFrame(0, mb, segment{0, chunkSize})...),
		"chunk empty":                 new(script).batch(root, big("f", chunkSize)).frame(frameChunk, chunkFrame(0, nil)...),
		"segments overlap":            new(script).batch(root, big("f", chunkSize)).frame(frameChunk, chunkFrame(0, mb[:20], segment{0, 10}, segment{5, 10})...),
		"segment past the chunk":      new(script).batch(root, big("f", 9*chunkSize)).frame(frameChunk, chunkFrame(0, mb[:20], segment{chunkSize - 10, 20})...),
		"segment without data":        new(script).batch(root, big("f", chunkSize)).frame(frameChunk, chunkFrame(0, mb[:5], segment{0, 10})...),
		"data without segment":        new(script).batch(root, big("f", chunkSize)).frame(frameChunk, chunkFrame(0, mb[:15], segment{0, 10})...),
		"chunk is another":            new(script).batch(root, big("f", 4)).frame(frameChunk, append(appendChunkHead(nil, 0, sum{1}, []segment{{0, 4}}), "data"...)...),
		"file is another":             new(script).batch(root, big("f", 4)).frame(frameChunk, chunkFrame(0, []byte("data"), segment{0, 4})...).frame(frameFileEnd, make([]byte, 16)...),
		"end of no file":              new(script).batch(root).frame(frameFileEnd, make([]byte, 16)...),
		"trailer inside a file":       new(script).batch(root, big("f", chunkSize)).trailer(),
		"trailer inside a directory":  new(script).batch(root, dir("d")).trailer(),
		"trailer too early":           new(script).batch(root, leave).trailer(),
		"trailer at once":             new(script).trailer(),
		"second plan":                 new(script).batch(root).frame(framePlan, plan{entries: 9, sizes: 9}.encode()...),
		"hello":                       new(script).batch(root).frame(frameHello),
		"unknown frame":               new(script).batch(root).frame(99),
		"frame without end":           &script{*bytes.NewBuffer([]byte{byte(frameBatch), 0xff, 0xff, 0xff, 0xff, 1})},
		"alive with a payload":        new(script).frame(frameAlive, 1),
		"text instead of frames":      &script{*bytes.NewBufferString("HTTP/1.1 400 Bad Request\r\n\r\n")},
	} {
		outside := t.TempDir()
		into := filepath.Join(outside, "into")
		must(t, os.Mkdir(into, 0o700))
		pl := plan{entries: 6, sizes: 16 * chunkSize}
		_, err := receiveStream(t.Context(), s.Bytes(), pl, into)
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("%s: got %v, want CodeCorrupt", what, err)
		}
		if entries, e := os.ReadDir(outside); e != nil || len(entries) != 1 {
			t.Errorf("%s: outside there is %v, %v", what, entries, e)
		}
		if _, e := os.Lstat("/tmp/escaped"); e == nil {
			t.Fatalf("%s: /tmp/escaped exists", what)
		}
	}
}

func TestTreeReadBackThatIsAnotherIsRefused(t *testing.T) {
	for what, tc := range map[string]struct {
		stream *script
		plan   plan
		says   string
	}{
		"digest":   {new(script).batch(dir(""), small("f", "x"), leave).trailer(), plan{entries: 2, sizes: 1}, "the digest is"},
		"metadata": {new(script).batch(dir(""), symlink("l", "x"), leave).trailer(), plan{entries: 2}, `"l" has other metadata`}, // a link's mode is 0777
	} {
		_, err := receiveStream(t.Context(), tc.stream.Bytes(), tc.plan, t.TempDir())
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want CodeCorrupt and %q", what, err, tc.says)
		}
	}
}

func TestStreamOfTooDeepTreeIsRefused(t *testing.T) {
	var dirs [][]byte
	for range maxDepth + 2 {
		dirs = append(dirs, dir("d"))
	}
	s := new(script).batch(dir("")).batch(dirs...)
	mem := memory(t, "size=64m")
	_, err := receiveStream(t.Context(), s.Bytes(), plan{entries: 1 << 20}, mem)
	if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
		t.Errorf("got %v, want CodeCorrupt", err)
	}
}

func TestFullDiskInTheMiddleIsNoSpace(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), random(4<<20, 1), 0o600))
	pl, stream := streamOf(t, src)
	pl.space = 0 // the plan was wrong
	_, err := receiveStream(t.Context(), stream, pl, memory(t, "size=1m"))
	if mobyfs.CodeOf(err) != mobyfs.CodeNoSpace || mobyfs.HintOf(err) == "" {
		t.Errorf("got %v, want CodeNoSpace and a hint", err)
	}
}

func TestNothingStaysOpenAfterAFailure(t *testing.T) {
	src := t.TempDir()
	buildZoo(t, src)
	pl, stream := streamOf(t, src)
	mem := memory(t, "size=64m")
	before := openFiles(t)
	for i, n := range []int{0, 100, 5000, len(stream) / 2, len(stream) - 1000, len(stream)} {
		into := filepath.Join(mem, fmt.Sprint(i))
		must(t, os.Mkdir(into, 0o700))
		_, err := receiveStream(t.Context(), stream[:n], pl, into)
		if (err == nil) != (n == len(stream)) {
			t.Errorf("cut at %d: %v", n, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("stopped by the test"))
		if _, _, err := Digest(ctx, src, ""); err == nil {
			t.Error("a digest was made without a context")
		}
		if after := openFiles(t); after > before {
			t.Errorf("cut at %d: %d handles are open, %d were before", n, after, before)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func FuzzStream(f *testing.F) {
	src := f.TempDir()
	must(f, os.WriteFile(filepath.Join(src, "f"), []byte("content"), 0o644))
	must(f, os.Link(filepath.Join(src, "f"), filepath.Join(src, "g")))
	must(f, os.Symlink("f", filepath.Join(src, "h")))
	_, stream := streamOf(f, src)
	f.Add(stream)
	f.Add(new(script).batch(dir(""), small("f", "x"), leave).trailer().Bytes())
	f.Add(new(script).batch(dir(""), big("f", 4)).frame(frameChunk, chunkFrame(0, []byte("data"), segment{0, 4})...).Bytes())
	f.Add(new(script).frame(frameError, encodeError(mobyfs.Errorf(mobyfs.CodeDenied, "no").WithHint("h"))...).Bytes())
	f.Add(new(script).frame(framePlan, plan{1, 2, 3, 4}.encode()...).frame(frameHello, hello{1, "t"}.encode()...).Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		buf := &buffer{}
		for {
			typ, err := readFrame(r, buf)
			if err != nil {
				return
			}
			if len(buf.b) > limitOf(typ) || cap(buf.b) > maxFrame+64<<10 {
				t.Fatalf("a frame of type %d has %d bytes", typ, len(buf.b))
			}
			fuzzPayload(t, typ, buf.b)
		}
	})
}

// fuzzPayload decodes a payload and checks what must hold of everything that decodes.
func fuzzPayload(t *testing.T, typ frameType, b []byte) {
	switch typ {
	case frameHello:
		_, _ = decodeHello(b)
	case framePlan:
		if p, err := decodePlan(b); err == nil && min(p.entries, p.bytes, p.space, p.sizes) < 0 {
			t.Fatalf("plan %+v", p)
		}
	case frameError:
		if err := decodeError(b); mobyfs.CodeOf(err) == "" {
			t.Fatal("an error without a code")
		}
	case frameChunk:
		c, err := decodeChunk(b)
		if err != nil || len(c.segs) == 0 {
			return
		}
		n := 0
		for _, g := range c.segs {
			n += g.len
		}
		if n != len(c.data) || c.end() < 0 || c.index < 0 {
			t.Fatalf("chunk %d with %v and %d bytes", c.index, c.segs, len(c.data))
		}
	case frameBatch:
		for d := (&decoder{b: b}); len(d.b) > 0; {
			s, err := nextStep(d)
			if err != nil {
				return
			}
			fuzzStep(t, &s)
		}
	}
}

func fuzzStep(t *testing.T, s *step) {
	m := &s.meta
	if s.op == opLeave {
		return
	}
	if m.name != "" && checkName(m.name) != nil || m.name == "" && m.kind != kindDir {
		t.Fatalf("name %q was accepted", m.name)
	}
	if m.size < 0 || s.op == opSmall && int64(len(s.content)) != m.size {
		t.Fatalf("size %d was accepted with %d bytes", m.size, len(s.content))
	}
	again, err := decodeMeta(m.appendTo(nil))
	if err != nil || again.name != m.name || again.size != m.size || len(again.attrs) != len(m.attrs) {
		t.Fatalf("%+v became %+v, %v", *m, again, err)
	}
}
