package agent

import (
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

func TestDecide(t *testing.T) {
	here := func(f func(*mobyfs.Volume)) *mobyfs.Volume {
		v := &mobyfs.Volume{ID: "v1", Name: "pgdata", State: mobyfs.VolumeReady, Node: "me", Fence: 5}
		if f != nil {
			f(v)
		}
		return v
	}
	away := func(f func(*mobyfs.Volume)) *mobyfs.Volume {
		return here(func(v *mobyfs.Volume) {
			v.Node = "other"
			if f != nil {
				f(v)
			}
		})
	}
	lease := func(node string, fence mobyfs.Fence) func(*mobyfs.Volume) {
		return func(v *mobyfs.Volume) { v.Lease = &mobyfs.Lease{Node: node, Fence: fence} }
	}
	state := func(s mobyfs.VolumeState) func(*mobyfs.Volume) { return func(v *mobyfs.Volume) { v.State = s } }
	moving := func(to string) func(*mobyfs.Volume) {
		return func(v *mobyfs.Volume) {
			v.Migration = &mobyfs.Migration{ID: "m1", From: v.Node, To: to, State: mobyfs.MigrationCopying}
		}
	}
	roomy := func(v *mobyfs.Volume) { v.Spec.SizeBytes = 2 }
	arrived := func(v *mobyfs.Volume) { v.Arrived = "m1" }
	sealed := []backend.Staged{{Migration: "m1", Volume: "v1", Receipt: &mobyfs.Receipt{}}}
	half := []backend.Staged{{Migration: "m1", Volume: "v1"}}

	for name, c := range map[string]struct {
		view view
		want task
	}{
		"nothing known":                               {view{}, rest},
		"gone, and somebody waits":                    {view{waiting: 1}, refuse},
		"gone, nothing here":                          {view{fresh: true}, rest},
		"gone, with remains of a move":                {view{fresh: true, staged: half}, discard},
		"unknown, with remains of a move":             {view{staged: half}, rest},
		"gone, but bytes are here":                    {view{fresh: true, bytes: true}, rest},
		"ready and unused":                            {view{record: here(nil), bytes: true}, rest},
		"ready, wanted":                               {view{record: here(nil), bytes: true, waiting: 1}, claim},
		"ready, wanted, told by an old catalogue":     {view{record: here(nil), bytes: false, waiting: 1}, claim},
		"ready, wanted, lease given":                  {view{record: here(lease("me", 5)), bytes: true, waiting: 1, lease: 5}, attach},
		"in use":                                      {view{record: here(lease("me", 5)), bytes: true, uses: 1, lease: 5, attached: true}, rest},
		"in use, another waits":                       {view{record: here(lease("me", 5)), bytes: true, uses: 1, waiting: 1, lease: 5, attached: true}, attach},
		"in use since before a restart":               {view{record: here(lease("me", 5)), bytes: true, uses: 1, lease: 5}, attach},
		"in use since before a restart, control away": {view{bytes: true, uses: 1, lease: 5}, attach},
		"last use gone":                               {view{record: here(lease("me", 5)), bytes: true, lease: 5, attached: true}, release},
		"last use gone, record gone":                  {view{bytes: true, lease: 5, attached: true}, release},
		"release without a known outcome":             {view{record: here(nil), bytes: true, settling: 5, waiting: 1}, release},
		"release unknown, control away, wanted":       {view{record: here(nil), bytes: true, settling: 5, away: true, waiting: 1}, goAlone},
		"wanted, control away":                        {view{record: here(nil), bytes: true, away: true, waiting: 1}, goAlone},
		"wanted, control away, it was moving":         {view{record: here(moving("other")), bytes: true, away: true, waiting: 1}, claim},
		"wanted, control away, read by another node":  {view{record: here(nil), bytes: true, away: true, waiting: 1, exports: 1}, claim},
		"wanted, control away, bytes elsewhere":       {view{record: away(nil), away: true, waiting: 1}, claim},
		"wanted, control away, not adopted yet":       {view{record: here(arrived), staged: sealed, away: true, waiting: 1}, adopt},
		"used alone":                                  {view{record: here(nil), bytes: true, uses: 1, lease: 5, alone: true, attached: true}, confirm},
		"used alone, another waits":                   {view{record: here(nil), bytes: true, uses: 1, waiting: 1, lease: 5, alone: true, attached: true}, attach},
		"was used alone":                              {view{record: here(nil), bytes: true, lease: 5, alone: true, attached: true}, release},
		"control believes it in use":                  {view{record: here(lease("me", 5)), told: true, bytes: true}, release},
		"control believed it in use long ago":         {view{record: here(lease("me", 5)), bytes: true}, rest},
		"its release was answered already":            {view{record: here(lease("me", 5)), told: true, bytes: true, released: 5}, rest},
		"another node uses it":                        {view{record: away(lease("other", 5)), told: true}, rest},
		"lease forgotten by control, in use":          {view{record: here(func(v *mobyfs.Volume) { v.Fence = 6 }), told: true, bytes: true, uses: 1, lease: 5, attached: true}, confirm},
		"lease forgotten by control, unused":          {view{record: here(func(v *mobyfs.Volume) { v.Fence = 6 }), told: true, bytes: true, lease: 5, attached: true}, release},
		"record older than the lease":                 {view{record: here(func(v *mobyfs.Volume) { v.Fence = 4 }), told: true, bytes: true, uses: 1, lease: 5, attached: true}, rest},
		"in use without a lease":                      {view{record: here(nil), told: true, bytes: true, uses: 1}, confirm},
		"in use without a lease while it moves away":  {view{record: here(moving("other")), told: true, bytes: true, uses: 1}, rest},
		"to be created here":                          {view{record: here(state(mobyfs.VolumeCreating))}, create},
		"to be created here, killed before Created":   {view{record: here(state(mobyfs.VolumeCreating)), bytes: true}, create},
		"to be created elsewhere":                     {view{record: away(state(mobyfs.VolumeCreating))}, rest},
		"to be removed here":                          {view{record: here(state(mobyfs.VolumeRemoving)), told: true, bytes: true}, remove},
		"to be removed here, killed before Removed":   {view{record: here(state(mobyfs.VolumeRemoving)), told: true}, remove},
		"to be removed, says an old catalogue":        {view{record: here(state(mobyfs.VolumeRemoving)), bytes: true}, rest},
		"to be removed here, still read":              {view{record: here(state(mobyfs.VolumeRemoving)), told: true, bytes: true, exports: 1}, rest},
		"to be removed elsewhere, somebody waits":     {view{record: away(state(mobyfs.VolumeRemoving)), told: true, waiting: 1}, refuse},
		"moves here":                                  {view{record: away(moving("me")), told: true}, pull},
		"moves here, half staged":                     {view{record: away(moving("me")), told: true, staged: half}, pull},
		"moves here, sealed":                          {view{record: away(moving("me")), told: true, staged: sealed}, pull},
		"moves here, but that has ended":              {view{record: away(moving("me")), told: true, over: "m1"}, rest},
		"moves here, over old bytes":                  {view{record: away(moving("me")), told: true, bytes: true}, pull},
		"moves away":                                  {view{record: here(moving("other")), told: true, bytes: true}, rest},
		"moved here, not adopted":                     {view{record: here(arrived), told: true, staged: sealed}, adopt},
		"moved here, not adopted, somebody waits":     {view{record: here(arrived), told: true, staged: sealed, waiting: 1}, adopt},
		"moved here, then away again":                 {view{record: away(arrived), told: true, staged: sealed}, discard},
		"a move that was aborted":                     {view{record: away(nil), told: true, staged: sealed}, discard},
		"a move that was aborted, says a catalogue":   {view{record: away(nil), staged: sealed}, rest},
		"moved away":                                  {view{record: away(nil), told: true, bytes: true}, vacate},
		"moved away, says an old catalogue":           {view{record: away(nil), bytes: true}, rest},
		"moved away, still read":                      {view{record: away(nil), told: true, bytes: true, exports: 1}, rest},
		"moved away under containers":                 {view{record: away(nil), told: true, bytes: true, uses: 1}, rest},
		"moved away, somebody wants it here":          {view{record: away(nil), told: true, bytes: true, waiting: 1}, vacate},
		"elsewhere, wanted here":                      {view{record: away(nil), told: true, waiting: 1}, claim},
		"given more room":                             {view{record: here(roomy), told: true, bytes: true, room: 1}, grow},
		"given more room, in use":                     {view{record: here(func(v *mobyfs.Volume) { roomy(v); lease("me", 5)(v) }), told: true, bytes: true, room: 1, uses: 1, lease: 5, attached: true}, grow},
		"given more room, somebody waits":             {view{record: here(roomy), told: true, bytes: true, room: 1, waiting: 1}, claim},
		"given more room, says an old catalogue":      {view{record: here(roomy), bytes: true, room: 1}, rest},
		"given more room, read by another node":       {view{record: here(roomy), told: true, bytes: true, room: 1, exports: 1}, rest},
		"promised less room":                          {view{record: here(roomy), told: true, bytes: true, room: 3}, rest},
		"bytes missing":                               {view{record: here(nil), told: true}, missing},
		"bytes missing, wanted":                       {view{record: here(nil), told: true, waiting: 1}, missing},
		"bytes missing, control believes it in use":   {view{record: here(lease("me", 5)), told: true}, release},
		"bytes missing, lease here from before":       {view{record: here(lease("me", 5)), told: true, lease: 5}, release},
	} {
		c.view.me = "me"
		if got := decide(c.view); got.task != c.want {
			t.Errorf("%s: got %q (%s), want %q", name, got.task, got.why, c.want)
		}
	}
}

// TestDecideNeverDestroysOnHearsay walks all views of a small world: only what control told in this life may end
// bytes, and bytes in use stay.
func TestDecideNeverDestroysOnHearsay(t *testing.T) {
	bools := []bool{false, true}
	n := 0
	for _, state := range []mobyfs.VolumeState{mobyfs.VolumeCreating, mobyfs.VolumeReady, mobyfs.VolumeRemoving} {
		for _, node := range []string{"me", "other"} {
			for _, to := range []string{"", "me", "other"} {
				for _, leaseOf := range []string{"", "me", "other"} {
					for bits := range 1 << 8 {
						bit := func(i int) bool { return bits>>i&1 == 1 }
						v := view{me: "me", told: bit(0), fresh: bit(1), bytes: bit(2), attached: bit(3)}
						r := mobyfs.Volume{State: state, Node: node, Fence: 5}
						if bit(4) {
							v.uses = 1
						}
						if bit(5) {
							v.waiting = 1
						}
						if bit(6) {
							v.lease = 5
						}
						if bit(7) {
							v.exports = 1
						}
						if to != "" {
							r.Migration = &mobyfs.Migration{ID: "m1", To: to, State: mobyfs.MigrationCopying}
						}
						if leaseOf != "" {
							r.Lease = &mobyfs.Lease{Node: leaseOf, Fence: 5}
						}
						for _, staged := range bools {
							v.staged = nil
							if staged {
								v.staged = []backend.Staged{{Migration: "m1"}}
							}
							v.record = &r
							s := decide(v)
							n++
							switch s.task {
							case remove, vacate, discard:
								if !v.told {
									t.Fatalf("%s on hearsay: %+v", s.task, v)
								}
								if v.exports > 0 && s.task != discard || s.task == vacate && v.uses > 0 {
									t.Fatalf("%s of bytes in use: %+v", s.task, v)
								}
							case release:
								if v.uses > 0 || v.waiting > 0 {
									t.Fatalf("release of what is wanted: %+v", v)
								}
							case create:
								if state != mobyfs.VolumeCreating || node != "me" {
									t.Fatalf("create of %s on %s", state, node)
								}
							case attach:
								if v.lease == 0 {
									t.Fatalf("attach without a lease: %+v", v)
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d views", n)
}
