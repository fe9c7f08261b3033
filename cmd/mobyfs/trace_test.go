package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/tracing"
	"github.com/mobyfs/mobyfs/internal/tracing/collector"
)

// traced makes all programs of the test send their spans to a collector, at once.
func traced(t *testing.T) *collector.Collector {
	t.Helper()
	c := collector.Open(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	return c
}

// recorder is a program that records spans: a context that it works in, and its end.
func recorder(t *testing.T, service string) (context.Context, func()) {
	t.Helper()
	tracer, stop, err := tracing.Open(t.Context(), tracing.Program{Service: service, Version: "test"}, quiet(t, service))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return tracing.With(t.Context(), tracer), stop
}

// slow passes connections on to an address, and lets the first stop after some bytes towards the caller, for good.
func slow(t *testing.T, to string, bytes int64) (address string, stopped <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	reached := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			c, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(back, c)
				_ = back.Close()
			}()
			go func() {
				if first {
					_, _ = io.CopyN(c, back, bytes)
					close(reached)
					return
				}
				_, _ = io.Copy(c, back)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String(), reached
}

// tree checks that spans are one tree and returns, by service, instance and name, how many there are of each.
func tree(t *testing.T, spans []collector.Span, id string) map[string]int {
	t.Helper()
	known, firsts, kinds := map[string]bool{}, 0, map[string]int{}
	for _, s := range spans {
		known[s.ID] = known[s.ID] || s.Trace == id
	}
	for _, s := range spans {
		if s.Trace != id {
			continue
		}
		kinds[strings.TrimSpace(s.Service+" "+s.Instance)+": "+s.Name]++
		if s.Parent == "" {
			firsts++
		} else if !known[s.Parent] {
			t.Errorf("%s of %s %s hangs on a span that nobody recorded", s.Name, s.Service, s.Instance)
		}
	}
	if firsts != 1 {
		t.Errorf("the trace has %d beginnings", firsts)
	}
	return kinds
}

// ofMigration returns the one trace that a migration is in.
func ofMigration(t *testing.T, spans []collector.Span, id mobyfs.MigrationID) (trace string) {
	t.Helper()
	for _, s := range spans {
		switch {
		case s.About["migration"] != string(id):
		case trace == "":
			trace = s.Trace
		case trace != s.Trace:
			t.Fatalf("migration %s is in the traces %s and %s", id, trace, s.Trace)
		}
	}
	if trace == "" {
		t.Fatalf("migration %s is in no trace", id)
	}
	return trace
}

// All real, and every program records: the operator moves a volume; in the middle of the pull the destination's agent and
// control are stopped, and started again.
func TestMigrationIsOneTraceOverHostsAndRestarts(t *testing.T) {
	c := traced(t)
	s := newShop(t)
	ofControl, _ := recorder(t, "mobyfs-control")
	s.tracer = tracing.Tracer(ofControl)
	stopControl := s.control()
	h1, h2 := s.settingsOf("h1"), s.settingsOf("h2")
	var halfway <-chan struct{}
	h1.advertise, halfway = slow(t, h1.advertise, 128<<10) // of one connection of several
	s.run(h1)
	stop2 := s.run(h2)
	s.eventually("both nodes have joined", func() bool {
		return call(t, h2, "VolumeDriver.Create", map[string]any{"Name": "probe"})["Err"] == "" &&
			call(t, h1, "VolumeDriver.Create", map[string]any{"Name": "pgdata"})["Err"] == ""
	})
	path := must(t, h1, "Mount", map[string]any{"Name": "pgdata", "ID": "a"})["Mountpoint"].(string)
	rows := make([]byte, 4<<20)
	_, _ = rand.Read(rows)
	if err := os.WriteFile(filepath.Join(path, "rows"), rows, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, h1, "Unmount", map[string]any{"Name": "pgdata", "ID": "a"})

	ctx, sent := recorder(t, "mobyctl")
	ctx, span := tracing.Begin(ctx, "mobyctl volume move")
	operator := s.operator()
	v, err := operator.MoveVolume(ctx, "pgdata", "h2")
	tracing.End(span, err)
	if err != nil || v.Migration == nil || v.Migration.Traceparent == "" {
		t.Fatalf("got %+v, %v", v, err)
	}
	sent()
	<-halfway
	stop2()
	stopControl()
	s.control()
	s.run(h2)
	s.eventually("the volume is on h2", func() bool {
		now, err := operator.Volume(t.Context(), "pgdata")
		return err == nil && now.Node == "h2"
	})
	want := map[string]int{
		"mobyctl: mobyctl volume move": 1, "mobyctl: move-volume": 1, "mobyfs-control: move-volume": 1,
		"mobyfs h2: step pull": 2, "mobyfs h2: accept": 2, "mobyfs-control: accept": 2, "mobyfs h2: pull": 2, "mobyfs h1: serve": 2,
		"mobyfs h2: digest": 1, "mobyfs h2: seal": 1, "mobyfs h2: commit": 1, "mobyfs-control: commit": 1, "mobyfs h2: adopt": 1,
		"mobyfs h1: step vacate": 1,
	}
	s.eventually("the last step is told", func() bool { return strings.Contains(fmt.Sprint(c.Spans()), "step vacate") })
	s.eventually("all spans have come", func() bool {
		kinds := map[string]int{}
		for _, sp := range c.Spans() {
			kinds[strings.TrimSpace(sp.Service+" "+sp.Instance)+": "+sp.Name]++
		}
		for kind, n := range want {
			if kinds[kind] < n {
				return false
			}
		}
		return true
	})
	trace := ofMigration(t, c.Spans(), v.Migration.ID)
	got := tree(t, c.Spans(), trace)
	for kind, n := range want {
		if got[kind] < n {
			t.Errorf("%q is %d times in the trace, want %d", kind, got[kind], n)
		}
	}
	if t.Logf("the trace: %v", got); !strings.Contains(v.Migration.Traceparent, trace) {
		t.Errorf("the record says %s, the trace is %s", v.Migration.Traceparent, trace)
	}
	whole := false
	for _, sp := range c.Spans() {
		whole = whole || sp.Trace == trace && sp.Name == "pull" && !sp.Failed && ofThese(sp.About["bytes"], int64(len(rows)))
	}
	if !whole {
		t.Errorf("no span tells how many of %d bytes the second pull brought", len(rows))
	}
}

// ofThese reports whether text is a number of bytes of which there are so many.
func ofThese(text string, all int64) bool {
	n, err := strconv.ParseInt(text, 10, 64)
	return err == nil && n > 0 && n <= all
}

func TestMountThatBringsAVolumeIsOneTrace(t *testing.T) {
	c := traced(t)
	s := newShop(t)
	s.control() // which records nothing, and passes traces on
	h1, h2 := s.settingsOf("h1"), s.settingsOf("h2")
	s.run(h1)
	s.run(h2)
	s.eventually("both nodes have joined", func() bool {
		return call(t, h2, "VolumeDriver.Create", map[string]any{"Name": "probe"})["Err"] == "" &&
			call(t, h1, "VolumeDriver.Create", map[string]any{"Name": "pgdata"})["Err"] == ""
	})
	must(t, h2, "Mount", map[string]any{"Name": "pgdata", "ID": "a"})
	v, err := s.operator().Volume(t.Context(), "pgdata")
	if err != nil || v.LastMove == nil {
		t.Fatalf("got %+v, %v", v, err)
	}
	want := []string{"mobyfs h2: mount", "mobyfs h2: step claim", "mobyfs h2: claim", "mobyfs h2: step pull", "mobyfs h2: pull", "mobyfs h1: serve",
		"mobyfs h2: commit", "mobyfs h2: adopt", "mobyfs h2: step attach", "mobyfs h1: step vacate"}
	var got map[string]int
	s.eventually("all spans have come", func() bool {
		kinds := map[string]bool{}
		for _, sp := range c.Spans() {
			kinds[strings.TrimSpace(sp.Service+" "+sp.Instance)+": "+sp.Name] = true
		}
		for _, kind := range want {
			if !kinds[kind] {
				return false
			}
		}
		return true
	})
	got = tree(t, c.Spans(), ofMigration(t, c.Spans(), v.LastMove.ID))
	for _, kind := range want {
		if got[kind] == 0 {
			t.Errorf("the trace lacks %q: %v", kind, got)
		}
	}
	for _, sp := range c.Spans() {
		if sp.Name == "report" || sp.Name == "watch" {
			t.Errorf("%s is of no interest by itself and is in trace %s", sp.Name, sp.Trace)
		}
	}
}
