package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// cluster is the record at clusterKey: whose store this is and how its records are to be read.
type cluster struct {
	Name   string `json:"name"`
	Schema int    `json:"schema"`
	Since  string `json:"since"` // RFC 3339
}

// schema is the version of the records that this program writes. It opens no store with a higher one.
const schema = 1

// encode makes the record of v in place of old (nil if there is none). Members of old that this program does not
// know are kept, those of structs that lie in v by value too: a newer program wrote them and will want them
// back. What v holds by pointer is replaced as a whole unless it is the same as before.
func encode[T any](old []byte, v T) ([]byte, error) {
	now, err := json.Marshal(v)
	if err != nil || old == nil {
		return now, err
	}
	var before T
	if err := json.Unmarshal(old, &before); err != nil {
		return nil, fmt.Errorf("decode the record: %w", err)
	}
	understood, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	return merge(reflect.TypeFor[T](), old, understood, now)
}

// merge carries over to now what old holds beyond understood. All three are JSON objects of type t.
func merge(t reflect.Type, old, understood, now []byte) ([]byte, error) {
	var o, u, n map[string]json.RawMessage
	for _, x := range []struct {
		raw  []byte
		into *map[string]json.RawMessage
	}{{old, &o}, {understood, &u}, {now, &n}} {
		if err := json.Unmarshal(x.raw, x.into); err != nil {
			return nil, err
		}
	}
	known := map[string]bool{}
	for f := range fields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		known[name] = true
		if _, was := o[name]; !was || n[name] == nil {
			continue
		}
		switch {
		case bytes.Equal(u[name], n[name]):
			n[name] = o[name]
		case f.Type.Kind() == reflect.Struct && bytes.HasPrefix(n[name], []byte("{")):
			merged, err := merge(f.Type, o[name], u[name], n[name])
			if err != nil {
				return nil, err
			}
			n[name] = merged
		}
	}
	for name, value := range o {
		if !known[name] {
			n[name] = value
		}
	}
	return json.Marshal(n)
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
