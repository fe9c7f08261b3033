package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// counted is the value of a series of the agent's, such as name{label="value"}. Of a histogram it is the number of
// observations.
func (n *node) counted(series string) float64 {
	n.rig.t.Helper()
	all, err := n.agent.Metrics().Gather()
	if err != nil {
		n.rig.t.Fatal(err)
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
			switch h := m.GetHistogram(); {
			case name != series:
			case h != nil:
				return float64(h.GetSampleCount())
			default:
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	n.rig.t.Errorf("there is no series %s", series)
	return -1
}

func (n *node) wantCounted(want map[string]float64) {
	n.rig.t.Helper()
	for series, value := range want {
		if got := n.counted(series); got != value {
			n.rig.t.Errorf("%s: %s is %v, want %v", n.name, series, got, value)
		}
	}
}

func TestMetricsTellThatControlIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		pass(time.Minute)
		h1.wantCounted(map[string]float64{"mobyfs_agent_catalogue_fresh": 1, "mobyfs_agent_catalogue_age_seconds": 0})
		if left := h1.counted("mobyfs_agent_session_remaining_seconds"); left <= 0 || left > mobyfs.SessionTTL.Seconds() {
			t.Errorf("the session has %v s left", left)
		}
		r.cluster.setDown(true)
		pass(5 * time.Minute)
		h1.wantCounted(map[string]float64{"mobyfs_agent_catalogue_fresh": 0, "mobyfs_agent_session_remaining_seconds": 0})
		if age := h1.counted("mobyfs_agent_catalogue_age_seconds"); age < 290 || age > 301 {
			t.Errorf("the catalogue is said to be %v s old, want 300", age)
		}
		if failed := h1.counted(`mobyfs_agent_heartbeat_duration_seconds{code="unavailable"}`); failed < 10 {
			t.Errorf("%v heartbeats have failed", failed)
		}
		r.cluster.setDown(false)
		pass(time.Minute)
		h1.wantCounted(map[string]float64{"mobyfs_agent_catalogue_fresh": 1})
	})
}

func TestSelfFenceIsCountedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, h1, _, d, link := guarded(t)
		h1.mount("pgdata", "a")
		pass(time.Minute)
		h1.wantCounted(map[string]float64{"mobyfs_agent_watchdog_up": 1, "mobyfs_agent_watchdog_guarded_volumes": 1, "mobyfs_agent_self_fences_total": 0})
		if left := h1.counted("mobyfs_agent_watchdog_deadline_seconds"); left <= 0 || left > mobyfs.SessionTTL.Seconds() {
			t.Errorf("the watchdog has %v s left", left)
		}
		link.down.Store(true)
		link.lose()
		d.wait(t)
		h1.agent.beat(t.Context())
		h1.agent.beat(t.Context())
		h1.wantCounted(map[string]float64{"mobyfs_agent_self_fences_total": 1})
		d.mu.Lock()
		d.away = true
		d.mu.Unlock()
		h1.agent.beat(t.Context())
		h1.wantCounted(map[string]float64{"mobyfs_agent_watchdog_up": 0})
	})
}

func TestVolumesAreMeasuredByThemselvesWhereThatIsWanted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.agent.metrics.registry.MustRegister(&volumes{h1.agent})
		h1.create("pgdata", map[string]string{"size": "1G"})
		write(t, h1.mount("pgdata", "a"), "rows", strings.Repeat("x", 1<<16))
		pass(2 * measureEvery)
		labels := fmt.Sprintf(`{id=%q,volume="pgdata"}`, r.cluster.volume("pgdata").ID)
		h1.wantCounted(map[string]float64{
			"mobyfs_volume_capacity_bytes" + labels: 1 << 30, "mobyfs_volume_inodes_used" + labels: 2, "mobyfs_volume_mounts" + labels: 1,
		})
		if used := h1.counted("mobyfs_volume_used_bytes" + labels); used < 1<<16 || used > 1<<18 {
			t.Errorf("%v bytes are used", used)
		}
	})
}

// A node that acts on an old decision is held off by the fence beside the bytes, and that is seen.
func TestFenceThatHoldsOffIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		settled()
		id := r.cluster.volume("pgdata").ID
		if err := h1.agent.backends[mobyfs.DefaultBackend].Detach(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, release, err := h1.agent.backends[mobyfs.DefaultBackend].Export(t.Context(), id, 1000); err != nil {
			t.Fatal(err)
		} else {
			release()
		}
		if _, err := h1.agent.Mount(t.Context(), "pgdata", "a"); mobyfs.CodeOf(err) != mobyfs.CodeStaleFence {
			t.Errorf("got %v, want stale-fence", err)
		}
		if n := h1.counted(`mobyfs_agent_fence_rejections_total{operation="attach"}`); n < 1 {
			t.Errorf("%v rejections", n)
		}
		h2.wantCounted(map[string]float64{`mobyfs_agent_fence_rejections_total{operation="attach"}`: 0})
	})
}
