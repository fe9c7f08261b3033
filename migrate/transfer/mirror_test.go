package transfer

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// bodyOf is the metadata of a kind with usual values.
func bodyOf(k kind, size int64) string {
	m := meta{kind: k, mode: 0o700, size: size, target: "/etc"}
	return string(m.appendBody(nil))
}

// inMirror plays frames into a new tree, which lies beside a file that must stay as it is, and tells how it ended.
func inMirror(t testing.TB, frames func(m *mirror) error) error {
	t.Helper()
	base := t.TempDir()
	must(t, os.WriteFile(filepath.Join(base, "outside"), []byte("mine"), 0o600))
	must(t, os.Mkdir(filepath.Join(base, "into"), 0o700))
	before := describe(t, filepath.Join(base, "outside"))
	root, err := dirfd.OpenRoot(filepath.Join(base, "into"))
	must(t, err)
	defer dirfd.Close(root)
	p := &pool{}
	m := newMirror(t.Context(), root, p)
	err = frames(m)
	if err == nil {
		if err = m.complete(); err == nil {
			err = m.prove(false)
		}
	}
	m.close()
	if d := diff(before, describe(t, filepath.Join(base, "outside"))); d != "" {
		t.Fatalf("what lies outside of the tree changed:\n%s", d)
	}
	entries, e := os.ReadDir(base)
	must(t, e)
	if len(entries) != 2 {
		t.Fatalf("outside of the tree lie %v", entries)
	}
	return err
}

// frameIn copies a payload into a buffer of the mirror's.
func frameIn(m *mirror, payload []byte) *buffer {
	b := m.pool.get()
	b.b = append(b.b, payload...)
	return b
}

func rootDressed() []byte {
	return appendStepDress(nil, &inode{kind: kindDir, body: bodyOf(kindDir, 0)})
}

func TestHostileSourceIsRefused(t *testing.T) {
	mkdir := func(dir uint64, name string) []byte {
		return appendStepMake(nil, dir, name, kindDir, bodyOf(kindDir, 0))
	}
	mkfile := appendStepMake(nil, 0, "f", kindFile, bodyOf(kindFile, 1))
	small := appendStepSmall(nil, &inode{id: 1, body: bodyOf(kindFile, 1), sum: sumSmallBlocks([]byte("x"))}, []byte("x"))
	link := appendStepMake(nil, 0, "l", kindSymlink, bodyOf(kindSymlink, 0))
	for what, steps := range map[string][][]byte{
		"a name that leads out":               {mkdir(0, "..")},
		"a name of two elements":              {mkdir(0, "a/b")},
		"a name that is empty":                {mkdir(0, "")},
		"an inode that is not there":          {mkdir(7, "a")},
		"a directory in a symbolic link":      {link, mkdir(1, "a")},
		"the content of a symbolic link":      {link, small},
		"metadata of another kind":            {link, appendStepDress(nil, &inode{id: 1, kind: kindDir, body: bodyOf(kindDir, 0)})},
		"a name twice":                        {mkdir(0, "a"), mkdir(0, "a")},
		"a directory with two names":          {mkdir(0, "a"), appendStepName(nil, 0, "b", 1)},
		"the root in a directory":             {mkdir(0, "a"), appendStepName(nil, 1, "b", 0)},
		"a content twice":                     {mkfile, small, small},
		"a name that is taken after one came": {mkdir(0, "a"), appendSpot(nil, stepRemove, 0, "a")},
		"a name that nothing has is taken":    {appendSpot(nil, stepUnname, 0, "a")},
		"another sum than the content's":      {mkfile, appendStepSmall(nil, &inode{id: 1, body: bodyOf(kindFile, 1)}, []byte("x"))},
		"another size than the content's":     {mkfile, appendStepSmall(nil, &inode{id: 1, body: bodyOf(kindFile, 2)}, []byte("x"))},
		"a file that stays open":              {mkfile, appendStepOpen(nil, 1, 10, true)},
		"steps in a file":                     {mkfile, appendStepOpen(nil, 1, 10, true), mkdir(0, "a")},
	} {
		err := inMirror(t, func(m *mirror) error {
			for _, s := range append([][]byte{rootDressed()}, steps...) {
				if err := m.steps(frameIn(m, s)); err != nil {
					return err
				}
			}
			return nil
		})
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("%s: got %v, want CodeCorrupt", what, err)
		}
	}
}

func TestHostilePiecesAreRefused(t *testing.T) {
	for what, p := range map[string][]byte{
		"beyond the end":        appendPieceHead(nil, 0, sum{}, []pieceSpan{{0, 11, true}}),
		"of a chunk far beyond": appendPieceHead(nil, 1<<40, sum{}, nil),
		"without its data":      appendPieceHead(nil, 0, sum{}, []pieceSpan{{0, 10, false}}),
		"backwards":             appendPieceHead(nil, 0, sum{}, []pieceSpan{{5, 2, true}, {4, 1, true}}),
		"of nothing":            appendPieceHead(nil, 0, sum{}, []pieceSpan{{5, 0, true}}),
		"with another sum":      append(appendPieceHead(nil, 0, sum{1}, []pieceSpan{{0, 1, false}}), 'x'),
	} {
		err := inMirror(t, func(m *mirror) error {
			steps := append(rootDressed(), appendStepMake(nil, 0, "f", kindFile, bodyOf(kindFile, 10))...)
			if err := m.steps(frameIn(m, appendStepOpen(steps, 1, 10, true))); err != nil {
				return err
			}
			if err := m.piece(frameIn(m, p)); err != nil {
				return err
			}
			return m.pieceEnd(pieceEnd{sumOfChunks([]chunkRecord{{0, sum{1}}}), bodyOf(kindFile, 10)}.encode())
		})
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("%s: got %v, want CodeCorrupt", what, err)
		}
	}
}

// FuzzMirror promises that no frames of a live session change anything outside of the tree.
func FuzzMirror(f *testing.F) {
	needRoot(f)
	w := &frameWriter{}
	frames := func(parts ...any) []byte {
		var b bytes.Buffer
		w.w, w.flush = &b, func() error { return nil }
		for i := 0; i < len(parts); i += 2 {
			must(f, w.send(parts[i].(frameType), parts[i+1].([]byte)))
		}
		return b.Bytes()
	}
	tree := append(rootDressed(), appendStepMake(nil, 0, "d", kindDir, bodyOf(kindDir, 0))...)
	tree = append(tree, appendStepMake(nil, 1, "f", kindFile, bodyOf(kindFile, 10))...)
	opened := appendStepOpen(tree[:len(tree):len(tree)], 2, 10, true)
	f.Add(frames(frameSteps, opened, framePiece, append(appendPieceHead(nil, 0, sumOfBlocks(sumBlocks([]byte("x"))), []pieceSpan{{0, 1, false}}), 'x'),
		framePieceEnd, pieceEnd{sum{}, bodyOf(kindFile, 10)}.encode()))
	f.Add(frames(frameSteps, tree, frameRoundEnd, roundEnd{}.encode(), frameSteps, appendStepName(appendSpot(nil, stepUnname, 1, "f"), 0, "g", 2)))
	f.Add(frames(frameSteps, appendStepMake(tree[:len(tree):len(tree)], 1, "l", kindSymlink, bodyOf(kindSymlink, 0))))
	f.Fuzz(func(t *testing.T, stream []byte) {
		_ = inMirror(t, func(m *mirror) error {
			r := bytes.NewReader(stream)
			for {
				buf := m.pool.get()
				typ, err := readFrame(r, buf)
				if err != nil {
					return nil
				}
				switch typ {
				case frameSteps:
					err = m.steps(buf)
				case framePiece:
					err = m.piece(buf)
				case framePieceEnd:
					err = m.pieceEnd(buf.b)
				case frameRoundEnd:
					if _, err = decodeRoundEnd(buf.b); err == nil {
						if err = m.complete(); err == nil {
							err = m.prove(false)
						}
					}
				}
				if err != nil {
					return err
				}
			}
		})
	})
}
