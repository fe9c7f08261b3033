package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
)

// brisk is a tempo for tests, whose stores are full in a moment.
var brisk = tempo{
	look: 20 * time.Millisecond, low: 500 * time.Millisecond, full: 100 * time.Millisecond, patience: 5 * time.Second, tell: time.Second, turn: 5 * time.Second,
}

// tight is a member with a small quota.
func tight(t *testing.T, tempo tempo) *seat {
	t.Helper()
	s := newSeat(t, newAuthority(t), "h1")
	s.self.Listen = ""
	s.quota, s.tempo = MinQuota, tempo
	s.start()
	return s
}

// large is the record of a volume that takes so many KiB.
func large(n, kib int) mobyfs.Volume {
	v := volume(n)
	v.Spec.Labels = map[string]string{"note": strings.Repeat(fmt.Sprintf("%07d ", n), kib*128)}
	return v
}

// events are the texts of all events of the store.
func events(t *testing.T, s *Store) string {
	t.Helper()
	all, _, err := s.EventsSince(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, e := range all {
		texts = append(texts, e.Text)
	}
	return strings.Join(texts, "\n")
}

// TestQuotaThatIsUsedUpHealsByItself: others write past all care that this package takes, until etcd itself refuses.
func TestQuotaThatIsUsedUpHealsByItself(t *testing.T) {
	t.Parallel()
	careless := brisk
	careless.low, careless.full = time.Hour, time.Hour
	s := tight(t, careless)
	client := etcdOf(s.store)
	var mu sync.Mutex
	acknowledged, refused, longest := map[string]string{}, 0, time.Duration(0)
	var writing sync.WaitGroup
	deadline := time.Now().Add(3 * time.Minute) // however slow the disk
	for w := range 4 {
		writing.Go(func() {
			var full time.Time
			for i := 0; s.store.Stats().AlarmsEnded < 2 && time.Now().Before(deadline); i++ {
				key, value := fmt.Sprintf("/x/%d/%d", w, i%8), fmt.Sprintf("%08d", i)
				_, err := client.Put(t.Context(), key, value+strings.Repeat("x", 512<<10))
				mu.Lock()
				switch {
				case err == nil:
					if acknowledged[key] = value; !full.IsZero() {
						longest, full = max(longest, time.Since(full)), time.Time{}
					}
				case errors.Is(err, rpctypes.ErrNoSpace):
					if refused++; full.IsZero() {
						full = time.Now()
					}
				case errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail): // its disk took longer than an election
				default:
					t.Error(err)
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	writing.Wait()
	eventually(t, "writes work again", func() bool { _, err := client.Put(t.Context(), "/x/last", "x"); return err == nil })
	for key, value := range acknowledged {
		got, err := client.Get(t.Context(), key)
		if err != nil || len(got.Kvs) == 0 || string(got.Kvs[0].Value[:8]) < value {
			t.Errorf("%s: the acknowledged write %s is lost: %v", key, value, err)
		}
	}
	stats := s.store.Stats()
	t.Logf("%d refused, %d alarms ended, %d compressions of %v in all, the longest refusal took %v",
		refused, stats.AlarmsEnded, stats.Compressions, stats.CompressTime.Round(time.Millisecond), longest.Round(time.Millisecond))
	if refused == 0 || stats.AlarmsEnded == 0 {
		t.Error("the quota was never used up: this test shows nothing")
	}
	eventually(t, "it is told", func() bool { return strings.Contains(events(t, s.store), "for h1 was full; control has made room") })
}

func TestFullStoreTakesNothingNewAndRemovalsStill(t *testing.T) {
	t.Parallel()
	s := tight(t, brisk)
	used := put(t, s.store, volume(0))
	var made []mobyfs.Volume
	var refusal error
	for deadline, told := time.Now().Add(3*time.Minute), false; !told; {
		if time.Now().After(deadline) {
			t.Fatalf("after %d volumes it is not told that the store is full: %+v", len(made), s.store.Space())
		}
		if s.store.Space().InUse > MinQuota-1<<20 {
			time.Sleep(2 * time.Millisecond) // what is in use is known with each tenth of a second
		}
		v := large(1+len(made), 8)
		err := s.store.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) })
		if err == nil {
			made = append(made, v)
		}
		refusal = cmp.Or(refusal, err)
		told = err != nil && strings.Contains(events(t, s.store), "the store is full on h1")
	}
	if mobyfs.CodeOf(refusal) != mobyfs.CodeUnavailable || !strings.Contains(refusal.Error(), "member h1 is full") ||
		!strings.Contains(mobyfs.HintOf(refusal), "makes room by itself") {
		t.Fatalf("got %v (hint %q), want a refusal that says what is wrong and what is done", refusal, mobyfs.HintOf(refusal))
	}
	for range 200 { // what is there goes on: the history of it is deleted as it comes
		used.Fence++
		used = put(t, s.store, used)
	}
	again := 0
	for _, v := range made[:len(made)/2] {
		eventually(t, "a volume of a full store is removed", func() bool {
			err := s.store.Update(MakingRoom(t.Context()), func(tx *Tx) error {
				v.State = mobyfs.VolumeRemoving
				return errors.Join(tx.PutVolume(&v), tx.Record(mobyfs.Event{Text: "volume removed"}))
			})
			if err == nil {
				err = s.store.Update(MakingRoom(t.Context()), func(tx *Tx) error { return tx.DeleteVolume(v.ID) })
			}
			if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
				t.Fatalf("remove a volume of a full store: %v", err)
			}
			if err != nil {
				again++
			}
			return err == nil
		})
		time.Sleep(time.Millisecond) // the reserve of so small a store is gone in a moment
	}
	begun := time.Now()
	eventually(t, "it takes new ones", func() bool {
		v := large(5000, 1)
		return s.store.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) }) == nil
	})
	t.Logf("%d volumes were made; half of them removed, %d of these tried again; new ones are taken %v after that", len(made), again, time.Since(begun).Round(time.Millisecond))
	for _, v := range made[len(made)/2:] {
		if _, ok := cached(s.store, v.ID); !ok {
			t.Errorf("volume %s is lost", v.ID)
		}
	}
}

func TestLevelsOfRoomDoNotFlicker(t *testing.T) {
	t.Parallel()
	const q = DefaultQuota
	wide := Disk{Total: 100 << 30, Free: 50 << 30, Ballast: ballastSize}
	for name, c := range map[string]struct {
		space Space
		want  Level
		worth bool
	}{
		"empty":                          {Space{Quota: q, Disk: wide}, SpaceEnough, false},
		"60 %":                           {Space{Quota: q, InUse: q * 60 / 100, Size: q, Disk: wide}, SpaceEnough, true},
		"61 %":                           {Space{Quota: q, InUse: q * 61 / 100, Size: q, Disk: wide}, SpaceLow, true},
		"56 % after it was low":          {Space{Level: SpaceLow, Quota: q, InUse: q * 56 / 100, Disk: wide}, SpaceLow, false},
		"54 % after it was low":          {Space{Level: SpaceLow, Quota: q, InUse: q * 54 / 100, Disk: wide}, SpaceEnough, false},
		"100 %":                          {Space{Quota: q, InUse: q, Size: q, Disk: wide}, SpaceFull, false},
		"96 % after it was full":         {Space{Level: SpaceFull, Quota: q, InUse: q * 96 / 100, Disk: wide}, SpaceFull, false},
		"94 % after it was full":         {Space{Level: SpaceFull, Quota: q, InUse: q * 94 / 100, Disk: wide}, SpaceLow, false},
		"an alarm":                       {Space{Quota: q, Alarm: true, Disk: wide}, SpaceFull, false},
		"a disk with 500 MiB":            {Space{Quota: q, Disk: Disk{Total: 1 << 40, Free: 500 << 20, Ballast: ballastSize}}, SpaceLow, false},
		"a disk whose ballast is gone":   {Space{Quota: q, Disk: Disk{Total: 1 << 40, Free: 100 << 20}}, SpaceFull, false},
		"a file with 29 % free":          {Space{Quota: q, Size: 1000 << 20, InUse: 710 << 20, Disk: wide}, SpaceEnough, false},
		"a file with 31 % free":          {Space{Quota: q, Size: 1000 << 20, InUse: 690 << 20, Disk: wide}, SpaceEnough, true},
		"a small file, most of it free":  {Space{Quota: q, Size: 60 << 20, InUse: 1 << 20, Disk: wide}, SpaceEnough, false},
		"an etcd that others run":        {Space{Size: 1 << 30, InUse: 1 << 20}, SpaceEnough, false},
		"an etcd that others run, alarm": {Space{Alarm: true}, SpaceFull, false},
	} {
		if got := c.space.judge(); got.Level != c.want || got.Worth != c.worth || (got.Cause == "") != (c.want == SpaceEnough) {
			t.Errorf("%s: got %s (%s), worth %v, want %s, %v", name, got.Level, got.Cause, got.Worth, c.want, c.worth)
		}
	}
}

// TestMembersCompressInTurn: the file of each shrinks, never two at once, who leads last and not while it leads.
func TestMembersCompressInTurn(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	seats := map[string]*seat{}
	for _, name := range []string{"h1", "h2", "h3"} {
		seats[name] = newSeat(t, a, name)
		seats[name].quota, seats[name].tempo = MinQuota, brisk
	}
	seats["h1"].start()
	seats["h1"].join(seats["h2"], seats["h3"])
	seats["h1"].list("h1 voter", "h2 voter", "h3 voter")
	led, term := leader(t, seats), seats["h1"].store.etcd.Server.Term()
	var turns []string
	for i := range 100 { // most of it goes again
		put(t, seats["h1"].store, large(i, 64))
	}
	writers := map[string]*writer{}
	for name, s := range seats {
		writers[name] = s.write()
	}
	for i := range 90 {
		v := large(i, 1)
		v.State = mobyfs.VolumeRemoving
		put(t, seats["h1"].store, v)
	}
	if _, err := etcdOf(seats["h1"].store).Compact(t.Context(), seats["h1"].store.etcd.Server.KV().Rev()); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	last := ""
	for deadline := time.Now().Add(2 * time.Minute); len(turns) < 3 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		holder, turn := "", Turn{}
		seats["h1"].store.View(func(v View) {
			for _, turn = range Turns.All(v) {
				holder += turn.Member
			}
		})
		if holder != "" && holder != last {
			leads := seats[holder].store.etcd.Server.Leader() == seats[holder].store.etcd.Server.MemberID()
			if leads && hasTurn(t, seats["h1"].store, turn) { // what h1 knew may be over, and who had the turn lead by now
				t.Errorf("%s compresses its file while it leads", holder)
			}
			turns = append(turns, holder)
		}
		last = holder
	}
	took := time.Since(begun)
	eventually(t, "all have compressed their files", func() bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(seats)), func(s *seat) bool { return s.store.Stats().Compressions == 0 })
	})
	t.Logf("turns %v, led by %s at first, in %v", turns, led, took.Round(time.Millisecond))
	for name, w := range writers {
		w.end()
		t.Logf("%s: %d writes, the longest took %v", name, w.writes, w.longest.Round(time.Millisecond))
		if len(w.failed) > 0 {
			t.Errorf("%s: %d of %d writes failed, such as: %v", name, len(w.failed), w.writes, w.failed[0])
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(turns)))) != 3 {
		t.Fatalf("the turns were %v, want all three", turns)
	}
	switch elections := seats["h1"].store.etcd.Server.Term() - term; {
	case elections > 1: // a slow machine's: who led at first is nobody in particular
		t.Logf("%d elections meanwhile", elections)
	case turns[len(turns)-1] != led:
		t.Errorf("the turns were %v, want %s at the end", turns, led)
	}
}

// hasTurn reports whether the turn is taken still, as the store has it now.
func hasTurn(t *testing.T, s *Store, turn Turn) (has bool) {
	t.Helper()
	err := s.Update(t.Context(), func(tx *Tx) error {
		now, err := Turns.Get(tx, theTurn)
		has = err == nil && now.Member == turn.Member && now.Since.Equal(turn.Since)
		if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			return nil
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return has
}

func leader(t *testing.T, seats map[string]*seat) (name string) {
	t.Helper()
	eventually(t, "one leads", func() bool {
		for n, s := range seats {
			if s.store.etcd.Server.Leader() == s.store.etcd.Server.MemberID() {
				name = n
			}
		}
		return name != ""
	})
	return name
}

// TestTurnOfADeadMemberEndsWithItsLease: killed while it had the turn, it hinders the others until then, and no longer.
func TestTurnOfADeadMemberEndsWithItsLease(t *testing.T) {
	t.Parallel()
	s := tight(t, brisk)
	lease, err := s.store.Grant(t.Context(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	alive, kill := context.WithCancel(t.Context())
	var living sync.WaitGroup
	living.Go(func() {
		for alive.Err() == nil {
			_ = s.store.Renew(alive, lease) // it is killed in between
			time.Sleep(50 * time.Millisecond)
		}
	})
	err = s.store.Update(t.Context(), func(tx *Tx) error {
		return Turns.PutLeased(tx, theTurn, Turn{Member: "h9", Since: time.Now()}, lease)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // most of it is history at once
		put(t, s.store, large(i, 64))
		put(t, s.store, func() mobyfs.Volume { v := large(i, 1); v.Fence++; return v }())
	}
	if _, err := etcdOf(s.store).Compact(t.Context(), s.store.etcd.Server.KV().Rev()); err != nil {
		t.Fatal(err)
	}
	held := func() (held bool) {
		s.store.View(func(v View) { turn, ok := Turns.In(v, theTurn); held = ok && turn.Member == "h9" })
		return held
	}
	eventually(t, "it wants its turn", func() bool { return s.store.Space().Worth })
	for range 10 { // looks
		time.Sleep(brisk.look)
		if !held() || s.store.Stats().Compressions > 0 {
			t.Error("two compress at once")
		}
	}
	kill()
	living.Wait()
	eventually(t, "it has its turn", func() bool { return s.store.Stats().Compressions > 0 })
}

// TestEtcdThatOthersRunIsLookedAtOnly: its alarm is told, and stays.
func TestSizeIsOfTheFileOfRecords(t *testing.T) {
	root := t.TempDir()
	if got := SizeIn(root); got != 0 {
		t.Errorf("there are %d bytes before there is a store", got)
	}
	s := open(t, root)
	eventually(t, "it is looked at", func() bool { return s.Space().Size > 0 })
	if got, want := SizeIn(root), s.Space().Size; got < want || got > want+32<<20 { // etcd makes it longer by 16 MiB each time
		t.Errorf("the file has %d bytes, etcd says %d", got, want)
	}
}

func TestEtcdThatOthersRunIsLookedAtOnly(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	etcd, err := startEtcd(t.Context(), dir, Self{}, MinQuota, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	s, err := Open(t.Context(), Config{
		Cluster: "shop", Log: slog.New(slog.DiscardHandler), Endpoints: []string{"unix://" + socketIn(dir)}, tempo: brisk,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	eventually(t, "it is looked at", func() bool { return s.Space().Level == SpaceEnough && s.Space().Quota == MinQuota+reserve(MinQuota) })
	for i := range 200 {
		_, err = etcdOf(s).Put(t.Context(), fmt.Sprint("/x/", i%4), strings.Repeat("x", 1<<20))
		if err != nil {
			break
		}
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("the quota is not used up: %v", err)
	}
	eventually(t, "it is told", func() bool { return s.Space().Level == SpaceFull && s.Space().Alarm })
	v := volume(1)
	err = s.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) })
	if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), "is full") {
		t.Errorf("a write: got %v, want that it is full", err)
	}
	looks := s.Space().At
	eventually(t, "it is looked at thrice more", func() bool { return s.Space().At.Sub(looks) > 30*brisk.look })
	if len(alarmed(etcd)) == 0 || s.Stats().Compactions+s.Stats().Compressions+s.Stats().AlarmsEnded > 0 {
		t.Errorf("something was done to it: %+v", s.Stats())
	}
}
