//go:build bench

package movebench

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// move is a way to move a volume while a database writes into it: it ends with the database running on host b.
type move struct {
	name string
	do   func(t *testing.T, l *lab, src, into string, here, there *database)
	// makes names the directory below into that is made by the move itself; "" if the bytes come into the one that is there.
	makes string
}

var (
	moveLive  = move{name: "mobyfs, live", do: moveByRounds}
	moveRsync = move{name: "rsync, 3 live passes and a pause", do: moveByRsync}
	moveCold  = move{name: "kill, tar \\| nc, start", do: moveByTar}
	moveBtrfs = move{name: "btrfs send -p, 4 rounds and a pause", do: moveByBtrfs, makes: "volume"}
)

func moveByRounds(t *testing.T, l *lab, src, into string, here, there *database) {
	t.Helper()
	stop := l.serve(t, order{Dir: src, Live: true, Container: here.name})
	defer stop()
	r, err := l.bring(t, "follow", order{Dir: into, Next: there.name, MaxPause: mobyfs.DefaultMaxPause, Journal: filepath.Join(l.b.disk, "journal")})
	for _, one := range r.Rounds {
		t.Logf("round %d: %d files, %s in %v, %s of it changed a second (%s)", one.Number, one.Files, gib(one.Bytes), round(one.Took), gib(one.DirtyRate), one.Feed)
	}
	must(t, err)
	t.Logf("frozen %v (predicted %v), Docker's start %v", round(r.Frozen), round(r.Predict), round(r.Started))
}

func moveByRsync(t *testing.T, l *lab, src, into string, here, there *database) {
	t.Helper()
	stop := l.rsyncd(t, into)
	defer stop()
	for range 3 {
		l.rsync(t, "-a --inplace", src)
	}
	must(t, l.b.run("sync", "-f", into))
	here.do(t, dockerd.Pause)
	l.rsync(t, "-a --inplace --delete", src)
	must(t, l.b.run("sync", "-f", into))
	there.do(t, dockerd.Start)
}

func moveByTar(t *testing.T, l *lab, src, into string, here, there *database) {
	t.Helper()
	here.kill(t)
	byTar(t, l, src, into)
	there.do(t, dockerd.Start)
}

func moveByBtrfs(t *testing.T, l *lab, src, into string, here, there *database) {
	t.Helper()
	last := ""
	var made []string
	defer func() {
		for _, snap := range made {
			l.clear(t, snap)
		}
	}()
	send := func(n int) {
		t.Helper()
		snap := filepath.Join(filepath.Dir(src), fmt.Sprintf("snap-%d", n))
		must(t, l.a.run("btrfs", "-q", "subvolume", "snapshot", "-r", src, snap))
		made = append(made, snap, filepath.Join(l.b.disk, filepath.Base(snap)))
		parent := ""
		if last != "" {
			parent = "-p " + last
		}
		l.pipe(t, fmt.Sprintf("btrfs -q send %s %s", parent, snap), "btrfs -q receive "+l.b.disk, l.b.disk)
		last = snap
	}
	for n := range 4 {
		send(n)
	}
	here.do(t, dockerd.Pause)
	must(t, l.a.run("sync", "-f", src))
	send(4)
	must(t, l.b.run("btrfs", "-q", "subvolume", "snapshot", filepath.Join(l.b.disk, "snap-4"), filepath.Join(into, "volume")))
	there.do(t, dockerd.Start)
}

// gap is a measured pause: from the last commit that was acknowledged on a to the first on b.
type gap struct {
	pause, whole time.Duration
}

// measureGap moves a database of a size, and checks it whole afterwards.
func (l *lab) measureGap(t *testing.T, src string, m move) gap {
	t.Helper()
	room := l.room(t)
	data := filepath.Join(room, m.makes)
	here, there := contain(t, l, "here", src), contain(t, l, "there", data)
	if m.makes != "" {
		l.clear(t, data) // Docker has made it
	}
	here.do(t, dockerd.Start)
	here.wait(t, 200)
	begun := time.Now()
	m.do(t, l, src, room, here, there)
	g := gap{whole: time.Since(begun)}
	there.wait(t, 100)
	there.kill(t)
	here.remove()
	before, after := here.acked(t), there.acked(t)
	last, first := before[len(before)-1], after[0]
	g.pause = first.at - last.at
	if first.commit <= last.commit {
		t.Errorf("%s: commit %d was acknowledged on a, and b went on with %d", m.name, last.commit, first.commit)
	}
	there.remove()
	if end := checkDatabase(t, data); end < after[len(after)-1].commit {
		t.Errorf("%s: commit %d was acknowledged on b and its log ends with %d", m.name, after[len(after)-1].commit, end)
	}
	t.Logf("%s: pause %v of %v", m.name, round(g.pause), round(g.whole))
	if m.makes != "" {
		l.clear(t, data)
	}
	l.clear(t, room)
	return g
}

// benchPause: how long a database stands still, over a cable of 1 Gbit/s.
func benchPause(t *testing.T) (rows []row) {
	emptyImage(t)
	sizes := gapSizes(t)
	pauses := map[string]map[int64][]time.Duration{}
	note := func(fs string, m move, size int64, g gap) {
		key := fs + ", " + m.name
		if pauses[key] == nil {
			pauses[key] = map[int64][]time.Duration{}
		}
		pauses[key][size] = append(pauses[key][size], g.pause)
	}
	middle := sizes[len(sizes)/2]
	for fs := range strings.SplitSeq(*kinds, ",") {
		for _, size := range sizes {
			if size != middle && fs != "xfs" {
				continue
			}
			t.Run(fmt.Sprintf("%s-%s", fs, gib(size)), func(t *testing.T) {
				l := ready(t)
				l.format(t, fs, size*3/2+(2<<30))
				src := l.source(t, fs)
				makeDatabase(t, src, size)
				l.cable(t, "1gbit")
				moves := []move{moveLive}
				if size == middle && !*alone {
					switch fs {
					case "xfs":
						moves = append(moves, moveRsync, moveCold)
					case "btrfs":
						moves = append(moves, moveBtrfs)
					}
				}
				for range *reps {
					for _, m := range moves {
						note(fs, m, size, l.measureGap(t, src, m))
					}
				}
			})
		}
	}
	key := func(fs string, m move) time.Duration { return median(pauses[fs+", "+m.name][middle]) }
	for _, fs := range []string{"xfs", "ext4", "btrfs"} {
		list := pauses[fs+", "+moveLive.name][middle]
		if len(list) == 0 {
			continue
		}
		mid := median(list)
		r := row{
			what:   fmt.Sprintf("Pause of a database of %s (200 commits a second, each of 8 pages of 8 KiB), %s, cable of 1 Gbit/s, Docker's pause and start included", gib(middle), fs),
			figure: fmt.Sprintf("**%v** (most of %d: %v)", round(mid), len(list), round(slices.Max(list))), goal: "≤ 400 ms, most ≤ 700 ms", met: mid <= 400*time.Millisecond && slices.Max(list) <= 700*time.Millisecond,
		}
		switch {
		case *alone:
		case fs == "xfs":
			r.peers = fmt.Sprintf("%s %v (%.0f×); %s %v (%.0f×)", moveRsync.name, round(key(fs, moveRsync)), times(key(fs, moveRsync), mid), moveCold.name, round(key(fs, moveCold)), times(key(fs, moveCold), mid))
			r.goal += "; rsync ≥ 40×, cold ≥ 90×"
			r.met = r.met && key(fs, moveRsync) >= 40*mid && key(fs, moveCold) >= 90*mid
		case fs == "btrfs":
			r.peers = fmt.Sprintf("%s %v (%.1f×)", moveBtrfs.name, round(key(fs, moveBtrfs)), times(key(fs, moveBtrfs), mid))
			r.goal += "; btrfs send ≥ 1.5×"
			r.met = r.met && key(fs, moveBtrfs).Seconds() >= 1.5*mid.Seconds()
		}
		rows = append(rows, show(t, r))
	}
	live := pauses["xfs, "+moveLive.name]
	first, last := sizes[0], sizes[len(sizes)-1]
	if a, b := median(live[first]), median(live[last]); first != last && a > 0 {
		rows = append(rows, show(t, row{what: fmt.Sprintf("Pause at %s against %s, xfs", gib(last), gib(first)),
			figure: fmt.Sprintf("**%.2f** (%v against %v)", times(b, a), round(b), round(a)), goal: "≤ 1.5", met: times(b, a) <= 1.5}))
	}
	return rows
}
