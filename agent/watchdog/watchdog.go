// Package watchdog ends all writing to volumes of takeover auto when their node's session is over. It runs as a process
// of its own, so that an agent that hangs, is stopped or was killed can't keep anybody writing.
//
// The agent tells it which volumes to guard, before they are attached, and the deadline of the session, with each
// heartbeat that control answered. The deadline is counted on CLOCK_BOOTTIME from before that heartbeat was sent, with a
// fifth of the session's time to spare. Once it has passed, the guarded volumes are fenced, again and again: whoever gets
// one mounted too late is fenced as well. A volume is guarded until the agent says that it is detached.
//
// What it guards lies in a file, for the watchdog that systemd starts in place of one that died. The file lies where it
// does not outlive a boot.
package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/boottime"
	"github.com/mobyfs/mobyfs/internal/caller"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/mountns"
)

// maxMessage caps what is read of one message, in bytes. A volume takes some 40 of them.
const maxMessage = 16 << 20

// look is how often it compares the deadline with the clock, and looks for new mounts after it.
const look = 250 * time.Millisecond

// Watchdog guards volumes. The fields are set before Run.
type Watchdog struct {
	Socket string // where the agent calls; its directory is private
	State  string // file of what is guarded
	Clock  boottime.Clock
	Fence  func(context.Context, mountns.Place, *slog.Logger) error // Fence if nil
	Alive  func()                                                   // called as long as all is well; may be nil
	Log    *slog.Logger

	mu    sync.Mutex
	state state
}

// state is the file.
type state struct {
	Deadline time.Duration                `json:"deadline"` // on the clock; 0 until the first heartbeat
	Volumes  map[mobyfs.VolumeID]*guarded `json:"volumes"`
}

// guarded is one volume.
type guarded struct {
	Name   string        `json:"name"`
	Place  mountns.Place `json:"place"`
	Fenced bool          `json:"fenced"` // since it was guarded last
	Lost   bool          `json:"lost"`   // another node has it, whatever the deadline
}

// Run guards until ctx ends. It fences nothing when it ends: what is mounted goes on, and the next watchdog sees to it.
func (w *Watchdog) Run(ctx context.Context) error {
	if w.Fence == nil {
		w.Fence = Fence
	}
	if err := w.load(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(w.Socket), 0o700); err != nil {
		return err
	}
	if err := os.Remove(w.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", w.Socket)
	if err != nil {
		return fmt.Errorf("listen for the agent: %w", err)
	}
	if err := os.Chmod(w.Socket, 0o600); err != nil {
		_ = l.Close()
		return err
	}
	l = caller.RootOnly(l, w.Log, nil) // whoever may speak here may let writers go on
	var all sync.WaitGroup
	defer all.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	all.Go(func() { w.serve(ctx, l) })
	for tick := time.NewTicker(look); ; {
		w.check(ctx)
		if w.Alive != nil {
			w.Alive()
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
	}
}

// load reads what the watchdog before this one guarded. A file that can't be read is an error: to guard nothing in its
// place would let writers go on.
func (w *Watchdog) load() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = state{}
	err := durable.ReadJSON(w.State, &w.state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read which volumes are guarded: %w", err)
	}
	if w.state.Volumes == nil {
		w.state.Volumes = map[mobyfs.VolumeID]*guarded{}
	}
	return nil
}

// check fences what is guarded if the deadline has passed, and what is lost at any time.
func (w *Watchdog) check(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var news bool
	over := w.Clock() >= w.state.Deadline && !failpoint.Without("watchdog")
	var all sync.WaitGroup
	for id, g := range w.state.Volumes {
		if !over && !g.Lost {
			continue
		}
		if !g.Fenced {
			g.Fenced, news = true, true
			w.Log.Error("writing to the volume ends", "id", string(id), "volume", g.Name, "session_over", over, "lost", g.Lost)
		}
		all.Go(func() {
			if err := w.Fence(ctx, g.Place, w.Log); err != nil && ctx.Err() == nil {
				w.Log.Error("end the writing to a volume", "id", string(id), "volume", g.Name, "err", err)
			}
		})
	}
	all.Wait()
	if news {
		if err := w.save(); err != nil {
			w.Log.Error("write down which volumes are fenced", "err", err)
		}
	}
}

// hear takes in what the agent tells. It is durable when it is answered.
func (w *Watchdog) hear(m Message) (Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := m.Deadline > w.state.Deadline
	w.state.Deadline = max(w.state.Deadline, m.Deadline)
	for _, id := range m.Lost {
		if g := w.state.Volumes[id]; g != nil && !g.Lost {
			g.Lost, changed = true, true
		}
	}
	for _, id := range m.Release {
		changed = changed || w.state.Volumes[id] != nil
		delete(w.state.Volumes, id)
	}
	if m.Guard != nil {
		if w.Clock() >= w.state.Deadline {
			return Answer{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "guard volume %s: the session of this node is over", m.Guard.ID).
				WithHint("once control answers, try again")
		}
		place, err := mountns.Locate(m.Guard.Bytes)
		if err != nil {
			return Answer{}, fmt.Errorf("guard volume %s: %w", m.Guard.ID, err)
		}
		w.state.Volumes[m.Guard.ID], changed = &guarded{Name: m.Guard.Name, Place: place}, true
	}
	if changed {
		if err := w.save(); err != nil {
			return Answer{}, err
		}
	}
	return w.answer(), nil
}

// answer tells what is guarded, under mu.
func (w *Watchdog) answer() Answer {
	a := Answer{Guarded: slices.Sorted(maps.Keys(w.state.Volumes))}
	for _, id := range a.Guarded {
		if w.state.Volumes[id].Fenced {
			a.Fenced = append(a.Fenced, id)
		}
	}
	return a
}

// save writes the file, under mu.
func (w *Watchdog) save() error {
	if err := durable.WriteJSON("watchdog.state", w.State, w.state, 0o600); err != nil {
		return fmt.Errorf("write down which volumes are guarded: %w", err)
	}
	return nil
}

// serve answers the agent: one message and one answer for each connection.
func (w *Watchdog) serve(ctx context.Context, l net.Listener) {
	for ctx.Err() == nil {
		conn, err := l.Accept()
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		var m Message
		var a Answer
		if err = json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&m); err == nil {
			a, err = w.hear(m)
		}
		if err != nil {
			a = Answer{Refused: err.Error(), Code: mobyfs.CodeOf(err), Hint: mobyfs.HintOf(err)}
		}
		_ = json.NewEncoder(conn).Encode(a)
		_ = conn.Close()
	}
}
