//go:build bench

package test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

var benchInto = flag.String("bench-into", "", "the file to write what was measured to")

// comparison is ours against theirs, measured in turns in one run.
type comparison struct {
	what, theirs string
	goal         string
	good         func(ratio float64) bool
	ours, other  []time.Duration
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// ratio is the median of ours over the median of theirs.
func (c comparison) ratio() float64 {
	return median(c.ours).Seconds() / median(c.other).Seconds()
}

// timed is how long a command takes, which must succeed.
func timed(t *testing.T, cmd *exec.Cmd) time.Duration {
	t.Helper()
	start := time.Now()
	r := fleet.RunCommand(t, cmd)
	took := time.Since(start)
	if r.Code != 0 {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), r)
	}
	return took
}

// TestBench measures mobyfs against doing the same by hand, and writes docs/benchmarks.md.
func TestBench(t *testing.T) {
	if *benchInto == "" {
		t.Fatal("name the file to write to with -bench-into (make bench does)")
	}
	the.Bootstrap(t)
	all := []comparison{benchBootstrap(t, true), benchBootstrap(t, false)}
	all = append(all, benchMount(t)...)
	all = append(all, benchMove(t, "h1", "h2"), benchMove(t, "h2", "h3"))
	writeBenchmarks(t, all)
	for _, c := range all {
		if !c.good(c.ratio()) {
			t.Errorf("%s: ratio %.2f, the goal is %s", c.what, c.ratio(), c.goal)
		}
	}
}

// benchBootstrap: one new host of a running cluster, against copying the same bytes and restarting by hand.
func benchBootstrap(t *testing.T, proof bool) comparison {
	c := comparison{what: "Bootstrap of one new host, the connections and the plan included",
		theirs: "`ssh mkdir`, `scp` of the same files, `ssh systemctl daemon-reload; enable; restart`", goal: "≤ 1.5", good: func(r float64) bool { return r <= 1.5 }}
	args := []string{"bootstrap", "-f", the.ClusterYAML(), "--yes"}
	if proof {
		c.what += ", and the proof (volumes created on all nodes, one moved)"
		c.goal, c.good = "none", func(float64) bool { return true }
	} else {
		args = append(args, "--no-proof")
	}
	ssh := []string{"-i", the.Key, "-o", "UserKnownHostsFile=" + the.Known, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"}
	target := "root@" + the.Hosts["h3"]
	// What bootstrap puts there is what is copied by hand.
	stash := filepath.Join(t.TempDir(), "files")
	for _, f := range []string{"/usr/bin/mobyfs", "/etc/mobyfs/mobyfs.env", "/etc/systemd/system/mobyfs.service", "/etc/systemd/system/mobyfs.socket", "/var/lib/mobyfs/pki"} {
		if err := os.MkdirAll(stash, 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("docker", "cp", "-L", the.Container("h3")+":"+f, stash+"/").CombinedOutput(); err != nil {
			t.Fatalf("docker cp %s: %v\n%s", f, err, out)
		}
	}
	byHand := strings.Join([]string{
		"ssh " + strings.Join(ssh, " ") + " " + target + " mkdir -p /etc/mobyfs /var/lib/mobyfs",
		"scp -q " + strings.Join(ssh, " ") + " " + stash + "/mobyfs " + target + ":/usr/bin/mobyfs",
		"scp -q " + strings.Join(ssh, " ") + " " + stash + "/mobyfs.env " + target + ":/etc/mobyfs/",
		"scp -q " + strings.Join(ssh, " ") + " " + stash + "/mobyfs.service " + stash + "/mobyfs.socket " + target + ":/etc/systemd/system/",
		"scp -qr " + strings.Join(ssh, " ") + " " + stash + "/pki " + target + ":/var/lib/mobyfs/",
		"ssh " + strings.Join(ssh, " ") + " " + target + " 'systemctl daemon-reload && systemctl enable -q mobyfs.socket mobyfs.service && systemctl restart mobyfs.socket mobyfs.service'",
	}, " && ")
	clear := "systemctl disable -q --now mobyfs.socket mobyfs.service; rm -rf /usr/bin/mobyfs /usr/lib/mobyfs /etc/mobyfs /etc/systemd/system/mobyfs* /var/lib/mobyfs /run/docker/plugins/mobyfs.sock; systemctl daemon-reload"
	for range 7 {
		the.TryOn(t, "h3", "sh", "-c", clear)
		c.other = append(c.other, timed(t, exec.Command("bash", "-c", byHand)))
		the.TryOn(t, "h3", "sh", "-c", clear)
		c.ours = append(c.ours, timed(t, the.Command("mobyctl", args...)))
	}
	return c
}

// benchMount: what a container start and end costs with our volume instead of Docker's own.
func benchMount(t *testing.T) []comparison {
	goal, good := "≤ 1.2", func(r float64) bool { return r <= 1.2 }
	start := comparison{what: "`docker start -a` of a container with a volume (Mount, run `true`, Unmount)", theirs: "the same with `--volume-driver=local`", goal: goal, good: good}
	run := comparison{what: "`docker run --rm` with a volume", theirs: "the same with `--volume-driver=local`", goal: goal, good: good}
	for _, d := range []string{"mobyfs", "local"} {
		the.On(t, "h2", "docker", "create", "--name", "b-"+d, "-v", "b-"+d+":/data", "--volume-driver="+d, "busybox", "true")
	}
	for i := range 31 {
		for _, d := range []string{"mobyfs", "local"} {
			s := timed(t, the.CmdOn("h2", "docker", "start", "-a", "b-"+d))
			r := timed(t, the.CmdOn("h2", "docker", "run", "--rm", "-v", "b-"+d+":/data", "--volume-driver="+d, "busybox", "true"))
			switch {
			case i == 0: // warms up
			case d == "mobyfs":
				start.ours, run.ours = append(start.ours, s), append(run.ours, r)
			default:
				start.other, run.other = append(start.other, s), append(run.other, r)
			}
		}
	}
	for _, d := range []string{"mobyfs", "local"} {
		the.On(t, "h2", "docker", "rm", "b-"+d)
		the.On(t, "h2", "docker", "volume", "rm", "b-"+d)
	}
	return []comparison{start, run}
}

// benchMove: a cold move against tar piped through nc between the same hosts, both durable at the end.
func benchMove(t *testing.T, from, to string) comparison {
	c := comparison{what: fmt.Sprintf("Throughput of a cold move %s → %s: 10,000 small files and one of 300 MB, encrypted, digests compared", from, to),
		theirs: "`tar` into `nc`, `sync` at the end; plain text, nothing compared", goal: "≥ 0.9", good: func(r float64) bool { return r >= 0.9 }}
	the.Ctl(t, "volume", "create", "bench", "--node", from)
	v := the.Volume(t, "bench")
	the.On(t, from, "hosttool", "make", fleet.DataDir(v), "10000", fmt.Sprint(300<<20))
	for range 5 {
		the.Sh(t, to, "rm -rf /var/lib/bench && mkdir -p /var/lib/bench && sync")
		listen := the.CmdOn(to, "sh", "-c", "nc -l -p 9999 | tar -C /var/lib/bench --xattrs --acls --numeric-owner -xpf - 2>/dev/null; sync -f /var/lib/bench")
		if err := listen.Start(); err != nil {
			t.Fatal(err)
		}
		fleet.Eventually(t, 5*time.Second, func() string {
			if !strings.Contains(the.Sh(t, to, "ss -Hltn"), ":9999") {
				return "nc does not listen"
			}
			return ""
		})
		begin := time.Now()
		the.Sh(t, from, "tar -C "+fleet.DataDir(v)+" --xattrs --acls --numeric-owner -cf - . 2>/dev/null | nc -N "+the.Hosts[to]+" 9999")
		if err := listen.Wait(); err != nil {
			t.Fatalf("tar through nc: %v", err)
		}
		c.ours = append(c.ours, time.Since(begin)) // throughput is the inverse of time: the sides change
		if n := the.Sh(t, to, "find /var/lib/bench | wc -l"); len(n) < 5 {
			t.Fatalf("tar brought %s files only", n)
		}
		the.Sh(t, to, "rm -rf /var/lib/bench && sync")
		c.other = append(c.other, timed(t, the.Command("mobyctl", "volume", "move", "bench", "--to", to)))
		the.Ctl(t, "volume", "move", "bench", "--to", from)
		the.Sh(t, from, "rm -rf /var/lib/mobyfs/trash/*; sync")
		the.Sh(t, to, "rm -rf /var/lib/mobyfs/trash/*; sync")
	}
	the.Remove(t, "bench")
	return c
}

func writeBenchmarks(t *testing.T, all []comparison) {
	var b strings.Builder
	b.WriteString("# Benchmarks\nMade by `make bench`. Both sides of a row were measured in turns in one run, on hosts that share one machine;\n" +
		"a figure is the ratio of the medians, and the goal is on that ratio.\n\n| what | against | runs | ratio | goal |\n|---|---|---|---|---|\n")
	for _, c := range all {
		fmt.Fprintf(&b, "| %s | %s | %d | **%.2f** | %s |\n", c.what, c.theirs, len(c.ours), c.ratio(), c.goal)
		t.Logf("%s: ratio %.2f (goal %s); medians %v and %v", c.what, c.ratio(), c.goal, median(c.ours), median(c.other))
	}
	if err := os.WriteFile(*benchInto, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
