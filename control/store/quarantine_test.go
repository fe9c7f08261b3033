package store

import (
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// spoil writes a record that nobody can read, as a fault or a newer program may.
func spoil(t *testing.T, s *Store, key string) {
	t.Helper()
	if _, err := etcdOf(s).Put(t.Context(), key, `{"id":`); err != nil {
		t.Fatal(err)
	}
}

// toldOf counts the events whose text begins so.
func toldOf(t *testing.T, s *Store, text string) (n int) {
	t.Helper()
	events, _, err := s.EventsSince(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if strings.HasPrefix(e.Text, text) {
			n++
		}
	}
	return n
}

func TestUnreadableRecordIsToldByOneEventHoweverOftenItIsSeen(t *testing.T) {
	root := shortDir(t)
	s := open(t, root)
	v := put(t, s, volume(1))
	spoil(t, s, volumeKey(v.ID))
	noted := func() bool {
		u := s.Unreadable()
		return len(u) == 1 && !u[0].Since.IsZero() && u[0].Revision > v.Revision
	}
	eventually(t, "it is noted", noted)
	since := s.Unreadable()[0].Since
	closeStore(t, s)
	s = open(t, root)
	put(t, s, volume(2))
	eventually(t, "the note is there", noted)
	if n := toldOf(t, s, "record can't be read: vol/"); n != 1 || !s.Unreadable()[0].Since.Equal(since) {
		t.Errorf("it was told %d times, and is since %v; want once, %v", n, s.Unreadable()[0].Since, since)
	}
	spoil(t, s, volumeKey(v.ID))
	eventually(t, "another revision is another event", func() bool { return toldOf(t, s, "record can't be read: vol/") == 2 })
}

func TestNothingOverwritesAnUnreadableRecord(t *testing.T) {
	s := open(t, shortDir(t))
	v := put(t, s, volume(1))
	n := mobyfs.Node{Name: "h1"}
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.PutNode(n) }); err != nil {
		t.Fatal(err)
	}
	spoil(t, s, volumeKey(v.ID))
	spoil(t, s, Nodes.key("h1"))
	for what, err := range map[string]error{
		"a volume": s.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) }),
		"a node":   s.Update(t.Context(), func(tx *Tx) error { return tx.PutNode(n) }),
	} {
		if err == nil {
			t.Errorf("the record of %s was written over", what)
		}
	}
	for _, key := range []string{volumeKey(v.ID), Nodes.key("h1")} {
		if e, err := s.engine.get(t.Context(), key); err != nil || string(e.raw) != `{"id":` {
			t.Errorf("%s holds %q, %v", key, e.raw, err)
		}
	}
}

func TestRecordSetAsideIsKeptAndOutOfTheWay(t *testing.T) {
	s := open(t, shortDir(t))
	v, good := put(t, s, volume(1)), put(t, s, volume(2))
	spoil(t, s, volumeKey(v.ID))
	eventually(t, "it is noted", func() bool { return toldOf(t, s, "record can't be read") == 1 })
	if err := s.SetAside(t.Context(), volumeKey(good.ID)); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		t.Errorf("a record that can be read: got %v, want invalid", err)
	}
	for _, key := range []string{"", "/m/vol/00/none", clusterKey, "/m/name/default/vol-2", Events.key("x")} {
		if err := s.SetAside(t.Context(), key); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			t.Errorf("%q: got %v, want not-found", key, err)
		}
	}
	if err := s.SetAside(t.Context(), volumeKey(v.ID)); err != nil {
		t.Fatal(err)
	}
	kept := 0
	if _, err := s.engine.read(t.Context(), asideRoot, 0, func(_ string, e entry) {
		if string(e.raw) == `{"id":` {
			kept++
		}
	}); err != nil || kept != 1 {
		t.Errorf("it is kept %d times, %v", kept, err)
	}
	eventually(t, "nothing is unreadable any more", func() bool { return len(s.Unreadable()) == 0 })
	again := volume(3)
	again.Name = v.Name
	err := s.Update(t.Context(), func(tx *Tx) error {
		if _, err := tx.VolumeNamed(v.Name); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			t.Errorf("its name leads to %v, want not-found", err)
		}
		return tx.PutVolume(&again)
	})
	if err != nil {
		t.Errorf("its name can't be given again: %v", err)
	}
	eventually(t, "the note is gone", func() bool {
		notes := 0
		s.View(func(view View) {
			for range Quarantine.All(view) {
				notes++
			}
		})
		return notes == 0
	})
}
