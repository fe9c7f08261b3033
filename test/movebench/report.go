//go:build bench

package movebench

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// row is a figure of the page.
type row struct {
	what, figure, peers, goal string
	met                       bool // nothing is claimed without a goal
	why                       string
}

func (r row) verdict() string {
	switch {
	case r.goal == "":
		return ""
	case r.met:
		return "yes"
	}
	return "**no**"
}

// show logs a row as soon as it is known.
func show(t *testing.T, r row) row {
	t.Helper()
	t.Logf("| %s | %s | %s | %s | %s |", r.what, r.figure, r.peers, r.goal, r.verdict())
	return r
}

func publish(t *testing.T, path, setting string, rows []row) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks of moves
Made by %[1]smake bench-move%[1]s: %[2]s. Two hosts are two network namespaces of one machine with 2 cores, which both share, and with their
disks: images whose room was set aside. All methods of a row ran in turns in one run; a figure is the median. Every copy was durable
when its time ended, and was compared with its source byte by byte afterwards. mobyfs encrypts (TLS 1.3), verifies each chunk and reads
back what it wrote; its peers do none of that.

| what | mobyfs | others in the same run | goal | met |
|---|---|---|---|---|
`, "`", setting)
	var missed []row
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.what, r.figure, r.peers, r.goal, r.verdict())
		if r.goal != "" && !r.met && r.why != "" {
			missed = append(missed, r)
		}
	}
	if len(missed) > 0 {
		b.WriteString("\nWhat is missed, and why:\n\n")
		for _, r := range missed {
			fmt.Fprintf(&b, "- %s: %s\n", r.what, r.why)
		}
	}
	must(t, os.WriteFile(path, []byte(b.String()), 0o644))
}

func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

func gib(bytes int64) string {
	if bytes >= 1<<30 {
		return fmt.Sprintf("%d GiB", bytes>>30)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

// against says what the others took, as multiples of ours.
func against(all map[string][]run, methods ...method) string {
	var list []string
	for _, m := range methods {
		list = append(list, fmt.Sprintf("%s %v (%.2f×, CPU %v)", m.name, round(took(all[m.name])), times(took(all[m.name]), took(all[ours.name])), round(cpu(all[m.name]))))
	}
	return strings.Join(list, "; ")
}

func times(a, b time.Duration) float64 { return a.Seconds() / max(b.Seconds(), 1e-9) }
