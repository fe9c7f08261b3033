package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// trail is five segments of four events each.
func trail(t testing.TB) (texts [][]byte, head Segment) {
	t.Helper()
	for i := range 5 {
		var entries []Entry
		for j := range 4 {
			rev := int64(i*10 + j + 1)
			entries = append(entries, Entry{rev, fmt.Appendf(nil, `{"text":"lease given","who":"spiffe://shop/node/h%d","z":%d}`, j, i)})
		}
		var text []byte
		var err error
		if head, text, err = Seal(head, entries, int64(i*10+10), time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return texts, head
}

func verify(texts [][]byte, head Segment) error {
	var c Chain
	for _, text := range texts {
		if err := c.Add(text); err != nil {
			return err
		}
	}
	return c.End(head)
}

func TestWholeTrailVerifiesAlsoFromTheMiddleOn(t *testing.T) {
	texts, head := trail(t)
	if err := verify(texts, head); err != nil {
		t.Error(err)
	}
	if err := verify(texts[2:], head); err != nil {
		t.Errorf("a control that came later: %v", err)
	}
}

// TestAttackAuditTrail: whatever is done to the files of the trail is found, with what is wrong.
func TestAttackAuditTrail(t *testing.T) {
	texts, head := trail(t)
	swap := func(text []byte, i, j int) []byte {
		lines := bytes.SplitAfter(text, []byte("\n"))
		lines[i], lines[j] = lines[j], lines[i]
		return bytes.Join(lines, nil)
	}
	drop := func(text []byte, i int) []byte {
		return bytes.Join(slices.Delete(bytes.SplitAfter(text, []byte("\n")), i, i+1), nil)
	}
	replace := func(old, by string) func([]byte) []byte {
		return func(text []byte) []byte { return []byte(strings.Replace(string(text), old, by, 1)) }
	}
	with := func(i int, change func([]byte) []byte) [][]byte {
		c := slices.Clone(texts)
		c[i] = change(bytes.Clone(c[i]))
		return c
	}
	for name, tc := range map[string]struct {
		texts [][]byte
		want  string
	}{
		"a name is changed":           {with(2, replace("node/h1", "node/h2")), "segment 3 is not the one that segment 4 was sealed behind"},
		"a name in the last":          {with(4, replace("node/h1", "node/h2")), "segment 5 is not the one that was sealed"},
		"a revision is changed":       {with(1, replace(`"revision":12`, `"revision":11`)), "segment 2 is not the one"},
		"a space is added":            {with(1, replace(`{"revision"`, `{ "revision"`)), "segment 2 is not the one"},
		"an event is dropped":         {with(2, func(b []byte) []byte { return drop(b, 2) }), "segment 3 has 3 events, it had 4"},
		"an event and the count":      {with(2, func(b []byte) []byte { return replace(`"count":4`, `"count":3`)(drop(b, 2)) }), "segment 3 is not the one"},
		"an event is added":           {with(2, func(b []byte) []byte { return append(b, `{"revision":30,"event":{}}`+"\n"...) }), "segment 3 has 5 events"},
		"events are reordered":        {with(2, func(b []byte) []byte { return swap(b, 1, 2) }), "does not belong behind"},
		"the last line is cut":        {with(4, func(b []byte) []byte { return b[:len(b)-10] }), "ends in the middle of a line"},
		"the last line is gone":       {with(4, func(b []byte) []byte { return drop(b, 4) }), "segment 5 has 3 events"},
		"the last segment is gone":    {texts[:4], "the segments behind 4 are missing"},
		"a segment is gone":           {slices.Delete(slices.Clone(texts), 2, 3), "behind segment 2 comes segment 4"},
		"segments are reordered":      {[][]byte{texts[0], texts[2], texts[1], texts[3], texts[4]}, "behind segment 1 comes segment 3"},
		"a segment comes twice":       {[][]byte{texts[0], texts[1], texts[1], texts[2], texts[3], texts[4]}, "behind segment 2 comes segment 2"},
		"the header is gone":          {with(0, func(b []byte) []byte { return drop(b, 0) }), "does not say what it is"},
		"the file is empty":           {with(3, func([]byte) []byte { return nil }), "does not say what it is"},
		"all is gone":                 {nil, "the segments behind 0 are missing"},
		"sealed anew from the second": {resealed(t, texts), "segment 5 is not the one that was sealed"},
		"a gap between two segments":  {gapped(t), "the events between revisions 10 and 15 are missing"},
	} {
		err := verify(tc.texts, head)
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

// resealed is the trail with one event changed, by somebody who knows how digests are made.
func resealed(t *testing.T, texts [][]byte) (all [][]byte) {
	var prev Segment
	for i, text := range texts {
		s, entries, err := Read(text)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			entries[0].Event = []byte(`{"text":"nothing"}`)
		}
		prev, text, err = Seal(prev, entries, s.To, s.At)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}

func gapped(t *testing.T) [][]byte {
	first, a, err := Seal(Segment{}, nil, 10, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	first.To = 14
	_, b, err := Seal(first, nil, 20, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{a, b}
}

// FuzzRead: what is read as a segment is written as it was read, or differs in its digest.
func FuzzRead(f *testing.F) {
	texts, _ := trail(f)
	for _, text := range texts {
		f.Add(text)
	}
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"segment":1,"prev":"","from":1,"to":1,"count":1,"at":"0001-01-01T00:00:00Z"}` + "\n" + `{"revision":1,"event":null}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, entries, err := Read(text)
		if err != nil {
			if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		again, err := Text(s, entries)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(again, text) != (digest(again) == s.Digest) {
			t.Fatalf("%q is read as %q", text, again)
		}
	})
}
