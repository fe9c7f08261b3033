package stub

import (
	"context"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

const (
	// grace is how long Docker's calls wait, unanswered, for an agent that is being opened. Most agents are there in a
	// fraction of it, and then nobody meets the stub.
	grace = 2 * time.Second
	// firstPause and mostPause are the pauses between tries to open the agent: each is twice as long as the one before.
	firstPause = time.Second
	mostPause  = 15 * time.Second
)

// Seat is where Docker's calls arrive: the agent sits there, and the stub before it does. A call that the stub took is
// ended by the stub. Seat implements mobyfs.Mounter.
type Seat struct {
	stub  *Stub
	ready chan struct{}
	once  sync.Once

	mu        sync.Mutex
	agent     mobyfs.Mounter // nil: the stub
	activated bool           // dockerd began a life that no agent was told of
}

var _ mobyfs.Mounter = (*Seat)(nil)

// NewSeat returns a Seat that the stub of the agent below root has.
func NewSeat(root string) *Seat { return &Seat{stub: New(root), ready: make(chan struct{})} }

// Ready is closed as soon as Docker should be answered: there is an agent, or there will be none in a moment.
func (s *Seat) Ready() <-chan struct{} { return s.ready }

// Fill opens the agent and gives it the seat. If hold is not 0 the stub has the seat for that long first, because of
// why. An open that fails is tried again until ctx ends; each time failed is told the error, before Docker is let in to
// the stub, and returns whether to go on. Fill returns when the agent has the seat or never will.
func (s *Seat) Fill(ctx context.Context, hold time.Duration, why error, open func() (mobyfs.Mounter, error), failed func(error) (goOn bool)) {
	if hold > 0 {
		s.stub.Because(why)
		goOn := failed(why)
		s.letIn()
		if !goOn || !sleep(ctx, hold) {
			return
		}
	}
	impatient := time.AfterFunc(grace, func() {
		s.stub.Because(mobyfs.Errorf(mobyfs.CodeUnavailable, "it is starting, and that takes long").WithHint("try again in a moment"))
		s.letIn()
	})
	defer impatient.Stop()
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		agent, err := open()
		if err == nil {
			s.Take(agent)
			return
		}
		impatient.Stop()
		s.stub.Because(err)
		goOn := failed(err)
		s.letIn()
		if !goOn || !sleep(ctx, pause) {
			return
		}
	}
}

// Take gives the seat to an agent. If dockerd began a new life while the stub had it, the agent is told first.
func (s *Seat) Take(agent mobyfs.Mounter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.activated {
		agent.Activated()
		s.activated = false
	}
	s.agent = agent
	s.letIn()
}

func (s *Seat) letIn() { s.once.Do(func() { close(s.ready) }) }

// sleep reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (s *Seat) now() mobyfs.Mounter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agent == nil {
		return s.stub
	}
	return s.agent
}

// Activated tells the agent, now or as soon as there is one. If the process ends before, the next agent believes no
// count of an earlier life without proof anyway.
func (s *Seat) Activated() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agent == nil {
		s.activated = true
		return
	}
	s.agent.Activated()
}

// Create, Remove, Mount, Unmount, Get and List are those of whoever has the seat.
func (s *Seat) Create(ctx context.Context, name string, opts map[string]string) error {
	return s.now().Create(ctx, name, opts)
}

func (s *Seat) Remove(ctx context.Context, name string) error { return s.now().Remove(ctx, name) }

func (s *Seat) Mount(ctx context.Context, name, id string) (string, error) {
	return s.now().Mount(ctx, name, id)
}

func (s *Seat) Unmount(ctx context.Context, name, id string) error {
	return s.now().Unmount(ctx, name, id)
}

func (s *Seat) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	return s.now().Get(ctx, name)
}

func (s *Seat) List() []mobyfs.DockerVolume { return s.now().List() }
