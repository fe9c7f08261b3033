package agent

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Containers that write faster than a live move can follow are slowed down if it was asked to (mobyfs.BusyThrottle): from
// round to round they have less processor time, measured by what they used before. The journal says what each had, before
// dockerd is told what it has now, so that all have it back when the session ends, however that is: by this life of the
// agent, or by the next one.

// throttlesName is the file that the journal of throttles is kept in.
const throttlesName = "throttles.json"

// leastCPU is what a container has at least, as a part of one processor: dockerd gives no less.
const leastCPU = 0.01

// throttled is a container that was slowed down, or is about to be.
type throttled struct {
	ID    string      `json:"id"`
	Name  string      `json:"name"`
	Had   CPULimits   `json:"had"`
	Tried []CPULimits `json:"tried"` // what dockerd was asked for meanwhile; the last one may not be so yet
}

// throttles is the journal.
type throttles struct {
	journal[[]throttled]
	changing sync.Mutex // held while dockerd is asked, so that nobody is slowed down and let go at once
}

// openThrottles loads the journal.
func openThrottles(path string, log *slog.Logger) *throttles {
	t := &throttles{journal: journal[[]throttled]{doing: "write down who is slowed down", write: func(all map[mobyfs.VolumeID][]throttled) error {
		return durable.WriteJSON("agent.throttles", path, all, 0o600)
	}}}
	t.load(path, log, "the journal of throttles can't be read; containers that were slowed down for a move stay so",
		"docker update --cpu-quota=-1 gives a container its processors back")
	return t
}

// set writes down who is slowed down for a volume. On error it is as it was.
func (t *throttles) set(id mobyfs.VolumeID, all []throttled) error {
	return t.journal.set(id, all, len(all) == 0)
}

// used is what a container had used of the processors at a moment.
type used struct {
	cpu time.Duration
	at  time.Time
}

// round begins a round of the session: containers are slowed down as the options say, or let go if these have changed.
func (s *liveOffer) round(ctx context.Context, n int) error {
	w := s.w
	r, err := w.recordOf(ctx, s.migration)
	if err != nil {
		return err
	}
	o := r.Migration.Options
	switch {
	case o.Share(n) == 1 && len(w.agent.throttles.of(w.id)) > 0:
		return w.unthrottle(ctx)
	case o.Share(n+1) == 1:
		return nil
	}
	users, err := w.occupants(ctx, r.Name)
	if err != nil {
		return err
	}
	w.agent.throttles.changing.Lock()
	defer w.agent.throttles.changing.Unlock()
	slow := slices.Clone(w.agent.throttles.of(w.id))
	changed := map[string]CPULimits{}
	for _, u := range users {
		cpu, err := w.agent.Docker.CPU(ctx, u.ID)
		if isGone(err) || u.Paused {
			continue
		}
		if err != nil {
			return refusedIfSo(about(err, "slow down the containers of", r.Name))
		}
		if before, known := s.used[u.ID]; known && o.Share(n) < 1 {
			if _, measured := s.rates[u.ID]; !measured {
				s.rates[u.ID] = max(0, (cpu.Used-before.cpu).Seconds()/time.Since(before.at).Seconds())
			}
			if next, news := throttle(&slow, u, cpu.Limits, s.rates[u.ID]*o.Share(n)); news {
				changed[u.ID] = next
			}
		}
		s.used[u.ID] = used{cpu.Used, time.Now()}
	}
	if len(changed) == 0 {
		return nil
	}
	if err := w.agent.throttles.set(w.id, slow); err != nil {
		return err
	}
	for id, limits := range changed {
		failpoint.Reach("agent.throttle.before")
		if err := w.agent.Docker.LimitCPU(ctx, id, limits); err != nil && !isGone(err) {
			return refusedIfSo(about(err, "slow down the containers of", r.Name))
		}
		failpoint.Reach("agent.throttle.after")
	}
	w.log.Info("slowed containers down, which change the volume faster than it can be brought", "volume", r.Name, "migration", s.migration,
		"containers", len(changed), "attempt", n)
	return nil
}

// throttle notes that a container is to have so many processors, and says what dockerd is to be asked for, if it was not
// asked for that last.
func throttle(all *[]throttled, u Occupant, has CPULimits, processors float64) (next CPULimits, news bool) {
	i := slices.IndexFunc(*all, func(t throttled) bool { return t.ID == u.ID })
	if i < 0 {
		i = len(*all)
		*all = append(*all, throttled{ID: u.ID, Name: u.Name, Had: has})
	}
	t := &(*all)[i]
	next = t.Had.atMost(max(processors, leastCPU))
	if n := len(t.Tried); n > 0 && t.Tried[n-1] == next {
		return next, false
	}
	t.Tried = append(slices.Clone(t.Tried), next)
	return next, true
}

// unthrottle gives the containers of a volume back what they had, those of them that have what they were given here.
// Somebody else may have changed it since.
func (w *worker) unthrottle(ctx context.Context) error {
	t := w.agent.throttles
	t.changing.Lock()
	defer t.changing.Unlock()
	slow := t.of(w.id)
	switch {
	case len(slow) == 0:
		return nil
	case w.agent.Docker == nil:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "container %s is slowed down for a move, and %s does not ask dockerd any more", slow[0].Name, w.agent.Node).
			WithHint("start mobyfs with --docker")
	}
	for _, c := range slow {
		cpu, err := w.agent.Docker.CPU(ctx, c.ID)
		if err == nil && slices.Contains(c.Tried, cpu.Limits) {
			failpoint.Reach("agent.unthrottle.before")
			err = w.agent.Docker.LimitCPU(ctx, c.ID, c.Had)
			failpoint.Reach("agent.unthrottle.after")
		}
		if err != nil && !isGone(err) {
			return about(err, "let the containers go on as before of", w.name(nil))
		}
	}
	return t.set(w.id, nil)
}

// unthrottleAll does so of all volumes, again and again until it is done or ctx ends.
func (a *Agent) unthrottleAll(ctx context.Context, volumes []mobyfs.VolumeID) {
	if a.Docker == nil {
		return
	}
	retry := backoff{first: 100 * time.Millisecond, most: engineRest}
	for ctx.Err() == nil {
		var failed []mobyfs.VolumeID
		for _, id := range volumes {
			if err := a.worker(id).unthrottle(ctx); err != nil {
				a.Log.Warn("let containers go on as before that were slowed down for a move; it is tried again", "id", id, "err", err)
				failed = append(failed, id)
			}
		}
		if volumes = failed; len(volumes) == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry.fail(time.Now())):
		}
	}
}

// isGone reports whether an error of dockerd says that there is no such container, or not for long.
func isGone(err error) bool { return isStatus(err, http.StatusNotFound, http.StatusConflict) }
