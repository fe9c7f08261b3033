package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// putRaw writes a key as it is.
func putRaw(t *testing.T, s *Store, key, value string) {
	t.Helper()
	err := s.Update(t.Context(), func(tx *Tx) error {
		_, err := tx.get(key)
		tx.writes[key] = write{raw: []byte(value)}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsRefusedOrToldByAnOldRead(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		for i := range 50 {
			want := fmt.Sprint(i)
			putRaw(t, s, "/m/x/a", want)
			refused := errors.New("refused")
			var saw string
			read := func(tx *Tx) error {
				e, err := tx.get("/m/x/a")
				saw = string(e.raw)
				return err
			}
			err := s.Update(t.Context(), func(tx *Tx) error { return errors.Join(read(tx), refused) })
			if !errors.Is(err, refused) || saw != want {
				t.Fatalf("refused by %q, %v; the store holds %s", saw, err, want)
			}
			if err := s.Update(t.Context(), read); err != nil || saw != want {
				t.Fatalf("told is %q, %v; the store holds %s", saw, err, want)
			}
		}
	})
}

func TestChangesByOldReadsAreMadeAnew(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		putRaw(t, s, "/m/x/a", "")
		const writers, each = 8, 20
		var all sync.WaitGroup
		for range writers {
			all.Go(func() {
				for range each {
					err := s.Update(t.Context(), func(tx *Tx) error {
						e, err := tx.get("/m/x/a")
						tx.writes["/m/x/a"] = write{raw: append([]byte("x"), e.raw...)}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		e, err := s.engine.get(t.Context(), "/m/x/a")
		if want := strings.Repeat("x", writers*each); err != nil || string(e.raw) != want {
			t.Errorf("%d changes are left of %d, %v", len(e.raw), len(want), err)
		}
	})
}

func TestClosingEndsReadersAndWriters(t *testing.T) {
	s := open(t, shortDir(t))
	began := make(chan struct{}, 8)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := 0; ; n++ {
				err := s.Update(t.Context(), func(tx *Tx) error {
					_, err := tx.get("/m/x/a")
					if key := fmt.Sprint("/m/x/", i); i%2 == 0 {
						tx.writes[key] = write{raw: []byte("1")}
					}
					return err
				})
				if n == 0 {
					began <- struct{}{}
				}
				if err != nil {
					if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	for range 8 {
		<-began
	}
	closeStore(t, s)
	all.Wait()
}
