package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// cluster is the record at clusterKey: whose store this is and how its records are to be read.
type cluster struct {
	Name   string `json:"name"`
	Schema int    `json:"schema"`
	Since  string `json:"since"` // RFC 3339
	// Epoch is that of all fences that are given out. Each restore from a backup raises it.
	Epoch uint32 `json:"epoch,omitempty"`
	// Base is added to the revisions of the engine; see shifted. It never changes in a store.
	Base int64 `json:"base,omitempty"`
	// Before is the epoch of the backup that this store began with. It never changes in a store.
	Before uint32 `json:"before,omitempty"`
	// History names the restore that this store began with, "" for none. It never changes in a store.
	History string `json:"history,omitempty"`
	// Restored is what a restore has brought and not yet been compared with what the nodes hold; nil if there is none.
	Restored *Restored `json:"restored,omitempty"`
}

// schema is the version of the records that this program writes. It opens no store with a higher one.
const schema = 1

// encode makes the record of v in place of old (nil if there is none). Members of old that this program does not know
// are kept, at any depth: a newer program wrote them and will want them back. What v holds by pointer or in a list is
// the same thing as before only if its id says so, or, where it has none, its name, node and fence; what takes the place
// of another thing inherits nothing from it.
func encode[T any](old []byte, v T) ([]byte, error) {
	raw, _, err := encodeOver(old, false, v)
	return raw, err
}

// encodeOver is encode. It reports whether the record is whole, as known says; wholeBefore says that old is.
func encodeOver[T any](old []byte, wholeBefore bool, v T) (raw []byte, whole bool, err error) {
	now, err := json.Marshal(v)
	if err != nil || old == nil || wholeBefore {
		return now, true, err
	}
	var before T
	if err := json.Unmarshal(old, &before); err != nil {
		return nil, false, fmt.Errorf("decode the record: %w", err)
	}
	understood, err := json.Marshal(before)
	if err != nil {
		return nil, false, err
	}
	if bytes.Equal(old, understood) {
		return now, true, nil // old holds nothing else, as nearly always
	}
	raw, err = merge(reflect.TypeFor[T](), old, understood, now)
	return raw, false, err
}

// merge carries over to now what old holds beyond understood. All three are JSON of type t.
func merge(t reflect.Type, old, understood, now json.RawMessage) (json.RawMessage, error) {
	if bytes.Equal(understood, now) {
		return old, nil
	}
	switch {
	case t.Kind() == reflect.Pointer && same(understood, now):
		return merge(t.Elem(), old, understood, now)
	case t.Kind() == reflect.Slice && bytes.HasPrefix(now, []byte("[")):
		return mergeList(t.Elem(), old, understood, now)
	case t.Kind() == reflect.Struct && bytes.HasPrefix(now, []byte("{")):
		known := map[string]reflect.Type{}
		for f := range fields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			known[name] = f.Type
		}
		return mergeMembers(func(name string) reflect.Type { return known[name] }, old, understood, now)
	case t.Kind() == reflect.Map && bytes.HasPrefix(now, []byte("{")):
		return mergeMembers(func(string) reflect.Type { return t.Elem() }, old, understood, now)
	}
	return now, nil
}

// mergeMembers merges objects. typeOf tells the type of a member, nil for one that this program does not know.
func mergeMembers(typeOf func(name string) reflect.Type, old, understood, now json.RawMessage) (json.RawMessage, error) {
	var o, u, n map[string]json.RawMessage
	if err := parse(&o, old, &u, understood, &n, now); err != nil {
		return nil, err
	}
	if n == nil {
		n = map[string]json.RawMessage{}
	}
	for name, was := range o {
		t := typeOf(name)
		if t == nil {
			n[name] = was
			continue
		}
		if u[name] == nil || n[name] == nil {
			continue
		}
		merged, err := merge(t, was, u[name], n[name])
		if err != nil {
			return nil, err
		}
		n[name] = merged
	}
	return json.Marshal(n)
}

// mergeList merges those elements of a list that were in it before.
func mergeList(t reflect.Type, old, understood, now json.RawMessage) (json.RawMessage, error) {
	var o, u, n []json.RawMessage
	if err := parse(&o, old, &u, understood, &n, now); err != nil {
		return nil, err
	}
	if len(o) != len(u) {
		return now, nil
	}
	for i := range n {
		at := slices.IndexFunc(u, func(was json.RawMessage) bool { return same(was, n[i]) })
		if at < 0 {
			continue
		}
		merged, err := merge(t, o[at], u[at], n[i])
		if err != nil {
			return nil, err
		}
		n[i] = merged
	}
	return json.Marshal(n)
}

// parse decodes each text into the value before it.
func parse[T any](o *T, old []byte, u *T, understood []byte, n *T, now []byte) error {
	return errors.Join(json.Unmarshal(old, o), json.Unmarshal(understood, u), json.Unmarshal(now, n))
}

// same reports whether two texts tell of one thing, perhaps at different times.
func same(a, b json.RawMessage) bool {
	var x, y struct {
		ID, Name, Node, Fence, Since json.RawMessage
	}
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return bytes.Equal(a, b)
	}
	if x.ID != nil || y.ID != nil {
		return bytes.Equal(x.ID, y.ID)
	}
	named := x.Name != nil || x.Node != nil
	return named && bytes.Equal(x.Name, y.Name) && bytes.Equal(x.Node, y.Node) && bytes.Equal(x.Fence, y.Fence) &&
		bytes.Equal(x.Since, y.Since)
}

// fields yields the fields of a struct type.
func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
