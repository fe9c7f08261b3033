package store

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

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

// filled sets everything in v to something, and calls each with the address of what can be shared: of a pointer's value,
// of a map, of the elements of a list.
func filled(v reflect.Value, each func(path string, at unsafe.Pointer), path string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		each(path, v.UnsafePointer())
		filled(v.Elem(), each, path)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			if v.Interface().(time.Time).IsZero() {
				v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)))
			}
			return
		}
		for i := range v.NumField() {
			filled(v.Field(i), each, path+"."+v.Type().Field(i).Name)
		}
	case reflect.Map:
		if v.Len() == 0 {
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf("v"))
		}
		each(path, v.UnsafePointer())
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		each(path, v.UnsafePointer())
		filled(v.Index(0), each, path+"[0]")
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	default:
		panic("no value for " + path + " of type " + v.Type().String())
	}
}

func TestCopiesOfRecordsShareNothing(t *testing.T) {
	var v mobyfs.Volume
	parts := map[unsafe.Pointer]string{}
	filled(reflect.ValueOf(&v).Elem(), func(path string, at unsafe.Pointer) { parts[at] = path }, "")
	c := copyOf(&v)
	if diff := cmp.Diff(v, c); diff != "" {
		t.Errorf("the copy is another one: %s", diff)
	}
	filled(reflect.ValueOf(&c).Elem(), func(path string, at unsafe.Pointer) {
		if parts[at] != "" {
			t.Errorf("both have the same %s", path)
		}
	}, "")
}

func TestWhatAProcessHasWrittenItKnowsAsOthersReadIt(t *testing.T) {
	m := NewMemory()
	s, other := openMemory(t, m), openMemory(t, m)
	var v mobyfs.Volume
	filled(reflect.ValueOf(&v).Elem(), func(string, unsafe.Pointer) {}, "")
	v.ID, v.State, v.Migration.State = "01", mobyfs.VolumeReady, mobyfs.MigrationCopying
	v.Spec.Labels["k2"] = "v2"
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) }); err != nil {
		t.Fatal(err)
	}
	box := other.SubscribeTo(VolumeRef(v.ID))
	defer box.Close()
	read := func(s *Store) (v mobyfs.Volume, ok bool) {
		s.View(func(view View) { v, ok = view.Volume("01") })
		return v, ok
	}
	theirs, ok := read(other)
	for !ok {
		if _, err := box.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		if bad := other.Unreadable(); len(bad) > 0 {
			t.Fatalf("another process can't read %v", bad)
		}
		theirs, ok = read(other)
	}
	ours, _ := read(s)
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("another process reads (-) what this one does not know (+): %s", diff)
	}
	if theirs.Revision != v.Revision || v.Revision == 0 {
		t.Errorf("the revision is %d, the writer was told %d", theirs.Revision, v.Revision)
	}
}

func TestMembersOfNewerProgramsOutliveManyChanges(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		putRaw(t, s, volumeKey("01"), `{"id":"01","name":"a","node":"h1","fence":1,"state":"ready","spec":{"colour":"red"}}`)
		for i := range 3 {
			err := s.Update(t.Context(), func(tx *Tx) error {
				v, err := tx.Volume("01")
				v.UsedBytes++
				return errors.Join(err, tx.PutVolume(&v))
			})
			if err != nil {
				t.Fatal(err)
			}
			if e, err := s.engine.get(t.Context(), volumeKey("01")); err != nil || !strings.Contains(string(e.raw), `"colour":"red"`) {
				t.Errorf("after change %d the record is %s, %v", i+1, e.raw, err)
			}
		}
	})
}

// What a transaction has written it reads, before anybody else does: new, changed, deleted, and by name.
func TestATransactionReadsWhatItHasWritten(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		v := volume(7)
		was := put(t, s, v)
		read := func(id mobyfs.VolumeID) (v mobyfs.Volume) {
			t.Helper()
			if err := s.Update(t.Context(), func(tx *Tx) (err error) { v, err = tx.Volume(id); return err }); err != nil {
				t.Fatal(err)
			}
			return v
		}
		update := func(fn func(tx *Tx) error) {
			t.Helper()
			if err := s.Update(t.Context(), fn); err != nil {
				t.Fatal(err)
			}
		}
		update(func(tx *Tx) error {
			if err := Promises.Put(tx, "h1", Promise{Node: "h1"}); err != nil {
				return err
			}
			if p, err := Promises.Get(tx, "h1"); err != nil || p.Node != "h1" {
				t.Errorf("a new record: %+v, %v", p, err)
			}
			if rev, err := Promises.Revision(tx, "h1"); err != nil || rev != 0 {
				t.Errorf("it has the revision %d, %v, before it is in the store", rev, err)
			}
			changed, err := tx.Volume(v.ID)
			if err != nil {
				return err
			}
			changed.Node = "elsewhere"
			if err := tx.PutVolume(&changed); err != nil {
				return err
			}
			if got, err := tx.Volume(v.ID); err != nil || got.Node != "elsewhere" || got.Revision != was.Revision {
				t.Errorf("a changed record: %+v, %v; it was at revision %d", got, err, was.Revision)
			}
			changed.Spec.Labels = map[string]string{"twice": "yes"}
			return tx.PutVolume(&changed)
		})
		if got := read(v.ID); got.Node != "elsewhere" || got.Spec.Labels["twice"] != "yes" || got.Revision <= was.Revision {
			t.Errorf("written twice in one transaction it is %+v", got)
		}
		update(func(tx *Tx) error {
			if err := Promises.Delete(tx, "h1"); err != nil {
				return err
			}
			if _, err := Promises.Get(tx, "h1"); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
				t.Errorf("a deleted record: %v", err)
			}
			gone, err := tx.Volume(v.ID)
			if err != nil {
				return err
			}
			gone.State = mobyfs.VolumeRemoving
			if err := errors.Join(tx.PutVolume(&gone), tx.DeleteVolume(v.ID)); err != nil {
				return err
			}
			if _, err := tx.VolumeNamed(v.Name); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
				t.Errorf("the name of a deleted volume: %v", err)
			}
			again := volume(8)
			again.Name = v.Name // free within the transaction
			if err := tx.PutVolume(&again); err != nil {
				return err
			}
			if got, err := tx.VolumeNamed(v.Name); err != nil || got.ID != again.ID || got.Revision != 0 {
				t.Errorf("the name given anew: %+v, %v", got, err)
			}
			return nil
		})
		s.View(func(view View) {
			if _, there := Promises.In(view, "h1"); there {
				t.Error("a record that was deleted is there")
			}
		})
		if got := read(volume(8).ID); got.Name != v.Name {
			t.Errorf("the volume that took the name is %+v", got)
		}
	})
}
