package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// busy makes the container db on a node use a processor as it may, and the pause that is predicted follow it: with a
// whole processor it would be a minute.
func (r *rig) busy(n *node, limits CPULimits) {
	n.docker.edit("db", func(b *box) { b.cpu = CPU{Limits: limits} })
	last := time.Now()
	r.session = func(_ context.Context, _, step string) error {
		if step != "round" {
			return nil
		}
		time.Sleep(time.Second)
		n.docker.edit("db", func(b *box) {
			may := b.cpu.Limits.processors()
			b.cpu.Used += time.Duration(float64(time.Since(last)) * may)
			r.pause = time.Duration(float64(time.Minute) * may)
		})
		last = time.Now()
		return nil
	}
}

// processors are those that a container may use which never uses more than one.
func (l CPULimits) processors() float64 {
	switch {
	case l.NanoCPUs > 0:
		return min(1, float64(l.NanoCPUs)/1e9)
	case l.Quota > 0:
		return min(1, float64(l.Quota)/float64(l.Period))
	}
	return 1
}

func (c *containers) edit(name string, f func(b *box)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.boxes[name]; b != nil {
		f(b)
		c.save()
	}
}

// limits are what a container may use, those of no container if there is none.
func (c *containers) limits(name string) (l CPULimits) {
	c.edit(name, func(b *box) { l = b.cpu.Limits })
	return l
}

var throttling = mobyfs.MoveOptions{MaxRounds: 3, OnBusy: mobyfs.BusyThrottle, MaxPause: 10 * time.Second}

func TestContainersThatAreTooBusyAreSlowedDownUntilThePauseIsShort(t *testing.T) {
	for what, had := range map[string]CPULimits{"no limit": {}, "half a processor": {Period: 50_000, Quota: 25_000}, "--cpus 2": {NanoCPUs: 2e9}} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, h1, _, _ := liveNodes(t)
				r.busy(h1, had)
				r.cluster.moveLive("pgdata", "h2", throttling)
				is(t, "it moved", r.moved)
				settled()
				b, err := h1.docker.box("id-db")
				if err != nil || b.state != "exited" || !b.killedFrozen {
					t.Fatalf("the container is %+v, %v", b, err)
				}
				did := strings.Join(h1.docker.took(), " ")
				if n := strings.Count(did, "limit id-db"); n < 3 || strings.Index(did, "limit") > strings.Index(did, "pause") {
					t.Errorf("it was slowed down %d times (once to give all back): %s", n, did)
				}
				want := had
				if want == (CPULimits{}) {
					want = CPULimits{Period: cpuPeriod, Quota: -1}
				}
				if got := h1.docker.limits("db"); got != want {
					t.Errorf("afterwards it may use %+v, before it was %+v", got, had)
				}
			})
		})
	}
}

// Even a 64th is too much: then an operator is asked, and containers are let go as soon as it was decided otherwise.
func TestAMoveThatThrottlingDoesNotHelpAsks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, _ := liveNodes(t)
		r.busy(h1, CPULimits{})
		o := throttling
		o.MaxPause = time.Millisecond
		r.cluster.moveLive("pgdata", "h2", o)
		pass(time.Minute)
		if got := h1.docker.limits("db"); got != (CPULimits{Period: cpuPeriod, Quota: 1562}) {
			t.Errorf("it may use %+v, want a 64th of the processor that it used", got)
		}
		if n := strings.Count(strings.Join(h1.docker.took(), " "), "limit id-db"); n != 6 {
			t.Errorf("dockerd was asked to slow it down %d times, want once for each half", n)
		}
		asks := false
		r.cluster.mu.Lock()
		for _, p := range r.cluster.reports["h2"].Progress {
			asks = p.Asks
		}
		r.cluster.mu.Unlock()
		if !asks {
			t.Error("it does not ask")
		}
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) {
			m := *v.Migration
			m.Options.OnBusy = mobyfs.BusyAsk
			v.Migration = &m
		})
		pass(10 * time.Second)
		if got := h1.docker.limits("db"); got.Quota != -1 {
			t.Errorf("it is not to be slowed down any more, and may use %+v", got)
		}
	})
}

func TestWhoDiesThrottlingLetsContainersGoInItsNextLife(t *testing.T) {
	for _, again := range []string{"the move goes on", "it was given up", "dockerd is away", "somebody changed it"} {
		t.Run(again, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, h1, h2, _ := liveNodes(t)
				r.busy(h1, CPULimits{})
				o := throttling
				o.MaxPause = time.Millisecond
				r.cluster.moveLive("pgdata", "h2", o)
				is(t, "it is slowed down", func() bool { return h1.docker.limits("db").Quota > 0 })
				h2.stop()
				h1.stop() // as it dies: what is to be undone stands in the journal
				want := CPULimits{Period: cpuPeriod, Quota: -1}
				switch again {
				case "it was given up":
					r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Migration = nil })
				case "dockerd is away":
					since := time.Now()
					h1.docker.break_ = func(what, _ string) error {
						if what == "limit" && time.Since(since) < 30*time.Second {
							return &dockerError{503, "not yet"}
						}
						return nil
					}
				case "somebody changed it":
					want = CPULimits{Period: 20_000, Quota: 10_000}
					h1.docker.edit("db", func(b *box) { b.cpu.Limits = want })
				}
				h1.start()
				is(t, "the container has what it had", func() bool { return h1.docker.limits("db") == want && len(h1.agent.throttles.volumes()) == 0 })
				if s := h1.docker.state("db"); s != "running" {
					t.Errorf("the container is %s", s)
				}
			})
		})
	}
}

// A container that can be slowed down once and not twice has all of it back, and the move ends and says why.
func TestAThrottleThatDockerdRefusesEndsTheMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, _ := liveNodes(t)
		r.busy(h1, CPULimits{})
		asked := 0
		h1.docker.break_ = func(what, _ string) error {
			if what == "limit" {
				if asked++; asked == 2 {
					return &dockerError{500, "no more"}
				}
			}
			return nil
		}
		r.cluster.moveLive("pgdata", "h2", throttling)
		is(t, "it ended", func() bool { v := r.cluster.volume("pgdata"); return v.Migration == nil && v.LastMove != nil })
		if m := r.cluster.volume("pgdata").LastMove; m.State != mobyfs.MigrationAborted || !strings.Contains(m.Reason, "no more") {
			t.Errorf("the move stands as %+v", m)
		}
		is(t, "the container has what it had", func() bool { return h1.docker.limits("db").Quota == -1 && len(h1.agent.throttles.volumes()) == 0 })
	})
}

// What is sent to the other node is how the container was made, not what it has for a while.
func TestASessionBeginsWithContainersThatHaveAllTheyHad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2, _ := liveNodes(t)
		r.busy(h1, CPULimits{})
		busy, broke, packs := r.session, false, 0
		h1.docker.break_ = func(what, _ string) error {
			if what == "pack" {
				if packs++; h1.docker.limits("db").Quota > 0 {
					t.Errorf("session %d began with a container that was slowed down", packs)
				}
			}
			return nil
		}
		r.session = func(ctx context.Context, node, step string) error {
			if step == "round" && !broke && h1.docker.limits("db").Quota > 0 {
				broke = true
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "connection reset")
			}
			return busy(ctx, node, step)
		}
		o := throttling
		o.WithContainers = true
		r.cluster.moveLive("pgdata", "h2", o)
		is(t, "the container runs on h2", func() bool { return r.moved() && h2.docker.state("db") == "running" })
		if packs < 2 || !broke {
			t.Errorf("packed %d times, broken %v", packs, broke)
		}
	})
}

func TestAJournalOfThrottlesThatCantBeReadIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, h1, _, _ := liveNodes(t)
		h1.stop()
		path := filepath.Join(h1.root, "state", throttlesName)
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		h1.start()
		if _, err := os.Stat(path + ".unreadable"); err != nil {
			t.Error(err)
		}
	})
}

// What dockerd is asked for: no limit is said by a quota of -1, for dockerd takes 0 as no change, and a container that was
// made with --cpus takes nothing else.
func TestDockerIsAskedForLimitsInItsOwnWay(t *testing.T) {
	var bodies []string
	d := playing(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.HasSuffix(r.URL.Path, "/update"):
			bodies = append(bodies, string(body))
		case strings.HasSuffix(r.URL.Path, "/stats"):
			fmt.Fprint(w, `{"cpu_stats": {"cpu_usage": {"total_usage": 2500000000}}}`)
		case strings.Contains(r.URL.Path, "/gone/"):
			w.WriteHeader(http.StatusNotFound)
		default:
			fmt.Fprint(w, `{"Id": "db", "HostConfig": {"NanoCpus": 0, "CpuPeriod": 20000, "CpuQuota": 10000}}`)
		}
	}))
	cpu, err := d.CPU(t.Context(), "db")
	if want := (CPU{2500 * time.Millisecond, CPULimits{Period: 20_000, Quota: 10_000}}); err != nil || cpu != want {
		t.Errorf("got %+v, %v", cpu, err)
	}
	if _, err := d.CPU(t.Context(), "gone"); !isGone(err) {
		t.Errorf("of one that is gone: %v", err)
	}
	for _, l := range []CPULimits{{}, {Quota: -1}, {Period: 20_000, Quota: 10_000}, {NanoCPUs: 5e8}} {
		if err := d.LimitCPU(t.Context(), "db", l); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	want := []string{`{"CpuPeriod":100000,"CpuQuota":-1}`, `{"CpuPeriod":100000,"CpuQuota":-1}`, `{"CpuPeriod":20000,"CpuQuota":10000}`, `{"NanoCpus":500000000}`}
	if !slices.Equal(bodies, want) {
		t.Errorf("it was asked for %v", bodies)
	}
}

func TestLimitsAreSaidAsBeforeAndNeverHigher(t *testing.T) {
	for _, c := range []struct {
		had        CPULimits
		processors float64
		want       CPULimits
	}{
		{CPULimits{}, 0.5, CPULimits{Period: 100_000, Quota: 50_000}},
		{CPULimits{Quota: -1}, 0.01, CPULimits{Period: 100_000, Quota: 1000}},
		{CPULimits{Period: 20_000, Quota: 10_000}, 0.75, CPULimits{Period: 20_000, Quota: 10_000}},
		{CPULimits{Period: 20_000, Quota: 10_000}, 0.01, CPULimits{Period: 20_000, Quota: 1000}},
		{CPULimits{NanoCPUs: 3e8}, 0.5, CPULimits{NanoCPUs: 3e8}},
		{CPULimits{NanoCPUs: 3e8}, 0.25, CPULimits{NanoCPUs: 25e7}},
	} {
		if got := c.had.atMost(c.processors); got != c.want {
			t.Errorf("%+v at most %v: got %+v, want %+v", c.had, c.processors, got, c.want)
		}
	}
}

func TestSharesOfThrottling(t *testing.T) {
	o := mobyfs.MoveOptions{MaxRounds: 3, OnBusy: mobyfs.BusyThrottle}
	var shares []float64
	var asks []int
	for n := range 12 {
		shares = append(shares, o.Share(n))
		if o.Asks(n) {
			asks = append(asks, n)
		}
	}
	if want := []float64{1, 1, 1, 1. / 2, 1. / 4, 1. / 8, 1. / 16, 1. / 32, 1. / 64, 1. / 64, 1. / 64, 1. / 64}; !slices.Equal(shares, want) {
		t.Errorf("got %v", shares)
	}
	if !slices.Equal(asks, []int{8, 9, 10, 11}) {
		t.Errorf("it asks after rounds %v", asks)
	}
	if o.OnBusy = mobyfs.BusyAsk; o.Share(100) != 1 || o.Asks(1) || !o.Asks(2) {
		t.Errorf("without it: %v, %v, %v", o.Share(100), o.Asks(1), o.Asks(2))
	}
}
