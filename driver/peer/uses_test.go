package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/pkg/plugins"

	"github.com/mobyfs/mobyfs"
)

// inUse fails unless control knows that h1 uses the volume.
func (c *cluster) inUse(name string) {
	c.t.Helper()
	if v := c.volume(name); v.Lease == nil || v.Lease.Node != "h1" {
		c.t.Errorf("%q is not in use on h1: %+v", name, v.Lease)
	}
}

// free waits until nobody uses the volume.
func (c *cluster) free(name string) {
	c.t.Helper()
	eventually(c.t, name+" is free", func() bool { return !c.leased(name) })
}

// one is a cluster of one host whose dockerd has made the volume pgdata.
func one(t *testing.T) (*cluster, *host, *dockerd) {
	t.Helper()
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	return c, h1, d
}

func TestC58FailedMountLeavesNothingBehind(t *testing.T) {
	c, h1, d := one(t)
	h1.gate.at(func(mobyfs.VolumeID) error { return mobyfs.Errorf(mobyfs.CodeInternal, "the disk does not answer") })
	_, err := d.mustGet("pgdata").Mount("a")
	says(t, err, `"pgdata"`, "the disk does not answer")
	c.free("pgdata")
	if err := d.remove("pgdata", false); err != nil {
		t.Error(err)
	}
}

func TestC69MountTwiceUnmountOnceIsStillInUse(t *testing.T) {
	c, h1, d := one(t)
	path := d.mount("pgdata", "a")
	h1.kernel.set(path, 1)
	d.mount("pgdata", "a") // docker cp of a running container
	d.unmount("pgdata", "a")
	c.inUse("pgdata")
	says(t, d.remove("pgdata", false), "in use")
	h1.kernel.set(path, 0)
	d.unmount("pgdata", "a")
	c.free("pgdata")
}

func TestC70UnmountOfWhatIsNotMountedIsFine(t *testing.T) {
	c, _, d := one(t)
	d.unmount("pgdata", "never-mounted")
	if answer, err := call(d.client(), "Unmount", map[string]any{"Name": "nobody", "ID": "a"}); err != nil || answer["Err"] != "" {
		t.Errorf("of no volume: %v, %v", answer, err)
	}
	d.mount("pgdata", "a") // had the count gone below zero, this would bring it to zero
	c.inUse("pgdata")
	d.unmount("pgdata", "b")
	c.inUse("pgdata")
	d.unmount("pgdata", "a")
	c.free("pgdata")
}

func TestC71NoIDAndOneIDForAllAreBalanced(t *testing.T) {
	for what, id := range map[string]string{"no ID": "", "one ID for all": "constant"} {
		t.Run(what, func(t *testing.T) {
			c, _, d := one(t)
			ask := func(method string) {
				t.Helper()
				if answer, err := call(d.client(), method, map[string]any{"Name": "pgdata", "ID": id}); err != nil || answer["Err"] != "" {
					t.Errorf("%s: %v, %v", method, answer, err)
				}
			}
			for range 3 {
				ask("Mount")
			}
			ask("Unmount")
			ask("Unmount")
			c.inUse("pgdata")
			ask("Unmount")
			c.free("pgdata")
		})
	}
}

func TestC72SameIDInTheNextLifeOfDockerCountsOnce(t *testing.T) {
	c, h1, d := one(t)
	d.mount("pgdata", "a")
	d.mount("pgdata", "a")
	d.kill() // no Unmount comes for either
	d = h1.boot()
	d.mount("pgdata", "a") // docker start
	c.inUse("pgdata")
	d.unmount("pgdata", "a")
	c.free("pgdata")
}

func TestC82FiftyMountsAtOnceAreOneAttach(t *testing.T) {
	c, h1, d := one(t)
	var mu sync.Mutex
	attached := 0
	h1.gate.at(func(mobyfs.VolumeID) error {
		mu.Lock()
		defer mu.Unlock()
		attached++
		return nil
	})
	var containers sync.WaitGroup
	for i := range 50 {
		v := d.mustGet("pgdata") // each container has its own
		containers.Go(func() {
			if path, err := v.Mount(fmt.Sprint("id-", i)); err != nil || path == "" {
				t.Errorf("mount %d: %q, %v", i, path, err)
			}
		})
	}
	containers.Wait()
	if attached != 1 {
		t.Errorf("it was attached %d times", attached)
	}
	for i := range 49 {
		d.unmount("pgdata", fmt.Sprint("id-", i))
	}
	c.inUse("pgdata")
	d.unmount("pgdata", "id-49")
	c.free("pgdata")
}

func TestC84VolumesDontWaitForEachOther(t *testing.T) {
	c, h1, d := one(t)
	if err := d.create("other", nil); err != nil {
		t.Fatal(err)
	}
	slow := c.volume("pgdata").ID
	reached, leave := make(chan struct{}), make(chan struct{})
	h1.gate.at(func(id mobyfs.VolumeID) error {
		if id == slow {
			close(reached)
			<-leave
		}
		return nil
	})
	v := d.mustGet("pgdata")
	done := make(chan error, 1)
	go func() { _, err := v.Mount("a"); done <- err }()
	<-reached
	d.mount("other", "b")
	d.unmount("other", "b")
	select {
	case err := <-done:
		t.Errorf("the slow Mount ended early: %v", err)
	default:
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestC85MountsTimeEndsBeforeDockersPatience(t *testing.T) {
	p := play()
	d := boot(t, t.TempDir(), serve(t, p).socket)
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	var left time.Duration
	p.mount = func(ctx context.Context, _, _ string) error {
		until, _ := ctx.Deadline()
		left = time.Until(until)
		return mobyfs.Errorf(mobyfs.CodeUnavailable, `still moving "pgdata" from h2 (41 %%)`).WithHint("run it again")
	}
	_, err := d.mustGet("pgdata").Mount("a")
	says(t, err, `still moving "pgdata" from h2 (41 %)`, "run it again")
	if left > 110*time.Second || left < 100*time.Second {
		t.Errorf("the Mount had %v; Docker waits for 2 min", left)
	}
}

// impatient is Docker's client with less patience than two minutes.
func impatient(t *testing.T, socket string, patience time.Duration) *plugins.Client {
	t.Helper()
	c, err := plugins.NewClientWithTimeout("unix://"+socket, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestC86MountThatDockerGivesUpIsUndone(t *testing.T) {
	t.Parallel()
	t.Run("while the agent waits", func(t *testing.T) {
		t.Parallel()
		p := play()
		l := serve(t, p)
		ended := make(chan error, 1)
		p.mount = func(ctx context.Context, _, _ string) error {
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
		answer, err := call(impatient(t, l.socket, time.Second), "Mount", map[string]any{"Name": "pgdata", "ID": "a"})
		if text, _ := answer["Err"].(string); err != nil || text == "" {
			t.Errorf("Docker tried again without a body and got %v, %v", answer, err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the agent's context ended with %v", err)
		}
		if n := p.count("pgdata", "a"); n != 0 {
			t.Errorf("%d uses are counted", n)
		}
	})
	t.Run("while the disk works", func(t *testing.T) {
		t.Parallel()
		c, h1, d := one(t)
		reached, leave := make(chan struct{}), make(chan struct{})
		h1.gate.at(func(mobyfs.VolumeID) error {
			close(reached)
			<-leave
			return nil
		})
		answer, err := call(impatient(t, h1.line.socket, 3*time.Second), "Mount", map[string]any{"Name": "pgdata", "ID": "a"})
		if text, _ := answer["Err"].(string); err != nil || text == "" {
			t.Errorf("Docker tried again without a body and got %v, %v", answer, err)
		}
		<-reached
		c.inUse("pgdata")
		close(leave)
		c.free("pgdata")
		if err := d.remove("pgdata", false); err != nil {
			t.Error(err)
		}
	})
}

func TestC87UnmountDoesNotWaitForControl(t *testing.T) {
	c, _, d := one(t)
	d.mount("pgdata", "a")
	c.away()
	start := time.Now()
	d.unmount("pgdata", "a")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	c.back()
	c.free("pgdata")
}
