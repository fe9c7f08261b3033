package clients

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// manager is the host that is asked for all that concerns the swarm. The other two are workers.
const manager = third

// begun says that the manager runs the swarm.
var begun sync.Once

// join makes a host a worker of the swarm, as a new host would be: with a Docker that has heard of no volume of ours.
func (h host) join(t *testing.T) {
	t.Helper()
	begun.Do(func() {
		afresh(t, manager)
		the.On(t, manager, "docker", "swarm", "init", "--advertise-addr", the.Hosts[manager])
	})
	the.TryOn(t, h.name, "docker", "swarm", "leave")
	the.TryOn(t, manager, "docker", "node", "rm", "--force", h.name)
	afresh(t, h.name)
	token := the.On(t, manager, "docker", "swarm", "join-token", "-q", "worker")
	the.On(t, h.name, "docker", "swarm", "join", "--token", token, the.Hosts[manager]+":2377")
}

// afresh starts a host's Docker anew, without its records of volumes: it would look for their drivers by itself.
func afresh(t *testing.T, host string) {
	t.Helper()
	the.Sh(t, host, "systemctl stop docker.socket docker && rm -f /var/lib/docker/volumes/metadata.db && systemctl start docker")
}

// plugins tells which volume drivers Swarm knows to be on a node.
func plugins(t *testing.T, node string) (drivers []string) {
	t.Helper()
	var all []struct{ Type, Name string }
	r := the.TryOn(t, manager, "docker", "node", "inspect", node, "--format", "{{json .Description.Engine.Plugins}}")
	if r.Code == 0 {
		if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
			t.Fatalf("docker node inspect %s: %v in %s", node, err, r.Stdout)
		}
	}
	for _, p := range all {
		if p.Type == "Volume" {
			drivers = append(drivers, p.Name)
		}
	}
	return drivers
}

// seen waits until Swarm knows our driver on a node.
func seen(t *testing.T, within time.Duration, node string) {
	t.Helper()
	fleet.Eventually(t, within, func() string {
		if known := plugins(t, node); !slices.Contains(known, "mobyfs") {
			return fmt.Sprintf("Swarm knows %v on %s", known, node)
		}
		return ""
	})
}

// theSwarm joins the workers unless they are in it, and waits until services can be placed on all nodes.
func theSwarm(t *testing.T) {
	t.Helper()
	for _, h := range []host{old, recent} {
		if the.On(t, h.name, "docker", "info", "--format", "{{.Swarm.LocalNodeState}}") != "active" {
			h.join(t)
		}
	}
	for h := range the.Hosts {
		seen(t, time.Minute, h)
	}
}

// task is one try of Swarm to run a service.
type task struct{ id, node, desired, state, problem string }

// tasks are those of a service, the newest first.
func tasks(t *testing.T, service string) (all []task) {
	t.Helper()
	out := the.On(t, manager, "docker", "service", "ps", "--no-trunc", "--format", "{{.ID}}|{{.Node}}|{{.DesiredState}}|{{.CurrentState}}|{{.Error}}", service)
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 5)
		if len(f) != 5 {
			t.Fatalf("docker service ps says %q", line)
		}
		state, _, _ := strings.Cut(f[3], " ")
		all = append(all, task{f[0], f[1], f[2], state, f[4]})
	}
	return all
}

// upElsewhere waits until a service's task runs on another node than from, and returns it.
func upElsewhere(t *testing.T, service, from string) (up task) {
	t.Helper()
	fleet.Eventually(t, 2*time.Minute, func() string {
		all := tasks(t, service)
		for _, up = range all {
			if up.desired == "Running" && up.state == "Running" && up.node != from {
				return ""
			}
		}
		return fmt.Sprintf("no task of %s runs on another node than %q: %+v", service, from, all)
	})
	return up
}

// diary is what services here do: write into a log where they were started, unless what is in the volume is damaged.
const diary = `trap 'exit 0' TERM
cd /data
[ -e blob ] || { head -c 4194304 /dev/urandom >blob; sha256sum blob >sum; }
sha256sum -c sum || exit 1
echo "$(($(wc -l <log 2>/dev/null || echo 0) + 1)) $NODE" >>log
sync
while :; do sleep 1 & wait $!; done`

// serve makes a service of one task that keeps a diary in a volume, and returns once it runs.
func serve(t *testing.T, service, volume string, options ...string) task {
	t.Helper()
	t.Cleanup(func() {
		the.On(t, manager, "docker", "service", "rm", service)
		inUse(t, volume, "")
		the.Remove(t, volume)
	})
	args := []string{"docker", "service", "create", "--detach", "--name", service, "--no-resolve-image", "--restart-delay", "1s",
		"--env", "NODE={{.Node.Hostname}}", "--mount", "type=volume,source=" + volume + ",target=/data,volume-driver=mobyfs"}
	args = append(args, options...)
	the.On(t, manager, append(args, "busybox", "sh", "-c", diary)...)
	return upElsewhere(t, service, "")
}

// readsDiary fails unless a service's log comes to be what is wanted, in the container that runs on the node.
func readsDiary(t *testing.T, service, node, want string) {
	t.Helper()
	fleet.Eventually(t, 20*time.Second, func() string {
		r := the.TryOn(t, node, "sh", "-c", "docker exec $(docker ps -q --filter label=com.docker.swarm.service.name="+service+") cat /data/log")
		if r.Stdout != want {
			return fmt.Sprintf("the service on %s reads\n%s\nwant\n%s", node, r, want)
		}
		return ""
	})
}

// TestC97SwarmPlacesServicesOnANewNode: it sees the driver on a node that has just joined, within 30 s and without
// anybody's doing; the service that needs it waits for that and runs.
func TestC97SwarmPlacesServicesOnANewNode(t *testing.T) {
	onEach(t, func(t *testing.T, on, _ host) {
		on.join(t)
		began := time.Now()
		seen(t, 30*time.Second, on.name)
		t.Logf("Swarm sees the driver on %s after %.1f s", on.name, time.Since(began).Seconds())
		up := serve(t, "new", "newdata", "--constraint", "node.hostname=="+on.name)
		t.Logf("its first service runs after %.1f s", time.Since(began).Seconds())
		readsDiary(t, "new", up.node, "1 "+on.name+"\n")
	})
}

// TestC98UpdateOfAServiceWithOneWriter: start-first, the new task is refused with a reason that its user sees, and the
// old one goes on with its data. Stop-first, the new one takes over.
func TestC98UpdateOfAServiceWithOneWriter(t *testing.T) {
	onEach(t, func(t *testing.T, on, away host) {
		theSwarm(t)
		first := serve(t, "one", "onedata", "--constraint", "node.hostname=="+away.name)
		readsDiary(t, "one", away.name, "1 "+away.name+"\n")
		inUse(t, "onedata", away.name)
		the.On(t, manager, "docker", "service", "update", "--detach", "--update-order", "start-first",
			"--constraint-rm", "node.hostname=="+away.name, "--constraint-add", "node.hostname=="+on.name, "one")
		fleet.Eventually(t, time.Minute, func() string {
			all := tasks(t, "one")
			for _, now := range all {
				if now.node == on.name && strings.Contains(now.problem, `"onedata" is in use on `+away.name) {
					t.Logf("Swarm says of the new task: %s: %s", now.state, now.problem)
					return ""
				}
			}
			return fmt.Sprintf("no task on %s says why it can't run: %+v", on.name, all)
		})
		if !slices.ContainsFunc(tasks(t, "one"), func(now task) bool { return now.id == first.id && now.state == "Running" }) {
			t.Errorf("the old task does not run any more: %+v", tasks(t, "one"))
		}
		readsDiary(t, "one", away.name, "1 "+away.name+"\n")

		the.On(t, manager, "docker", "service", "update", "--detach", "--force", "--update-order", "stop-first", "one")
		began := time.Now()
		upElsewhere(t, "one", away.name)
		t.Logf("stop-first, the new task runs after %.1f s", time.Since(began).Seconds())
		readsDiary(t, "one", on.name, "1 "+away.name+"\n2 "+on.name+"\n")
	})
}

// TestSwarmTaskOfADrainedNodeComesUpElsewhereWithItsData: -rounds times in a row, and no task is refused its volume in
// between.
func TestSwarmTaskOfADrainedNodeComesUpElsewhereWithItsData(t *testing.T) {
	made.Do(func() { the.Bootstrap(t) })
	theSwarm(t)
	up := serve(t, "db", "dbdata")
	want := "1 " + up.node + "\n"
	readsDiary(t, "db", up.node, want)
	var took []time.Duration
	failed := map[string]task{} // Swarm remembers the last few tasks only
	for round := range *rounds {
		from := up.node
		began := time.Now()
		the.On(t, manager, "docker", "node", "update", "--availability", "drain", from)
		up = upElsewhere(t, "db", from)
		took = append(took, time.Since(began))
		want += fmt.Sprintf("%d %s\n", round+2, up.node)
		readsDiary(t, "db", up.node, want)
		the.On(t, manager, "docker", "node", "update", "--availability", "active", from)
		for _, now := range tasks(t, "db") {
			if now.problem != "" {
				failed[now.id] = now
			}
		}
	}
	slices.Sort(took)
	t.Logf("%d drains; from drain to running: median %.1f s, most %.1f s; tasks that failed in between: %d",
		len(took), took[len(took)/2].Seconds(), took[len(took)-1].Seconds(), len(failed))
	for _, now := range failed {
		t.Logf("failed on %s: %s: %s", now.node, now.state, now.problem)
		if strings.Contains(now.problem, "dbdata") {
			t.Errorf("a task on %s was refused its volume: %s", now.node, now.problem)
		}
	}
}
