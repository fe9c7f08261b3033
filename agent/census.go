package agent

import (
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

// census counts what the agent knows, at the moment it is asked. It asks no other program, and no disk but the node's own.
type census struct{ a *Agent }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("mobyfs_agent_"+name, help, labels, nil)
}

var (
	descSession  = describe("session_remaining_seconds", "Seconds until this node may not count on what control gave it, unless a heartbeat is answered.")
	descWatchdog = describe("watchdog_deadline_seconds", "Seconds until the watchdog ends writing to the volumes that it guards, as it was last told.")
	descAnswers  = describe("watchdog_up", "1 if the watchdog answered the last time it was told something.")
	descGuarded  = describe("watchdog_guarded_volumes", "Volumes that the watchdog guards.")
	descVolumes  = describe("volumes", "Volumes on this node: here, in use, staged by migrations, or with a problem that a person should know of.", "kind")
	descRetrying = describe("steps_retrying", "Volumes whose next step failed and is tried again.")
	descWaiting  = describe("mounts_waiting", "Mounts that wait for a volume.")
	descPulling  = describe("pulls", "Migrations to this node whose bytes are being pulled.")
	descToCome   = describe("pull_remaining_bytes", "Bytes of content that the pulls which run here have yet to bring, as estimated before they began.")
	descFresh    = describe("catalogue_fresh", "1 while control tells this node of each change.")
	descAge      = describe("catalogue_age_seconds", "Seconds since control last told this node of changes; 0 while it does.")
	descState    = describe("state_bytes", "Size of the files in which the agent keeps its catalogue and its journal of mounts.", "file")
	descDisk     = describe("disk_bytes", "Space of the file system that holds volumes of backend dir.", "kind")
	descInodes   = describe("disk_inodes", "Inodes of the file system that holds volumes of backend dir.", "kind")
	descExpiry   = describe("certificate_expiry_seconds", "Seconds until the node's certificate ends.")
)

// Describe implements prometheus.Collector.
func (s *census) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSession, descWatchdog, descAnswers, descGuarded, descVolumes, descRetrying, descWaiting, descPulling,
		descToCome, descFresh, descAge, descState, descDisk, descInodes, descExpiry} {
		ch <- d
	}
}

// gauges makes gauges.
type gauges chan<- prometheus.Metric

func (g gauges) set(d *prometheus.Desc, value float64, labels ...string) {
	g <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

// yes is 1 for true.
func yes(ok bool) float64 {
	if ok {
		return 1
	}
	return 0
}

// Collect implements prometheus.Collector.
func (s *census) Collect(ch chan<- prometheus.Metric) {
	g := gauges(ch)
	g.set(descSession, max(0, s.a.session.until()-s.a.Clock()).Seconds())
	s.guard(g)
	s.work(g)
	fresh, age := s.a.catalogue.age(time.Now())
	g.set(descFresh, yes(fresh))
	g.set(descAge, age.Seconds())
	s.disk(g)
	if _, until, err := s.a.Files.Identity(); err == nil {
		g.set(descExpiry, time.Until(until).Round(time.Second).Seconds())
	}
}

// guard counts what the watchdog does, where there is one.
func (s *census) guard(g gauges) {
	if s.a.Watchdog == nil {
		return
	}
	s.a.guard.mu.Lock()
	silent, told, guarded := s.a.guard.silent, s.a.guard.told, len(s.a.guard.guarded)
	s.a.guard.mu.Unlock()
	g.set(descAnswers, yes(!silent && told > 0))
	g.set(descWatchdog, max(0, told-s.a.Clock()).Seconds())
	g.set(descGuarded, float64(guarded))
}

// work counts what workers have and do.
func (s *census) work(g gauges) {
	var here, used, staged, problems, retrying, waiting, pulling int
	var left int64
	for _, w := range s.a.all() {
		standing := s.a.ledger.standing(w.id)
		w.mu.Lock()
		here += int(yes(w.bytes))
		used += int(yes(standing.uses > 0))
		staged += len(w.staged)
		problems += int(yes(w.problem != ""))
		retrying += int(yes(w.failure != nil))
		waiting += len(w.waiters)
		if w.move.stop != nil {
			pulling++
			left += max(0, w.move.progress.TotalBytes-w.move.progress.Bytes)
		}
		w.mu.Unlock()
	}
	for kind, n := range map[string]int{"here": here, "used": used, "staged": staged, "problem": problems} {
		g.set(descVolumes, float64(n), kind)
	}
	g.set(descRetrying, float64(retrying))
	g.set(descWaiting, float64(waiting))
	g.set(descPulling, float64(pulling))
	g.set(descToCome, float64(left))
}

// disk measures the file system of this node.
func (s *census) disk(g gauges) {
	for file, name := range map[string]string{"catalogue": catalogueName, "journal": ledgerName} {
		if info, err := os.Stat(filepath.Join(s.a.Root, "state", name)); err == nil {
			g.set(descState, float64(info.Size()), file)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.a.Root, &st); err != nil {
		return
	}
	g.set(descDisk, float64(st.Blocks)*float64(st.Bsize), "total")
	g.set(descDisk, float64(st.Bavail)*float64(st.Bsize), "free")
	if st.Files > 0 { // some file systems have as many as fit
		g.set(descInodes, float64(st.Files), "total")
		g.set(descInodes, float64(st.Ffree), "free")
	}
}

// volumes counts each volume whose home this node is, where somebody has asked for that: a series for each volume is
// nothing for a control plane of a million, and fine for a node of a hundred. The words are the kubelet's.
type volumes struct{ a *Agent }

var (
	descVolumeCapacity = prometheus.NewDesc("mobyfs_volume_capacity_bytes", "Space that a volume was promised.", []string{"volume", "id"}, nil)
	descVolumeUsed     = prometheus.NewDesc("mobyfs_volume_used_bytes", "Space that a volume takes, as last measured.", []string{"volume", "id"}, nil)
	descVolumeInodes   = prometheus.NewDesc("mobyfs_volume_inodes_used", "Files and directories of a volume, as last counted.", []string{"volume", "id"}, nil)
	descVolumeUses     = prometheus.NewDesc("mobyfs_volume_mounts", "Containers that use a volume here, as Docker counts them.", []string{"volume", "id"}, nil)
)

// Describe implements prometheus.Collector.
func (s *volumes) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descVolumeCapacity, descVolumeUsed, descVolumeInodes, descVolumeUses} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *volumes) Collect(ch chan<- prometheus.Metric) {
	g := gauges(ch)
	for _, v := range s.a.catalogue.all() {
		if v.Node != s.a.Node || v.State == mobyfs.VolumeRemoving {
			continue
		}
		if v.Spec.SizeBytes > 0 {
			g.set(descVolumeCapacity, float64(v.Spec.SizeBytes), v.Name, string(v.ID))
		}
		if m, known := s.a.reporter.measured(v.ID); known {
			g.set(descVolumeUsed, float64(m.bytes), v.Name, string(v.ID))
			g.set(descVolumeInodes, float64(m.inodes), v.Name, string(v.ID))
		}
		g.set(descVolumeUses, float64(s.a.ledger.standing(v.ID).uses), v.Name, string(v.ID))
	}
}
