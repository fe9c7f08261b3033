//go:build bench

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

const pluginSocket = "/run/docker/plugins/mobyfs.sock"

// calls is how long calls of one kind took through the driver's socket, and through that of a driver which does
// nothing.
type calls struct {
	Call        string
	Ours, Other []time.Duration
}

// quantile is the time within which a share of the calls was answered.
func quantile(d []time.Duration, share float64) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[min(int(share*float64(len(d))), len(d)-1)]
}

// TestBenchDriver measures what the driver costs Docker, and writes docs/benchmarks-driver.md.
func TestBenchDriver(t *testing.T) {
	if *benchInto == "" {
		t.Fatal("name the file to write to with -bench-into (make bench-driver does)")
	}
	the.Bootstrap(t)
	start := benchDockerStart(t)
	run := benchMount(t)
	few := timeCalls(t, 300, "Create", "Mount", "Get", "Unmount")
	few = append(few, fillAndList(t, 0, 1000)...)
	list := benchVolumeLs(t, 1000)
	few = append(few, fillAndList(t, 1000, 10000)...)
	writeDriverBenchmarks(t, few, append(run, list), start)
	for _, c := range append(run, list) {
		if !c.good(c.ratio()) {
			t.Errorf("%s: ratio %.2f, the goal is %s", c.what, c.ratio(), c.goal)
		}
	}
	if extra := start.extra(); extra > 3*time.Second {
		t.Errorf("dockerd starts %v later, the goal is 3 s", extra)
	}
}

// timeCalls makes rounds of calls on h2, in turns with calls to a driver that does nothing.
func timeCalls(t *testing.T, rounds int, methods ...string) []calls {
	t.Helper()
	out := the.On(t, "h2", append([]string{"hosttool", "calls", pluginSocket, fmt.Sprint(rounds)}, methods...)...)
	var all []calls
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("hosttool calls: %v in %.200s", err, out)
	}
	return all
}

// fillAndList makes volumes up to a number, through the drivers of all hosts at once, and measures List.
func fillAndList(t *testing.T, from, to int) []calls {
	t.Helper()
	begin := time.Now()
	var fills []*exec.Cmd
	for i := range 3 {
		first, past := from+(to-from)*i/3, from+(to-from)*(i+1)/3
		fill := the.CmdOn(fmt.Sprint("h", i+1), "hosttool", "fill", pluginSocket, "many", fmt.Sprint(first), fmt.Sprint(past))
		if err := fill.Start(); err != nil {
			t.Fatal(err)
		}
		fills = append(fills, fill)
	}
	for _, fill := range fills {
		if err := fill.Wait(); err != nil {
			t.Fatalf("%s: %v", strings.Join(fill.Args, " "), err)
		}
	}
	t.Logf("%d volumes were created in %v", to-from, time.Since(begin))
	fleet.Eventually(t, 30*time.Second, func() string {
		if n := strings.Count(the.On(t, "h2", "hosttool", "post", pluginSocket, "/VolumeDriver.List", "{}"), `"many-`); n != to {
			return fmt.Sprintf("h2 lists %d volumes, want %d", n, to)
		}
		return ""
	})
	all := timeCalls(t, 100, "List")
	all[0].Call = fmt.Sprintf("List of %d volumes", to)
	return all
}

// benchVolumeLs: docker volume ls of as many volumes of ours as of Docker's own.
func benchVolumeLs(t *testing.T, n int) comparison {
	c := comparison{what: fmt.Sprintf("`docker volume ls` of %d volumes", n), theirs: fmt.Sprintf("the same of %d volumes of `local`", n),
		goal: "≤ 1.2", good: func(r float64) bool { return r <= 1.2 }}
	the.Sh(t, "h2", fmt.Sprintf(`for i in $(seq %d); do hosttool post /var/run/docker.sock /volumes/create "{\"Name\":\"local-$i\"}" >/dev/null || exit 1; done`, n))
	for i := range 31 {
		for _, d := range []string{"mobyfs", "local"} {
			took := timed(t, the.CmdOn("h2", "docker", "volume", "ls", "-q", "-f", "driver="+d))
			switch {
			case i == 0: // warms up
			case d == "mobyfs":
				c.ours = append(c.ours, took)
			default:
				c.other = append(c.other, took)
			}
		}
	}
	for _, d := range []string{"mobyfs", "local"} {
		if got := len(strings.Fields(the.On(t, "h2", "docker", "volume", "ls", "-q", "-f", "driver="+d))); got < n {
			t.Errorf("docker volume ls shows %d volumes of %s, want %d", got, d, n)
		}
	}
	return c
}

// dockerStart is how long dockerd took to start with volumes of ours and control away, and without any.
type dockerStart struct {
	volumes    int
	with, none []time.Duration
}

func (s dockerStart) extra() time.Duration { return median(s.with) - median(s.none) }

// benchDockerStart: dockerd asks for each volume that it knows before it answers anybody.
func benchDockerStart(t *testing.T) dockerStart {
	s := dockerStart{volumes: 100}
	the.Sh(t, "h2", fmt.Sprintf("for i in $(seq %d); do docker volume create -d mobyfs --label known known-$i >/dev/null || exit 1; done", s.volumes))
	the.On(t, "h1", "systemctl", "stop", "mobyfs-control")
	const db = "/var/lib/docker/volumes/metadata.db"
	stop := "systemctl stop docker.socket docker.service && systemctl reset-failed && "
	for range 7 {
		the.Sh(t, "h2", stop+"mv "+db+" "+db+".aside")
		s.none = append(s.none, timed(t, the.CmdOn("h2", "systemctl", "start", "docker.service")))
		the.Sh(t, "h2", stop+"mv "+db+".aside "+db)
		s.with = append(s.with, timed(t, the.CmdOn("h2", "systemctl", "start", "docker.service")))
		if n := len(strings.Fields(the.On(t, "h2", "docker", "volume", "ls", "-q", "-f", "label=known"))); n != s.volumes {
			t.Fatalf("Docker knows the labels of %d volumes, want %d", n, s.volumes)
		}
	}
	the.On(t, "h1", "systemctl", "start", "mobyfs-control")
	fleet.Eventually(t, 30*time.Second, func() string {
		if r := the.Try(t, "volume", "ls"); r.Code != 0 {
			return r.String()
		}
		return ""
	})
	return s
}

func writeDriverBenchmarks(t *testing.T, each []calls, all []comparison, start dockerStart) {
	var b strings.Builder
	b.WriteString("# Benchmarks of the driver\nMade by `make bench-driver`, on the hosts of `make bench`. Both sides of a row were measured in turns in one run.\n\n" +
		"## Calls through the socket\nA new connection for each call, as Docker makes it, in turns with the same call to a driver that agrees to\n" +
		"everything at once and does nothing. Create, Mount and Unmount write to disk before they answer; Create and the first Mount also\n" +
		"wait for a transaction of the control plane on another host.\n\n" +
		"| call | calls | p50 | p99 | ratio at p50 | ratio at p99 |\n|---|---|---|---|---|---|\n")
	for _, c := range each {
		p50, p99 := quantile(c.Ours, 0.5), quantile(c.Ours, 0.99)
		fmt.Fprintf(&b, "| %s | %d | %.2f ms | %.2f ms | **%.1f** | %.1f |\n", c.Call, len(c.Ours), p50.Seconds()*1000, p99.Seconds()*1000,
			p50.Seconds()/quantile(c.Other, 0.5).Seconds(), p99.Seconds()/quantile(c.Other, 0.99).Seconds())
	}
	b.WriteString("\n## Commands of Docker\nThe ratio is that of the medians.\n\n| what | against | runs | ratio | goal |\n|---|---|---|---|---|\n")
	for _, c := range all {
		fmt.Fprintf(&b, "| %s | %s | %d | **%.2f** | %s |\n", c.what, c.theirs, len(c.ours), c.ratio(), c.goal)
		t.Logf("%s: ratio %.2f (goal %s); medians %v and %v", c.what, c.ratio(), c.goal, median(c.ours), median(c.other))
	}
	fmt.Fprintf(&b, "\n## Start of dockerd\nWith %d volumes of ours that dockerd knows, and the control plane stopped, dockerd was ready **%.2f s** later than without any\n"+
		"(medians of %d starts each, in turns). The goal is 3 s.\n", start.volumes, start.extra().Seconds(), len(start.with))
	t.Logf("dockerd starts in %v with volumes, %v without", start.with, start.none)
	if err := os.WriteFile(*benchInto, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
