package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
)

func TestHeartbeatsWriteNothingAndKeepANodeReady(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
		joined := f.clock.Now()
		before := must[[]mobyfs.Node](t)(op.Nodes(ctx))[0]
		if !before.Ready || before.Address != "h1:8080" || before.Capacity.FreeBytes != 100*gib || before.JoinedAt.Sub(joined).Abs() > time.Millisecond {
			t.Errorf("after joining: %+v", before)
		}
		revision := must[api.Cluster](t)(op.Cluster(ctx)).Revision
		for i := range 10 {
			f.advance(mobyfs.Heartbeat)
			f.report(h1, mobyfs.Report{Address: "h1:8080", Volumes: i, Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: int64(1000-i) * gib / 10}})
		}
		after := must[[]mobyfs.Node](t)(op.Nodes(ctx))[0]
		if !after.Ready || after.Volumes != 9 || after.Capacity.FreeBytes != 991*gib/10 || after.LastSeenAt.Sub(f.clock.Now()).Abs() > time.Millisecond {
			t.Errorf("after ten heartbeats: %+v", after)
		}
		wrote := must[*clientv3.GetResponse](t)(f.etcd().Get(ctx, "/m/", clientv3.WithPrefix(), clientv3.WithMinModRev(revision+1), clientv3.WithKeysOnly()))
		for _, kv := range wrote.Kvs {
			switch string(kv.Key) {
			case "/m/held/control/control", "/m/person/operator/ana": // control writes these for itself, some time after it has started and met her
			default:
				t.Errorf("ten heartbeats wrote to the store: %s", kv.Key)
			}
		}
		f.report(h1, mobyfs.Report{Address: "h1:9090", Version: "v2"})
		if got := must[[]mobyfs.Node](t)(op.Nodes(ctx))[0]; got.Address != "h1:9090" || got.Version != "v2" || !got.JoinedAt.Equal(before.JoinedAt) {
			t.Errorf("after a change of address: %+v", got)
		}
		f.advance(mobyfs.NodeSilence + time.Second)
		if got := must[[]mobyfs.Node](t)(op.Nodes(ctx))[0]; got.Ready {
			t.Error("a silent node is ready")
		}
	})
}

func TestBadReportsAreRefused(t *testing.T) {
	f := newFleet(t, false)
	n := f.caller("node", "h1")
	for _, address := range []string{"", "h1", ":8080", "h1:", "h1:0", "h1:99999", "h1:http", "h1\n:80", strings.Repeat("x", 300) + ":1"} {
		_, err := n.Report(t.Context(), mobyfs.Report{Address: address})
		wantCode(t, err, mobyfs.CodeInvalid)
		if mobyfs.HintOf(err) == "" {
			t.Errorf("the refusal of the address %q tells no way out", address)
		}
	}
	for _, r := range []mobyfs.Report{
		{Address: "h1:1", Volumes: -1},
		{Address: "h1:1", Capacity: mobyfs.Capacity{TotalBytes: -1}},
		{Address: "h1:1", Capacity: mobyfs.Capacity{FreeBytes: -1}},
	} {
		_, err := n.Report(t.Context(), r)
		wantCode(t, err, mobyfs.CodeInvalid)
	}
	if nodes := must[[]mobyfs.Node](t)(f.operator().Nodes(t.Context())); len(nodes) != 0 {
		t.Errorf("a refused report joined: %+v", nodes)
	}
	f.report(n, mobyfs.Report{Address: "[::1]:8080"})
}

func TestNodesTellOnlyOfTheirOwnVolumes(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1, h2, h3 := t.Context(), f.operator(), f.node("h1"), f.node("h2"), f.node("h3")
	used, moves := f.ready("used", "h1"), f.ready("moves", "h1")
	must[mobyfs.Grant](t)(h1.Claim(ctx, used.ID))
	m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "moves", "h2")).Migration.ID
	tell := func(bytes int64, user string, files int64) mobyfs.Report {
		return mobyfs.Report{
			Used:     map[mobyfs.VolumeID]int64{used.ID: bytes, moves.ID: bytes, "unknown": 1},
			Users:    map[mobyfs.VolumeID][]string{used.ID: {user}, moves.ID: {user}, "unknown": {user}},
			Progress: map[mobyfs.MigrationID]mobyfs.Progress{m: {Files: files}, "unknown": {Files: 1}},
		}
	}
	for i, n := range []caller{h3, h2, h1, h3} {
		r := tell(int64(i+1)<<20, "web-"+string(rune('0'+i)), int64(i+1))
		r.Address = []string{"h3:8080", "h2:8080", "h1:8080", "h3:8080"}[i]
		f.report(n, r)
	}
	got := f.record("used")
	if got.UsedBytes != 3<<20 || !cmp.Equal(got.Lease.Users, []string{"web-2"}) {
		t.Errorf("the volume that h1 uses: %d bytes, users %v", got.UsedBytes, got.Lease.Users)
	}
	if got := f.record("moves"); got.UsedBytes != 3<<20 || got.Lease != nil || got.Migration.Progress.Files != 2 {
		t.Errorf("the volume that moves: %+v", got)
	}
	f.report(h1, mobyfs.Report{Address: "h1:8080"}) // absent is unchanged
	if got := f.record("used"); got.UsedBytes != 3<<20 || len(got.Lease.Users) != 1 {
		t.Errorf("after a report that says nothing: %+v", got)
	}
	f.report(h1, mobyfs.Report{Address: "h1:8080", Users: map[mobyfs.VolumeID][]string{used.ID: {}}})
	if got := f.record("used"); len(got.Lease.Users) != 0 {
		t.Errorf("after the last container is gone: %v", got.Lease.Users)
	}
}

func TestReportsOfUseWriteOnlyWhatIsNews(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1 := t.Context(), f.node("h1")
	v := f.ready("pgdata", "h1")
	g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
	r := mobyfs.Report{Address: "h1:8080", Users: map[mobyfs.VolumeID][]string{v.ID: {"web-1"}}, Used: map[mobyfs.VolumeID]int64{v.ID: 1000}}
	f.report(h1, r)
	first := f.record("pgdata")
	if first.Fence != g.Fence || first.Revision == g.Volume.Revision {
		t.Errorf("the first report made %+v", first)
	}
	r.Used[v.ID] = 1050 // a little more
	f.report(h1, r)
	if second := f.record("pgdata"); second.Revision != first.Revision || second.UsedBytes != 1050 {
		t.Errorf("a little more was written at revision %d (%d before), used is %d", second.Revision, first.Revision, second.UsedBytes)
	}
	r.Used[v.ID] = 2000
	f.report(h1, r)
	f.restart()
	if got := f.record("pgdata"); got.UsedBytes != 2000 || !cmp.Equal(got.Lease.Users, []string{"web-1"}) {
		t.Errorf("after a restart of control: %+v", got)
	}
}

func TestAPageTellsWhatNodesReportAndLeavesRecordsAlone(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
	grows, moves := f.ready("grows", "h1"), f.ready("moves", "h1")
	m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "moves", "h2")).Migration.ID
	f.ready("silent", "h1")
	f.report(h1, mobyfs.Report{Address: "h1:8080", Used: map[mobyfs.VolumeID]int64{grows.ID: 1000, moves.ID: 1000}})
	f.report(h1, mobyfs.Report{Address: "h1:8080", Used: map[mobyfs.VolumeID]int64{grows.ID: 1050, moves.ID: 1050}}) // too little to be written
	f.report(h2, mobyfs.Report{Address: "h2:8080", Progress: map[mobyfs.MigrationID]mobyfs.Progress{m: {Files: 2}}})
	tell := func(v *mobyfs.Volume) string {
		files := int64(0)
		if v.Migration != nil {
			files = v.Migration.Progress.Files
		}
		return fmt.Sprintf("%s %d %d", v.Name, v.UsedBytes, files)
	}
	var told, held []string
	for _, v := range must[api.VolumePage](t)(op.VolumePage(ctx, api.VolumeQuery{})).Volumes {
		told = append(told, tell(v))
	}
	f.control.store.View(func(view store.View) {
		for v := range view.Ordered(store.By{}, store.Place{}) {
			held = append(held, tell(v))
		}
	})
	if want := []string{"grows 1050 0", "moves 1050 2", "silent 0 0"}; !cmp.Equal(told, want) {
		t.Errorf("the page tells %v, want %v", told, want)
	}
	if want := []string{"grows 1000 0", "moves 1000 0", "silent 0 0"}; !cmp.Equal(held, want) {
		t.Errorf("records hold %v, want %v", held, want)
	}
}

func TestManyUsersAreCut(t *testing.T) {
	var names []string
	for range 3 * maxUsers {
		names = append(names, strings.Repeat("é", maxUser))
	}
	got := cleanUsers(append([]string{"", "\x00", " \n"}, names...))
	if len(got) != maxUsers || len(got[0]) > maxUser || !strings.HasPrefix(got[0], "éé") {
		t.Errorf("%d names, the first of %d bytes", len(got), len(got[0]))
	}
}
