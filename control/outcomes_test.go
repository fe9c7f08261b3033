package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// counted is the value of a series of control's own, such as name{label="value"}, and whether there is one. Of a histogram
// it is the number of observations.
func (f *fleet) counted(series string) (value float64, there bool) {
	f.t.Helper()
	all, err := f.control.metrics.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range all {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := family.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if name != series {
				continue
			}
			if h := m.GetHistogram(); h != nil {
				return float64(h.GetSampleCount()), true
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue(), true
		}
	}
	return 0, false
}

func (f *fleet) wantCounted(want map[string]float64) {
	f.t.Helper()
	for series, n := range want {
		if got, there := f.counted(series); !there || got != n {
			f.t.Errorf("%s is %v (%v), want %v", series, got, there, n)
		}
	}
}

func TestHowThingsEndIsCounted(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	ctx, h2 := t.Context(), f.node("h2")
	logs, data := f.ready("logs", "h1"), f.ready("data", "h1")
	must[mobyfs.Volume](t)(f.operator().MoveVolume(ctx, "logs", "h2"))
	moving := must[mobyfs.Volume](t)(f.operator().MoveVolume(ctx, "data", "h2"))
	f.clock.advance(2 * time.Second)
	must[mobyfs.Grant](t)(h2.Commit(ctx, logs.ID, f.record("logs").Migration.ID, someReceipt))
	must[mobyfs.Volume](t)(f.operator().CancelMove(ctx, "data"))
	_, err := h2.Commit(ctx, data.ID, moving.Migration.ID, someReceipt)
	wantCode(t, err, mobyfs.CodeStaleFence)

	had := f.shared("pgdata", mobyfs.TakeoverAuto, "h1")
	f.advance(mobyfs.SessionTTL + time.Second)
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	_, err = h2.Claim(ctx, had.Volume.ID)
	wantCode(t, err, mobyfs.CodeUnavailable)
	f.advance(mobyfs.SessionTTL)
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	must[mobyfs.Grant](t)(h2.Claim(ctx, had.Volume.ID))
	f.wantCounted(map[string]float64{
		`mobyfs_control_migration_duration_seconds{result="committed"}`: 1,
		`mobyfs_control_migration_duration_seconds{result="aborted"}`:   1,
		`mobyfs_control_fence_rejections_total`:                         1,
		`mobyfs_control_takeovers_total{cause="claim"}`:                 1,
		`mobyfs_control_takeovers_total{cause="operator"}`:              0,
		`mobyfs_control_lock_delay_waits_total`:                         1,
		`mobyfs_control_quorum_margin`:                                  0, // one voter
		`mobyfs_control_voters{reachable="true"}`:                       1,
		`mobyfs_build_info{program="mobyfs-control",version="v1.2.3"}`:  1,
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // it is written down in its own time
		if lost, _ := f.counted("mobyfs_control_sessions_lost_total"); lost == 2 { // h1's and h2's
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%v sessions were lost, want 2", lost)
		}
	}
	if seconds, there := f.counted("mobyfs_control_intermediate_expiry_seconds"); !there || seconds <= 0 {
		t.Errorf("the intermediate ends in %v s", seconds)
	}
}

// A million volumes would be a million series, and ten thousand nodes ten thousand: no label may hold what a user, a node
// or a caller has named.
func TestNoSeriesIsOfASingleVolumeOrNode(t *testing.T) {
	f := newFleet(t, true)
	ctx, op := t.Context(), f.operator()
	named := map[string]bool{"ana": true}
	for _, name := range []string{"node-of-a-kind", "node-of-another"} {
		f.node(name)
		named[name] = true
	}
	h := f.caller(pki.RoleNode, "node-of-a-kind")
	for i := range 100 {
		v := f.ready(fmt.Sprintf("volume-of-a-kind-%02d", i), "node-of-a-kind")
		named[v.Name], named[string(v.ID)] = true, true
		switch {
		case i < 3: // each recall takes a second
			must[mobyfs.Grant](t)(h.Claim(ctx, v.ID))
			_, _ = op.MoveVolume(ctx, v.Name, "node-of-another") // in use: it is wanted from now on
		case i%4 == 1:
			moving := must[mobyfs.Volume](t)(op.MoveVolume(ctx, v.Name, "node-of-another"))
			named[string(moving.Migration.ID)] = true
		case i%4 == 2:
			must[mobyfs.Volume](t)(op.MoveVolume(ctx, v.Name, "node-of-another"))
			must[mobyfs.Volume](t)(op.CancelMove(ctx, v.Name))
		case i%4 == 3:
			if err := op.RemoveVolume(ctx, v.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	must[mobyfs.Operation](t)(f.control.DrainNode(ctx, pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}, "node-of-another", api.DrainRequest{Reason: "a reason of a kind"}))
	all, err := f.control.Metrics(ctx, pki.Identity{Cluster: "shop", Role: pki.RoleViewer, Name: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	families, err := prometheus.Gatherers{all}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			series++
			for _, l := range m.GetLabel() {
				for name := range named {
					if strings.Contains(l.GetValue(), name) || strings.Contains(l.GetValue(), "of a kind") {
						t.Errorf("%s has a series for %s=%q", family.GetName(), l.GetName(), l.GetValue())
					}
				}
			}
		}
	}
	if len(families) < 50 || series < 100 {
		t.Fatalf("there are %d families with %d series only; the test looks in the wrong place", len(families), series)
	}
	_, text := f.scrape(pki.RoleViewer, "prometheus")
	for name := range named {
		if strings.Contains(text, `"`+name+`"`) {
			t.Errorf("what Prometheus reads has a label %q", name)
		}
	}
}

func TestWhyNoNodeWasFoundIsCountedByFilter(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.node("h2")
	_, err := op.CreateVolume(ctx, "huge", mobyfs.VolumeSpec{SizeBytes: 1000 * gib}, "")
	wantCode(t, err, mobyfs.CodeNoSpace)
	_, err = op.CreateVolume(ctx, "far", mobyfs.VolumeSpec{Zone: "mars"}, "h1")
	wantCode(t, err, mobyfs.CodeNoSpace)
	f.wantCounted(map[string]float64{
		`mobyfs_control_placement_refusals_total{filter="room"}`: 1, // though two nodes had none
		`mobyfs_control_placement_refusals_total{filter="zone"}`: 1,
	})
}

func TestAgeOfTheNewestBackupIsTold(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	if _, err := f.control.MakeBackup(t.Context(), pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}); err != nil {
		t.Fatal(err)
	}
	f.advance(7 * time.Hour)
	if age, there := f.counted("mobyfs_control_backup_age_seconds"); !there || age < 7*3600 || age > 8*3600 {
		t.Errorf("the newest backup is said to be %v s old (%v), want 7 hours", age, there)
	}
	f.wantCounted(map[string]float64{"mobyfs_control_backup_overdue": 1, "mobyfs_control_backup_copies": 0})
}
