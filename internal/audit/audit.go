// Package audit keeps the trail of who did what as segments of text, each of which carries the digest of the one before:
// whoever changes, drops or moves a line changes every digest from there on, and the last one is known elsewhere.
//
// A segment is lines of JSON: first what it is, then the events in the order of their revisions, as the store had them.
// It is made of bytes that never change, so whoever makes it makes the same.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Segment is what is known of a segment.
type Segment struct {
	N      int64     `json:"segment"` // 1 is the first
	Prev   string    `json:"prev"`    // digest of the one before; empty for the first
	From   int64     `json:"from"`    // it has the events of these revisions
	To     int64     `json:"to"`
	Count  int       `json:"count"`            // of events
	At     time.Time `json:"at"`               // when it was sealed
	Digest string    `json:"digest,omitempty"` // of its text, in which it does not stand
}

// Entry is an event as it lies in the store.
type Entry struct {
	Revision int64           `json:"revision"`
	Event    json.RawMessage `json:"event"`
}

// Seal makes the segment that follows prev, with all events up to revision to.
func Seal(prev Segment, entries []Entry, to int64, now time.Time) (Segment, []byte, error) {
	s := Segment{N: prev.N + 1, Prev: prev.Digest, From: prev.To + 1, To: to, Count: len(entries), At: now.UTC()}
	text, err := Text(s, entries)
	s.Digest = digest(text)
	return s, text, err
}

// Text is the text of a segment.
func Text(s Segment, entries []Entry) ([]byte, error) {
	s.Digest = ""
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	if err := enc.Encode(s); err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := enc.Encode(e); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Read reads a segment, and refuses one that is not whole in itself.
func Read(text []byte) (Segment, []Entry, error) {
	first, rest, ok := bytes.Cut(text, []byte("\n"))
	var s Segment
	if err := json.Unmarshal(first, &s); err != nil || !ok || s.N < 1 || s.Digest != "" {
		return Segment{}, nil, broken("a segment does not say what it is")
	}
	entries := []Entry{}
	last := s.From - 1
	for len(rest) > 0 {
		var line []byte
		if line, rest, ok = bytes.Cut(rest, []byte("\n")); !ok {
			return Segment{}, nil, broken("segment %d ends in the middle of a line", s.N)
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil || len(e.Event) == 0 {
			return Segment{}, nil, broken("segment %d has a line that is no event", s.N)
		}
		if e.Revision < last || e.Revision < s.From || e.Revision > s.To {
			return Segment{}, nil, broken("segment %d has an event of revision %d that does not belong behind %d", s.N, e.Revision, last)
		}
		last = e.Revision
		entries = append(entries, e)
	}
	if len(entries) != s.Count {
		return Segment{}, nil, broken("segment %d has %d events, it had %d", s.N, len(entries), s.Count)
	}
	s.Digest = digest(text)
	return s, entries, nil
}

// Chain checks segments one after the other. The zero value is ready, and begins with any segment.
type Chain struct {
	Last   Segment
	Events int
}

// Add takes the next segment.
func (c *Chain) Add(text []byte) error {
	s, entries, err := Read(text)
	switch last := c.Last; {
	case err != nil:
		return err
	case last.N == 0 && s.N == 1 && s.Prev != "":
		return broken("the first segment says that there was one before")
	case last.N == 0:
	case s.N != last.N+1:
		return broken("behind segment %d comes segment %d", last.N, s.N)
	case s.Prev != last.Digest:
		return broken("segment %d is not the one that segment %d was sealed behind", last.N, s.N)
	case s.From != last.To+1:
		return broken("the events between revisions %d and %d are missing", last.To, s.From)
	}
	c.Last, c.Events = s, c.Events+len(entries)
	return nil
}

// End checks that the chain ends with the segment that is known to be the last.
func (c *Chain) End(head Segment) error {
	switch {
	case c.Last.N < head.N:
		return broken("the segments behind %d are missing, the last is %d", c.Last.N, head.N)
	case c.Last.N > head.N || c.Last.Digest != head.Digest:
		return broken("segment %d is not the one that was sealed: its digest is %.16s…, it was %.16s…", c.Last.N, c.Last.Digest, head.Digest)
	}
	return nil
}

func broken(format string, args ...any) error {
	return mobyfs.Errorf(mobyfs.CodeCorrupt, "the audit trail is broken: "+format, args...).
		WithHint("compare it with what another control, or an export made before, has")
}
