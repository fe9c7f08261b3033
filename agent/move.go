package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// move is a migration to this node, as far as its worker has come with it.
type move struct {
	migration mobyfs.MigrationID
	from      *mobyfs.From // with a ticket that was not used yet, or nil
	source    string
	stop      context.CancelFunc // ends the pull that runs now; nil if none does
	arrival
	heard   time.Time // when the source was heard last, or the migration began
	fails   map[mobyfs.Code]int
	thawed  int           // of a live one: the last freeze that is known to have been taken back
	frozen  time.Time     // of a live one: when its source was last told to freeze, in this life
	trouble string        // of a live one: what the operator is told in the end
	verdict *mobyfs.Error // it won't heal: abort, and tell those who wait
}

// arrival is how far the bytes have come that a pull or a copy brings here, and how fast.
type arrival struct {
	progress mobyfs.Progress
	since    time.Time // when what runs now told first how far it was
	base     int64     // and how many bytes there were then: of a pull that was cut, what it goes on with
}

// note takes over what was told, and returns how many bytes have come since the last time.
func (a *arrival) note(p mobyfs.Progress) (came int64) {
	came = p.Bytes - a.progress.Bytes
	if came < 0 || a.since.IsZero() {
		a.since, a.base = time.Now(), p.Bytes
	}
	if came < 0 { // a pull that began anew
		came = p.Bytes
	}
	a.progress = p
	return came
}

// next takes over what control said about a migration to here.
func (m *move) next(from *mobyfs.From) {
	if m.migration != from.Migration {
		*m = move{migration: from.Migration, heard: time.Now(), fails: map[mobyfs.Code]int{}}
	}
	m.from, m.source = from, from.Node
}

// tries is how often an error of a kind may come before the migration is given up. Kinds that are not listed may
// come as long as moveGivesUp allows.
var tries = map[mobyfs.Code]int{
	mobyfs.CodeNoSpace:    1,
	mobyfs.CodeInUse:      1, // the kernel shows a user at the source
	mobyfs.CodeCorrupt:    3,
	mobyfs.CodeNotFound:   3,
	mobyfs.CodeDenied:     5,
	mobyfs.CodeStaleFence: 5,
	mobyfs.CodeInvalid:    1, // it can never succeed as it stands
	mobyfs.CodeInternal:   5,
}

// fail notes an error of the pull and decides whether the migration is given up.
func (m *move) fail(err error, now time.Time) {
	code := mobyfs.CodeOf(err)
	m.fails[code]++
	limit, limited := tries[code]
	if limited && m.fails[code] >= limit || !limited && now.Sub(m.heard) > moveGivesUp {
		m.verdict = mobyfs.Errorf(code, "%s", err).WithHint("%s", mobyfs.HintOf(err))
	}
}

// won reports whether a record says that the migration was committed.
func (m *move) won(v mobyfs.Volume) bool {
	return v.Arrived == m.migration
}

// doPull takes a migration to here one try further: Accept, Stage, Pull, Seal, Commit, Adopt. Killed anywhere, the
// next try begins with what is staged: sealed bytes are committed, others are gone on with (see takeup.go).
func (w *worker) doPull(ctx context.Context, s step, v view) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.mu.Lock()
	if w.move.migration != s.migration {
		w.move = move{migration: s.migration, source: v.record.Migration.From, heard: time.Now(), fails: map[mobyfs.Code]int{}}
	}
	w.move.stop = stop
	from, verdict := w.move.from, w.move.verdict
	w.move.from = nil
	w.mu.Unlock()
	defer w.pullEnded()

	if verdict != nil {
		return w.giveUp(ctx, v.record, verdict)
	}
	receipt, err := w.bring(ctx, s.migration, v, from)
	if err == nil {
		return w.commit(ctx, s.migration, v, receipt)
	}
	if errors.Is(err, errOver) {
		return w.refresh(ctx, v.record, s.migration)
	}
	if ctx.Err() != nil { // the migration has ended, or the agent does
		return nil
	}
	w.mu.Lock()
	w.move.fail(err, time.Now())
	verdict = w.move.verdict
	w.mu.Unlock()
	if verdict != nil {
		return w.giveUp(ctx, v.record, verdict)
	}
	return about(err, "pull", w.name(v.record))
}

// errOver says that a migration is not under way any more.
var errOver = errors.New("the migration has ended")

// bring sees to it that the sealed bytes are staged here.
func (w *worker) bring(ctx context.Context, m mobyfs.MigrationID, v view, from *mobyfs.From) (mobyfs.Receipt, error) {
	live := v.record.Migration.Live
	if i := slices.IndexFunc(v.staged, func(s backend.Staged) bool { return s.Migration == m && s.Receipt != nil }); i >= 0 &&
		(!live || v.staged[i].Receipt.Freeze != w.thawedSince()) {
		return *v.staged[i].Receipt, nil
	}
	b, err := w.target(v.record)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	if from == nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		began := time.Now()
		grant, err := w.agent.Control.Accept(call, w.id, m)
		w.agent.metrics.phase("accept", began, err)
		cancel()
		if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			return mobyfs.Receipt{}, errOver
		}
		if err != nil {
			return mobyfs.Receipt{}, fmt.Errorf("accept the migration: %w", err)
		}
		if from = grant.From; from == nil {
			return mobyfs.Receipt{}, mobyfs.Errorf(mobyfs.CodeInternal, "control accepted migration %s and did not say where the bytes are", m)
		}
	}
	dir, goesOn, err := w.stage(ctx, b, m, v)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	w.setStaged(b, backend.Staged{Migration: m, Volume: w.id, SizeBytes: v.size()})
	w.mu.Lock()
	first := len(w.move.fails) == 0
	w.mu.Unlock()
	say := w.log.Info
	if !first {
		say = w.log.Debug
	}
	say("pulling", "volume", v.record.Name, "from", from.Node, "migration", m, "fence", v.record.Fence)
	failpoint.Reach("agent.pull.before")
	var receipt mobyfs.Receipt
	if live {
		receipt, err = w.follow(ctx, *from, dir, m)
	} else {
		receipt, err = w.pullOf(ctx, *from, dir, goesOn)
	}
	failpoint.Reach("agent.pull.after")
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	ctx, end := w.phase(ctx, "seal")
	err = b.Seal(ctx, m, receipt)
	end(err)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	w.setStaged(b, backend.Staged{Migration: m, Volume: w.id, Receipt: &receipt, SizeBytes: v.size()})
	return receipt, nil
}

// target is the backend that the bytes go to.
func (w *worker) target(r *mobyfs.Volume) (backend.Backend, error) {
	name := r.Spec.WithDefaults().Backend
	if b := w.agent.backends[name]; b != nil {
		return b, nil
	}
	return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%s has no backend %q for volume %q", w.agent.Node, name, r.Name)
}

// commit makes this node the home. A commit whose outcome is not known is repeated until it is.
func (w *worker) commit(ctx context.Context, m mobyfs.MigrationID, v view, receipt mobyfs.Receipt) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	grant, err := w.agent.Control.Commit(call, w.id, m, receipt)
	w.agent.metrics.phase("commit", began, err)
	switch code := mobyfs.CodeOf(err); {
	case code == mobyfs.CodeUnavailable, code == mobyfs.CodeInternal:
		return about(err, "commit the move of", w.name(v.record))
	case code == mobyfs.CodeChanged: // the source took the freeze back: what is sealed is not all any more
		w.log.Info("the source has thawed the volume; more is to be brought", "migration", m, "err", err)
		w.setThawed(receipt.Freeze)
		return nil
	case err != nil:
		w.log.Info("the migration was not committed", "migration", m, "err", err)
		return w.refresh(ctx, v.record, m)
	}
	w.pullEnded()
	w.agent.metrics.migrations.WithLabelValues("committed").Inc()
	w.log.Info("moved here", "volume", v.record.Name, "from", v.record.Node, "migration", m, "fence", grant.Fence, "bytes", receipt.Progress.Bytes)
	w.agent.learn(grant.Volume)
	if l := grant.Volume.Lease; l != nil && l.Node == w.agent.Node {
		w.setGranted(grant.Fence)
	}
	return w.doAdopt(ctx, step{migration: m, fence: grant.Fence}, v)
}

// doAdopt makes what a committed migration brought the volume.
func (w *worker) doAdopt(ctx context.Context, s step, v view) error {
	b := w.home(v.record)
	ctx, end := w.phase(ctx, "adopt")
	err := b.Adopt(ctx, w.id, s.migration, s.fence)
	end(err)
	w.agent.metrics.fence("adopt", err)
	if err != nil {
		w.decline(about(err, "take over", w.name(v.record)))
		return w.trouble(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.backend, w.bytes, w.problem, w.seen, w.size = b, true, "", s.fence, w.brought(s.migration, v)
	w.unstage(s.migration)
	w.adopted(s.migration, v)
	return nil
}

// adopted sees to what follows a live migration. Under mu.
func (w *worker) adopted(m mobyfs.MigrationID, v view) {
	r := v.record
	if now, _ := w.agent.catalogue.record(w.id); now != nil {
		r = now
	}
	last := r.LastMove
	if last == nil || last.ID != m || !last.Live {
		return
	}
	came := arrived{volume: *r, migration: m}
	if w.move.migration == m {
		came.frozen, came.trouble = w.move.frozen, w.move.trouble
	}
	if last.Options.WithContainers {
		w.lingers = time.Now().Add(patience) // the lease waits for the containers
	}
	w.arriving = m
	w.agent.goDo(func() {
		if err := w.dropJournal(m); err != nil {
			w.log.Warn("remove the journal of a migration", "migration", m, "err", err)
		}
		w.agent.arrive(w.agent.work, came)
		w.setArrived(m)
	})
}

// setArrived notes that what moved along with a migration's volume was seen to.
func (w *worker) setArrived(m mobyfs.MigrationID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.arriving == m {
		w.arriving = ""
	}
}

// setThawed notes that the freeze which a sealed receipt names was taken back.
func (w *worker) setThawed(freeze int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move.thawed = freeze
}

// thawedSince is the last freeze of the migration that is known to have been taken back.
func (w *worker) thawedSince() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.move.thawed
}

// doDiscard throws away what a migration brought that did not win.
func (w *worker) doDiscard(ctx context.Context, s step, v view) error {
	if err := w.agent.unpack(ctx, s.migration); err != nil {
		w.log.Warn("remove containers that were made for a migration; it is done when dockerd is reached anew", "migration", s.migration, "err", err)
	}
	if err := w.dropJournal(s.migration); err != nil {
		return err
	}
	if err := w.home(v.record).Discard(ctx, s.migration); err != nil {
		return err
	}
	w.log.Info("threw away what a migration brought", "migration", s.migration, "step", s.why)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unstage(s.migration)
	return nil
}

// giveUp aborts the migration: the source stays the home, and those who wait are told why.
func (w *worker) giveUp(ctx context.Context, r *mobyfs.Volume, why *mobyfs.Error) error {
	m := r.Migration
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reason := why.Text
	if why.Hint != "" {
		reason += "; " + why.Hint
	}
	err := w.agent.Control.Abort(call, w.id, m.ID, reason)
	if code := mobyfs.CodeOf(err); code == mobyfs.CodeUnavailable || code == mobyfs.CodeInternal {
		return fmt.Errorf("abort the migration: %w", err)
	}
	w.agent.metrics.migrations.WithLabelValues("aborted").Inc()
	w.log.Warn("gave a migration up", "volume", r.Name, "migration", m.ID, "from", m.From, "err", why)
	w.setOver(m.ID)
	told := mobyfs.Errorf(why.Code, "volume %q can't move from %s to %s: %s", r.Name, m.From, m.To, why.Text)
	told.Hint = why.Hint
	w.decline(told)
	return nil
}

// refuseAborted tells those who wait for a pull that its migration was aborted by somebody else. To claim the volume
// again on their behalf would undo what that somebody wanted. Under mu.
func (w *worker) refuseAborted(v view) {
	if w.move.migration == "" || v.record == nil || v.record.LastMove == nil || v.record.LastMove.ID != w.move.migration {
		return
	}
	last := v.record.LastMove
	w.move = move{}
	if last.State == mobyfs.MigrationAborted {
		w.refuseAll(mobyfs.Errorf(mobyfs.CodeMoving, "the move of volume %q from %s to %s was given up: %s", v.record.Name, last.From, last.To, last.Reason).
			WithHint("try again, or start the container on %s", v.record.Node))
	}
}

// progressed notes how far the pull has come. The peer calls it a few times a second.
func (w *worker) progressed(p mobyfs.Progress) {
	w.mu.Lock()
	if p != w.move.progress {
		w.move.heard = time.Now()
	}
	w.agent.metrics.pulled.Add(float64(w.move.note(p)))
	w.mu.Unlock()
	w.agent.reporter.kick()
}

func (w *worker) pullEnded() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move.stop, w.move.since = nil, time.Time{}
}

// setOver notes that a migration has ended and that those who waited for it were told, before its record says so.
func (w *worker) setOver(m mobyfs.MigrationID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = m
	if w.move.migration == m {
		w.move = move{}
	}
}

// refresh asks for the record of a volume whose migration has ended: whether it was aborted or committed decides
// what becomes of those who wait.
func (w *worker) refresh(ctx context.Context, r *mobyfs.Volume, m mobyfs.MigrationID) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, err := w.agent.Control.Volume(call, r.Name)
	switch code := mobyfs.CodeOf(err); {
	case err == nil && now.ID == w.id:
		w.agent.learn(now)
	case err == nil, code == mobyfs.CodeNotFound: // its name is free already: it is being removed
		w.setOver(m)
	default:
		return fmt.Errorf("ask what became of the migration: %w", err)
	}
	return nil
}

func (w *worker) setStaged(b backend.Backend, s backend.Staged) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.backend == nil {
		w.backend = b
	}
	w.unstage(s.Migration)
	w.staged = append(w.staged, s)
}

// size is what control promises the volume.
func (v view) size() int64 { return v.record.Spec.WithDefaults().SizeBytes }

// brought is the size of what a migration brought, under mu.
func (w *worker) brought(m mobyfs.MigrationID, v view) int64 {
	for _, s := range w.staged {
		if s.Migration == m {
			return s.SizeBytes
		}
	}
	return v.size()
}

// unstage takes a migration off the list of what is staged, under mu. The list is replaced, for views share it.
func (w *worker) unstage(m mobyfs.MigrationID) {
	var rest []backend.Staged
	for _, s := range w.staged {
		if s.Migration != m {
			rest = append(rest, s)
		}
	}
	w.staged = rest
}

// share says how far it has come, and how long it takes still if it goes on as fast as so far, such as "43 % of 300 MB, about 2
// minutes left". Under mu.
func (a arrival) share() string {
	p := a.progress
	if p.TotalBytes <= 0 {
		return humanize.Bytes(uint64(max(p.Bytes, 0))) + " so far"
	}
	share := fmt.Sprintf("%d %% of %s", min(99, max(0, p.Bytes*100/p.TotalBytes)), humanize.Bytes(uint64(p.TotalBytes)))
	came, rest := p.Bytes-a.base, p.TotalBytes-p.Bytes
	if came <= 0 || rest <= 0 {
		return share
	}
	now := time.Now()
	left := time.Duration(float64(now.Sub(a.since)) / float64(came) * float64(rest))
	if left < time.Second {
		return share
	}
	return share + ", about " + humanize.RelTime(now, now.Add(left), "left", "left")
}
