package store

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// thing is a record with everything that a record can hold.
type thing struct {
	Part  part            `json:"part"`
	Ptr   *part           `json:"ptr,omitempty"`
	Lease *hold           `json:"lease,omitempty"`
	Named map[string]part `json:"named,omitempty"`
	List  []part          `json:"list,omitempty"`
	Words []string        `json:"words,omitempty"`
}

type part struct {
	ID    string `json:"id,omitempty"`
	Count int    `json:"count"`
	Inner *part  `json:"inner,omitempty"`
}

type hold struct {
	Node  string   `json:"node"`
	Fence int      `json:"fence"`
	Users []string `json:"users,omitempty"`
}

func TestUnknownMembersAreKeptAtAnyDepth(t *testing.T) {
	for name, test := range map[string]struct {
		old    string
		change func(v *thing)
		want   string
	}{
		"beside what changes": {`{"part":{"count":1},"new":[1]}`, func(v *thing) { v.Part.Count = 2 }, `{"part":{"count":2},"new":[1]}`},
		"by value":            {`{"part":{"count":1,"new":1}}`, func(v *thing) { v.Part.Count = 2 }, `{"part":{"count":2,"new":1}}`},
		"by pointer, the same thing": {`{"part":{"count":0},"ptr":{"id":"a","count":1,"new":1}}`,
			func(v *thing) { v.Ptr = &part{ID: "a", Count: 2} }, `{"part":{"count":0},"ptr":{"id":"a","count":2,"new":1}}`},
		"by pointer, another thing": {`{"part":{"count":0},"ptr":{"id":"a","count":1,"new":1}}`,
			func(v *thing) { v.Ptr = &part{ID: "b", Count: 1} }, `{"part":{"count":0},"ptr":{"id":"b","count":1}}`},
		"by pointer, gone": {`{"part":{"count":0},"ptr":{"id":"a","count":1,"new":1}}`, func(v *thing) { v.Ptr = nil }, `{"part":{"count":0}}`},
		"the same lease, other users": {`{"part":{"count":0},"lease":{"node":"h1","fence":7,"users":["x"],"new":1}}`,
			func(v *thing) { v.Lease.Users = []string{"x", "y"} }, `{"part":{"count":0},"lease":{"node":"h1","fence":7,"users":["x","y"],"new":1}}`},
		"the next lease": {`{"part":{"count":0},"lease":{"node":"h1","fence":7,"new":1}}`,
			func(v *thing) { v.Lease = &hold{Node: "h1", Fence: 8} }, `{"part":{"count":0},"lease":{"node":"h1","fence":8}}`},
		"in a map": {`{"part":{"count":0},"named":{"a":{"count":1,"new":1},"b":{"count":1,"new":2}}}`,
			func(v *thing) { v.Named = map[string]part{"a": {Count: 2}, "c": {Count: 3}} },
			`{"part":{"count":0},"named":{"a":{"count":2,"new":1},"c":{"count":3}}}`},
		"in a list, in another order": {`{"part":{"count":0},"list":[{"id":"a","count":1,"new":1},{"id":"b","count":1,"new":2}]}`,
			func(v *thing) { v.List = []part{{ID: "c"}, {ID: "b", Count: 5}, {ID: "a", Count: 1}} },
			`{"part":{"count":0},"list":[{"id":"c","count":0},{"id":"b","count":5,"new":2},{"id":"a","count":1,"new":1}]}`},
		"far inside": {`{"part":{"count":1,"inner":{"id":"a","count":1,"inner":{"id":"b","count":1,"new":1}}}}`,
			func(v *thing) { v.Part.Inner.Inner.Count = 2 },
			`{"part":{"count":1,"inner":{"id":"a","count":1,"inner":{"id":"b","count":2,"new":1}}}}`},
		"words": {`{"part":{"count":0},"words":["a","b"],"new":1}`, func(v *thing) { v.Words = []string{"b"} }, `{"part":{"count":0},"words":["b"],"new":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			var v thing
			if err := json.Unmarshal([]byte(test.old), &v); err != nil {
				t.Fatal(err)
			}
			test.change(&v)
			raw, err := encode([]byte(test.old), v)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := parse(&got, raw, &want, []byte(test.want), new(any), raw); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// FuzzEncode: whatever an unknown program wrote, what it added survives that this one writes the record back unchanged.
func FuzzEncode(f *testing.F) {
	f.Add([]byte(`{"part":{"count":1,"new":{}},"list":[{"id":"a"}],"new":null}`))
	f.Add([]byte(`{"lease":{"node":"h1"},"named":{"":{}}}`))
	f.Fuzz(func(t *testing.T, old []byte) {
		var v thing
		if json.Unmarshal(old, &v) != nil {
			return
		}
		raw, err := encode(old, v)
		if err != nil {
			return
		}
		var got, want any
		if err := parse(&got, raw, &want, old, new(any), raw); err != nil || !cmp.Equal(got, want) {
			t.Fatalf("%s became %s, %v", old, raw, err)
		}
		v.Part.Count++
		if _, err := encode(old, v); err != nil {
			t.Fatalf("change %s: %v", old, err)
		}
	})
}
