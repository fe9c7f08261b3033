package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/seal"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newKey(t testing.TB) *seal.Key {
	t.Helper()
	k, err := seal.Make(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openMemory(t testing.TB, m *store.Memory) *store.Store {
	t.Helper()
	s, err := store.OpenMemory(context.Background(), store.Config{Cluster: "shop", Log: quiet}, m.Line())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func volume(n int) mobyfs.Volume {
	return mobyfs.Volume{
		ID: mobyfs.VolumeID(fmt.Sprintf("01j000000000000000000%05d", n)), Name: fmt.Sprintf("vol-%d", n),
		State: mobyfs.VolumeReady, Node: "h1", Fence: mobyfs.Fence(n + 1), Spec: mobyfs.VolumeSpec{Backend: "dir"},
	}
}

func fill(t testing.TB, s *store.Store, n int) {
	t.Helper()
	for i := range n {
		v := volume(i)
		if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutVolume(&v) }); err != nil {
			t.Fatal(err)
		}
	}
}

var madeAt = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func header() Header {
	return Header{ID: "01jexa3tq2000000000000000a", Cluster: "shop", MadeAt: madeAt}
}

func write(t testing.TB, s *store.Store, key *seal.Key) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Write(t.Context(), &b, s, key, header()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func restore(t testing.TB, file []byte, key *seal.Key, m *store.Memory) error {
	t.Helper()
	b, err := Open(bytes.NewReader(file))
	if err != nil {
		return err
	}
	defer b.Close()
	err = store.RestoreMemory(t.Context(), m, store.Restored{Backup: b.ID, MadeAt: b.MadeAt, At: time.Now()}, b.Records(key))
	if _, whole := b.Summary(); err == nil && !whole {
		t.Error("what is not whole was restored")
	}
	return err
}

func volumes(s *store.Store) (all []string) {
	s.View(func(v store.View) {
		for x := range v.Volumes {
			x.Revision = 0
			raw, _ := json.Marshal(x)
			all = append(all, string(raw))
		}
	})
	slices.Sort(all)
	return all
}

func TestRestoredStoreHoldsWhatTheBackupHeldWithHigherFencesAndRevisions(t *testing.T) {
	key, was := newKey(t), openMemory(t, store.NewMemory())
	fill(t, was, 1200)
	var newest int64
	was.View(func(v store.View) { newest = v.Revision() })
	m := store.NewMemory()
	if err := restore(t, write(t, was, key), key, m); err != nil {
		t.Fatal(err)
	}
	is := openMemory(t, m)
	if got, want := volumes(is), volumes(was); !slices.Equal(got, want) {
		t.Errorf("it holds %d volumes, and not the %d of before", len(got), len(want))
	}
	if is.Epoch() != was.Epoch()+1 || is.Restored() == nil || is.History() == "" {
		t.Errorf("epoch %d, restored %v, history %q", is.Epoch(), is.Restored(), is.History())
	}
	is.View(func(v store.View) {
		for x := range v.Volumes {
			if x.Revision <= newest {
				t.Fatalf("%s has revision %d, before the restore they went up to %d", x.Name, x.Revision, newest)
			}
		}
	})
	v := volume(0)
	if err := is.Update(t.Context(), func(tx *store.Tx) error { return tx.PutVolume(&v) }); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
		t.Errorf("a record is changed before it was compared: %v", err)
	}
	if err := is.Update(t.Context(), func(tx *store.Tx) error {
		tx.Comparing()
		_, err := tx.VolumeNamed("VOL-0")
		return errors.Join(err, tx.PutVolume(&v))
	}); err != nil || v.Revision <= newest {
		t.Errorf("a change has revision %d, %v", v.Revision, err)
	}
}

func TestWhatSpeaksOfProcessesIsNotRestored(t *testing.T) {
	key, was := newKey(t), openMemory(t, store.NewMemory())
	lease, err := was.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := was.Update(t.Context(), func(tx *store.Tx) error {
		return store.Sessions.PutLeased(tx, "h1", store.Session{Node: "h1", Lease: int64(lease)}, lease)
	}); err != nil {
		t.Fatal(err)
	}
	m := store.NewMemory()
	if err := restore(t, write(t, was, key), key, m); err != nil {
		t.Fatal(err)
	}
	openMemory(t, m).View(func(v store.View) {
		if n := store.Sessions.Count(v); n != 0 {
			t.Errorf("%d sessions were restored", n)
		}
	})
}

func TestABackupIsOfOneMoment(t *testing.T) {
	key, was := newKey(t), openMemory(t, store.NewMemory())
	fill(t, was, 50)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // volumes 0 and 1 always have the same fence
		defer close(done)
		for f := mobyfs.Fence(100); ; f++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = was.Update(context.Background(), func(tx *store.Tx) error {
				a, b := volume(0), volume(1)
				a.Fence, b.Fence = f, f
				return errors.Join(tx.PutVolume(&a), tx.PutVolume(&b))
			})
		}
	}()
	defer func() { close(stop); <-done }()
	time.Sleep(5 * time.Millisecond)
	for range 20 {
		m := store.NewMemory()
		if err := restore(t, write(t, was, key), key, m); err != nil {
			t.Fatal(err)
		}
		openMemory(t, m).View(func(v store.View) {
			a, _ := v.Volume(volume(0).ID)
			b, _ := v.Volume(volume(1).ID)
			if a.Fence != b.Fence {
				t.Fatalf("fences %v and %v were never there together", a.Fence, b.Fence)
			}
		})
	}
}

func TestATamperedBackupRestoresNothing(t *testing.T) {
	key, was := newKey(t), openMemory(t, store.NewMemory())
	fill(t, was, 400)
	file := write(t, was, key)
	line := bytes.IndexByte(file, '\n') + 1
	bad := map[string][]byte{
		"nothing":              nil,
		"another file":         []byte("#!/bin/sh\n"),
		"only the header":      file[:line],
		"cut in the middle":    file[:line+(len(file)-line)/2],
		"its last byte lost":   file[:len(file)-1],
		"something follows":    append(bytes.Clone(file), 0),
		"another cluster":      bytes.Replace(file, []byte(`"shop"`), []byte(`"bank"`), 1),
		"another time":         bytes.Replace(file, []byte(`2026-11-26`), []byte(`2026-11-27`), 1),
		"a higher epoch":       bytes.Replace(file, []byte(`"epoch":0`), []byte(`"epoch":7`), 1),
		"an unknown schema":    bytes.Replace(file, []byte(`"schema":1`), []byte(`"schema":9`), 1),
		"an unknown format":    bytes.Replace(file, []byte(`"mobyfs_backup":1`), []byte(`"mobyfs_backup":2`), 1),
		"a header that is old": bytes.Replace(file, []byte(`01jexa3tq2000000000000000a`), []byte(`01jexa3tq2000000000000000b`), 1),
	}
	for i := line; i < len(file); i += 97 {
		flipped := bytes.Clone(file)
		flipped[i] ^= 0x40
		bad[fmt.Sprintf("byte %d", i)] = flipped
	}
	for what, b := range bad {
		if bytes.Equal(b, file) {
			t.Fatalf("%s: nothing was changed", what)
		}
		m := store.NewMemory()
		err := restore(t, b, key, m)
		if err == nil || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v, hint %q", what, err, mobyfs.HintOf(err))
		}
		if s := openMemory(t, m); s.Restored() != nil {
			t.Errorf("%s: a store was made", what)
		}
	}
}

func TestABackupOpensWithItsKeyAlone(t *testing.T) {
	key, other, was := newKey(t), newKey(t), openMemory(t, store.NewMemory())
	err := restore(t, write(t, was, key), other, store.NewMemory())
	if mobyfs.CodeOf(err) != mobyfs.CodeDenied || !strings.Contains(err.Error(), key.ID()) {
		t.Errorf("got %v, want denied and the key's id", err)
	}
}

func TestNobodyWithoutTheKeyLearnsAName(t *testing.T) {
	key, was := newKey(t), openMemory(t, store.NewMemory())
	fill(t, was, 3)
	if file := write(t, was, key); bytes.Contains(file, []byte("vol-1")) || bytes.Contains(file, []byte("/m/")) {
		t.Error("the file tells what is in it")
	}
}

func FuzzOpen(f *testing.F) {
	key, was := newKey(f), openMemory(f, store.NewMemory())
	f.Add([]byte("{}\n"))
	var b bytes.Buffer
	if _, err := Write(context.Background(), &b, was, key, header()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := Open(bytes.NewReader(file))
		if err != nil {
			return
		}
		defer r.Close()
		var last error
		for _, err := range r.Records(key) {
			last = err
		}
		if _, whole := r.Summary(); whole != (last == nil) {
			t.Fatalf("whole %v, %v", whole, last)
		}
	})
}
