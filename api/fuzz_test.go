package api

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// FuzzCheckJSON: a body that is agreed to means one thing, to any reader.
func FuzzCheckJSON(f *testing.F) {
	for _, text := range []string{`{"name":"pgdata","spec":{"labels":{"a":"b"}}}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `[]`, `{} {}`, "\xff", `"\ud800"`,
		strings.Repeat("[", 20) + strings.Repeat("]", 20), `{"a":[{"b":1},{"b":2}]}`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := checkJSON(body); err != nil {
			if p := refusalOf(err); p.Code != mobyfs.CodeInvalid || p.Next == "" || len(p.Detail) > 300 {
				t.Fatalf("%q is refused with %+v", body, p)
			}
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("%q is agreed to: %v", body, err)
		}
		if object, is := v.(map[string]any); is {
			if commas := bytes.Count(body, []byte(":")); commas < len(object) {
				t.Fatalf("%q has fewer names than it is read with", body)
			}
		}
	})
}

// FuzzSince: where a stream begins is a revision, or the request is refused in one line.
func FuzzSince(f *testing.F) {
	for _, q := range [][2]string{{"", ""}, {"since=5", ""}, {"since=5", "7"}, {"since=-1", ""}, {"since=1&since=2", ""}, {"x=1", ""}, {"", "9223372036854775807"}, {"%zz", ""}} {
		f.Add(q[0], q[1])
	}
	f.Fuzz(func(t *testing.T, query, last string) {
		since, err := sinceOf(query, last)
		if err != nil && (mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" || strings.ContainsAny(err.Error(), "\n\r\x00")) {
			t.Fatalf("refused with %q", err)
		}
		if err == nil && since < 0 {
			t.Fatalf("%q, %q begin at %d", query, last, since)
		}
	})
}

// FuzzEventStream: what a client reads from a stream is an event, a completion or an error.
func FuzzEventStream(f *testing.F) {
	f.Add(frames([]mobyfs.Event{{ID: "a", Revision: 1, Text: "x\ny"}, {ID: "b", Revision: 1}}, 7, true))
	f.Add([]byte("event: change\ndata: {\n\n"))
	f.Add([]byte(":\n\ndata\nevent\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		frame := sseFrame{each: func(mobyfs.Event) error { return nil }, complete: func(Complete) error { return nil }}
		for line := range bytes.SplitSeq(text, []byte("\n")) {
			if frame.line(line) != nil {
				return
			}
		}
	})
}

// FuzzNextCursor: a Link header that a client reads names a cursor or is refused.
func FuzzNextCursor(f *testing.F) {
	f.Add(nextLink(VolumeQuery{Labels: []string{"a=b"}}, "cursor"))
	f.Add(`<x>; rel="next"`)
	f.Fuzz(func(t *testing.T, link string) {
		cursor, err := nextCursor(link)
		if (cursor == "") != (err != nil || link == "") {
			t.Fatalf("%q is read as %q, %v", link, cursor, err)
		}
	})
}
