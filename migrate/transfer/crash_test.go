package transfer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// TestFollowerLife is what TestFollowerKilledAtAnyMomentGoesOn kills: a session that ends after a round, and one that goes on while
// names change.
func TestFollowerLife(t *testing.T) {
	given := os.Getenv("TRANSFER_TEST_LIFE")
	if given == "" {
		return // on its own it proves nothing and disproves nothing
	}
	at := strings.Split(given, "|")
	addr, files, src, base := at[0], at[1], at[2], at[3]
	client := NewClient(pki.FilesIn(files, "h2"))
	from := mobyfs.From{Migration: "m1", Node: "h1", Address: addr, Ticket: "good"}
	o := mobyfs.FollowOptions{Journal: filepath.Join(base, "journal")}
	for last := range 2 {
		f, err := client.Follow(t.Context(), from, filepath.Join(base, "into"), o)
		must(t, err)
		if last == 1 {
			must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(src, "row0-2"), unix.AT_FDCWD, filepath.Join(src, "row0-3"), unix.RENAME_EXCHANGE))
			must(t, os.Rename(filepath.Join(src, "data"), filepath.Join(src, "tables")))
		}
		_, err = f.Round(t.Context())
		must(t, err)
		if last == 1 {
			must(t, os.Rename(filepath.Join(src, "tables"), filepath.Join(src, "data")))
			_, err = f.Freeze(t.Context())
			must(t, err)
		}
		must(t, f.Close())
	}
}

func TestFollowerKilledAtAnyMomentGoesOn(t *testing.T) {
	needRoot(t)
	child := killtest.Build(t)
	src := bigTree(t, 48)
	l := newLiveFleet(t, src, nil)
	files := l.member(t, pki.RoleNode, "h2")
	all, _, err := l.bringVia(t, -1, t.TempDir(), mobyfs.FollowOptions{})
	must(t, err)
	whole := all.Progress.Bytes // of content: how much of it is packed on the way depends on how busy the machine is
	moments := append(killtest.Moments(t), "transfer.synced", "transfer.round.named", "transfer.round.complete", "transfer.round.synced",
		"transfer.recalled", "transfer.unnamed")
	for _, moment := range moments {
		base := t.TempDir()
		into := filepath.Join(base, "into")
		must(t, os.Mkdir(into, 0o700))
		if !child.Run("TestFollowerLife", moment, "TRANSFER_TEST_LIFE="+strings.Join([]string{l.addr, filepath.Dir(files.Key), src, base}, "|")) {
			t.Errorf("the child was never killed at %s", moment)
			continue
		}
		if _, err := os.Stat(filepath.Join(src, "tables")); err == nil {
			must(t, os.Rename(filepath.Join(src, "tables"), filepath.Join(src, "data")))
		}
		most := int64(slack)
		switch {
		case strings.HasPrefix(moment, "transfer.follow.note"):
			most += whole // nothing has come
		case moment == "transfer.synced":
			most += whole - syncEvery
		}
		receipt, passed, err := l.bringVia(t, -1, into, mobyfs.FollowOptions{Journal: filepath.Join(base, "journal")})
		if err != nil {
			t.Fatalf("after death at %s: %v", moment, err)
		}
		sameTrees(t, src, into, receipt)
		t.Logf("killed at %s: %d KiB came afterwards, of %d", moment, passed>>10, whole>>10)
		if passed > most {
			t.Errorf("after death at %s %d bytes came, want %d at most", moment, passed, most)
		}
	}
}
