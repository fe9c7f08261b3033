package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/mobyfs/mobyfs"
)

// three are members of one store, all of which vote.
func three(t *testing.T) []*seat {
	t.Helper()
	a := newAuthority(t)
	all := []*seat{newSeat(t, a, "h1"), newSeat(t, a, "h2"), newSeat(t, a, "h3")}
	all[0].start()
	all[0].join(all[1:]...)
	all[0].list("h1 voter", "h2 voter", "h3 voter")
	return all
}

// etcd's own check would keep each of them waiting 7 s for each of the others.
func TestMembersThatAllBeginAtOnceWaitForNobody(t *testing.T) {
	all := three(t)
	for _, s := range all {
		s.stop()
	}
	begin := time.Now()
	var starting sync.WaitGroup
	for _, s := range all {
		starting.Go(s.start)
	}
	starting.Wait()
	took := time.Since(begin)
	t.Logf("all three are open after %v", took.Round(time.Millisecond))
	if took > 7*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestMemberWithOtherDataThanTheOthersDoesNotStart(t *testing.T) {
	all := three(t)
	if err := all[0].store.Update(t.Context(), func(tx *Tx) error { return tx.PutNode(mobyfs.Node{Name: "n1"}) }); err != nil {
		t.Fatal(err)
	}
	all[2].stop()
	forge(t, filepath.Join(all[2].root, "etcd", "data", "member", "snap", "db"))
	s, err := Open(t.Context(), all[2].config())
	if err == nil {
		closeStore(t, s)
		t.Fatal("it started")
	}
	if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || !strings.Contains(mobyfs.HintOf(err), "member rm h3") {
		t.Errorf("got %v, hint %q", err, mobyfs.HintOf(err))
	}
}

// forge changes a value in the file of a member that does not run.
func forge(t *testing.T, file string) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	err = db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket([]byte("key"))
		at, raw := records.Cursor().First()
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(raw, &kv); err != nil {
			return fmt.Errorf("decode %x: %w", at, err)
		}
		kv.Value = append(kv.Value, ' ')
		raw, err := proto.Marshal(&kv)
		if err != nil {
			return err
		}
		return records.Put(at, raw)
	})
	if err != nil {
		t.Fatal(err)
	}
}
