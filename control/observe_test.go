package control

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/backup"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// inMemory is a fleet whose store is in memory, and can be restored there.
type inMemory struct {
	*fleet
	memory *store.Memory
	key    *seal.Key
}

func newInMemory(t testing.TB) *inMemory {
	t.Helper()
	f := &inMemory{memory: store.NewMemory()}
	dir := t.TempDir()
	authority, err := pki.NewAuthority(dir+"/pki", "shop")
	if err != nil {
		t.Fatal(err)
	}
	f.fleet = &fleet{t: t, authority: authority, dir: dir, clock: &clock{now: time.Now()}, heard: map[string]time.Time{}}
	f.cfg = Config{
		Cluster: "shop", Root: dir, Version: "v1", Now: f.clock.Now, Clock: f.clock.since,
		Identity: f.files(authority, pki.RoleControl, "control"), Log: slog.New(slog.DiscardHandler),
		OpenStore: func(ctx context.Context, cfg store.Config) (*store.Store, error) {
			return store.OpenMemory(ctx, cfg, f.memory.Line())
		},
	}
	f.open(false)
	t.Cleanup(f.close)
	f.key = f.control.keeper.seal
	return f
}

// backup makes one of the store as it is now.
func (f *inMemory) backup() []byte {
	f.t.Helper()
	var b bytes.Buffer
	h := backup.Header{ID: f.control.newID(), Cluster: "shop", MadeAt: f.clock.Now().UTC()}
	if _, err := backup.Write(f.t.Context(), &b, f.control.store, f.key, h); err != nil {
		f.t.Fatal(err)
	}
	return b.Bytes()
}

// restore loses all that control knows, and begins anew from a backup.
func (f *inMemory) restore(file []byte) {
	f.t.Helper()
	f.close()
	b, err := backup.Open(bytes.NewReader(file))
	if err != nil {
		f.t.Fatal(err)
	}
	defer b.Close()
	f.clock.advance(time.Minute)
	f.memory = store.NewMemory()
	r := store.Restored{Backup: b.ID, MadeAt: b.MadeAt, At: f.clock.Now().UTC()}
	if err := store.RestoreMemory(f.t.Context(), f.memory, r, b.Records(f.key)); err != nil {
		f.t.Fatal(err)
	}
	f.heard = map[string]time.Time{}
	f.open(f.address != "")
}

// tells makes a node report, and tell what it holds if it is asked.
func (f *inMemory) tells(node string, holdings ...mobyfs.Holding) {
	f.t.Helper()
	n := f.caller(pki.RoleNode, node)
	session, err := n.Report(f.t.Context(), mobyfs.Report{Address: node + ":8080", Version: "v1", Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 100 * gib}})
	if err != nil {
		f.t.Fatal(err)
	}
	if session.Tell == "" {
		f.t.Fatalf("%s is not asked for what it holds", node)
	}
	part := mobyfs.Inventory{History: session.Tell}
	for len(holdings) > mobyfs.MaxHoldings {
		part.Holdings, holdings = holdings[:mobyfs.MaxHoldings], holdings[mobyfs.MaxHoldings:]
		if err := n.Inventory(f.t.Context(), part); err != nil {
			f.t.Fatal(err)
		}
	}
	part.Holdings, part.Last = holdings, true
	for _, h := range holdings {
		part.Epoch = max(part.Epoch, highest(h).Epoch())
	}
	if err := n.Inventory(f.t.Context(), part); err != nil {
		f.t.Fatal(err)
	}
}

// converged compares what was told now, and not when control gets round to it.
func (f *inMemory) converged() {
	f.t.Helper()
	if err := f.control.converge(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *inMemory) volume(id mobyfs.VolumeID) (v mobyfs.Volume, ok bool) {
	f.control.store.View(func(view store.View) { v, ok = view.Volume(id) })
	return v, ok
}

// holds is a volume as its node has it that was last decided on as v says.
func holds(v mobyfs.Volume) mobyfs.Holding {
	h := mobyfs.Holding{ID: v.ID, Bytes: true, Fence: v.Fence, Known: &v}
	if v.Lease != nil {
		h.Lease = v.Lease.Fence
	}
	return h
}

// moved moves a volume to a node, as the agents would.
func (f *inMemory) moved(name, to string) mobyfs.Volume {
	f.t.Helper()
	v, err := f.operator().MoveVolume(f.t.Context(), name, to)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.caller(pki.RoleNode, to).Commit(f.t.Context(), v.ID, v.Migration.ID, mobyfs.Receipt{Digest: "d"}); err != nil {
		f.t.Fatal(err)
	}
	return f.record(name)
}

func TestARestoredControlDecidesNothingUntilAllHaveTold(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2", "h3"} {
		f.node(n)
	}
	v := f.ready("pgdata", "h1")
	f.restore(f.backup())
	node := f.caller(pki.RoleNode, "h1")
	ctx := t.Context()
	refused := func(when string) {
		t.Helper()
		for what, err := range map[string]error{
			"claim":   func() error { _, err := node.Claim(ctx, v.ID); return err }(),
			"release": node.Release(ctx, v.ID, v.Fence),
			"create":  func() error { _, err := node.CreateVolume(ctx, "new", mobyfs.VolumeSpec{}, ""); return err }(),
			"remove":  f.operator().RemoveVolume(ctx, "pgdata"),
			"removed": node.Removed(ctx, v.ID),
			"move":    func() error { _, err := f.operator().MoveVolume(ctx, "pgdata", "h2"); return err }(),
			"take":    func() error { _, err := f.operator().TakeOver(ctx, "pgdata", "h2", "test"); return err }(),
			"watch":   node.Watch(ctx, func(mobyfs.Change) { t.Errorf("%s: a node is told of volumes", when) }),
			"records": func() error { _, err := node.Records(ctx, []mobyfs.VolumeID{v.ID}); return err }(),
		} {
			if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || mobyfs.HintOf(err) == "" {
				t.Errorf("%s: %s: got %v, want %v with a hint", when, what, err, mobyfs.CodeUnavailable)
			}
		}
	}
	refused("at first")
	f.tells("h1", holds(v))
	f.tells("h2")
	f.converged()
	refused("while one is awaited")
	s, err := f.operator().RestoreStatus(ctx)
	if err != nil || !slices.Equal(s.Awaited, []string{"h3"}) || !slices.Equal(s.Told, []string{"h1", "h2"}) {
		t.Errorf("the status is %+v, %v", s, err)
	}
	if c, err := f.operator().Cluster(ctx); err != nil || c.Restore == nil {
		t.Errorf("the cluster's status does not say so: %v", err)
	}
	f.tells("h3")
	f.converged()
	if s, err := f.operator().RestoreStatus(ctx); err != nil || s.Backup != "" {
		t.Errorf("the status is %+v, %v", s, err)
	}
	if err := watchOnce(ctx, node); err != nil {
		t.Error(err)
	}
	g, err := node.Claim(ctx, v.ID)
	if err != nil || g.Fence.Epoch() != 1 || g.Fence <= v.Fence {
		t.Errorf("the first lease has fence %v, %v", g.Fence, err)
	}
}

func TestTheRecordFollowsTheNewestBytes(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2"} {
		f.node(n)
	}
	stayed, gone, left := f.ready("stayed", "h1"), f.ready("gone", "h1"), f.ready("left", "h1")
	old := f.backup()
	goneNow, leftNow := f.moved("gone", "h2"), f.moved("left", "h2")
	made := f.ready("made", "h2")
	f.restore(old)
	f.tells("h1", holds(stayed), holds(left)) // h1 was away when left moved, and has its bytes still
	f.tells("h2", holds(goneNow), holds(leftNow), holds(made))
	f.converged()
	for id, want := range map[mobyfs.VolumeID]string{stayed.ID: "h1", gone.ID: "h2", left.ID: "h2", made.ID: "h2"} {
		v, ok := f.volume(id)
		if !ok || v.Node != want || v.State != mobyfs.VolumeReady || v.Aside != nil {
			t.Errorf("got %+v, want it on %s", v, want)
		}
	}
	if v, _ := f.volume(left.ID); !slices.Equal(v.Kept, []string{"h1"}) {
		t.Errorf("kept at %v", v.Kept)
	}
	if v, _ := f.volume(made.ID); v.Name != "made" || v.Fence <= made.Fence {
		t.Errorf("made is %+v", v)
	}
	if _, err := f.operator().MoveVolume(t.Context(), "left", "h1"); mobyfs.CodeOf(err) != mobyfs.CodeExists {
		t.Errorf("a move onto other bytes: %v", err)
	}
}

func TestOfTwoCopiesAnOperatorUsesOneOrGivesItUp(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2"} {
		f.node(n)
	}
	left, lost := f.ready("left", "h1"), f.ready("lost", "h1")
	f.moved("lost", "h2")
	old := f.backup()
	leftNow := f.moved("left", "h2")
	f.restore(old)
	stale := lost
	stale.Fence = 1
	f.tells("h1", holds(left), holds(stale)) // h2 lost its bytes of lost, and h1 has older ones
	f.tells("h2", holds(leftNow))
	f.converged()
	ctx, ana := t.Context(), f.operator()
	if v, _ := f.volume(lost.ID); v.Aside == nil || !slices.Equal(v.Kept, []string{"h1"}) {
		t.Fatalf("lost is %+v", v)
	}
	if _, err := ana.SettleVolume(ctx, "lost", "", "h1"); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
		t.Errorf("the only bytes there are were given up: %v", err)
	}
	for _, both := range [][2]string{{"", ""}, {"h1", "h1"}, {"h9", ""}} {
		if _, err := ana.SettleVolume(ctx, "left", both[0], both[1]); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
			t.Errorf("%v: %v", both, err)
		}
	}
	for range 2 { // again is fine
		if v, err := ana.SettleVolume(ctx, "lost", "h1", ""); err != nil || v.Node != "h1" || v.Aside != nil || len(v.Kept) > 0 {
			t.Errorf("lost is %+v, %v", v, err)
		}
		if v, err := ana.SettleVolume(ctx, "left", "h1", ""); err != nil || v.Node != "h1" || !slices.Equal(v.Kept, []string{"h2"}) {
			t.Errorf("left is %+v, %v", v, err)
		}
	}
	for range 2 {
		if v, err := ana.SettleVolume(ctx, "left", "", "h2"); err != nil || v.Node != "h1" || len(v.Kept) > 0 {
			t.Errorf("left is %+v, %v", v, err)
		}
	}
}

func TestALeaseThatIsReliedOnStays(t *testing.T) {
	f := newInMemory(t)
	h1 := f.node("h1")
	used, freed := f.ready("used", "h1"), f.ready("freed", "h1")
	if _, err := h1.Claim(t.Context(), freed.ID); err != nil {
		t.Fatal(err)
	}
	old := f.backup()
	g, err := h1.Claim(t.Context(), used.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.restore(old)
	f.tells("h1", holds(g.Volume), holds(freed))
	f.converged()
	if v, _ := f.volume(used.ID); v.Lease == nil || v.Lease.Node != "h1" || v.Lease.Fence != g.Fence {
		t.Errorf("the lease of %v is %+v", g.Fence, v.Lease)
	}
	if v, _ := f.volume(freed.ID); v.Lease != nil {
		t.Errorf("a lease that nobody holds: %+v", v.Lease)
	}
}

// TestALeaseOfASharedVolumeThatItsHomeHasLetGoOfEnds: since the backup the volume was released and given to a node that has not used
// it yet, so that nobody holds anything of it.
func TestALeaseOfASharedVolumeThatItsHomeHasLetGoOfEnds(t *testing.T) {
	f := newInMemory(t)
	h1 := f.node("h1")
	v := must[mobyfs.Volume](t)(f.operator().CreateVolume(t.Context(), "shared", mobyfs.VolumeSpec{Backend: mobyfs.SharedBackend}, "h1"))
	must[mobyfs.Volume](t)(h1.Created(t.Context(), v.ID))
	must[mobyfs.Grant](t)(h1.Claim(t.Context(), v.ID))
	f.restore(f.backup())
	f.tells("h1")
	f.converged()
	now, ok := f.volume(v.ID)
	if !ok || now.State != mobyfs.VolumeReady || now.Aside != nil || now.Lease != nil {
		t.Fatalf("got %+v, want it free", now)
	}
	h1 = f.caller(pki.RoleNode, "h1")
	g := must[mobyfs.Grant](t)(h1.Claim(t.Context(), v.ID))
	if err := h1.Release(t.Context(), v.ID, g.Fence); err != nil {
		t.Errorf("it is given and can't be released: %v", err)
	}
}

func TestWhatNobodyHoldsIsSetAsideAndComesBackWithItsBytes(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2", "h3"} {
		f.node(n)
	}
	lost, moved := f.ready("lost", "h1"), f.ready("moved", "h1")
	old := f.backup()
	movedNow := f.moved("moved", "h3")
	f.restore(old)
	f.tells("h1")
	f.tells("h2")
	if _, err := f.operator().Converge(t.Context(), []string{"h9"}); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		t.Errorf("without a node that there is not: %v", err)
	}
	if _, err := f.operator().Converge(t.Context(), []string{"h3"}); err != nil {
		t.Fatal(err)
	}
	f.converged()
	for _, id := range []mobyfs.VolumeID{lost.ID, moved.ID} {
		if v, ok := f.volume(id); !ok || v.Aside == nil || v.Condition() != "aside" {
			t.Errorf("got %+v, want it aside", v)
		}
	}
	if _, err := f.caller(pki.RoleNode, "h2").Claim(t.Context(), lost.ID); mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || mobyfs.HintOf(err) == "" {
		t.Errorf("a claim: %v", err)
	}
	h3 := f.caller(pki.RoleNode, "h3")
	f.tells("h3", holds(movedNow))
	told, enough := context.WithCancel(t.Context())
	defer enough()
	err := h3.Watch(told, func(c mobyfs.Change) { // refused, unless they agree already
		if c.Full == nil {
			return
		}
		for _, v := range c.Full.Volumes {
			if v.ID == moved.ID && v.Aside != nil {
				t.Errorf("before the records agree with a late node it is told of them: %+v", v)
			}
		}
		enough()
	})
	if told.Err() == nil && mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
		t.Errorf("before the records agree with a late node it watches: %v", err)
	}
	f.converged()
	if v, _ := f.volume(moved.ID); v.Aside != nil || v.Node != "h3" {
		t.Errorf("got %+v, want it on h3", v)
	}
	if err := watchOnce(t.Context(), h3); err != nil {
		t.Error(err)
	}
	if err := f.operator().RemoveVolume(t.Context(), "lost"); err != nil {
		t.Errorf("what is set aside can't be removed: %v", err)
	}
}

func TestBytesThatAMigrationBroughtAreNotLost(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2"} {
		f.node(n)
	}
	told, untold := f.ready("told", "h1"), f.ready("untold", "h1")
	before := f.backup()
	toldNow := f.moved("told", "h2") // h2 was killed before it adopted what came
	v, err := f.operator().MoveVolume(t.Context(), "untold", "h2")
	if err != nil {
		t.Fatal(err)
	}
	during := f.backup()
	for _, old := range [][]byte{before, during} {
		f.restore(old)
		f.tells("h1")
		f.tells("h2", mobyfs.Holding{ID: told.ID, Sealed: toldNow.Arrived, Known: &toldNow},
			mobyfs.Holding{ID: untold.ID, Sealed: v.Migration.ID, Known: &v}) // and before it heard that this was committed
		f.converged()
		for id, want := range map[mobyfs.VolumeID]mobyfs.MigrationID{told.ID: toldNow.Arrived, untold.ID: v.Migration.ID} {
			if got, _ := f.volume(id); got.Node != "h2" || got.Arrived != want || got.Migration != nil || got.Aside != nil {
				t.Errorf("got %+v, want it on h2 by %s", got, want)
			}
		}
	}
}

func TestOfTwoVolumesWithOneNameTheNewerHasIt(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2"} {
		f.node(n)
	}
	older := f.ready("db", "h1")
	old := f.backup()
	if err := f.operator().RemoveVolume(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Second)
	newer := f.ready("db", "h2")
	for _, still := range [][]mobyfs.Holding{nil, {holds(older)}} { // h1 has removed the bytes, or has not got round to it
		f.restore(old)
		f.tells("h1", still...)
		f.tells("h2", holds(newer))
		f.converged()
		if got := f.record("db"); got.ID != newer.ID || got.Node != "h2" {
			t.Errorf("db is %+v", got)
		}
		was, ok := f.volume(older.ID)
		if !ok || !strings.HasPrefix(was.Name, "db.") || (was.Aside == nil) != (len(still) > 0) {
			t.Errorf("the older one is %+v", was)
		}
		if got := f.record(was.Name); got.ID != older.ID {
			t.Errorf("%s is %+v", was.Name, got)
		}
	}
}

func TestAVolumeThatOneNodeOnlySeesHasTheNameAnotherKnows(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2", "h3"} {
		f.node(n)
	}
	old := f.backup()
	v := f.readyWith("db", "h2", mobyfs.VolumeSpec{Backend: mobyfs.SharedBackend, Takeover: mobyfs.TakeoverAuto})
	lone := f.readyWith("lone", "h1", mobyfs.VolumeSpec{Backend: mobyfs.SharedBackend})
	f.restore(old)
	seen := func(id mobyfs.VolumeID) mobyfs.Holding {
		return mobyfs.Holding{ID: id, Bytes: true, Fence: 5, Known: mobyfs.Nameless(id, mobyfs.VolumeSpec{Backend: mobyfs.SharedBackend})}
	}
	f.tells("h1", seen(v.ID), seen(lone.ID))
	f.tells("h2")
	f.tells("h3", mobyfs.Holding{ID: v.ID, Bytes: true, Fence: 5, Known: &v}) // which is on h2, as h3 knows it
	f.converged()
	if got, _ := f.volume(v.ID); got.Name != "db" || got.Spec.Takeover != mobyfs.TakeoverAuto || got.State != mobyfs.VolumeReady || len(got.Kept) > 0 {
		t.Errorf("got %+v", got)
	}
	got, _ := f.volume(lone.ID)
	if got.Name != "restored-"+string(lone.ID) || got.Node != "h1" || !mobyfs.SharesBytes(got.Spec.Backend) || got.CreatedAt.IsZero() {
		t.Errorf("that of which nobody knows the name is %+v", got)
	}
}

func TestTheEpochIsHigherThanAnyThatANodeKnows(t *testing.T) {
	f := newInMemory(t)
	f.node("h1")
	v := f.ready("pgdata", "h1")
	old := f.backup()
	last := v.Fence
	for range 3 { // from the same backup, which knows nothing of the others
		f.restore(old)
		v.Fence = last
		f.tells("h1", holds(v))
		f.converged()
		g, err := f.caller(pki.RoleNode, "h1").Claim(t.Context(), v.ID)
		if err != nil {
			t.Fatal(err)
		}
		if g.Fence <= last || g.Fence.Epoch() <= last.Epoch() {
			t.Errorf("after fence %v comes %v", last, g.Fence)
		}
		last = g.Fence
	}
}

func TestATokenOfBeforeLetsNobodyIn(t *testing.T) {
	f := newInMemory(t)
	f.node("h1")
	if err := f.control.store.Update(t.Context(), func(tx *store.Tx) error {
		return store.Tokens.Put(tx, "01j", store.Token{Hash: "x"})
	}); err != nil {
		t.Fatal(err)
	}
	f.restore(f.backup())
	f.control.store.View(func(view store.View) {
		if n := store.Tokens.Count(view); n > 0 {
			t.Errorf("there are %d tokens", n)
		}
	})
}

func TestAnInventoryOfManyPartsAndOfNonsense(t *testing.T) {
	f := newInMemory(t)
	f.node("h1")
	f.restore(f.backup())
	var all []mobyfs.Holding
	for i := range 1001 {
		v := mobyfs.Volume{ID: mobyfs.VolumeID("01jexa3tq200000000000" + strings.Repeat("0", 1) + string(rune('a'+i/676%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26)) + "z"), Node: "h1", Fence: 3, State: mobyfs.VolumeReady}
		v.Name = "v-" + string(v.ID)
		all = append(all, holds(v))
	}
	h1 := f.caller(pki.RoleNode, "h1")
	history := f.control.store.History()
	for what, part := range map[string]mobyfs.Inventory{
		"too many":        {History: history, Holdings: all},
		"another restore": {History: "x", Last: true},
		"a path":          {History: history, Holdings: []mobyfs.Holding{{ID: "../../../../../../../../m"}}},
		"a huge fence":    {History: history, Holdings: []mobyfs.Holding{{ID: all[0].ID, Fence: 1 << 63}}},
	} {
		if err := h1.Inventory(t.Context(), part); err == nil || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v", what, err)
		}
	}
	all[0].Known.Name = "../etc"
	f.tells("h1", all...)
	f.converged()
	f.control.store.View(func(view store.View) {
		if n := view.Count(store.By{}); n != len(all) || store.Holdings.Count(view) != 0 {
			t.Errorf("there are %d volumes, %d holdings left", n, store.Holdings.Count(view))
		}
	})
	if v, ok := f.volume(all[0].ID); !ok || v.Name != "restored-"+string(all[0].ID) {
		t.Errorf("the one without a name is %+v", v)
	}
}
