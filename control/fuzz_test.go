package control

import (
	"testing"

	"github.com/mobyfs/mobyfs"
)

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
