package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
)

// trimEvery is how often the audit trail is brought to the disks while the store has little room.
const trimEvery = 30 * time.Second

// short reports whether the store has less room than it should.
func (c *Control) short() bool {
	level := c.store.Space().Level
	return level == store.SpaceLow || level == store.SpaceFull
}

// keptEvents is how long events stay in the store that all controls have on their disks.
func (c *Control) keptEvents() time.Duration {
	if c.short() {
		return 0
	}
	return keepEvents
}

// room tells of the members of the store how much room they have, by name. What this process sees of its own is newer
// than the record of it.
func (c *Control) room() []api.Room {
	spaces := map[string]store.Space{}
	c.store.View(func(v store.View) {
		for name, s := range store.Spaces.All(v) {
			if c.now().Sub(s.At).Abs() < forgetRoom {
				spaces[name] = s
			}
		}
	})
	if own := c.store.Space(); own.Level != "" {
		spaces[own.Member] = own
	}
	all := []api.Room{}
	for _, s := range spaces {
		all = append(all, api.Room{
			Member: s.Member, Level: string(s.Level), Cause: s.Cause, InUseBytes: s.InUse, FileBytes: s.Size, QuotaBytes: s.Quota, DiskFreeBytes: s.Disk.Free,
		})
	}
	slices.SortFunc(all, func(a, b api.Room) int { return strings.Compare(a.Member, b.Member) })
	return all
}

// forgetRoom is how old what a member has told may be: it tells every ten minutes.
const forgetRoom = 30 * time.Minute

// Ready implements api.Service.
func (c *Control) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	var why []string
	if err := c.store.CaughtUp(ctx); err != nil {
		why = append(why, err.Error())
	}
	if s := c.store.Space(); s.Alarm || s.Level == store.SpaceFull && s.Disk.Total > 0 && s.Disk.Ballast == 0 {
		why = append(why, "the store is full: "+s.Cause)
	}
	if c.store.Restored() != nil {
		why = append(why, "the store was restored from a backup, and the nodes have yet to tell what it did not know")
	}
	if len(why) == 0 {
		return nil
	}
	e := mobyfs.Errorf(mobyfs.CodeUnavailable, "control is not ready: %w", errors.New(strings.Join(why, "; ")))
	return e.WithHint("ask another control; mobyctl status tells more")
}

// readyPatience is how long the store may take to answer who asks whether control is ready.
const readyPatience = 3 * time.Second

// storeCensus counts how much room the store has, at the moment it is asked.
type storeCensus struct{ c *Control }

var (
	descStore = prometheus.NewDesc("mobyfs_control_store_bytes",
		"Of this member of the store: its file, what is in use of that, and the quota.", []string{"kind"}, nil)
	descDisk = prometheus.NewDesc("mobyfs_control_store_disk_bytes",
		"Of the disk of the store: what is there, free, and kept back as ballast.", []string{"kind"}, nil)
	descLevel = prometheus.NewDesc("mobyfs_control_store_level", "1 for the level of room that the store has.", []string{"level"}, nil)
	descAlarm = prometheus.NewDesc("mobyfs_control_store_alarm", "1 while etcd takes no writes, for its space is used up (NOSPACE).", nil, nil)
	descComps = prometheus.NewDesc("mobyfs_control_store_compactions_total", "Deletions of the store's history, beside the hourly ones.", nil, nil)
	descDefrg = prometheus.NewDesc("mobyfs_control_store_defragmentations_total", "Times that this member wrote its file anew.", nil, nil)
	descTook  = prometheus.NewDesc("mobyfs_control_store_defragmentation_seconds_total", "Seconds that this took.", nil, nil)
	descEnded = prometheus.NewDesc("mobyfs_control_store_alarms_ended_total", "NOSPACE alarms that control has ended.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s storeCensus) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descStore, descDisk, descLevel, descAlarm, descComps, descDefrg, descTook, descEnded} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s storeCensus) Collect(ch chan<- prometheus.Metric) {
	space, stats := s.c.store.Space(), s.c.store.Stats()
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	truth := map[bool]float64{true: 1}
	for kind, bytes := range map[string]int64{"file": space.Size, "in_use": space.InUse, "quota": space.Quota} {
		tell(descStore, prometheus.GaugeValue, float64(bytes), kind)
	}
	for kind, bytes := range map[string]int64{"total": space.Disk.Total, "free": space.Disk.Free, "ballast": space.Disk.Ballast} {
		tell(descDisk, prometheus.GaugeValue, float64(bytes), kind)
	}
	for _, level := range []store.Level{store.SpaceEnough, store.SpaceLow, store.SpaceFull} {
		tell(descLevel, prometheus.GaugeValue, truth[space.Level == level], string(level))
	}
	tell(descAlarm, prometheus.GaugeValue, truth[space.Alarm])
	tell(descComps, prometheus.CounterValue, float64(stats.Compactions))
	tell(descDefrg, prometheus.CounterValue, float64(stats.Compressions))
	tell(descTook, prometheus.CounterValue, stats.CompressTime.Seconds())
	tell(descEnded, prometheus.CounterValue, float64(stats.AlarmsEnded))
}
