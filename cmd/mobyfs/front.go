package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/agent/stub"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// front keeps a seat for the agent that Docker's calls arrive at, and opens the agent behind it.
type front struct {
	settings
	log    *slog.Logger
	counts *metrics
	tracer trace.Tracer // nil if nobody takes spans
	seat   *stub.Seat
	starts *stub.Starts // nil where nobody starts mobyfs again
	again  reload
	anew   chan struct{} // closed when the settings are bad and their file has changed

	// work ends after the last call of Docker is answered, for those calls wait for the agent.
	work  context.Context
	stop  context.CancelFunc
	parts sync.WaitGroup

	mu    sync.Mutex
	agent *agent.Agent
	id    *identity // of the agent
	lock  *os.File
	ended bool
}

func newFront(s settings, again reload, log *slog.Logger) *front {
	f := &front{settings: s, again: again, log: log, seat: stub.NewSeat(s.root), counts: newMetrics(), anew: make(chan struct{})}
	f.work, f.stop = context.WithCancel(context.Background())
	return f
}

// socketHandedOver tells whether systemd has a socket for this process, so that calls wait in it and systemd starts
// mobyfs again when it ends. It has to be asked before the socket is taken over.
func socketHandedOver() bool {
	return os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") != ""
}

// begin opens the agent, again and again if need be, and returns as soon as Docker should be answered.
func (f *front) begin(ctx context.Context) {
	f.starts = &stub.Starts{Path: filepath.Join(f.run, "starts.json")}
	crashes, err := f.starts.Begin()
	if err != nil {
		f.log.Warn("write down that mobyfs starts; it can't be told if it crashes again and again", "err", err)
	}
	hold, why := stub.Hold(crashes)
	settingsThen, _ := os.ReadFile(f.envFile)
	last := ""
	failed := func(err error) (goOn bool) {
		if now, readErr := os.ReadFile(f.envFile); f.settings.check() != nil && readErr == nil && !bytes.Equal(now, settingsThen) {
			close(f.anew)
			return false
		}
		if err.Error() != last {
			last = err.Error()
			f.log.Error("the agent can't be opened; a stub answers Docker meanwhile", "err", err, "hint", mobyfs.HintOf(err))
		}
		tellSystemd("STATUS=A stub answers Docker: "+strings.ReplaceAll(last, "\n", " "), f.log)
		return true
	}
	f.goDo(func() {
		f.seat.Fill(f.work, hold, why, f.tryOpen, failed)
		if last != "" && f.opened() != nil {
			tellSystemd("STATUS=The agent answers Docker", f.log)
		}
	})
	select {
	case <-f.seat.Ready():
	case <-ctx.Done():
	}
}

// open opens the agent and gives it the seat.
func (f *front) open() error {
	a, err := f.tryOpen()
	if err != nil {
		return err
	}
	f.seat.Take(a)
	return nil
}

// tryOpen checks the settings, locks the root and starts the agent in it. After an error all is as before.
func (f *front) tryOpen() (mobyfs.Mounter, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	lock, err := lockRoot(f.root)
	if err != nil {
		return nil, err
	}
	control, err := f.toControl()
	if err != nil {
		lock.Close()
		return nil, err
	}
	id := openIdentity(f.settings, control, f.log)
	a, err := openAgent(f.settings, control, id, f.tracer, f.log)
	if err != nil {
		lock.Close()
		return nil, err
	}
	f.again.control, f.again.agent = control, a
	f.mu.Lock()
	f.agent, f.id, f.lock = a, id, lock
	f.mu.Unlock()
	f.goDo(func() { a.Run(f.work) })
	f.goDo(func() { servePeers(f.work, f.settings, a, id, f.log) })
	f.goDo(func() { id.run(f.work) })
	f.goDo(func() { f.again.run(f.work, f.settings, f.log) })
	f.goDo(f.last)
	f.log.Info("the agent is open", "node", f.node, "address", f.advertise)
	return a, nil
}

func (f *front) toControl() (*api.Client, error) {
	config, err := f.files().ClientTLS(pki.RoleControl, "control")
	if err != nil {
		return nil, err
	}
	return api.NewAgentClient(f.control, config), nil
}

// last takes back that this life was counted, once the agent has been there long enough.
func (f *front) last() {
	select {
	case <-f.work.Done():
	case <-time.After(stub.Lasting):
		f.endInOrder()
	}
}

// endInOrder says that whatever ends this life from now on is not a crash soon after its start.
func (f *front) endInOrder() {
	if f.starts == nil {
		return
	}
	if err := f.starts.Clear(); err != nil {
		f.log.Warn("write down that mobyfs did not crash", "err", err)
	}
}

func (f *front) opened() *agent.Agent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.agent
}

// alive returns once the agent's locks could be taken; a stub has none that matter.
func (f *front) alive(ctx context.Context) error {
	if a := f.opened(); a != nil {
		return a.Alive(ctx)
	}
	return nil
}

// goDo runs do in a goroutine that close waits for. After close it does nothing.
func (f *front) goDo(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.parts.Go(do)
	}
}

// close stops all work and waits until it has stopped; then another mobyfs may open the root.
func (f *front) close() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.stop()
	f.parts.Wait()
	if f.agent != nil {
		f.agent.Close()
		f.lock.Close()
	}
}
