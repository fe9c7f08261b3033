package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// outage is what containers do while there is no control at all, and what became of it.
type outage struct {
	w *workload

	mounts, unmounts, failed atomic.Int64
	meanwhile                int64        // mounts while there was no control
	held                     atomic.Int64 // calls that waited for an agent that began anew, as systemd's socket lets them
	mu                       sync.Mutex
	why                      []string
	longest                  time.Duration // of a mount
}

// TestNobodyNoticesThatControlIsAway stops all controls while containers write, come and go on volumes that are local,
// and kills each agent in the middle of that. No write and no mount may fail, and once control is back its log, the data
// and what was seen must fit together.
func TestNobodyNoticesThatControlIsAway(t *testing.T) {
	t.Parallel()
	withoutControl(t, 6, *away)
}

// withoutControl lets control be away for a while and returns what became of it, in a sentence.
func withoutControl(t *testing.T, number int, length time.Duration) string {
	t.Helper()
	b, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cfg := configure(t, number)
	cfg.Controls, cfg.Agents = 3, 3
	c, err := newCluster(cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	ctx, cancel := context.WithTimeout(t.Context(), length+3*time.Minute)
	defer cancel()
	if err := c.start(ctx); err != nil {
		t.Fatal(err)
	}
	o := &outage{w: &workload{c: c, h: newHistory()}}
	if o.w.finder, err = c.client(pki.RoleOperator, "finder"); err != nil {
		t.Fatal(err)
	}
	if err := o.play(ctx, length); err != nil {
		t.Fatal(err)
	}
	events, err := settle(ctx, o.w, c)
	if err != nil {
		t.Fatal(err)
	}
	return o.judge(t, cfg, events, length)
}

// names of the volumes of a node: two on which a container runs all the time, and those on which containers come and go.
func (o *outage) names(at *agent) (running []string, comers []string) {
	return []string{"local-run-" + at.node, "shared-run-" + at.node}, []string{"local-a-" + at.node, "local-b-" + at.node}
}

// play makes the volumes, uses them, and lets control be away for a while in the midst of that.
func (o *outage) play(ctx context.Context, length time.Duration) error {
	using, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	for _, at := range o.w.c.agents {
		running, comers := o.names(at)
		for i, name := range append(running, comers...) {
			var options map[string]string
			if i == 1 {
				options = map[string]string{"backend": mobyfs.SharedBackend, "takeover": string(mobyfs.TakeoverManual)}
			}
			if err := at.docker.create(ctx, name, options); err != nil {
				return err
			}
		}
		for _, name := range running {
			ready := make(chan bool, 1)
			all.Go(func() { o.use(using, at, name, time.Hour, ready) })
			<-ready // it has its mount before control goes away
		}
		for _, name := range comers {
			all.Go(func() {
				for using.Err() == nil {
					o.use(using, at, name, 200*time.Millisecond, nil)
				}
			})
		}
	}
	pause(ctx, 2*time.Second)
	for _, x := range o.w.c.controls {
		x.halt(unix.SIGKILL)
	}
	before := o.mounts.Load()
	pause(ctx, length/2)
	for _, at := range o.w.c.agents {
		if err := at.signal(unix.SIGKILL); err != nil {
			return err
		}
		pause(ctx, length/20)
	}
	pause(ctx, length/2-3*length/20)
	if o.meanwhile = o.mounts.Load() - before; o.meanwhile == 0 {
		return errors.New("nobody mounted anything while control was away")
	}
	for _, x := range o.w.c.controls {
		x.process.start()
	}
	if err := o.w.c.await(ctx, o.w.c.controls); err != nil {
		return err
	}
	pause(ctx, 2*time.Second)
	stop()
	all.Wait()
	return nil
}

// use mounts a volume, lets a container write into it, and unmounts it.
func (o *outage) use(ctx context.Context, at *agent, name string, life time.Duration, ready chan<- bool) {
	w := o.w
	use := fmt.Sprintf("u%d", w.writers.Add(1))
	begin := boottime()
	started := time.Now()
	var path string
	err := o.call(func(call context.Context) (err error) {
		path, err = at.docker.mount(call, name, use)
		return err
	})
	o.mu.Lock()
	o.longest = max(o.longest, time.Since(started))
	o.mu.Unlock()
	if ready != nil {
		ready <- true
	}
	if err != nil {
		o.fail("mount", name, err)
		return
	}
	o.mounts.Add(1)
	var id mobyfs.VolumeID
	var fence mobyfs.Fence
	shared := name == "shared-run-"+at.node
	err = o.call(func(call context.Context) (err error) {
		id, fence, err = w.attached(call, at, name, path, shared)
		return err
	})
	if err != nil {
		o.fail("read the fence of", name, err)
		return
	}
	w.h.add(op{kind: opMounted, volume: id, who: at.node, fence: fence, shared: shared, call: begin, ret: boottime(), outcome: acked})
	w.look(id, at.node, path)
	w.write(ctx, at, id, path, use, fence, life)
	err = o.call(func(call context.Context) error { return at.docker.unmount(call, name, use) })
	if err != nil {
		o.fail("unmount", name, err)
		return
	}
	o.unmounts.Add(1)
}

// call makes a call of Docker, again while nobody listens at the socket, which systemd would hold open.
func (o *outage) call(do func(context.Context) error) error {
	for deadline := time.Now().Add(mountTime); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), mountTime)
		err := do(ctx)
		cancel()
		if err == nil || isRefused(err) || time.Now().After(deadline) {
			return err
		}
		o.held.Add(1)
	}
}

func (o *outage) fail(what, name string, err error) {
	o.failed.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.why = append(o.why, fmt.Sprintf("%s %s: %v", what, name, err))
}

// judge tells what came of it and fails the test for what should not have.
func (o *outage) judge(t *testing.T, cfg Config, events []mobyfs.Event, length time.Duration) string {
	t.Helper()
	h := o.w.h
	h.mu.Lock()
	defer h.mu.Unlock()
	v := o.w.found
	v.checkWindows(h.windows)
	v.checkLog(h.ops, events, checkTime)
	ended := h.counts["container ended by an error"] + h.counts["container killed"]
	text := fmt.Sprintf("**All controls away for %v** while containers wrote and others came and went on local volumes, each agent killed once: %d mounts meanwhile (%d with the time before and after; the longest took %v), **%d failed**; %d containers wrote %d records, **%d of them ended by an error**; %d calls waited for an agent that began anew. Porcupine: %s, %d volumes; %d acknowledged and lost; %d double owners.",
		length, o.meanwhile, o.mounts.Load(), o.longest.Round(time.Millisecond), o.failed.Load(), h.counts["container started"], h.counts["writes acked"], ended, o.held.Load(), v.linearizable(), v.volumes, len(v.lost)+len(v.unlogged), len(v.doubles))
	t.Log(text)
	for _, why := range o.why {
		t.Error(why)
	}
	if ended != 0 {
		t.Errorf("%d containers could not write: %v", ended, o.w.trouble)
	}
	for _, wrong := range v.violations() {
		t.Error(wrong)
	}
	(&result{Config: cfg, verdict: v}).keep()
	return text
}
