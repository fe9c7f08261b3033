package agent

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// reporter tells control what this node sees: at each heartbeat, and soon after something that others wait for.
type reporter struct {
	agent    *Agent
	wake     chan struct{}
	instance string // names this life of the agent

	mu      sync.Mutex
	address string // at which other nodes pull from here
	used    map[mobyfs.VolumeID]measurement
	again   bool     // control may have lost what it was told
	began   bool     // control has answered a report of this life
	copies  []string // of backups, as control was told
}

// measurement is the space that a volume takes.
type measurement struct {
	bytes  int64
	inodes int64
	sent   bool
	next   time.Time // when it is worth measuring again
}

const reportPause = 500 * time.Millisecond // between two reports

func newReporter(a *Agent) *reporter {
	return &reporter{agent: a, instance: rand.Text(), wake: make(chan struct{}, 1), address: a.Address, used: map[mobyfs.VolumeID]measurement{}}
}

// kick asks for a report soon.
func (r *reporter) kick() {
	signal(r.wake)
}

// Advertise tells control from now on that other nodes reach this one at address.
func (a *Agent) Advertise(address string) {
	a.reporter.mu.Lock()
	a.reporter.address = address
	a.reporter.mu.Unlock()
	a.reporter.kick()
}

// repeat makes the next report tell all that is known, for control may have begun anew.
func (r *reporter) repeat() {
	r.mu.Lock()
	r.again = true
	r.mu.Unlock()
	r.kick()
}

// run reports until ctx ends. The first report joins the cluster.
func (r *reporter) run(ctx context.Context) {
	for heard := false; ; {
		r.mu.Lock()
		all := r.again || !heard
		r.again = false
		r.mu.Unlock()
		began := time.Now()
		heard = r.report(ctx, all)
		next := r.agent.session.heartbeat()
		if heard {
			next = r.agent.session.next()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(reportPause):
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(began.Add(next))):
		case <-r.wake:
		}
	}
}

// report sends one report, with all that is known or with what is new, and tells whether control took it.
func (r *reporter) report(ctx context.Context, all bool) bool {
	a := r.agent
	capacity, err := a.backends[mobyfs.DefaultBackend].Capacity(ctx)
	if err != nil {
		a.Log.Warn("measure the space for volumes", "err", err)
	}
	r.mu.Lock()
	report := mobyfs.Report{Address: r.address, Instance: r.instance, Begins: !r.began}
	r.mu.Unlock()
	report.Zone, report.Rack, report.Labels = a.Zone, a.Rack, a.Labels
	_, report.Live = a.Peer.(mobyfs.LivePeer)
	report.TrashSeconds = int64(a.Trash / time.Second)
	report.Backends = slices.Sorted(maps.Keys(a.backends))
	report.Version, report.Capacity, report.Progress = a.Version, capacity, map[mobyfs.MigrationID]mobyfs.Progress{}
	for _, w := range a.all() {
		w.mu.Lock()
		if w.bytes {
			report.Volumes++
		}
		if w.move.stop != nil {
			report.Progress[w.move.migration] = w.move.progress
		}
		if w.filling != nil {
			report.Progress[w.id.Copying()] = w.filled.progress
		}
		w.mu.Unlock()
	}
	if a.Held != nil {
		report.Held = a.Held()
	}
	report.Backups = r.copiesNews(all)
	users, usersSent := a.roster.news(all)
	report.Users = users
	report.Used = r.usedNews(all)
	ctx, cancel := context.WithTimeout(ctx, a.session.heartbeat())
	defer cancel()
	sent := a.Clock()
	began := time.Now()
	session, err := a.Control.Report(ctx, report)
	a.metrics.heartbeats.WithLabelValues(codeLabel(err)).Observe(time.Since(began).Seconds())
	if mobyfs.CodeOf(err) == mobyfs.CodeStaleFence {
		a.stepBack(err)
		return false
	}
	if err != nil {
		a.Log.Debug("report to control", "err", err) // the watch says it when control is away
		return false
	}
	r.mu.Lock()
	r.began = true
	if report.Backups != nil {
		r.copies = *report.Backups
	}
	r.mu.Unlock()
	a.session.answered(sent, session)
	a.goDo(func() { a.beat(a.work) })
	usersSent()
	r.usedSent(report.Used)
	a.asked(session)
	return true
}

// measured is what a volume takes, as last measured.
func (r *reporter) measured(id mobyfs.VolumeID) (m measurement, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, known = r.used[id]
	return m, known
}

// copiesNews names the backups of which copies are here, nil if control knows it.
func (r *reporter) copiesNews(all bool) *[]string {
	ids, err := r.agent.copies.IDs()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || !all && slices.Equal(ids, r.copies) {
		return nil
	}
	return &ids
}

// usedNews lists the measurements that control does not have.
func (r *reporter) usedNews(all bool) map[mobyfs.VolumeID]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := map[mobyfs.VolumeID]int64{}
	for id, m := range r.used {
		if all || !m.sent {
			used[id] = m.bytes
		}
	}
	return used
}

func (r *reporter) usedSent(used map[mobyfs.VolumeID]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, bytes := range used {
		if m, ok := r.used[id]; ok && m.bytes == bytes {
			m.sent = true
			r.used[id] = m
		}
	}
}

// measure keeps measuring how much space the volumes of this node take, one after the other. A volume whose
// measuring takes long is measured rarely.
func (a *Agent) measure(ctx context.Context) {
	every(ctx, measureEvery, func(ctx context.Context) {
		here := map[mobyfs.VolumeID]bool{}
		for _, w := range a.all() {
			record, _ := a.catalogue.record(w.id)
			w.mu.Lock()
			home := w.bytes && record != nil && record.Node == a.Node
			w.mu.Unlock()
			if home {
				here[w.id] = true
				a.reporter.measure(ctx, w, record)
			}
		}
		a.reporter.mu.Lock()
		defer a.reporter.mu.Unlock()
		maps.DeleteFunc(a.reporter.used, func(id mobyfs.VolumeID, _ measurement) bool { return !here[id] })
	})
}

func (r *reporter) measure(ctx context.Context, w *worker, record *mobyfs.Volume) {
	r.mu.Lock()
	m, known := r.used[w.id]
	r.mu.Unlock()
	start := time.Now()
	if start.Before(m.next) {
		return
	}
	used, err := w.home(record).Usage(ctx, w.id)
	if err != nil {
		w.log.Debug("measure the volume", "err", err)
		return
	}
	took := time.Since(start)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used[w.id] = measurement{bytes: used.Bytes, inodes: used.Inodes, sent: known && m.sent && m.bytes == used.Bytes, next: start.Add(100 * took)}
}
