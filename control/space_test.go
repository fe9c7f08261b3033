package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// tightFleet is a control plane whose store has the smallest quota that there may be, and a way to its etcd beside it.
func tightFleet(t *testing.T) (*fleet, *clientv3.Client) {
	t.Helper()
	f := newFleet(t, false)
	f.close()
	f.cfg.Quota = store.MinQuota
	f.cfg.SessionTTL = time.Hour // nodes that have reported stay there, however long the disk takes
	f.open(true)
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + filepath.Join(f.dir, "etcd", "client.sock")}, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	return f, etcd
}

// soon polls until ok says yes. How long that may take is only bounded for who waits: 80 MiB are written and compressed, on any disk.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within 2 min", what)
}

// busyDisk says whether etcd gave up on a change because its disk took longer than an election, as other tests make it.
func busyDisk(err error) bool {
	return errors.Is(err, rpctypes.ErrTimeout) || errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail)
}

// TestReadyTellsWhyNot: others use up the quota, and the store makes room by itself.
func TestReadyTellsWhyNot(t *testing.T) {
	t.Parallel()
	f, etcd := tightFleet(t)
	anybody := f.client(f.authority, pki.RoleDocker, "h1")
	if err := anybody.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.node("h1")
	pgdata := f.ready("pgdata", "h1")
	stop, refused := make(chan struct{}), make(chan struct{})
	var writing sync.WaitGroup
	var once sync.Once
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// Each under a key of its own, so that no compaction makes room while they come.
			_, err := etcd.Put(t.Context(), fmt.Sprint("/m/x/greedy/", i), strings.Repeat("x", 1<<20))
			switch {
			case errors.Is(err, rpctypes.ErrNoSpace):
				once.Do(func() { close(refused) })
				time.Sleep(time.Millisecond)
			case busyDisk(err):
				time.Sleep(time.Millisecond) // whoever is greedy tries again
			case err != nil:
				t.Error(err)
				return
			}
		}
	})
	select {
	case <-refused:
	case <-time.After(3 * time.Minute): // however slow the disk
		t.Fatal("etcd takes all that comes")
	}
	var why error
	defer func() {
		if t.Failed() {
			t.Logf("the last answer was: %v", why)
		}
	}()
	soon(t, "it is not ready", func() bool { why = anybody.Ready(t.Context()); return why != nil })
	if mobyfs.CodeOf(why) != mobyfs.CodeUnavailable || !strings.Contains(why.Error(), "the store is full: etcd takes no more writes") {
		t.Errorf("got %v, want that the store is full", why)
	}
	if err := anybody.Healthy(t.Context()); err != nil {
		t.Errorf("it is healthy all the same: %v", err)
	}
	if v, err := f.operator().Volume(t.Context(), "pgdata"); err != nil || v.ID != pgdata.ID {
		t.Errorf("reads go on: got %v", err)
	}
	soon(t, "the refusal says what is done", func() bool {
		_, err := f.operator().CreateVolume(t.Context(), "more", mobyfs.VolumeSpec{}, "")
		return err != nil && strings.Contains(err.Error(), "is full") && strings.Contains(mobyfs.HintOf(err), "makes room by itself")
	})
	soon(t, "status tells", func() bool {
		cluster, err := f.operator().Cluster(t.Context())
		return err == nil && len(cluster.Rooms) == 1 && cluster.Rooms[0].Level == "full" && cluster.Rooms[0].QuotaBytes == store.MinQuota
	})
	close(stop)
	writing.Wait()
	begun := time.Now()
	soon(t, "what was greedy is gone", func() bool {
		_, err := etcd.Delete(t.Context(), "/m/x/greedy/", clientv3.WithPrefix())
		if err != nil && !busyDisk(err) {
			t.Fatal(err)
		}
		return err == nil
	})
	soon(t, "it is ready again", func() bool { return anybody.Ready(t.Context()) == nil })
	soon(t, "volumes are made again", func() bool {
		_, why = f.operator().CreateVolume(t.Context(), "more", mobyfs.VolumeSpec{}, "")
		return why == nil
	})
	t.Logf("ready %v after the last write of others", time.Since(begun).Round(time.Millisecond))
	_, text := f.scrape(pki.RoleOperator, "prometheus")
	for _, want := range []string{
		`mobyfs_control_store_bytes{kind="quota"} 1.6777216e+07`, `mobyfs_control_store_alarm 0`, `mobyfs_control_store_level{level="full"} 0`,
		`mobyfs_control_store_disk_bytes{kind="ballast"} 6.7108864e+07`, `mobyfs_control_store_defragmentation_seconds_total`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(text, "mobyfs_control_store_alarms_ended_total 0") {
		t.Error("no alarm was ended")
	}
}

func TestControlWithoutAStoreIsNotReady(t *testing.T) {
	f := newFleet(t, false)
	f.close()
	line := store.NewMemory().Line()
	f.cfg.OpenStore = func(ctx context.Context, cfg store.Config) (*store.Store, error) {
		return store.OpenMemory(ctx, cfg, line)
	}
	f.open(false)
	docker := f.caller(pki.RoleDocker, "h1")
	if err := docker.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	line.Cut(true)
	if err := docker.Ready(t.Context()); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), "read the store") {
		t.Errorf("got %v, want that the store does not answer", err)
	}
	line.Cut(false)
	soon(t, "it is ready", func() bool { return docker.Ready(t.Context()) == nil })
}

// TestEventsGoFirstWhenRoomIsLow: those that are on the disks, and no others.
func TestEventsGoFirstWhenRoomIsLow(t *testing.T) {
	t.Parallel()
	f, etcd := tightFleet(t)
	f.node("h1")
	f.ready("pgdata", "h1")
	if err := f.control.keepTrail(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, _, err := f.control.store.EventsSince(t.Context(), 0)
	if err != nil || len(before) == 0 {
		t.Fatalf("there are %d events in the store: %v", len(before), err)
	}
	for i := range 44 { // that live, and can't be compacted
		if _, err := etcd.Put(t.Context(), "/m/x/"+strings.Repeat("k", i+1), strings.Repeat("x", 256<<10)); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, "events go that are on the disk", func() bool {
		now, _, err := f.control.store.EventsSince(t.Context(), 0)
		return err == nil && (len(now) == 0 || now[0].Revision > before[len(before)-1].Revision)
	})
	text := ""
	numbers, err := f.control.segmentsHere()
	for _, n := range numbers {
		part, readErr := f.control.AuditSegment(t.Context(), pki.Identity{Cluster: "shop", Role: pki.RoleAuditor, Name: "aud"}, n)
		err = errors.Join(err, readErr)
		text += string(part)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range before {
		if !strings.Contains(text, e.ID) {
			t.Errorf("the event %q is gone from the store and not on the disk", e.Text)
		}
	}
}
