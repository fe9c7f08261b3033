package control

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mobyfs/mobyfs"
)

// How much the race does. Everything goes through one real store.
const (
	racers     = 5    // nodes
	raceSteps  = 3000 // of each node
	raceVolume = 3    // volumes, so that all meet often
)

// usage is who uses each volume, by what the nodes were told. It must never be two.
type usage struct {
	holder [raceVolume]atomic.Pointer[string]
}

// enter notes that a node has the lease, and tells who has it beside it.
func (u *usage) enter(volume int, node string) (other string) {
	if !u.holder[volume].CompareAndSwap(nil, &node) {
		if now := u.holder[volume].Load(); now != nil && *now != node {
			return *now
		}
	}
	return ""
}

// leave must come before the release is sent.
func (u *usage) leave(volume int, node string) {
	if now := u.holder[volume].Load(); now != nil && *now == node {
		u.holder[volume].CompareAndSwap(now, nil)
	}
}

// acked is an answer of success that must be found in the history.
type acked struct {
	what      string
	volume    mobyfs.VolumeID
	node      string
	fence     mobyfs.Fence
	migration mobyfs.MigrationID
}

// racer is a node that does things at random, one at a time.
type racer struct {
	t       *testing.T
	name    string
	c       caller
	volumes []mobyfs.Volume
	using   *usage
	rng     *rand.Rand
	leases  map[int]mobyfs.Fence
	acks    []acked
}

func (r *racer) run(ctx context.Context, f *fleet) {
	op := f.operator()
	for range raceSteps {
		i := r.rng.IntN(len(r.volumes))
		v := r.volumes[i]
		switch r.rng.IntN(12) {
		case 0, 1:
			g, err := r.c.Claim(ctx, v.ID)
			if r.expect(err, mobyfs.CodeInUse, mobyfs.CodeMoving, mobyfs.CodeUnavailable) && g.From == nil {
				r.hold(i, g)
			}
		case 2, 3:
			if fence, ok := r.leases[i]; ok {
				r.using.leave(i, r.name)
				delete(r.leases, i)
				r.expect(r.c.Release(ctx, v.ID, fence))
			}
		case 4:
			_, err := op.MoveVolume(ctx, v.Name, fmt.Sprintf("h%d", r.rng.IntN(racers)))
			r.expect(err, mobyfs.CodeInUse, mobyfs.CodeMoving, mobyfs.CodeUnavailable)
		case 5:
			if r.rng.IntN(4) == 0 {
				_, err := op.CancelMove(ctx, v.Name)
				r.expect(err, mobyfs.CodeNotFound)
			}
		case 6, 7:
			r.report(ctx)
		default:
			r.carryOn(ctx, i)
		}
	}
	for i, fence := range r.leases {
		r.using.leave(i, r.name)
		r.expect(r.c.Release(ctx, r.volumes[i].ID, fence))
	}
}

// report is one heartbeat in three, so that nodes fall silent now and then.
func (r *racer) report(ctx context.Context) {
	if r.rng.IntN(3) > 0 {
		_, err := r.c.Report(ctx, mobyfs.Report{Address: r.name + ":8080", Version: "v1",
			Capacity: mobyfs.Capacity{TotalBytes: gib, FreeBytes: gib}})
		r.expect(err)
	}
}

// carryOn ends a migration to this node one way or the other, if there is one, with a stale ID now and then.
func (r *racer) carryOn(ctx context.Context, i int) {
	v, err := r.c.Volume(ctx, r.volumes[i].Name)
	if !r.expect(err) {
		return
	}
	m := v.Migration
	if m == nil || r.rng.IntN(5) == 0 {
		m = v.LastMove
	}
	if m == nil || m.To != r.name {
		return
	}
	stale := []mobyfs.Code{mobyfs.CodeStaleFence, mobyfs.CodeNotFound}
	switch r.rng.IntN(4) {
	case 0:
		if r.expect(r.c.Abort(ctx, v.ID, m.ID, "at random"), stale...) {
			r.acks = append(r.acks, acked{what: "abort", volume: v.ID, migration: m.ID})
		}
	case 1:
		_, err := r.c.Accept(ctx, v.ID, m.ID)
		r.expect(err, stale...)
	default:
		g, err := r.c.Commit(ctx, v.ID, m.ID, someReceipt)
		if !r.expect(err, stale...) {
			return
		}
		r.acks = append(r.acks, acked{what: "commit", volume: v.ID, migration: m.ID})
		if l := g.Volume.Lease; l != nil && l.Node == r.name && l.Fence == g.Fence {
			r.hold(i, g)
		}
	}
}

func (r *racer) hold(i int, g mobyfs.Grant) {
	if other := r.using.enter(i, r.name); other != "" {
		r.t.Errorf("%s was given %s while %s uses it", r.name, g.Volume.Name, other)
	}
	r.leases[i] = g.Fence
	r.acks = append(r.acks, acked{what: "lease", volume: g.Volume.ID, node: r.name, fence: g.Fence})
}

// expect reports success; an error of another kind than those that may be fails the test.
func (r *racer) expect(err error, mayBe ...mobyfs.Code) bool {
	if err == nil {
		return true
	}
	for _, code := range mayBe {
		if mobyfs.CodeOf(err) == code {
			return false
		}
	}
	r.t.Errorf("%s: %v (%s)", r.name, err, mobyfs.CodeOf(err))
	return false
}

// TestNodesThatRaceNeverShareAVolume lets nodes, operators and control itself decide at random and at once, and
// checks every state that any record ever had.
func TestNodesThatRaceNeverShareAVolume(t *testing.T) {
	f := newFleet(t, false)
	f.cfg.RecallWait = 20 * time.Millisecond // they give a lease back when it is their turn to, and wait for each other meanwhile
	f.restart()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	nodes := map[string]caller{}
	for i := range racers {
		name := fmt.Sprintf("h%d", i)
		nodes[name] = f.node(name)
	}
	var volumes []mobyfs.Volume
	for i := range raceVolume {
		volumes = append(volumes, f.ready(fmt.Sprintf("vol-%d", i), fmt.Sprintf("h%d", i)))
	}
	using := &usage{}
	ctx, stop := context.WithCancel(t.Context())
	var racing, background sync.WaitGroup
	all := make([]*racer, 0, racers)
	for name, c := range nodes {
		r := &racer{t: t, name: name, c: c, volumes: volumes, using: using, leases: map[int]mobyfs.Fence{},
			rng: rand.New(rand.NewPCG(seed, uint64(len(all))))}
		all = append(all, r)
		racing.Go(func() { r.run(ctx, f) })
	}
	background.Go(func() {
		for ctx.Err() == nil {
			f.clock.advance(time.Second)
			f.control.reconcile(ctx)
			time.Sleep(10 * time.Millisecond) // the pace of time against that of the nodes
		}
	})
	racing.Wait()
	stop()
	background.Wait()

	h := readHistory(t, f.etcd())
	counts := map[string]int{}
	for _, r := range all {
		for _, a := range r.acks {
			counts[a.what]++
			h.holds(t, a)
		}
	}
	t.Logf("%d states of %d volumes; leases given %d, commits %d, aborts %d", h.states, raceVolume, counts["lease"], counts["commit"], counts["abort"])
	if counts["lease"] == 0 || counts["commit"] == 0 || counts["abort"] == 0 {
		t.Error("the race has hardly happened")
	}
}

// history is what the store remembers of all volumes.
type history struct {
	states int
	leases map[acked]bool
	ends   map[mobyfs.MigrationID]mobyfs.MigrationState
}

// readHistory reads every state that every volume had, and checks each step.
func readHistory(t *testing.T, etcd *clientv3.Client) history {
	t.Helper()
	now := must[*clientv3.GetResponse](t)(etcd.Get(t.Context(), "/m/cluster")).Header.Revision
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	h := history{leases: map[acked]bool{}, ends: map[mobyfs.MigrationID]mobyfs.MigrationState{}}
	last := map[string]*mobyfs.Volume{}
	// The marker tells that everything before it was seen.
	must[*clientv3.PutResponse](t)(etcd.Put(t.Context(), "/m/vol/end", "{}"))
	for resp := range etcd.Watch(ctx, "/m/vol/", clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if resp.Err() != nil {
			t.Fatal(resp.Err())
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision > now {
				return h
			}
			var v mobyfs.Volume
			if err := json.Unmarshal(e.Kv.Value, &v); err != nil {
				t.Fatal(err)
			}
			h.states++
			if why := wrong(last[string(e.Kv.Key)], v); why != "" {
				t.Errorf("revision %d of %s: %s\nbefore %+v\nafter  %+v", e.Kv.ModRevision, v.Name, why, last[string(e.Kv.Key)], v)
			}
			last[string(e.Kv.Key)] = &v
			if v.Lease != nil {
				h.leases[acked{what: "lease", volume: v.ID, node: v.Lease.Node, fence: v.Lease.Fence}] = true
			}
			if m := v.LastMove; m != nil {
				if was, known := h.ends[m.ID]; known && was != m.State {
					t.Errorf("migration %s was %s and then %s", m.ID, was, m.State)
				}
				h.ends[m.ID] = m.State
			}
		}
	}
	t.Fatal("the history ends before its end")
	return h
}

// holds fails the test unless the history knows what was answered.
func (h history) holds(t *testing.T, a acked) {
	t.Helper()
	ok := h.leases[a]
	switch a.what {
	case "commit":
		ok = h.ends[a.migration] == mobyfs.MigrationCommitted
	case "abort":
		ok = h.ends[a.migration] == mobyfs.MigrationAborted
	}
	if !ok {
		t.Errorf("answered but not in the history: %+v", a)
	}
}

// wrong is the model: it says what may not be so in a record, or not after the one before.
func wrong(before *mobyfs.Volume, v mobyfs.Volume) string {
	switch l, m := v.Lease, v.Migration; {
	case l != nil && l.Node != v.Node:
		return "the lease is not with the home"
	case l != nil && l.Fence != v.Fence:
		return "the lease is not under the volume's fence"
	case l != nil && m != nil:
		return "it is used while it moves"
	case m != nil && (m.From != v.Node || m.To == v.Node || m.Fence != v.Fence || m.State != mobyfs.MigrationCopying):
		return "the migration does not fit the volume"
	}
	if before == nil {
		return ""
	}
	b := *before
	decided := b.Node != v.Node || leaseOf(b) != leaseOf(v) || migrationOf(b) != migrationOf(v) ||
		b.State != v.State && v.State == mobyfs.VolumeRemoving
	switch {
	case v.Fence < b.Fence:
		return "the fence fell"
	case decided && v.Fence == b.Fence:
		return "a decision did not raise the fence"
	case !decided && v.Fence != b.Fence:
		return "the fence rose without a decision"
	case b.State != v.State && !b.State.Leads(v.State):
		return "the state went back"
	case b.Lease != nil && v.Lease != nil && leaseOf(b) != leaseOf(v):
		return "a lease was replaced without a release"
	case b.Migration != nil && v.Migration != nil && migrationOf(b) != migrationOf(v):
		return "a migration was replaced without an end"
	case b.Migration != nil && v.Migration == nil && (v.LastMove == nil || v.LastMove.ID != b.Migration.ID || !b.Migration.State.Leads(v.LastMove.State)):
		return "a migration vanished"
	}
	committed := b.Migration != nil && v.Migration == nil && v.LastMove.State == mobyfs.MigrationCommitted
	switch {
	case committed != (b.Node != v.Node):
		return "the home changed without a commit, or a commit did not change it"
	case committed && (v.Node != b.Migration.To || v.Arrived != b.Migration.ID || v.LastMove.Digest == ""):
		return "the commit did something else"
	case committed && (v.Lease != nil) != b.Migration.Mount:
		return "the commit gave the lease to nobody, or to nobody's wish"
	case !committed && v.Arrived != b.Arrived:
		return "the bytes came from nowhere"
	}
	return ""
}

func leaseOf(v mobyfs.Volume) string {
	if v.Lease == nil {
		return ""
	}
	return fmt.Sprint(v.Lease.Node, v.Lease.Fence)
}

func migrationOf(v mobyfs.Volume) mobyfs.MigrationID {
	if v.Migration == nil {
		return ""
	}
	return v.Migration.ID
}

// The model is only worth something if it objects.
func TestModelObjects(t *testing.T) {
	ready := mobyfs.Volume{ID: "v", State: mobyfs.VolumeReady, Node: "h1", Fence: 5}
	with := func(change func(v *mobyfs.Volume)) mobyfs.Volume { v := ready; change(&v); return v }
	leased := with(func(v *mobyfs.Volume) { v.Fence, v.Lease = 6, &mobyfs.Lease{Node: "h1", Fence: 6} })
	moving := with(func(v *mobyfs.Volume) {
		v.Fence, v.Migration = 6, &mobyfs.Migration{ID: "m", From: "h1", To: "h2", Fence: 6, State: mobyfs.MigrationCopying}
	})
	committed := with(func(v *mobyfs.Volume) {
		v.Node, v.Fence, v.Arrived = "h2", 7, "m"
		v.LastMove = &mobyfs.Migration{ID: "m", State: mobyfs.MigrationCommitted, Digest: "d"}
	})
	for _, good := range [][2]mobyfs.Volume{{ready, leased}, {ready, moving}, {moving, committed}, {ready, ready}} {
		if why := wrong(&good[0], good[1]); why != "" {
			t.Errorf("it objects to a good step: %s", why)
		}
	}
	for name, bad := range map[string][2]mobyfs.Volume{
		"a fence that fell":          {ready, with(func(v *mobyfs.Volume) { v.Fence-- })},
		"a lease without a fence":    {ready, with(func(v *mobyfs.Volume) { v.Lease = &mobyfs.Lease{Node: "h1", Fence: 5} })},
		"a lease elsewhere":          {ready, with(func(v *mobyfs.Volume) { v.Fence, v.Lease = 6, &mobyfs.Lease{Node: "h2", Fence: 6} })},
		"a home that jumps":          {ready, with(func(v *mobyfs.Volume) { v.Fence, v.Node = 6, "h2" })},
		"a migration that vanishes":  {moving, with(func(v *mobyfs.Volume) { v.Fence = 7 })},
		"a commit to somewhere else": {moving, with(func(v *mobyfs.Volume) { *v = committed; v.Node = "h3" })},
		"a state that goes back":     {with(func(v *mobyfs.Volume) { v.State = mobyfs.VolumeRemoving }), ready},
		"use while it moves": {ready, with(func(v *mobyfs.Volume) {
			*v = moving
			v.Lease = &mobyfs.Lease{Node: "h1", Fence: 6}
		})},
	} {
		if wrong(&bad[0], bad[1]) == "" {
			t.Errorf("it does not object to %s", name)
		}
	}
}
