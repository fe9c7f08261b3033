package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// lookAfter is when dockerd is asked after a mount or an unmount: the container that is being started does not run
// yet, the one that is being stopped may run still.
var lookAfter = []time.Duration{300 * time.Millisecond, 700 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}

// roster knows the names of the containers that use the volumes of this node, so that refusals can name them here
// and, by way of control, on other nodes. What it does not know delays nothing.
type roster struct {
	agent *Agent
	mu    sync.Mutex
	calls map[mobyfs.VolumeID]*rollCall
}

// rollCall is what is known of one volume.
type rollCall struct {
	names []string
	sent  bool               // control has them
	stop  context.CancelFunc // ends the look-up under way
}

func newRoster(a *Agent) *roster { return &roster{agent: a, calls: map[mobyfs.VolumeID]*rollCall{}} }

// names lists the containers that use a volume, as far as they are known.
func (r *roster) names(id mobyfs.VolumeID) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.calls[id]; c != nil {
		return c.names
	}
	return nil
}

// look asks dockerd, over the next seconds, who uses a volume. It returns at once.
func (r *roster) look(id mobyfs.VolumeID, name string) {
	if r.agent.Docker == nil {
		return
	}
	ctx, stop := context.WithCancel(r.agent.work)
	r.mu.Lock()
	c := r.calls[id]
	if c == nil {
		c = &rollCall{sent: true}
		r.calls[id] = c
	}
	if c.stop != nil {
		c.stop()
	}
	c.stop = stop
	r.mu.Unlock()
	r.agent.goDo(func() {
		defer stop()
		for _, wait := range lookAfter {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			names, err := r.agent.Docker.Running(ctx, name)
			if err != nil {
				r.agent.Log.Debug("ask dockerd who uses a volume", "id", string(id), "err", err)
				continue
			}
			r.found(c, names)
			if len(names) == r.agent.ledger.standing(id).uses {
				return
			}
		}
	})
}

func (r *roster) found(c *rollCall, names []string) {
	r.mu.Lock()
	news := !slices.Equal(c.names, names)
	if news {
		c.names, c.sent = names, false
	}
	r.mu.Unlock()
	if news {
		r.agent.reporter.kick()
	}
}

// forget drops what is known of a volume whose lease has been given back; control drops it with the lease.
func (r *roster) forget(id mobyfs.VolumeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.calls[id]; c != nil {
		c.stop()
		delete(r.calls, id)
	}
}

// news returns the names that control does not have yet; all of them if it may have lost them. Control has them
// once sent is called.
func (r *roster) news(all bool) (users map[mobyfs.VolumeID][]string, sent func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	users = map[mobyfs.VolumeID][]string{}
	calls := map[mobyfs.VolumeID]*rollCall{}
	for id, c := range r.calls {
		if !c.sent || all && len(c.names) > 0 {
			users[id], calls[id] = append([]string{}, c.names...), c // [] and not null if nobody is left
		}
	}
	return users, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for id, c := range calls {
			c.sent = c.sent || slices.Equal(c.names, users[id])
		}
	}
}
