package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/audit"
)

// trailOf is a control that has segments.
type trailOf struct {
	head  audit.Segment
	texts [][]byte
}

func (c *trailOf) seal(t *testing.T, events int) {
	t.Helper()
	var entries []audit.Entry
	for i := range events {
		entries = append(entries, audit.Entry{Revision: c.head.To + int64(i) + 1, Event: fmt.Appendf(nil, `{"text":"lease %d given"}`, i)})
	}
	head, text, err := audit.Seal(c.head, entries, c.head.To+int64(events), time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	c.head, c.texts = head, append(c.texts, text)
}

func (c *trailOf) AuditTrail(context.Context) (api.AuditTrail, error) {
	trail := api.AuditTrail{Head: c.head}
	for i := range c.texts {
		trail.Segments = append(trail.Segments, int64(i)+1)
	}
	return trail, nil
}

func (c *trailOf) AuditSegment(_ context.Context, n int64) ([]byte, error) { return c.texts[n-1], nil }

func TestExportGoesOnAndFindsWhatWasChangedSince(t *testing.T) {
	dir, c := t.TempDir(), &trailOf{}
	export := func() error { _, err := exportTrail(t.Context(), c, dir); return err }
	c.seal(t, 3)
	c.seal(t, 2)
	if err := export(); err != nil {
		t.Fatal(err)
	}
	c.seal(t, 4)
	if err := export(); err != nil {
		t.Fatal(err)
	}
	chain, err := verifyFolder(dir)
	if err != nil || chain.Events != 9 || chain.Last.N != 3 {
		t.Errorf("the export has %d events up to %d, %v", chain.Events, chain.Last.N, err)
	}
	mine := &trailOf{} // an intruder seals another trail, whole in itself
	mine.seal(t, 3)
	mine.seal(t, 3)
	mine.seal(t, 3)
	mine.texts[0], mine.head = c.texts[0], c.head
	real := *c
	*c = *mine
	if err := export(); mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
		t.Errorf("another trail is exported over the first: %v", err)
	}
	*c = real
	second := filepath.Join(dir, "000000000002.jsonl")
	text, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"changed": func() error {
			return os.WriteFile(second, []byte(strings.Replace(string(text), "lease 1", "lease 7", 1)), 0o600)
		},
		"truncated": func() error { return os.Truncate(second, int64(len(text)-5)) },
		"removed":   func() error { return os.Remove(second) },
		"swapped":   func() error { return os.WriteFile(second, c.texts[2], 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := verifyFolder(dir); mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.WriteFile(second, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, last := range []string{"000000000003.jsonl", headFile} {
		if err := os.Remove(filepath.Join(dir, last)); err != nil {
			t.Fatal(err)
		}
		if _, err := verifyFolder(dir); mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("without %s: %v", last, err)
		}
	}
}
