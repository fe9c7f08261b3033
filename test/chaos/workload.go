package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/test/chaos/journal"
)

// How much goes on at once.
const (
	volumes     = 24 // with containers
	containers  = 8  // that come and go at once
	followers   = 4  // containers on volumes of takeover auto, each of which begins anew elsewhere when its node is silent
	bareVolumes = 6  // claimed by nodes without an agent, as fast as control answers
	bareNodes   = 3
	mountTime   = 20 * time.Second // after that Docker's user has lost patience
	followTime  = 4 * time.Second  // after that a follower tries another node
)

// workload is what the cluster is used for during a run.
type workload struct {
	c    *Cluster
	h    *history
	seed uint64
	keep bool // nothing is removed

	finder  *api.Client
	writers atomic.Int64
	mu      sync.Mutex
	found   verdict // by looking at data during the run
	trouble map[string]int
	wg      sync.WaitGroup
}

// run makes volumes and uses them until ctx ends, and waits until all containers have ended. bare is what the nodes without agents do.
func (w *workload) run(ctx context.Context, bare []func(context.Context)) error {
	for _, use := range bare {
		w.wg.Go(func() { use(ctx) })
	}
	return w.runContainers(ctx)
}

// runContainers is run without the nodes that have no agent.
func (w *workload) runContainers(ctx context.Context) error {
	operator, err := w.c.client(pki.RoleOperator, "mover")
	if err != nil {
		return err
	}
	if w.finder, err = w.c.client(pki.RoleOperator, "finder"); err != nil {
		return err
	}
	for i := range containers {
		w.wg.Go(func() { w.useVolumes(ctx, rand.New(rand.NewPCG(w.seed, uint64(i)))) })
	}
	for i := range followers {
		w.wg.Go(func() { w.follow(ctx, i, rand.New(rand.NewPCG(w.seed, uint64(500+i)))) })
	}
	w.wg.Go(func() { w.drainNodes(ctx, operator, rand.New(rand.NewPCG(w.seed, 1001))) })
	w.wg.Go(func() { w.moveVolumes(ctx, operator, rand.New(rand.NewPCG(w.seed, 1000))) })
	w.wg.Wait()
	return nil
}

// say counts an unexpected answer, for the report.
func (w *workload) say(what string, err error) {
	text := err.Error()
	if i := strings.Index(text, ": "); i > 0 && len(text) > 160 {
		text = text[:160]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trouble == nil {
		w.trouble = map[string]int{}
	}
	w.trouble[what+": "+text]++
}

// useVolumes runs one container after the other, each on some volume of some node.
func (w *workload) useVolumes(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		name := fmt.Sprintf("vol-%d", rng.IntN(volumes))
		at := w.c.agents[rng.IntN(len(w.c.agents))]
		if at.away.Load() && rng.IntN(5) > 0 {
			continue // few people use a host that is down
		}
		w.use(ctx, rng, at, name, mountTime, time.Duration(100+rng.IntN(1500))*time.Millisecond)
		if rng.IntN(25) == 0 && !w.keep {
			w.remove(ctx, at, name)
		}
		pause(ctx, time.Duration(rng.IntN(150))*time.Millisecond)
	}
}

// follow runs a container on the same volume of takeover auto again and again: for some time on one node, and on another
// one as soon as that does not answer or does not let it.
func (w *workload) follow(ctx context.Context, number int, rng *rand.Rand) {
	name := fmt.Sprintf("vol-%d", 4*number+1)
	at := w.c.agents[rng.IntN(len(w.c.agents))]
	for ctx.Err() == nil {
		wrote := w.use(ctx, rng, at, name, followTime, time.Duration(500+rng.IntN(4000))*time.Millisecond)
		if !wrote || at.away.Load() || rng.IntN(4) == 0 {
			at = w.c.agents[rng.IntN(len(w.c.agents))]
		}
		pause(ctx, time.Duration(rng.IntN(100))*time.Millisecond)
	}
}

// use creates a volume if need be, mounts it, lets a container write for a moment, and unmounts it. It reports whether the
// container wrote.
func (w *workload) use(ctx context.Context, rng *rand.Rand, at *agent, name string, patience, life time.Duration) (wrote bool) {
	use := fmt.Sprintf("u%d", w.writers.Add(1))
	call, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := at.docker.create(call, name, optionsOf(name)); err != nil {
		w.h.count("create " + outcomeOf(err))
		return false
	}
	w.h.count("create acked")
	begin := boottime()
	path, err := at.docker.mount(call, name, use)
	defer w.giveUp(at, at.boots.Load(), name, use)
	if err != nil {
		w.h.count("mount " + outcomeOf(err))
		w.say("mount", err)
		return false
	}
	w.h.count("mount acked")
	shared := optionsOf(name) != nil
	id, fence, err := w.attached(call, at, name, path, shared)
	if err != nil {
		w.say("read the fence of a mounted volume", err)
		return false
	}
	w.h.add(op{kind: opMounted, volume: id, who: at.node, fence: fence, shared: shared, call: begin, ret: boottime(), outcome: acked})
	w.look(id, at.node, path)
	return w.write(ctx, at, id, path, use, fence, life)
}

func outcomeOf(err error) string {
	if isRefused(err) {
		return string(refusal)
	}
	return string(unknown)
}

// optionsOf are those with which a volume of a name is created: every second has its bytes where all nodes see them, and
// every fourth may be taken from a silent node without a person.
func optionsOf(name string) map[string]string {
	number, _ := strconv.Atoi(strings.TrimPrefix(name, "vol-"))
	shared := func(t mobyfs.Takeover) map[string]string {
		return map[string]string{"backend": mobyfs.SharedBackend, "takeover": string(t)}
	}
	switch number % 4 {
	case 1:
		return shared(mobyfs.TakeoverAuto)
	case 3:
		return shared(mobyfs.TakeoverManual)
	}
	return nil
}

// attached tells which volume is mounted at a path of a node, and under which fence.
func (w *workload) attached(ctx context.Context, at *agent, name, path string, shared bool) (mobyfs.VolumeID, mobyfs.Fence, error) {
	if !shared {
		fence, err := fenceOf(path)
		return mobyfs.VolumeID(filepath.Base(filepath.Dir(path))), fence, err
	}
	status, err := at.docker.status(ctx, name)
	fence, _ := status["fence"].(float64)
	return mobyfs.VolumeID(filepath.Base(path)), mobyfs.Fence(fence), err
}

// fenceOf reads under which fence a volume is attached: what its backend keeps beside the bytes.
func fenceOf(path string) (mobyfs.Fence, error) {
	var r struct {
		Fence mobyfs.Fence `json:"fence"`
	}
	err := durable.ReadJSON(filepath.Join(filepath.Dir(path), "volume.json"), &r)
	return r.Fence, err
}

// look compares the data of a volume with what was acknowledged before. What a node has mounted is not seen from here, so
// what all nodes see is read where it lies.
func (w *workload) look(id mobyfs.VolumeID, node, path string) {
	acked := w.h.ackedUntil(id)
	if strings.HasSuffix(path, string(id)) {
		path = filepath.Join(w.c.shared(), "volumes", string(id), "data")
	}
	records, _, err := journal.Read(filepath.Join(path, journal.Name))
	if err != nil {
		w.say("read the data", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found.checkJournal(id, node, records, acked)
}

// giveUp has a use given back and waits for that a little: a node that is silent keeps nobody from going elsewhere.
func (w *workload) giveUp(at *agent, boot int64, name, use string) {
	done := make(chan struct{})
	w.wg.Go(func() {
		w.unmount(at, boot, name, use)
		close(done)
	})
	select {
	case <-done:
	case <-time.After(followTime):
	}
}

// unmount gives a use back, as dockerd does however the mount ended: until the driver has answered, or the host has lost
// its power since.
func (w *workload) unmount(at *agent, boot int64, name, use string) {
	for range 40 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := at.docker.unmount(ctx, name, use)
		cancel()
		w.h.count("unmount " + map[bool]string{true: "acked", false: "failed"}[err == nil])
		if err == nil || at.boots.Load() != boot {
			return
		}
		time.Sleep(250 * time.Millisecond)
	}
}

func (w *workload) remove(ctx context.Context, at *agent, name string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	v, err := w.finder.Volume(ctx, name)
	if err != nil {
		return
	}
	w.h.removed(v.ID) // it may go from now on
	if err = at.docker.remove(ctx, name); err == nil {
		w.h.count("remove acked")
	} else {
		w.h.count("remove " + outcomeOf(err))
	}
}

// moveVolumes is an operator who moves volumes and looks at them.
func (w *workload) moveVolumes(ctx context.Context, client *api.Client, rng *rand.Rand) {
	who := identity(pki.RoleOperator, "mover")
	for ctx.Err() == nil {
		name := fmt.Sprintf("vol-%d", rng.IntN(volumes))
		v, err := w.record(ctx, client, name)
		if err == nil && rng.IntN(2) == 0 {
			to := w.c.agents[rng.IntN(len(w.c.agents))].node
			_ = w.do(ctx, op{kind: opMove, volume: v.ID, who: who}, func(ctx context.Context) (*mobyfs.Volume, error) {
				v, err := client.MoveVolume(ctx, name, to)
				return &v, err
			})
		}
		pause(ctx, time.Duration(50+rng.IntN(200))*time.Millisecond)
	}
}

func identity(role, name string) string {
	return pki.Identity{Cluster: clusterName, Role: role, Name: name}.URI().String()
}

// record reads the record of a volume, which is an operation like any other.
func (w *workload) record(ctx context.Context, client *api.Client, name string) (mobyfs.Volume, error) {
	call, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	o := op{kind: opRead, call: boottime(), outcome: acked}
	v, err := client.Volume(call, name)
	if err == nil {
		o.ret, o.volume, o.record = boottime(), v.ID, &v
		w.h.add(o)
	}
	return v, err
}

// do makes a call and notes how it ended. The record that is told may be another volume's, whose name it has by now.
func (w *workload) do(ctx context.Context, o op, call func(context.Context) (*mobyfs.Volume, error)) error {
	limited, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	o.call = boottime()
	v, err := call(limited)
	o.ret = boottime()
	o.code = mobyfs.CodeOf(err)
	switch {
	case err == nil:
		o.outcome, o.record = acked, v
		if v != nil && v.ID != "" {
			o.volume = v.ID
		}
	case o.code == mobyfs.CodeUnavailable || o.code == mobyfs.CodeInternal:
		o.outcome = unknown
	default:
		o.outcome = refusal
	}
	w.h.add(o)
	return err
}

// bare makes the nodes without agents and their volumes, and returns what each of them does.
func (w *workload) bare(ctx context.Context) ([]func(context.Context), error) {
	var clients []*api.Client
	var use []func(context.Context)
	for i := range bareNodes {
		name := fmt.Sprintf("r%d", i+1)
		client, err := w.c.client(pki.RoleNode, name)
		if err != nil {
			return nil, err
		}
		report := mobyfs.Report{
			Instance: name, Begins: true, Address: "127.0.0.1:1", Version: "bare",
			Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 40},
		}
		if _, err := client.Report(ctx, report); err != nil {
			return nil, err
		}
		report.Begins = false
		clients = append(clients, client)
		use = append(use, func(ctx context.Context) {
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, _ = client.Report(call, report)
				cancel()
				pause(ctx, sessionTTL/4)
			}
		})
	}
	operator, err := w.c.client(pki.RoleOperator, "reader")
	if err != nil {
		return nil, err
	}
	for i := range bareNodes { // which could make no bytes
		taints := []mobyfs.Taint{{Key: "bare", Effect: mobyfs.TaintNoPlace}}
		if _, err := operator.PatchNode(ctx, fmt.Sprintf("r%d", i+1), api.NodePatch{Taints: &taints}); err != nil {
			return nil, err
		}
	}
	var names []string
	for k := range bareVolumes {
		name := fmt.Sprintf("bare-%d", k)
		v, err := clients[k%bareNodes].CreateVolume(ctx, name, mobyfs.VolumeSpec{Tolerations: []string{"bare"}}, fmt.Sprintf("r%d", k%bareNodes+1))
		if err != nil {
			return nil, err
		}
		if _, err := clients[k%bareNodes].Created(ctx, v.ID); err != nil {
			return nil, err
		}
		names = append(names, name)
		for i, client := range clients {
			node := fmt.Sprintf("r%d", i+1)
			rng := rand.New(rand.NewPCG(w.seed, uint64(2000+k*bareNodes+i)))
			use = append(use, func(ctx context.Context) { w.claimAndRelease(ctx, client, node, v.ID, rng) })
		}
	}
	rng := rand.New(rand.NewPCG(w.seed, 3000))
	use = append(use, func(ctx context.Context) {
		for ctx.Err() == nil {
			_, _ = w.record(ctx, operator, names[rng.IntN(len(names))])
			pause(ctx, 20*time.Millisecond)
		}
	})
	return use, nil
}

// claimAndRelease is a node that wants one volume again and again, and brings it home when it is elsewhere.
func (w *workload) claimAndRelease(ctx context.Context, client *api.Client, node string, id mobyfs.VolumeID, rng *rand.Rand) {
	who := identity(pki.RoleNode, node)
	for ctx.Err() == nil {
		var grant mobyfs.Grant
		err := w.do(ctx, op{kind: opClaim, volume: id, who: who}, func(ctx context.Context) (_ *mobyfs.Volume, err error) {
			grant, err = client.Claim(ctx, id)
			v := grant.Volume
			return &v, err
		})
		if err == nil && grant.From != nil {
			grant, err = w.bringHome(ctx, client, who, id, grant, rng)
		}
		if l := grant.Volume.Lease; err == nil && l != nil && l.Node == node {
			pause(ctx, time.Duration(rng.IntN(20))*time.Millisecond)
			w.giveBack(ctx, client, who, id, l.Fence)
		}
		pause(ctx, time.Duration(50+rng.IntN(400))*time.Millisecond)
	}
}

// bringHome ends a migration to the node, mostly by committing it.
func (w *workload) bringHome(ctx context.Context, client *api.Client, who string, id mobyfs.VolumeID, grant mobyfs.Grant, rng *rand.Rand) (mobyfs.Grant, error) {
	migration := grant.From.Migration
	if rng.IntN(4) == 0 {
		err := w.do(ctx, op{kind: opAbort, volume: id, who: who, fence: grant.Fence}, func(ctx context.Context) (*mobyfs.Volume, error) {
			return nil, client.Abort(ctx, id, migration, "for once")
		})
		return mobyfs.Grant{}, errors.Join(errors.New("aborted"), err)
	}
	var now mobyfs.Grant
	err := w.do(ctx, op{kind: opCommit, volume: id, who: who, fence: grant.Fence}, func(ctx context.Context) (_ *mobyfs.Volume, err error) {
		now, err = client.Commit(ctx, id, migration, mobyfs.Receipt{Digest: "none"})
		v := now.Volume
		return &v, err
	})
	return now, err
}

// giveBack releases a lease, again and again while it is not known whether it is released: a release that comes late
// must not be followed by a claim.
func (w *workload) giveBack(ctx context.Context, client *api.Client, who string, id mobyfs.VolumeID, fence mobyfs.Fence) {
	for ctx.Err() == nil {
		err := w.do(ctx, op{kind: opRelease, volume: id, who: who, fence: fence}, func(ctx context.Context) (*mobyfs.Volume, error) {
			return nil, client.Release(ctx, id, fence)
		})
		if code := mobyfs.CodeOf(err); code != mobyfs.CodeUnavailable && code != mobyfs.CodeInternal {
			return
		}
		pause(ctx, 100*time.Millisecond)
	}
}
