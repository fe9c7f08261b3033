package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

// maxLuggage bounds what is told of containers, in bytes.
const maxLuggage = 1 << 20

// liveOffer is a session in which another node follows a volume that is in use here.
type liveOffer struct {
	w         *worker
	migration mobyfs.MigrationID
	dir       string
	shown     func()          // ends that the backend shows it
	luggage   []byte          // nil if containers stay
	packed    map[string]bool // by ID: the containers that were packed, and whether they are made anew elsewhere

	// Of rounds only, by ID of the container: what it had used before the round, and how many processors before it was slowed down.
	used  map[string]used
	rates map[string]float64

	mu     sync.Mutex
	over   bool // the peer is gone, or has it all
	failed bool // what was frozen in it is to go on
}

// luggage is what the source tells the destination of the containers that use a volume.
type luggage struct {
	Containers []Packed `json:"containers"`
}

// goesOn reports whether the session decides what becomes of a freeze.
func (s *liveOffer) goesOn() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.over && !s.failed
}

// packs reports whether these are the containers that were packed.
func (s *liveOffer) packs(ids []string) bool {
	for _, id := range ids {
		if _, ok := s.packed[id]; !ok {
			return false
		}
	}
	return len(ids) == len(s.packed)
}

// offerLive opens the volume for a peer that follows it, as a step of its worker. Containers go on using it.
func (w *worker) offerLive(ctx context.Context, t mobyfs.Ticket) (*liveOffer, error) {
	r, err := w.recordOf(ctx, t.Migration)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	here := w.bytes
	w.mu.Unlock()
	if !here {
		return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "volume %q is not on %s", r.Name, w.agent.Node)
	}
	b, ok := w.home(&r).(backend.Live)
	if !ok {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "volumes of backend %s can't be moved while they are used", w.home(&r).Name()).
			WithHint("stop the containers, then move it without --live")
	}
	if err := w.unthrottle(ctx); err != nil { // since a session of before
		return nil, err
	}
	s := &liveOffer{w: w, migration: t.Migration, packed: map[string]bool{}, used: map[string]used{}, rates: map[string]float64{}}
	if r.Migration.Options.WithContainers {
		if err := s.pack(ctx, r.Name); err != nil {
			return nil, err
		}
	}
	if s.dir, s.shown, err = b.Show(ctx, w.id); err != nil {
		return nil, err
	}
	w.log.Info("giving the volume away while it is used", "volume", r.Name, "to", t.To, "migration", t.Migration)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.exports++
	return s, nil
}

// pack describes the containers that use the volume.
func (s *liveOffer) pack(ctx context.Context, volume string) error {
	users, err := s.w.occupants(ctx, volume)
	if err != nil {
		return err
	}
	var all luggage
	for _, u := range users {
		p, err := s.w.agent.Docker.Pack(ctx, u.ID, volume)
		if err != nil {
			return err
		}
		s.packed[u.ID] = p.Runner == ""
		all.Containers = append(all.Containers, p)
	}
	if s.luggage, err = json.Marshal(all); err != nil {
		return err
	}
	if len(s.luggage) > maxLuggage {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "what dockerd tells of the containers of volume %q takes %s; 1 MiB is the most", volume, mobyfs.FormatSize(int64(len(s.luggage)))).
			WithHint("move it without --with-containers")
	}
	return nil
}

// offered is the session as the peer's connection has it.
func (s *liveOffer) offered(end func()) transfer.Offered {
	return transfer.Offered{
		Dir: s.dir, Live: true, Luggage: s.luggage, Round: s.round, Freeze: s.freeze, Unfreeze: s.unfreeze,
		Release: sync.OnceFunc(func() { s.release(); end() }),
		Feed:    s.w.agent.Feed,
	}
}

// freeze stops all that uses the volume. If it fails, or nobody waits for it any more, what was stopped goes on.
func (s *liveOffer) freeze(ctx context.Context) (n int, err error) {
	var failure error
	err = s.w.run(ctx, func() {
		if n, failure = s.w.freeze(ctx, s); failure == nil {
			failure = ctx.Err()
		}
		if failure != nil {
			s.fail()
		}
	})
	if err != nil { // it may be done still
		s.fail()
		return 0, fmt.Errorf("freeze: %w", err)
	}
	return n, failure
}

// fail has what was stopped in the session go on, once control agrees.
func (s *liveOffer) fail() {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	s.w.poke()
}

func (s *liveOffer) unfreeze(_ context.Context, reason string) {
	s.w.log.Info("a live session ended while the volume was frozen", "migration", s.migration, "cause", reason)
	s.fail()
}

// release ends the session. If the peer has got the last of it, the commit is waited for: from the moment on in which the session is
// over, or what is frozen would seem to be nobody's.
func (s *liveOffer) release() {
	w := s.w
	w.mu.Lock()
	s.mu.Lock()
	s.over = true
	failed := s.failed
	s.mu.Unlock()
	if !failed && w.hold != nil && w.hold.session == s {
		w.expects = time.Now().Add(commitPatience)
	}
	w.mu.Unlock()
	s.shown()
	if len(w.agent.throttles.of(w.id)) > 0 {
		w.agent.goDo(func() { w.agent.unthrottleAll(w.agent.work, []mobyfs.VolumeID{w.id}) })
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.exports--
	w.start()
}
