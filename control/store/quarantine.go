package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Quarantined is the note on a record that can't be read. The record itself stays where it is and as it is: whoever
// would write it is refused (Table.Put, Tx.PutVolume), and the rest of the store goes on without it.
type Quarantined struct {
	Key      string    `json:"key"`
	Cause    string    `json:"cause"`
	Revision int64     `json:"revision"` // at which it was written
	Since    time.Time `json:"since"`    // when it was first found so
}

// KindUnreadable is the kind of these notes.
const KindUnreadable Kind = "unreadable"

// Quarantine holds the notes on records that can't be read, by their keys below root.
var Quarantine = Table[Quarantined]{Kind: KindUnreadable, prefix: "bad/", check: checkQuarantined}

// asideRoot is where SetAside puts records.
const asideRoot = root + "aside/"

// quarantineEvery bounds how soon a note is tried again that could not be written.
const quarantineEvery = 10 * time.Second

// quarantineUntil keeps the notes up to date until ctx ends, so that each record that becomes unreadable is told of by
// one event, however many processes see it and however often they restart.
func (s *Store) quarantineUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.cache.suspect:
		}
		if err := s.noteUnreadable(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the note on a record that can't be read could not be written", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(quarantineEvery):
				s.cache.suspects()
			}
		}
	}
}

// noteUnreadable writes a note on each record that can't be read and has none, and takes back the others.
func (s *Store) noteUnreadable(ctx context.Context) error {
	notes := map[string]Quarantined{}
	s.View(func(v View) {
		for _, q := range Quarantine.All(v) {
			notes[q.Key] = q
		}
	})
	for _, u := range s.Unreadable() {
		if strings.HasPrefix(u.Key, Quarantine.root()) {
			continue // a note on a note helps nobody
		}
		if q, noted := notes[u.Key]; !noted || q.Revision != u.Revision {
			if err := s.quarantine(ctx, u); err != nil {
				return err
			}
		}
		delete(notes, u.Key)
	}
	for key := range notes {
		if err := s.clear(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func noteID(key string) string { return strings.TrimPrefix(key, root) }

func (s *Store) quarantine(ctx context.Context, u Unreadable) error {
	return s.Update(ctx, func(tx *Tx) error {
		e, err := tx.get(u.Key)
		if err != nil || e.rev != u.Revision {
			return err // it has changed since, and will be looked at again
		}
		q, err := Quarantine.Get(tx, noteID(u.Key))
		if err == nil && q.Revision == u.Revision {
			return nil // another process was first
		}
		q = Quarantined{u.Key, u.Cause, u.Revision, s.now().UTC()}
		if err := Quarantine.Put(tx, noteID(u.Key), q); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "record can't be read: " + noteID(u.Key)})
	})
}

func (s *Store) clear(ctx context.Context, key string) error {
	return s.Update(ctx, func(tx *Tx) error {
		if _, err := Quarantine.Get(tx, noteID(key)); mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			return nil
		}
		if err := Quarantine.Delete(tx, noteID(key)); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "record is readable or gone: " + noteID(key)})
	})
}

// SetAside takes a record out of the way that can't be read: it goes below /m/aside/ as it is, and a name that led to it
// is free. CodeInvalid if the record can be read, CodeNotFound if there is none.
func (s *Store) SetAside(ctx context.Context, key string) error {
	t, id, ok := tableOf(key)
	if !ok || !t.kept() {
		return mobyfs.Errorf(mobyfs.CodeNotFound, "there is no record %.80q that can't be read", key).
			WithHint("mobyctl control records lists them")
	}
	name, err := s.nameLeadingTo(ctx, t, id)
	if err != nil {
		return err
	}
	return s.Update(ctx, func(tx *Tx) error {
		e, err := tx.get(key)
		if err != nil {
			return err
		}
		if e.rev == 0 {
			return mobyfs.Errorf(mobyfs.CodeNotFound, "there is no record %.80q", key).WithHint("mobyctl control records lists them")
		}
		if _, err := t.decodeAny(id, e.raw, e.rev); err == nil {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "the record %s can be read: it stays where it is", key).
				WithHint("mobyctl control records lists those that can't")
		}
		tx.writes[asideRoot+fmt.Sprintf("%s@%d", noteID(key), e.rev)] = write{raw: e.raw}
		tx.writes[key] = write{}
		if name != "" {
			if holder, err := tx.get(name); err != nil {
				return err
			} else if string(holder.raw) == id {
				tx.writes[name] = write{}
			}
		}
		return tx.Record(mobyfs.Event{Text: "record set aside: " + noteID(key)})
	})
}

// nameLeadingTo finds the key of the name of a volume whose record does not tell it.
func (s *Store) nameLeadingTo(ctx context.Context, t table, id string) (name string, err error) {
	if t.kind() != KindVolume {
		return "", nil
	}
	_, err = s.engine.read(ctx, nameRoot, 0, func(key string, e entry) {
		if string(e.raw) == id {
			name = key
		}
	})
	if err != nil {
		err = unavailable("read the names", err)
	}
	return name, err
}

// checkQuarantined refuses what is no note.
func checkQuarantined(id string, q *Quarantined, _ int64) error {
	if q.Key != root+id {
		return errors.New("the note is not that of its record")
	}
	return nil
}
