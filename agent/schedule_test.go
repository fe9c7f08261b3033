package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

var (
	first  = flag.Uint64("first-seed", 0, "the seed of the first schedule")
	seeds  = flag.Int("seeds", 4, "how many random schedules TestC83 tries")
	rounds = flag.Int("rounds", 150, "how many containers each thread of a schedule starts")
)

// world is what is true in TestC83, whatever agents and control believe.
type world struct {
	t       *testing.T
	r       *rig
	mu      sync.Mutex
	content map[mobyfs.VolumeID]int            // the number that was written last
	running map[mobyfs.VolumeID]map[string]int // node → containers that run on it
	starts  int
	removed int
}

// host is a Docker host. Its dockerd stops while nothing starts or ends: whoever starts or ends a container has one
// slot, whoever stops dockerd has all. (A channel, because in a bubble time stands still while a mutex is waited for.)
type host struct {
	*node
	slots chan bool
	mu    sync.Mutex
	live  map[string]*container // by mount ID
}

type container struct {
	path string
	dead bool // it died with its dockerd
}

// begin notes that a container runs, checks what it finds, and lets it write.
func (w *world) begin(h *host, name, path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := volumeAt(path)
	for other, n := range w.running[id] {
		if n > 0 && other != h.name {
			w.t.Errorf("%s runs on %s and on %s at once", name, h.name, other)
		}
	}
	if want, got := w.content[id], number(path); got != want {
		w.t.Errorf("%s on %s holds %d, last written was %d", name, h.name, got, want)
	}
	w.content[id]++
	if err := os.WriteFile(filepath.Join(path, "number"), fmt.Append(nil, w.content[id]), 0o600); err != nil {
		w.t.Errorf("write to %s: %v", name, err)
	}
	if w.running[id] == nil {
		w.running[id] = map[string]int{}
	}
	w.running[id][h.name]++
	w.starts++
	h.kernel.set(path, w.running[id][h.name], 0)
}

func (w *world) end(h *host, path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := volumeAt(path)
	w.running[id][h.name]--
	h.kernel.set(path, w.running[id][h.name], 0)
}

// volumeAt is the volume whose data is at a path.
func volumeAt(path string) mobyfs.VolumeID { return mobyfs.VolumeID(filepath.Base(filepath.Dir(path))) }

func number(path string) (n int) {
	data, err := os.ReadFile(filepath.Join(path, "number"))
	if err == nil {
		_, err = fmt.Sscan(string(data), &n)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return -1
	}
	return n
}

// run starts and ends one container.
func (h *host) run(w *world, rng *rand.Rand, name, id string) {
	h.slots <- true
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(8000))*time.Millisecond)
	path, err := h.agent.Mount(ctx, name, id)
	cancel()
	if err != nil {
		<-h.slots
		return
	}
	time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond) // runc takes its time
	w.begin(h, name, path)
	c := &container{path: path}
	h.mu.Lock()
	h.live[id] = c
	h.mu.Unlock()
	<-h.slots

	life := 5000
	if rng.IntN(10) == 0 {
		life = 60_000 // long enough to be doubted
	}
	time.Sleep(time.Duration(rng.IntN(life)) * time.Millisecond)
	h.slots <- true
	defer func() { <-h.slots }()
	h.mu.Lock()
	delete(h.live, id)
	dead := c.dead
	h.mu.Unlock()
	if dead {
		return
	}
	w.end(h, path)
	if rng.IntN(20) > 0 { // else Docker forgets to say so
		_ = h.agent.Unmount(context.Background(), name, id)
	}
}

func (h *host) stopDockerd() {
	for range cap(h.slots) {
		h.slots <- true
	}
}

func (h *host) startDockerd() {
	for range cap(h.slots) {
		<-h.slots
	}
}

// restartDockerd kills dockerd; its containers die with it unless they are kept alive.
func (h *host) restartDockerd(w *world, keep bool) {
	h.stopDockerd()
	defer h.startDockerd()
	h.mu.Lock()
	for _, c := range h.live {
		if !keep && !c.dead {
			c.dead = true
			w.end(h, c.path)
		}
	}
	h.mu.Unlock()
	h.agent.Activated()
}

// TestC81And83RandomSchedulesAgreeWithTheModel: whatever comes in whatever order, a volume runs on one node at a time,
// holds what was written last, and in the end nothing is held or left over.
func TestC81And83RandomSchedulesAgreeWithTheModel(t *testing.T) {
	starts := 0
	for i := range *seeds {
		bubble(t, func(t *testing.T) { starts += randomSchedule(t, *first+uint64(i)) })
	}
	if starts < *seeds**rounds {
		t.Errorf("only %d containers ran in %d schedules", starts, *seeds)
	}
	t.Logf("%d containers ran in %d schedules", starts, *seeds)
}

// randomSchedule tells how many containers ran.
func randomSchedule(t *testing.T, seed uint64) (starts int) {
	r := newRig(t)
	r.linger = time.Duration(seed%3) * 2 * time.Second
	r.cluster.partial = seed%2 == 1
	for _, name := range []string{"h1", "h2", "h3"} {
		r.join(name, t.TempDir())
	}
	w := &world{t: t, r: r, content: map[mobyfs.VolumeID]int{}, running: map[mobyfs.VolumeID]map[string]int{}}
	volumes := []string{"va", "vb", "vc"} // vc comes and goes
	for _, v := range volumes {
		r.nodes["h1"].create(v, nil)
	}
	var hosts []*host
	for _, name := range []string{"h1", "h2", "h3"} {
		hosts = append(hosts, &host{node: r.nodes[name], slots: make(chan bool, 3), live: map[string]*container{}})
	}
	// One call in 15 does not arrive, and one answer in 15 is lost.
	var chance sync.Mutex
	dice := rand.New(rand.NewPCG(seed, 1))
	lose := func(_, call string) error {
		chance.Lock()
		bad, wait := dice.IntN(15) == 0, time.Duration(dice.IntN(20))*time.Millisecond
		chance.Unlock()
		time.Sleep(wait)
		if bad && call != "Report" {
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control: the connection was lost").WithHint("wait")
		}
		return nil
	}
	r.cluster.hook(lose, lose)
	r.pull = func(ctx context.Context, _ string, _ mobyfs.From, progress func(mobyfs.Progress)) error {
		time.Sleep(100 * time.Millisecond)
		return lose("", "pull")
	}
	var all sync.WaitGroup
	for i, h := range hosts {
		for j := range 3 {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(100+10*i+j)))
				for n := range *rounds {
					h.run(w, rng, volumes[rng.IntN(len(volumes))], fmt.Sprintf("%d-%d-%d", i, j, n))
					time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
				}
			})
		}
	}
	over := make(chan struct{})
	var trouble sync.WaitGroup
	trouble.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 2))
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Duration(rng.IntN(20)) * time.Second):
			}
			h := hosts[rng.IntN(len(hosts))]
			switch rng.IntN(8) {
			case 6:
				_ = h.agent.Create(context.Background(), "vc", nil)
			case 7:
				if r.cluster.volume("vc").ID != "" && h.agent.Remove(context.Background(), "vc") == nil {
					w.removed++
				}
				_ = h.agent.Create(context.Background(), "vc", nil)
			case 0:
				h.restartDockerd(w, true)
			case 1:
				h.restartDockerd(w, false)
			case 2:
				h.stopDockerd() // else Docker's calls would be cut off: see the tests of that
				h.restart()
				h.startDockerd()
			case 3:
				r.cluster.setDown(true)
				time.Sleep(time.Duration(rng.IntN(10)) * time.Second)
				r.cluster.setDown(false)
			case 4:
				to := hosts[rng.IntN(len(hosts))].name
				_ = r.cluster.change(context.Background(), "operator", "move", func() (*mobyfs.Volume, error) {
					v := r.cluster.find(volumes[rng.IntN(len(volumes))])
					if v == nil || v.Lease != nil || v.Migration != nil || v.Node == to || v.State != mobyfs.VolumeReady {
						return nil, nil
					}
					r.cluster.begin(v, to, false)
					v.Fence++
					return v, nil
				})
			case 5:
				_ = r.cluster.change(context.Background(), "operator", "cancel", func() (*mobyfs.Volume, error) {
					v := r.cluster.find(volumes[rng.IntN(len(volumes))])
					if v == nil || v.Migration == nil {
						return nil, nil
					}
					end(v, mobyfs.MigrationAborted, "cancelled")
					return v, nil
				})
			}
		}
	})
	all.Wait()
	close(over)
	trouble.Wait()

	r.cluster.hook(nil, nil)
	for _, h := range hosts {
		h.restartDockerd(w, false)
	}
	pass(15 * time.Minute)
	for _, name := range volumes {
		v := r.cluster.volume(name)
		if v.ID == "" {
			continue
		}
		if v.Lease != nil || v.Migration != nil {
			t.Errorf("in the end %s has lease %+v and migration %+v", name, v.Lease, v.Migration)
		}
		home := r.nodes[v.Node]
		if got := number(filepath.Join(home.root, "volumes", string(v.ID), "data")); got != w.content[v.ID] {
			t.Errorf("in the end %s holds %d, last written was %d", name, got, w.content[v.ID])
		}
	}
	for _, h := range hosts {
		if ids := h.agent.ledger.volumes(); len(ids) != 0 {
			t.Errorf("in the end %s still counts %v", h.name, ids)
		}
		if left := h.staged(); left != nil {
			t.Errorf("in the end %s has staged %v", h.name, left)
		}
	}
	if t.Failed() {
		t.Logf("that was seed %d: %d containers ran, vc was removed %d times", seed, w.starts, w.removed)
	}
	return w.starts
}
