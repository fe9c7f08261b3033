//go:build bench

package movebench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const (
	pullPort  = 8080
	rsyncPort = 8730
	pipePort  = 9999
)

// method copies a tree from host a to an empty directory of host b, and returns once it is durable there.
type method struct {
	name string
	copy func(t *testing.T, l *lab, src, into string)
	// makes says that the directory must not exist: the method makes it.
	makes bool
}

var (
	ours   = method{name: "mobyfs", copy: byPull}
	rsync  = method{name: "rsync -aW", copy: byRsync}
	tarNC  = method{name: "tar \\| nc", copy: byTar}
	cpHere = method{name: "cp on one host", copy: func(t *testing.T, l *lab, src, into string) {
		must(t, l.b.shell("cp -a %s/. %s/ && sync -f %s", src, into, into))
	}}
	btrfsSend = method{name: "btrfs send \\| nc \\| receive", copy: byBtrfs, makes: true}
)

// byPull copies with a cold pull: encrypted, verified by both ends, read back.
func byPull(t *testing.T, l *lab, src, into string) {
	t.Helper()
	stop := l.serve(t, order{Dir: src})
	defer stop()
	_, err := l.bring(t, "pull", order{Dir: into})
	must(t, err)
}

// serve starts the source's end and returns what stops it.
func (l *lab) serve(t *testing.T, o order) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o.PKI, o.Address = filepath.Join(l.dir, "pki", "a"), fmt.Sprintf("%s:%d", l.a.address, pullPort)
	server, err := l.a.child(ctx, "serve", o)
	must(t, err)
	must(t, server.Start())
	l.a.listening(t, pullPort)
	return func() { cancel(); _ = server.Wait() }
}

// bring plays the destination's part to its end.
func (l *lab) bring(t *testing.T, role string, o order) (result, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if o.Address == "" {
		o.Address = fmt.Sprintf("%s:%d", l.a.address, pullPort)
	}
	o.PKI = filepath.Join(l.dir, "pki", "b")
	c, err := l.b.child(ctx, role, o)
	must(t, err)
	return c.result()
}

// rsyncd starts rsync's daemon on host b, which writes below into.
func (l *lab) rsyncd(t *testing.T, into string) (stop func()) {
	t.Helper()
	conf := filepath.Join(l.dir, "rsyncd.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, "use chroot = no\nuid = root\ngid = root\n[into]\npath = %s\nread only = no\n", into), 0o644))
	stop = l.b.begin(t, "rsync", "--daemon", "--no-detach", "--config="+conf, fmt.Sprintf("--port=%d", rsyncPort))
	l.b.listening(t, rsyncPort)
	return stop
}

func (l *lab) rsync(t *testing.T, flags, src string) {
	t.Helper()
	must(t, l.a.shell("rsync %s %s/ rsync://%s:%d/into/", flags, src, l.b.address, rsyncPort))
}

func byRsync(t *testing.T, l *lab, src, into string) {
	t.Helper()
	stop := l.rsyncd(t, into)
	defer stop()
	l.rsync(t, "-aW", src)
	must(t, l.b.run("sync", "-f", into))
}

func byTar(t *testing.T, l *lab, src, into string) {
	t.Helper()
	l.pipe(t, fmt.Sprintf("tar -C %s -cf - .", src), fmt.Sprintf("tar -C %s -xpf -", into), into)
}

func byBtrfs(t *testing.T, l *lab, src, into string) {
	t.Helper()
	snap := filepath.Join(filepath.Dir(src), filepath.Base(into))
	must(t, l.a.run("btrfs", "-q", "subvolume", "snapshot", "-r", src, snap))
	defer l.clear(t, snap)
	l.pipe(t, "btrfs -q send "+snap, "btrfs -q receive "+filepath.Dir(into), filepath.Dir(into))
}

// pipe runs one command on host a whose output is the input of another one on host b, and makes durable what came.
func (l *lab) pipe(t *testing.T, out, in, into string) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- l.b.shell("nc -l -p %d | %s; sync -f %s", pipePort, in, into) }()
	l.b.listening(t, pipePort)
	err := l.a.shell("%s | nc -N %s %d", out, l.b.address, pipePort)
	if err2 := <-ended; err == nil {
		err = err2
	}
	must(t, err)
}

// run is one measured copy.
type run struct {
	took, cpu time.Duration
}

func (l *lab) measure(t *testing.T, do func()) run {
	t.Helper()
	cpu, begun := l.cpu(t), time.Now()
	do()
	return run{took: time.Since(begun), cpu: l.cpu(t) - cpu}
}

// compare copies with each method in turns, so often, and compares the trees after each.
func (l *lab) compare(t *testing.T, src string, reps int, methods ...method) map[string][]run {
	t.Helper()
	all := map[string][]run{}
	for rep := range reps {
		for _, m := range methods {
			into := l.room(t)
			if m.makes {
				l.clear(t, into)
			}
			warm(t, src)
			r := l.measure(t, func() { m.copy(t, l, src, into) })
			t.Logf("%s, %d of %d: %v, %v of CPU", m.name, rep+1, reps, r.took.Round(time.Millisecond), r.cpu.Round(time.Millisecond))
			all[m.name] = append(all[m.name], r)
			equal(t, src, into)
			l.clear(t, into)
		}
	}
	return all
}

func median[T ~int64](list []T) T {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

func took(runs []run) time.Duration {
	var list []time.Duration
	for _, r := range runs {
		list = append(list, r.took)
	}
	return median(list)
}

func cpu(runs []run) time.Duration {
	var list []time.Duration
	for _, r := range runs {
		list = append(list, r.cpu)
	}
	return median(list)
}
