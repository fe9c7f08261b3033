package test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"

	"github.com/mobyfs/mobyfs/test/fleet"
	"github.com/mobyfs/mobyfs/test/ledger"
)

// movesLive are the flags of a live move on a machine that may be slow: it freezes whatever the pause will be.
var movesLive = []string{"--live", "--with-containers", "--on-busy", "freeze", "--max-rounds", "3"}

// remade is what of a container is the same after it was made anew on another host.
type remade struct {
	Name   string
	Config struct {
		Image      string
		Cmd, Env   []string
		WorkingDir string
		Labels     map[string]string
	}
	HostConfig struct {
		Binds         []string
		RestartPolicy struct{ Name string }
		Ulimits       []map[string]any
		NetworkMode   string
	}
	Mounts []struct{ Type, Name, Destination, Driver string }
}

// configOf asks a host's Docker for a container.
func configOf(t *testing.T, host, name string) remade {
	t.Helper()
	var all []remade
	if out := the.On(t, host, "docker", "container", "inspect", name); json.Unmarshal([]byte(out), &all) != nil || len(all) != 1 {
		t.Fatalf("docker inspect %s on %s: %s", name, host, out)
	}
	c := all[0]
	for label := range c.Config.Labels { // by which mobyfs knows what it made
		if strings.HasPrefix(label, "io.mobyfs.") {
			delete(c.Config.Labels, label)
		}
	}
	slices.SortFunc(c.Mounts, func(x, y struct{ Type, Name, Destination, Driver string }) int {
		return strings.Compare(x.Destination, y.Destination)
	})
	if c.HostConfig.NetworkMode == "default" { // newer dockerds say which that is
		c.HostConfig.NetworkMode = "bridge"
	}
	for i, b := range c.HostConfig.Binds { // Docker must not copy the image's files into what moved
		c.HostConfig.Binds[i] = strings.TrimSuffix(b, ":nocopy")
	}
	return c
}

// liveWriter makes a volume on h1 with some files and a container that writes to it.
func liveWriter(t *testing.T, name, image string, options ...string) *ledger.Ledger {
	t.Helper()
	l := the.Ledger(t)
	the.Ctl(t, "volume", "create", name, "--node", "h1")
	t.Cleanup(func() {
		for _, h := range []string{"h1", "h2", "h3"} {
			the.TryOn(t, h, "docker", "rm", "-f", name)
		}
		the.Remove(t, name)
	})
	the.On(t, "h1", "hosttool", "make", fleet.DataDir(the.Volume(t, name))+"/tree", "50", fmt.Sprint(4<<20))
	the.RunWriter(t, l, "h1", name, image, options...)
	return l
}

// checkRunsOnce says what is missing until the container of a volume runs on the volume's node, and nothing of either is
// anywhere else; then it judges what was written.
func checkRunsOnce(t *testing.T, l *ledger.Ledger, name string, nodes ...string) mobyfs.Volume {
	t.Helper()
	var v mobyfs.Volume
	fleet.Eventually(t, 60*time.Second, func() string {
		v = the.Volume(t, name)
		if v.Migration != nil || v.State != mobyfs.VolumeReady || !slices.Contains(nodes, v.Node) {
			return fmt.Sprintf("it is %s on %s", v.Condition(), v.Node)
		}
		if on := the.RunsOn(t, name); !slices.Equal(on, []string{v.Node}) {
			return fmt.Sprintf("its container runs on %v, the owner is %s", on, v.Node)
		}
		if have := holders(t, v); !slices.Equal(have, []string{v.Node}) {
			return fmt.Sprintf("the bytes are on %v, the owner is %s", have, v.Node)
		}
		for _, h := range []string{"h1", "h2", "h3"} {
			if h != v.Node && the.TryOn(t, h, "docker", "container", "inspect", name).Code == 0 {
				return "a container of that name is still on " + h
			}
		}
		return ""
	})
	fleet.Writes(t, l, name, 20*time.Second)
	if verdict := the.Judge(t, l, v); len(verdict.Lost)+len(verdict.Doubles) > 0 {
		t.Errorf("on %s: %+v", v.Node, verdict)
	}
	return v
}

// TestContainerMovesWithItsVolumeWhileItWrites: nothing that it acknowledged is lost, it is the same container, and nothing
// stays behind.
func TestContainerMovesWithItsVolumeWhileItWrites(t *testing.T) {
	l := liveWriter(t, "livedb", fleet.WriterImage, "--restart=always", "-e", "COLOUR=blue", "--label", "team=a", "--ulimit", "nofile=1234:2345", "-w", "/tmp")
	v := the.Volume(t, "livedb")
	before, tree := configOf(t, "h1", "livedb"), the.On(t, "h1", "hosttool", "sum", fleet.DataDir(v)+"/tree")
	for _, to := range []string{"h2", "h3"} { // an old host and a new one
		began := ledger.Now()
		out := the.Ctl(t, append([]string{"volume", "move", "livedb", "--to", to}, movesLive...)...)
		t.Log(strings.TrimSpace(out))
		fleet.Has(t, out, "livedb moved to "+to, "paused for ", "livedb run on "+to)
		v = checkRunsOnce(t, l, "livedb", to)
		t.Logf("the longest time between two acknowledged writes was %v", ledger.LongestGap(l.Acks("livedb"), began).Round(time.Millisecond))
		if m := v.LastMove; m == nil || m.Pause <= 0 || m.Pause > 30*time.Second || m.Trouble != "" {
			t.Errorf("the move stands as %+v", m)
		}
		if got := the.On(t, to, "hosttool", "sum", fleet.DataDir(v)+"/tree"); got != tree {
			t.Errorf("the tree on %s is another one:\n%.2000s", to, diffLines(tree, got))
		}
		if diff := cmp.Diff(before, configOf(t, to, "livedb")); diff != "" {
			t.Errorf("the container on %s is another one (-before +after):\n%s", to, diff)
		}
		if out := the.Sh(t, "h1", "grep -F "+string(v.ID)+" /proc/mounts || true"); out != "" {
			t.Errorf("h1 has mounted still: %s", out)
		}
	}
}

// TestLiveMoveIsRefusedBeforeTheFreezeIfTheContainerCouldNotBeMade: the container does not notice.
func TestLiveMoveIsRefusedBeforeTheFreezeIfTheContainerCouldNotBeMade(t *testing.T) {
	the.On(t, "h1", "docker", "tag", "busybox", "nowhere.invalid/only-here:1")
	defer the.On(t, "h1", "docker", "rmi", "nowhere.invalid/only-here:1")
	for image, words := range map[string]string{
		"nowhere.invalid/only-here:1": "is not to be had",
		"busybox":                     "is another image here than at the source", // each host has made its own
	} {
		t.Run(words, func(t *testing.T) {
			l := liveWriter(t, "homebody", image)
			r := the.Try(t, append([]string{"volume", "move", "homebody", "--to", "h2"}, movesLive...)...)
			if r.Code == 0 {
				t.Errorf("it moved without its image: %v", r)
			}
			fleet.Has(t, r.Stderr, "homebody", image, words, "stays on h1")
			v := checkRunsOnce(t, l, "homebody", "h1")
			if m := v.LastMove; m == nil || m.State != mobyfs.MigrationAborted || m.Freezes != 0 {
				t.Errorf("the move stands as %+v", m)
			}
		})
	}
}

// TestSourceKilledWhileFrozenRunsTheContainerOnce: the next life of the source's agent finds what is frozen, and asks control
// what became of it. The destination is held just before its commit meanwhile; whoever of the two is first, the container
// runs on one host.
func TestSourceKilledWhileFrozenRunsTheContainerOnce(t *testing.T) {
	the.UseBinaries(t, "bin-failpoints")
	defer the.UseBinaries(t, "bin")
	l := liveWriter(t, "frozen", fleet.WriterImage)
	the.Sh(t, "h2", "echo agent.commit.before hold > /run/mobyfs.kill-at")
	defer the.Sh(t, "h2", "rm -f /run/mobyfs.kill-at /run/mobyfs.kill-at.held")
	the.Ctl(t, append([]string{"volume", "move", "frozen", "--to", "h2", "--detach"}, movesLive...)...)
	fleet.Eventually(t, 60*time.Second, func() string {
		if the.TryOn(t, "h2", "test", "-e", "/run/mobyfs.kill-at.held").Code != 0 {
			return "the destination does not come to its commit"
		}
		return ""
	})
	if got := the.On(t, "h1", "docker", "container", "inspect", "-f", "{{.State.Status}}", "frozen"); got != "paused" {
		t.Errorf("before the commit the container is %s", got)
	}
	before := len(l.Acks("frozen"))
	the.Sh(t, "h1", "systemctl kill -s KILL mobyfs")
	fleet.Eventually(t, 60*time.Second, func() string {
		if len(l.Acks("frozen")) <= before {
			return "the container does not go on at the source"
		}
		return ""
	})
	the.Sh(t, "h2", "rm /run/mobyfs.kill-at.held")
	checkRunsOnce(t, l, "frozen", "h2") // it brings what was written since, and moves after all
	if m := the.Volume(t, "frozen").LastMove; m == nil || m.Freezes < 2 {
		t.Errorf("the move stands as %+v", m)
	}
}

// TestDrainTakesContainersAlong: the host is empty afterwards, and the container runs elsewhere on all that it wrote.
func TestDrainTakesContainersAlong(t *testing.T) {
	l := liveWriter(t, "drained", fleet.WriterImage)
	defer the.Ctl(t, "node", "uncordon", "h1")
	out := the.Ctl(t, "node", "drain", "h1", "--live", "--with-containers", "--on-busy", "freeze")
	t.Log(strings.TrimSpace(out))
	v := checkRunsOnce(t, l, "drained", "h2", "h3")
	if m := v.LastMove; m == nil || !m.Live || m.State != mobyfs.MigrationCommitted {
		t.Errorf("the move stands as %+v", m)
	}
}

// TestBusyContainerIsSlowedDownAndGoesOnAsBefore: a container that writes faster than the move may bring is slowed down; it has
// all the processor time that it had when the move is given up, and where it was moved to.
func TestBusyContainerIsSlowedDownAndGoesOnAsBefore(t *testing.T) {
	the.Ctl(t, "volume", "create", "busy", "--node", "h1")
	t.Cleanup(func() {
		for _, h := range []string{"h1", "h2", "h3"} {
			the.TryOn(t, h, "docker", "rm", "-f", "busy")
		}
		the.Remove(t, "busy")
	})
	the.On(t, "h1", "docker", "run", "-d", "--name", "busy", "-v", "busy:/data", "--volume-driver", "mobyfs", fleet.WriterImage,
		"sh", "-c", "while :; do dd if=/dev/urandom of=/data/pages bs=4k count=4096 conv=notrunc; done 2>/dev/null")
	quota := func(host string) string {
		return the.On(t, host, "docker", "container", "inspect", "-f", "{{.HostConfig.CpuQuota}}/{{.HostConfig.NanoCpus}} {{.State.Status}}", "busy")
	}
	move := []string{"volume", "move", "busy", "--to", "h2", "--with-containers", "--on-busy", "throttle", "--max-rounds", "2", "--bwlimit", "16M"}
	the.Ctl(t, append(move, "--max-pause", "1ms", "--detach")...)
	fleet.Eventually(t, 2*time.Minute, func() string {
		if q := quota("h1"); strings.HasPrefix(q, "0/") {
			return "it is not slowed down: " + q
		}
		return ""
	})
	fleet.Eventually(t, 30*time.Second, func() string { // once a heartbeat has told the round
		if out := the.Ctl(t, "volume", "inspect", "busy"); !strings.Contains(out, "slowed down to 1/") {
			return "nothing says that it is slowed down: " + out
		}
		return ""
	})
	the.Ctl(t, "volume", "move", "busy", "--cancel")
	fleet.Eventually(t, 30*time.Second, func() string {
		if q := quota("h1"); q != "-1/0 running" {
			return "after the move was given up: " + q
		}
		return ""
	})
	the.Ctl(t, append(move, "--max-pause", "700ms")...)
	if q := quota("h2"); q != "-1/0 running" && q != "0/0 running" {
		t.Errorf("where it was moved to: %s", q)
	}
	m := the.Volume(t, "busy").LastMove
	if m == nil || m.State != mobyfs.MigrationCommitted || m.Trouble != "" {
		t.Fatalf("the move stands as %+v", m)
	}
	t.Logf("paused for %v after %d rounds", m.Pause, m.Progress.Round)
	fleet.Has(t, the.Sh(t, "h1", "journalctl -u mobyfs --no-pager | grep 'slowed containers down' | tail -1"), "volume=busy")
}
