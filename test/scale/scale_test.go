//go:build bench

package scale

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	controlProgram = flag.String("control", "", "the mobyfs-control that is measured")
	benchInto      = flag.String("bench-into", "", "the file to write what was measured to")
	nodes          = flag.Int("nodes", 10_000, "how many agents there are")
	volumes        = flag.Int("volumes", 1_000_000, "how many volumes there are")
	each           = flag.Duration("each", 10*time.Second, "how long each throughput is measured")
	beats          = flag.Int("beats", 6, "for how many heartbeats of 10 s the agents are watched")
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(bareEtcd); dir != "" {
		serveEtcd(dir)
		return
	}
	flag.Parse()
	if root := os.Getenv(emptyStore); root != "" {
		if err := fillStore(root, *nodes, *volumes); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// itself is this program in another process, which does one thing to a directory instead of tests: see TestMain. It ends
// with this one.
func itself(task, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), task+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// row is one line of the table.
type row struct {
	what, figure, goal string
	met                bool   // or there is no goal
	why                string // it is not met, if it is not
}

// TestBenchControl measures all and writes docs/benchmarks-control.md.
func TestBenchControl(t *testing.T) {
	if *controlProgram == "" {
		t.Fatal("name the program to measure with -control (make bench-control does)")
	}
	var rows []row
	t.Run("claims", func(t *testing.T) { rows = append(rows, benchClaims(t)...) })
	t.Run("agents", func(t *testing.T) { rows = append(rows, benchAgents(t)...) })
	t.Run("volumes", func(t *testing.T) { rows = append(rows, benchVolumes(t)...) })
	if *benchInto != "" {
		write(t, rows)
	}
}

func write(t *testing.T, rows []row) {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks of the control plane\nMade by `make bench-control` on %s: mobyfs-control in a process of its own, its callers in another, over mutual TLS 1.3\n"+
		"(agents by links, people by HTTP/2) on loopback, every change durable on this machine's disk. A ratio is of two figures of the same run.\n\n"+
		"| what | measured | goal | met |\n|---|---|---|---|\n", machine())
	for _, r := range rows {
		met := map[bool]string{true: "yes", false: "**no**"}[r.met]
		if r.goal == "" {
			met = ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.what, r.figure, r.goal, met)
	}
	var missed []string
	for _, r := range rows {
		if r.goal != "" && !r.met && r.why != "" {
			missed = append(missed, fmt.Sprintf("- %s: %s.\n", r.what, r.why))
		}
	}
	if len(missed) > 0 {
		fmt.Fprintf(&b, "\nWhat is missed, and why:\n\n%s", strings.Join(missed, ""))
	}
	b.WriteString("\nWhat made a restart twice as fast, and what keeps it from being faster, tells [decision 0102](decisions/0102-a-restart-allocates-little.md); what pages cost, [0104](decisions/0104-pages-hold-records.md).\nHow long nothing is acknowledged after the control that leads was killed is measured by `make bench-leader`.\n")
	if err := os.WriteFile(*benchInto, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// show logs a row, and fails the test if its goal is not met.
func show(t *testing.T, r row) row {
	t.Helper()
	t.Logf("%s: %s (goal %s)", r.what, r.figure, r.goal)
	if r.goal != "" && !r.met {
		t.Errorf("%s: the goal is not met", r.what)
	}
	return r
}

// machine tells how many cores are shared by all that is measured.
func machine() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	cores := strings.Count(string(info), "processor\t")
	load, _ := os.ReadFile("/proc/loadavg")
	last, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("a machine with %d cores, which both processes share (and others: load average %s when it ended)", cores, last)
}

func mib(bytes int64) string { return fmt.Sprintf("%d MiB", bytes>>20) }

// quantile is that of sorted or unsorted durations.
func quantile(all []time.Duration, q float64) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[min(int(q*float64(len(all))), len(all)-1)]
}
