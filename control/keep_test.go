package control

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/backup"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// look looks after the backups now, and not when control gets round to it.
func (f *fleet) look() {
	f.t.Helper()
	if err := f.control.keepBackups(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) backups() []store.Backup { return f.control.backups() }

// answer is what control asks of a node in its answer to a heartbeat.
func (f *fleet) answer(node string, has ...string) mobyfs.Session {
	f.t.Helper()
	has = append([]string{}, has...)
	s, err := f.caller(pki.RoleNode, node).Report(f.t.Context(), mobyfs.Report{Address: node + ":8080", Version: "v1", Backups: &has})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func TestABackupIsMadeEachHourByOneControl(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.look()
	f.look()
	if n := len(f.backups()); n != 1 {
		t.Fatalf("at first there are %d", n)
	}
	f.clock.advance(59 * time.Minute)
	f.look()
	if n := len(f.backups()); n != 1 {
		t.Errorf("after 59 minutes there are %d", n)
	}
	f.clock.advance(2 * time.Minute)
	first, err := f.control.takeTurn(t.Context())
	if err != nil || !first {
		t.Fatalf("nobody makes one after an hour: %v", err)
	}
	if second, err := f.control.takeTurn(t.Context()); second || err != nil {
		t.Errorf("while one makes it another one does too: %v", err)
	}
	f.clock.advance(turnLasts + time.Second)
	f.look()
	if n := len(f.backups()); n != 2 {
		t.Errorf("who had the turn died, and there are %d", n)
	}
}

func TestABackupIsKeptOnTwoNodesOfTwoZones(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		for _, n := range []string{"a1", "a2", "a3", "b1"} {
			f.node(n)
			if err := f.control.store.Update(t.Context(), func(tx *store.Tx) error {
				x, err := tx.Node(n)
				if err != nil {
					return err
				}
				x.Zone = n[:1]
				return tx.PutNode(x)
			}); err != nil {
				t.Fatal(err)
			}
		}
		f.look()
		b := f.backups()[0]
		if len(b.Asked) != 2 || b.Asked[0][0] == b.Asked[1][0] {
			t.Fatalf("asked are %v", b.Asked)
		}
		for _, n := range []string{"a1", "a2", "a3", "b1"} {
			asked := slices.Contains(b.Asked, n)
			if s := f.answer(n); (s.Keep == b.ID) != asked {
				t.Errorf("%s is asked to keep %q", n, s.Keep)
			}
			var got bytes.Buffer
			err := f.caller(pki.RoleNode, n).Backup(t.Context(), b.ID, &got)
			if asked && (err != nil || int64(got.Len()) != b.Bytes) || !asked && mobyfs.CodeOf(err) != mobyfs.CodeDenied {
				t.Errorf("%s fetches %d of %d bytes, %v", n, got.Len(), b.Bytes, err)
			}
			if r, err := backup.Open(&got); asked && (err != nil || r.ID != b.ID) {
				t.Errorf("it is the backup %v, %v", r, err)
			}
		}
		for _, n := range b.Asked {
			if s := f.answer(n, b.ID); s.Keep != "" {
				t.Errorf("%s has it, and is asked to keep %q", n, s.Keep)
			}
		}
		if now := f.backups()[0]; !slices.Equal(now.Held, b.Asked) {
			t.Errorf("it is held by %v", now.Held)
		}
		f.answer(b.Asked[0])
		if now := f.backups()[0]; !slices.Equal(now.Held, b.Asked[1:]) {
			t.Errorf("after one lost it, it is held by %v", now.Held)
		}
		if s := f.answer(b.Asked[0]); s.Keep != b.ID {
			t.Errorf("it is not asked to fetch it again")
		}
	})
}

func TestAnotherNodeKeepsItWhileOneIsSilentAndItIsToldWhenTooFewDo(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.node("h2")
	f.look()
	b := f.backups()[0]
	f.answer("h1", b.ID)
	f.lose("h2")
	f.node("h3")
	f.look()
	if now := f.backups()[0]; !slices.Contains(now.Asked, "h3") {
		t.Errorf("asked are %v", now.Asked)
	}
	if f.control.backupOverdue() {
		t.Error("it is complained too soon")
	}
	f.clock.advance(turnLasts + time.Minute)
	f.look()
	f.look()
	if !f.control.backupOverdue() {
		t.Error("nobody complains of the one copy")
	}
	events, _, err := f.control.store.EventsSince(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, e := range events {
		if strings.Contains(e.Text, "is on 1 nodes") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("it was told %d times", told)
	}
}

func TestControlKeepsTheNewestOnItsDiskAndRemovesWhatWasCutShort(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	dir := filepath.Join(f.cfg.Root, backupFolder)
	for range 6 {
		if _, err := f.operator().MakeBackup(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.clock.advance(time.Second)
	}
	scratch := filepath.Join(dir, "."+f.control.newID())
	if err := os.WriteFile(scratch, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := f.operator().MakeBackup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != backupsHere || files[len(files)-1].Name() != made.ID+backupEnding {
		t.Errorf("there are %v, %v", files, err)
	}
	for _, file := range files {
		if info, err := file.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %v, %v", file.Name(), info.Mode(), err)
		}
	}
	old := f.backups()[6].ID
	if err := f.operator().Backup(t.Context(), old, &bytes.Buffer{}); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || mobyfs.HintOf(err) == "" {
		t.Errorf("one that is not on the disk: %v", err)
	}
	for _, id := range []string{"", "..", "01jexa3tq2000000000000000a"} {
		if err := f.operator().Backup(t.Context(), id, &bytes.Buffer{}); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			t.Errorf("%q: %v", id, err)
		}
	}
}
