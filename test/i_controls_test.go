package test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// ticker is a container's work: a line with the time, durably, every 20 ms; a write that fails leaves a trace.
const ticker = `while :; do read -r up rest </proc/uptime; echo $up >>/data/log && sync /data/log || echo $up >>/tmp/failed; usleep 20000; done`

// TestClusterGrowsToThreeControlsAndOutlivesTheLeader: while it grows no volume call fails and a container goes on
// writing; then the host that leads is lost, and volumes are made again after a moment.
func TestClusterGrowsToThreeControlsAndOutlivesTheLeader(t *testing.T) {
	the.On(t, "h2", "docker", "run", "-d", "--name", "ticker", "-v", "ticks:/data", "--volume-driver=mobyfs", "busybox", "sh", "-c", ticker)
	t.Cleanup(func() {
		the.On(t, "h2", "docker", "rm", "-f", "ticker")
		the.Remove(t, "ticks")
	})
	text, err := os.ReadFile(the.ClusterYAML())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(the.ClusterYAML(), append(text, "\ncontrol: [h1, h2, h3]\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	plan := the.Try(t, "plan", "-f", the.ClusterYAML())
	fleet.Has(t, plan.Stdout+plan.Stderr, "+ member h2 of the store, + member h3 of the store")

	creating := make(chan struct{})
	var made, failed []string
	var longest time.Duration
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-creating:
				return
			case <-time.After(100 * time.Millisecond):
			}
			name, began := fmt.Sprintf("grow-%d", i), time.Now()
			if r := the.Try(t, "volume", "create", name, "--node", "h1"); r.Code != 0 {
				failed = append(failed, r.String())
			}
			made, longest = append(made, name), max(longest, time.Since(began))
		}
	})
	r := the.Try(t, "bootstrap", "-f", the.ClusterYAML(), "--yes")
	close(creating)
	writer.Wait()
	t.Cleanup(func() { the.Remove(t, made...) })
	if r.Code != 0 {
		t.Fatalf("bootstrap: %v", r)
	}
	t.Logf("while it grew %d volumes were made, %d calls failed, the longest took %v", len(made), len(failed), longest.Round(time.Millisecond))
	if len(failed) > 0 {
		t.Errorf("a call failed while the cluster grew: %s", failed[0])
	}
	voters(t, "h3")
	if again := the.Try(t, "plan", "-f", the.ClusterYAML()); again.Code != 0 {
		t.Errorf("after it grew there is still to do: %v", again)
	}
	for _, h := range []string{"h2", "h3"} {
		if out := the.Sh(t, h, "find / -xdev -name ca.key 2>/dev/null"); out != "" {
			t.Errorf("%s has the authority's key: %s", h, out)
		}
	}

	leader := leaderOf(t)
	the.Sh(t, leader, "systemctl kill -s KILL mobyfs-control; systemctl stop mobyfs-control")
	began := time.Now()
	fleet.Eventually(t, 60*time.Second, func() string {
		if r := the.Try(t, "volume", "create", "after", "--node", "h2"); r.Code != 0 {
			return r.String()
		}
		return ""
	})
	gap := time.Since(began)
	t.Logf("%s led and was lost: the next volume was made %v later", leader, gap.Round(time.Millisecond))
	if gap > 10*time.Second {
		t.Errorf("without its leader the cluster made no volume for %v", gap)
	}
	the.Remove(t, "after")
	the.On(t, leader, "systemctl", "start", "mobyfs-control")
	voters(t, leader)

	if out := the.On(t, "h2", "docker", "exec", "ticker", "sh", "-c", "cat /tmp/failed 2>/dev/null; true"); out != "" {
		t.Errorf("the container could not write at %s", out)
	}
	stall := the.Sh(t, "h2", "docker exec ticker cat /data/log | awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { print NR, most }'")
	t.Logf("the container's writes and the longest time between two (s): %s", stall)
}

// members are the lines that a host's control tells of the store's members.
func members(t *testing.T, host string) []string {
	t.Helper()
	return strings.Split(the.On(t, host, "mobyfs-control", "member", "ls"), "\n")[1:]
}

// voters waits until three vote, as a host sees it.
func voters(t *testing.T, host string) {
	t.Helper()
	fleet.Eventually(t, 60*time.Second, func() string {
		all := members(t, host)
		if len(all) != 3 || strings.Contains(strings.Join(all, " "), "learner") || !strings.Contains(strings.Join(all, " "), "leader") {
			return fmt.Sprintf("the members are %q", all)
		}
		return ""
	})
}

func leaderOf(t *testing.T) string {
	t.Helper()
	all := members(t, "h1")
	i := slices.IndexFunc(all, func(line string) bool { return strings.Contains(line, "leader") })
	if i < 0 {
		t.Fatalf("nobody leads: %q", all)
	}
	return strings.Fields(all[i])[0]
}
