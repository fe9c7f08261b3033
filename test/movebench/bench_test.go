//go:build bench

package movebench

import (
	"encoding/json"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	into  = flag.String("bench-into", "", "the file to write what was measured to")
	reps  = flag.Int("reps", 5, "how often each method runs")
	big   = flag.Int64("big", 4<<10, "MiB of the big files")
	small = flag.Int("small", 200_000, "number of small files")
	gaps  = flag.String("gaps", "1,4,16", "GiB of the volumes whose pause is measured; the first and the last are compared, the middle one is held against the others")
	kinds = flag.String("fs", "xfs,ext4,btrfs", "file systems on which the pause is measured")
	alone = flag.Bool("alone", false, "measure the pause of mobyfs only")
	only  = flag.String("only", "", "names of parts to run, with commas: full, line, small, pause, resume; all of them if empty")
)

func TestBenchMove(t *testing.T) {
	var rows []row
	for _, part := range []struct {
		name string
		run  func(*testing.T) []row
	}{{"full", benchFull}, {"line", benchLine}, {"small", benchSmall}, {"resume", benchResume}, {"pause", benchPause}} {
		if *only == "" || slices.Contains(strings.Split(*only, ","), part.name) {
			t.Run(part.name, func(t *testing.T) { rows = append(rows, part.run(t)...) })
		}
	}
	if *into != "" {
		publish(t, *into, fmt.Sprintf("%d runs of each method, %s of big files, %d small files, volumes of %s GiB", *reps, gib(*big<<20), *small, *gaps), rows)
	}
	for _, r := range rows {
		if r.goal != "" && !r.met {
			t.Errorf("%s: %s, the goal is %s", r.what, r.figure, r.goal)
		}
	}
}

// benchFull: all bytes, over a cable without a limit, on each file system.
func benchFull(t *testing.T) (rows []row) {
	for _, fs := range []string{"xfs", "ext4", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			l := ready(t)
			l.format(t, fs, *big<<20*3/2+(1<<30))
			src := l.source(t, fs)
			bigFiles(t, src, *big<<20, false)
			methods := []method{ours, rsync, tarNC}
			if fs == "btrfs" {
				methods = append(methods, btrfsSend)
			}
			all := l.compare(t, src, *reps, methods...)
			a, b := took(all[rsync.name]), took(all[ours.name])
			perGiB := cpu(all[ours.name]).Seconds() / (float64(*big) / 1024)
			rows = append(rows, show(t, row{
				what:   fmt.Sprintf("%s in 8 files, %s, no limit of the cable", gib(*big<<20), fs),
				figure: fmt.Sprintf("%v: **%.2f×** the speed of rsync, %.2f CPU s for each GiB", round(b), times(a, b), perGiB),
				peers:  against(all, methods[1:]...),
				goal:   "≥ 1.0× rsync, ≥ 2× tar\\|nc, ≤ 1.9 CPU s/GiB", met: a >= b && took(all[tarNC.name]) >= 2*b && perGiB <= 1.9,
				why: "reading back what was written and the encryption take the cores that both ends share here",
			}))
		})
	}
	return rows
}

// benchLine: all bytes, over a cable of 1 Gbit/s, against what the cable can do.
func benchLine(t *testing.T) (rows []row) {
	l := ready(t)
	size := min(*big<<20, 1<<30)
	l.format(t, "xfs", size*3+(1<<30))
	src := l.source(t, "xfs")
	l.cable(t, "1gbit")
	for _, half := range []bool{false, true} {
		l.clear(t, src)
		bigFiles(t, src, size, half)
		all := l.compare(t, src, *reps, ours, rsync, tarNC)
		var lines []int64
		for range *reps {
			lines = append(lines, l.iperf(t))
		}
		line := median(lines)
		rate := float64(size) / took(all[ours.name]).Seconds()
		share := rate / float64(line) * 100
		r := row{what: fmt.Sprintf("%s, xfs, cable of 1 Gbit/s", gib(size)), goal: "≥ 95 % of iperf3", met: share >= 95}
		if half {
			r.what += ", half of it compressible"
			r.goal, r.met = "≥ 130 % of iperf3", share >= 130
		}
		r.figure = fmt.Sprintf("%v: **%.1f %%** of iperf3's %.0f Mbit/s", round(took(all[ours.name])), share, float64(line)*8/1e6)
		r.peers = against(all, rsync, tarNC)
		rows = append(rows, show(t, r))
	}
	return rows
}

// iperf is what the cable carries, in bytes a second.
func (l *lab) iperf(t *testing.T) int64 {
	t.Helper()
	stop := l.b.begin(t, "iperf3", "-s", "-1", "--forceflush")
	defer stop()
	l.b.listening(t, 5201)
	ctx := t.Context()
	out, err := l.a.cmd(ctx, "iperf3", "-J", "-c", l.b.address, "-t", "4", "-O", "1").Output()
	must(t, err)
	var said struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	must(t, json.Unmarshal(out, &said))
	return int64(said.End.Received.Bits / 8)
}

// benchSmall: many small files, whole and after a hundredth of them changed.
func benchSmall(t *testing.T) (rows []row) {
	for _, fs := range []string{"xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			l := ready(t)
			l.format(t, fs, max(int64(*small)*(24<<10), 2<<30))
			src := l.source(t, fs)
			smallFiles(t, src, *small)
			methods := []method{ours, rsync, tarNC}
			if fs == "btrfs" {
				methods = append(methods, btrfsSend)
			}
			all := l.compare(t, src, *reps, methods...)
			b := took(all[ours.name])
			r := row{
				what:   fmt.Sprintf("%d small files, %s, no limit of the cable", *small, fs),
				figure: fmt.Sprintf("%v: **%.2f×** the speed of rsync, CPU %v", round(b), times(took(all[rsync.name]), b), round(cpu(all[ours.name]))),
				peers:  against(all, methods[1:]...), goal: "≥ 1.8× rsync, ≥ 2× tar\\|nc",
				met: took(all[rsync.name]).Seconds() >= 1.8*b.Seconds() && took(all[tarNC.name]) >= 2*b,
			}
			if fs == "btrfs" {
				r.goal += ", ≥ 3.5× btrfs receive"
				r.met = r.met && took(all[btrfsSend.name]).Seconds() >= 3.5*b.Seconds()
			}
			rows = append(rows, show(t, r))
		})
	}
	return rows
}

// ready is a lab with certificates.
func ready(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	certify(t, filepath.Join(l.dir, "pki"))
	return l
}

// source is the directory on host a that is moved: a subvolume on btrfs.
func (l *lab) source(t *testing.T, fs string) string {
	t.Helper()
	dir := filepath.Join(l.a.disk, "volume")
	if fs == "btrfs" {
		must(t, command("btrfs", "-q", "subvolume", "create", dir))
	}
	return dir
}

func gapSizes(t *testing.T) (list []int64) {
	t.Helper()
	for s := range strings.SplitSeq(*gaps, ",") {
		n, err := strconv.ParseFloat(s, 64)
		must(t, err)
		list = append(list, int64(n*1024)<<20)
	}
	return list
}
