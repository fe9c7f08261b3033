package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// startMove begins a move of a volume that takes a second or more, and waits until bytes flow.
func startMove(t *testing.T, name, to string) mobyfs.MigrationID {
	t.Helper()
	the.Ctl(t, "volume", "move", name, "--to", to, "--detach")
	var id mobyfs.MigrationID
	fleet.Eventually(t, 60*time.Second, func() string {
		v := the.Volume(t, name)
		switch {
		case v.Migration != nil && v.Migration.Progress.Bytes > 0:
			id = v.Migration.ID
			return ""
		case v.Migration == nil:
			t.Fatalf("the move was over before it could be disturbed: %+v", v.LastMove)
		}
		return "no byte has flowed"
	})
	return id
}

// TestKilledInTheMiddleOfAMove: whichever program is killed, there is one owner afterwards and every byte.
func TestKilledInTheMiddleOfAMove(t *testing.T) {
	_, tree := treeVolume(t, "victim", 10_000, 300<<20)
	defer the.Remove(t, "victim")
	for i, kill := range []struct{ what, host, unit string }{
		{"the destination's agent", "h2", "mobyfs"},
		{"the source's agent", "h2", "mobyfs"},
		{"control", "h1", "mobyfs-control"},
		{"control and the destination's agent", "h1", "mobyfs-control mobyfs"},
	} {
		from, to := []string{"h1", "h2", "h3", "h2"}[i], []string{"h2", "h3", "h2", "h1"}[i]
		t.Run(kill.what, func(t *testing.T) {
			if v := the.Volume(t, "victim"); v.Node != from {
				t.Fatalf("the volume is on %s, want %s", v.Node, from)
			}
			startMove(t, "victim", to)
			the.Sh(t, kill.host, "systemctl kill -s KILL "+kill.unit)
			fleet.Eventually(t, 90*time.Second, func() string {
				r := the.Try(t, "volume", "inspect", "victim", "-o", "json")
				if r.Code != 0 {
					return r.String() // control is coming back
				}
				return ""
			})
			checkWhole(t, "victim", tree, to)
		})
	}
}

// moments are the points of a move at which a kill would hurt most, as the code names them.
var moments = []struct{ where, name string }{
	{"to", "dir.stage.record.before"},
	{"to", "dir.stage.before"},
	{"to", "dir.stage.after"},
	{"to", "dir.seal.before"},
	{"to", "dir.seal.after"},
	{"to", "agent.commit.before"},
	{"to", "agent.commit.after"},
	{"to", "dir.adopt.record.before"},
	{"to", "dir.adopt.record.after"},
	{"to", "dir.adopt.before"},
	{"to", "dir.adopt.after"},
	{"from", "dir.export.before"},
	{"from", "dir.export.after"},
	{"from", "dir.remove.record.before"},
	{"from", "dir.remove.record.after"},
	{"from", "dir.remove.before"},
	{"from", "dir.remove.after"},
}

// TestKilledAtEveryMomentOfAMove runs agents that are built to die at a named moment, once.
func TestKilledAtEveryMomentOfAMove(t *testing.T) {
	the.UseBinaries(t, "bin-failpoints")
	defer the.UseBinaries(t, "bin")
	_, tree := treeVolume(t, "momentous", 200, 1<<20)
	defer the.Remove(t, "momentous")
	for _, m := range moments {
		t.Run(fmt.Sprintf("%s on %s", m.name, m.where), func(t *testing.T) {
			from, to := the.Volume(t, "momentous").Node, "h3"
			if from == to {
				to = "h1"
			}
			host := map[string]string{"from": from, "to": to}[m.where]
			before := the.Sh(t, host, "systemctl show -p NRestarts --value mobyfs")
			the.Sh(t, host, "echo "+m.name+" > /run/mobyfs.kill-at")
			the.Ctl(t, "volume", "move", "momentous", "--to", to)
			checkWhole(t, "momentous", tree, to)
			fleet.Eventually(t, 60*time.Second, func() string {
				if the.TryOn(t, host, "test", "-e", "/run/mobyfs.kill-at").Code == 0 {
					return "the moment was never reached"
				}
				return ""
			})
			fleet.Eventually(t, 60*time.Second, func() string {
				if after := the.Sh(t, host, "systemctl show -p NRestarts --value mobyfs"); after == before {
					return "the agent was not restarted"
				}
				return ""
			})
			checkWhole(t, "momentous", tree, to)
		})
	}
}

// TestKilledAtEveryDurableWriteOfAMount: a container is started on a new volume, and the agent dies before or after
// each file that it writes for that. Afterwards its books say what the kernel says, and nothing is left over.
func TestC17KilledAtEveryDurableWriteOfAMount(t *testing.T) {
	the.UseBinaries(t, "bin-failpoints")
	defer the.UseBinaries(t, "bin")
	moments := []string{"agent.mounts", "agent.catalogue", "dir.create.record", "dir.create", "dir.attach"}
	for k, engine := range []string{"20.10", "26.1"} {
		host := []string{"h1", "h3"}[k]
		t.Run(engine, func(t *testing.T) {
			for i, m := range moments {
				m += []string{".before", ".after"}[(i+k)%2] // each moment on one of the two
				t.Run(m, func(t *testing.T) { killInAMount(t, host, m) })
			}
		})
	}
}

func killInAMount(t *testing.T, host, moment string) {
	volume := strings.ReplaceAll("killed-"+moment, ".", "-")
	before := the.Sh(t, host, "systemctl show -p NRestarts --value mobyfs")
	the.Sh(t, host, "echo "+moment+" > /run/mobyfs.kill-at")
	started := the.TryOn(t, host, "docker", "run", "-d", "--name", volume, "-v", volume+":/data", "--volume-driver=mobyfs",
		"busybox", "sh", "-c", "echo started > /data/x; exec sleep 100000")
	fleet.Eventually(t, 60*time.Second, func() string {
		switch after := the.Sh(t, host, "systemctl show -p NRestarts --value mobyfs"); {
		case the.TryOn(t, host, "test", "-e", "/run/mobyfs.kill-at").Code == 0:
			return "the moment was never reached"
		case after == before:
			return "the agent was not restarted"
		}
		return ""
	})
	if started.Code == 0 {
		if got := the.On(t, host, "docker", "exec", volume, "cat", "/data/x"); got != "started" {
			t.Errorf("the container reads %q", got)
		}
		fleet.Eventually(t, 60*time.Second, func() string { return booksDiffer(t, host, volume, 1) })
	}
	the.TryOn(t, host, "docker", "rm", "-f", volume)
	fleet.Eventually(t, 60*time.Second, func() string { return booksDiffer(t, host, volume, 0) })
	the.Remove(t, volume)
}

// booksDiffer says in what the agent's counts and control's record differ from so many mounts, which the kernel shows.
func booksDiffer(t *testing.T, host, volume string, mounts int) string {
	r := the.Try(t, "volume", "inspect", volume, "-o", "json")
	if r.Code != 0 {
		if mounts == 0 && strings.Contains(r.Stderr, "there is no volume") {
			return "" // it was never made
		}
		return r.String()
	}
	var v mobyfs.Volume
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		t.Fatal(err)
	}
	shown := the.Sh(t, host, "cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -F "+string(v.ID)+"/data | sort -u | wc -l")
	uses := the.Sh(t, host, "hosttool uses /var/lib/mobyfs/state/mounts.json "+string(v.ID))
	if want := fmt.Sprint(mounts); shown != want || uses != want || (v.Lease != nil) != (mounts > 0) {
		return fmt.Sprintf("the kernel shows %s mounts, the agent counts %s, the lease is %+v; want %d", shown, uses, v.Lease, mounts)
	}
	return ""
}

// TestHostLosesPowerAndComesBack: the volume and its restart=always container are there again.
func TestHostLosesPowerAndComesBack(t *testing.T) {
	defer the.Remove(t, "power")
	defer the.TryOn(t, "h2", "docker", "rm", "-f", "powered")
	the.On(t, "h2", "docker", "run", "-d", "--name", "powered", "--restart=always", "-v", "power:/data", "--volume-driver=mobyfs",
		"busybox", "sh", "-c", "echo started >> /data/log; sync; exec sleep 100000")
	fleet.Eventually(t, 60*time.Second, func() string { return lines(the, t, "h2", "powered", 1) })
	the.PowerCut(t, "h2")
	fleet.Eventually(t, 90*time.Second, func() string { return lines(the, t, "h2", "powered", 2) })
	fleet.Eventually(t, 60*time.Second, func() string {
		var nodes []mobyfs.Node
		the.Decode(t, &nodes, "node", "ls", "-o", "json")
		for _, n := range nodes {
			if !n.Ready {
				return n.Name + " is not ready"
			}
		}
		return ""
	})
	the.On(t, "h2", "docker", "rm", "-f", "powered")
	fleet.Eventually(t, 60*time.Second, func() string {
		if v := the.Volume(t, "power"); v.Lease != nil {
			return "the lease is still held"
		}
		return ""
	})
	if got := the.InVolume(t, "h3", "power", "grep -c started /data/log"); got != "2" {
		t.Errorf("h3 reads %s starts, want 2", got)
	}
}
