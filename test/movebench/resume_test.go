//go:build bench

package movebench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// benchResume: the cable is cut when half of a volume has come, and the destination begins again where it was.
func benchResume(t *testing.T) []row {
	l := ready(t)
	size := min(*big<<20, 2<<30)
	l.format(t, "xfs", size*3/2+(1<<30))
	src := l.source(t, "xfs")
	bigFiles(t, src, size, false)
	var again []int64
	for range *reps {
		into := l.room(t)
		stop := l.serve(t, order{Dir: src, Live: true})
		o := order{Dir: into, MaxPause: mobyfs.DefaultMaxPause, Journal: filepath.Join(l.b.disk, "journal")}
		_ = os.Remove(o.Journal)
		before := l.received(t)
		ended := make(chan error, 1)
		go func() { _, err := l.bring(t, "follow", o); ended <- err }()
		for begun := time.Now(); l.received(t)-before < size/2 && time.Since(begun) < time.Minute; time.Sleep(time.Millisecond) {
		}
		stop()
		if err := <-ended; err == nil {
			t.Fatal("it ended before it was cut")
		}
		first := l.received(t) - before
		stop = l.serve(t, order{Dir: src, Live: true})
		_, err := l.bring(t, "follow", o)
		stop()
		must(t, err)
		again = append(again, l.received(t)-before-size)
		t.Logf("%s had come when it was cut; %s came twice", gib(first), gib(again[len(again)-1]))
		equal(t, src, into)
		l.clear(t, into)
	}
	n := median(again)
	return []row{show(t, row{what: fmt.Sprintf("%s, cut after a half and taken up again: what came twice", gib(size)),
		figure: fmt.Sprintf("**%.1f MiB** on the wire, all that is no content included", float64(n)/(1<<20)), peers: "btrfs receive and tar begin anew", goal: "≤ 64 MiB", met: n <= 64<<20})}
}

// received is how many bytes have come to host b over the cable.
func (l *lab) received(t *testing.T) int64 {
	t.Helper()
	out, err := l.b.cmd(t.Context(), "ip", "-json", "-stats", "link", "show", "cable").Output()
	must(t, err)
	var links []struct {
		Stats struct {
			RX struct{ Bytes int64 } `json:"rx"`
		} `json:"stats64"`
	}
	must(t, json.Unmarshal(out, &links))
	return links[0].Stats.RX.Bytes
}
