package control

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// FuzzPatch: whatever a patch says, the record is as it was, or one that could have been made so, and keeps whose it is.
func FuzzPatch(f *testing.F) {
	for _, text := range []string{`{}`, `{"labels":{"a":"b","c":null}}`, `{"size_bytes":0}`, `{"size_bytes":99}`, `{"size_bytes":9223372036854775807}`, `{"takeover":"auto"}`, `{"takeover":""}`,
		`{"labels":null}`, `{"takeover":"manual","size_bytes":7,"labels":{"e\u0301":"x"}}`} {
		for shape := range uint8(8) {
			f.Add([]byte(text), shape)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, shape uint8) {
		var patch api.VolumePatch
		if json.Unmarshal(text, &patch) != nil {
			return
		}
		v := mobyfs.Volume{ID: "v1", Name: "pgdata", State: mobyfs.VolumeReady, Node: "h1", Fence: 7,
			Spec: mobyfs.VolumeSpec{Backend: mobyfs.DefaultBackend, SizeBytes: 50, Labels: map[string]string{"c": "d"}}}
		if shape&1 != 0 {
			v.Spec.Backend, v.Spec.Takeover = mobyfs.SharedBackend, mobyfs.TakeoverManual
		}
		if shape&2 != 0 {
			v.Lease = &mobyfs.Lease{Node: "h1", Fence: 7}
		}
		if shape&4 != 0 {
			v.Migration = &mobyfs.Migration{ID: "m", From: "h1", To: "h2"}
		}
		before := v
		const used, room = 20, 100
		refused := mobyfs.Errorf(mobyfs.CodeNoSpace, "no room").WithHint("make some")
		did, err := patchVolume(&v, patch, limits{used: used, inUse: func(string) error { return refused }, takes: func(_ string, bytes int64) error {
			if bytes > room {
				return refused
			}
			return nil
		}})
		if (err != nil || did == "") && !reflect.DeepEqual(v, before) {
			t.Fatalf("%s: %q, %v, and it became %+v", text, did, err, v)
		}
		if err != nil && (mobyfs.CodeOf(err) == mobyfs.CodeInternal || mobyfs.HintOf(err) == "") {
			t.Fatalf("%s is refused with %v", text, err)
		}
		if err == nil && checkSpec(v.Name, v.Spec) != nil {
			t.Fatalf("%s makes a spec that can't be made: %+v", text, v.Spec)
		}
		if size := v.Spec.SizeBytes; !mobyfs.SharesBytes(v.Spec.Backend) && size > before.Spec.SizeBytes+room || size < before.Spec.SizeBytes && size != 0 && size < used {
			t.Fatalf("%s: the size became %d", text, size)
		}
		if v.Lease != nil && (takeoverOf(v) == mobyfs.TakeoverAuto) != (takeoverOf(before) == mobyfs.TakeoverAuto) {
			t.Fatalf("%s: in use it became %s", text, takeoverOf(v))
		}
		v.Spec = before.Spec
		if !reflect.DeepEqual(v, before) {
			t.Fatalf("%s changed more than the spec: %+v", text, v)
		}
	})
}

// FuzzCursor: a cursor is one that a list has given, byte for byte, or it is refused.
func FuzzCursor(f *testing.F) {
	f.Add(cursor{"pgdata", "01abc"}.String())
	f.Add("e30")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := readCursor(text)
		switch {
		case err != nil && (mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == ""):
			t.Fatalf("refused with %v", err)
		case err == nil && text != "" && k.String() != text:
			t.Fatalf("%q is read as %q", text, k)
		}
	})
}

// FuzzMay: what the table does not name is denied, whatever it is called; and no role but a node's speaks for nodes.
func FuzzMay(f *testing.F) {
	for _, role := range []string{"operator", "admin", "viewer", "auditor", "node", "docker", "control", "peer", ""} {
		for _, do := range allActions {
			f.Add(role, string(do))
		}
	}
	known := map[string]bool{"operator": true, "admin": true, "viewer": true, "auditor": true, "node": true}
	changes := map[action]bool{doCreate: true, doRemove: true, doMove: true, doTakeOver: true, doPatch: true, doRepeat: true}
	speaks := map[action]bool{doCreated: true, doRemoved: true, doClaim: true, doRelease: true, doAccept: true, doCommit: true, doAbort: true, doReport: true}
	f.Fuzz(func(t *testing.T, role, do string) {
		if !may(role, action(do)) {
			return
		}
		switch {
		case !known[role]:
			t.Fatalf("%q may %s", role, do)
		case (changes[action(do)] || speaks[action(do)]) && (role == "viewer" || role == "auditor"):
			t.Fatalf("%s may %s", role, do)
		case speaks[action(do)] && role != "node":
			t.Fatalf("%s may %s for a node", role, do)
		}
	})
}
