package test

import (
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// startDockerd starts a host's dockerd anew and returns how long the start took.
func startDockerd(t *testing.T, host string) time.Duration {
	t.Helper()
	stopDockerd(t, host)
	began := time.Now()
	the.On(t, host, "systemctl", "start", "docker.service")
	return time.Since(began)
}

// stopDockerd stops Docker for good, however often it was stopped and started before.
func stopDockerd(t *testing.T, host string) {
	t.Helper()
	the.Sh(t, host, "systemctl stop docker.socket docker.service; systemctl reset-failed docker.socket docker.service 2>/dev/null || true")
}

// labelled makes a volume whose label only Docker knows, and returns what checks that Docker still has it.
func labelled(t *testing.T, host, name string) (check func()) {
	t.Helper()
	the.On(t, host, "docker", "volume", "create", "-d", "mobyfs", "--label", "kept=yes", name)
	return func() {
		t.Helper()
		if v := the.Inspect(t, host, name); v.Labels["kept"] != "yes" {
			t.Errorf("Docker on %s lost the label of %s: %+v", host, name, v)
		}
	}
}

// dockerRemoves takes a volume away at the end of a test, and so does Docker from its memory. A use that ended while
// only the stub heard of it keeps the volume for a moment.
func dockerRemoves(t *testing.T, host, volume string) {
	t.Helper()
	fleet.Eventually(t, 60*time.Second, func() string {
		if r := the.TryOn(t, host, "docker", "volume", "rm", volume); r.Code != 0 {
			return r.String()
		}
		return ""
	})
}

// volumeLs lists volumes, which must not take Docker long.
func volumeLs(t *testing.T, host, name string) {
	t.Helper()
	began := time.Now()
	if !the.DockerLists(t, host, name) {
		t.Errorf("docker volume ls on %s does not show %s", host, name)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("docker volume ls on %s took %v", host, took)
	}
}

// refusedBecause tries to use a volume; Docker must show a line with the words, soon. A call in which the agent was killed may
// have lost its body, which the next answer says; then the command is repeated, as that asks for.
func refusedBecause(t *testing.T, host, volume string, words ...string) {
	t.Helper()
	var began time.Time
	var r fleet.Result
	for range 5 {
		began = time.Now()
		r = the.TryOn(t, host, "docker", "run", "--rm", "-v", volume+":/data", "busybox", "true")
		if !strings.Contains(r.Stderr, "please repeat the command") {
			break
		}
	}
	if took := time.Since(began); r.Code == 0 || took > 10*time.Second {
		t.Errorf("after %v: %v", took, r)
	}
	fleet.Has(t, r.Stderr, words...)
}

// works waits until the agent serves a volume again.
func works(t *testing.T, host, volume string) {
	t.Helper()
	fleet.Eventually(t, 60*time.Second, func() string {
		if r := the.TryOn(t, host, "docker", "run", "--rm", "-v", volume+":/data", "busybox", "true"); r.Code != 0 {
			return r.String()
		}
		return ""
	})
}

func agentStatus(t *testing.T, host string) string {
	t.Helper()
	return the.Sh(t, host, "systemctl show -p StatusText --value mobyfs.service")
}

// TestC91CrashLoopingAgentHoldsNothingUp: the agent is killed each time it has opened its port. Docker is answered, by
// the stub most of the time, and when the killing ends the agent is back by itself.
func TestC91CrashLoopingAgentHoldsNothingUp(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		volume := "c91-" + host
		kept := labelled(t, host, volume)
		defer dockerRemoves(t, host, volume)
		baseline := startDockerd(t, host)
		the.On(t, host, "docker", "run", "-d", "--name", "c91", "--init", "-v", volume+":/data", "busybox", "sleep", "100000")
		defer the.TryOn(t, host, "docker", "rm", "-f", "c91")

		the.Sh(t, host, `systemd-run -q --unit saboteur sh -c 'while sleep 0.1; do ss -Hltn "sport = :8080" | grep -q . && systemctl kill -s KILL mobyfs.service; done'`)
		sabotage := true
		mend := func() {
			if sabotage {
				the.On(t, host, "systemctl", "stop", "saboteur")
				sabotage = false
			}
		}
		defer mend()
		fleet.Eventually(t, 60*time.Second, func() string {
			if s := agentStatus(t, host); !strings.Contains(s, "crashed 6 times") {
				return "the unit says " + s
			}
			return ""
		})
		volumeLs(t, host, volume)
		kept()
		the.On(t, host, "docker", "exec", "c91", "touch", "/data/still-runs")
		refusedBecause(t, host, volume, volume, "mobyfs on this host is not working", "soon after its start", "journalctl -u mobyfs")
		looping := startDockerd(t, host)
		t.Logf("dockerd's start took %v, and %v while the agent crashes again and again", baseline, looping)
		if looping > baseline+3*time.Second {
			t.Errorf("dockerd's start took %v, the baseline is %v", looping, baseline)
		}
		volumeLs(t, host, volume)
		kept()
		if state := the.On(t, host, "systemctl", "is-active", "mobyfs.socket"); state != "active" {
			t.Errorf("the socket is %s", state)
		}

		mend()
		works(t, host, volume)
		kept()
	})
}

// TestC92HungAgentIsReplaced: dockerd begins while the agent hangs; systemd's watchdog ends the agent, and the next one
// answers the calls that wait in the socket.
func TestC92HungAgentIsReplaced(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		volume := "c92-" + host
		kept := labelled(t, host, volume)
		defer dockerRemoves(t, host, volume)
		baseline := startDockerd(t, host)
		stopDockerd(t, host)
		pid := the.Sh(t, host, "systemctl show -p MainPID --value mobyfs.service")
		began := time.Now()
		the.On(t, host, "kill", "-STOP", pid)
		the.On(t, host, "systemctl", "start", "docker.service")
		started := time.Since(began)
		if now := the.Sh(t, host, "systemctl show -p MainPID --value mobyfs.service"); now == pid || now == "0" {
			t.Errorf("dockerd started, but the agent is still process %s", now)
		}
		t.Logf("dockerd's start was complete %v after the agent hung; without that it takes %v", started, baseline)
		if started > 15*time.Second+baseline+2*time.Second { // the watchdog, dockerd's own, and the agent's start
			t.Errorf("it took %v", started)
		}
		volumeLs(t, host, volume)
		kept()
		works(t, host, volume)
	})
}

// TestC96StateThatCannotBeWrittenLosesNothingAtDocker: read-only, then full. Each refusal tells why, and Docker keeps
// what it knows.
func TestC96StateThatCannotBeWrittenLosesNothingAtDocker(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		volume := "c96-" + host
		kept := labelled(t, host, volume)
		defer dockerRemoves(t, host, volume)
		the.InVolume(t, host, volume, "echo fine > /data/x")

		for _, c := range []struct{ name, spoil, mend, words string }{
			{"read-only", "mount -o remount,bind,ro /var/lib/mobyfs", "mount -o remount,bind,rw /var/lib/mobyfs", "read-only file system"},
			{"full", `cp -a /var/lib/mobyfs/state /tmp/state && mount -t tmpfs -o size=256k,mode=700 full /var/lib/mobyfs/state &&
				cp -a /tmp/state/. /var/lib/mobyfs/state/ && ! dd if=/dev/zero of=/var/lib/mobyfs/state/filler bs=4k 2>/dev/null`,
				"umount -l /var/lib/mobyfs/state; rm -rf /tmp/state", "no space left on device"},
		} {
			the.Sh(t, host, "systemctl stop mobyfs.service && "+c.spoil)
			spoilt := true
			mend := func() {
				if spoilt {
					the.Sh(t, host, "systemctl stop mobyfs.service; "+c.mend+"; systemctl start mobyfs.service")
					spoilt = false
				}
			}
			defer mend()
			the.On(t, host, "systemctl", "start", "mobyfs.service")
			volumeLs(t, host, volume)
			kept()
			refusedBecause(t, host, volume, volume, c.words)
			took := startDockerd(t, host)
			t.Logf("%s: dockerd's start took %v", c.name, took)
			volumeLs(t, host, volume)
			kept()
			mend()
			works(t, host, volume)
			kept()
		}
		if got := the.InVolume(t, host, volume, "cat /data/x"); got != "fine" {
			t.Errorf("the volume holds %q", got)
		}
	})
}
