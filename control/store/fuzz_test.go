package store

import (
	"testing"
)

// FuzzRecord: whatever lies at a key of any kind is read or refused, and a record that can be read survives its rewriting.
func FuzzRecord(f *testing.F) {
	for i := range tables {
		f.Add(uint8(i), "h1", []byte(`{"id":"h1","name":"h1","node":"h1","fence":1,"new":{"x":1}}`))
		f.Add(uint8(i), "x", []byte(`{}`))
		f.Add(uint8(i), "x", []byte(`[`))
		f.Add(uint8(i), "x", []byte(`null`))
	}
	f.Fuzz(func(t *testing.T, table uint8, id string, raw []byte) {
		_, _ = tables[int(table)%len(tables)].decodeAny(id, raw, 1) // must not panic
		v, err := Volumes.decode(id, raw, 1)
		if err != nil {
			return
		}
		v.Revision = 0
		again, err := encode(raw, v)
		if err != nil {
			t.Fatalf("%q can be read and not written: %v", raw, err)
		}
		if _, err := Volumes.decode(id, again, 1); err != nil {
			t.Fatalf("%q was rewritten as %q: %v", raw, again, err)
		}
	})
}
