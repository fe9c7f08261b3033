package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// How long each part of a restore lasts.
const (
	untilBackup  = 6 * time.Second
	afterBackup  = 8 * time.Second // changes that control forgets
	afterRestore = 8 * time.Second
)

// TestBytesAndOwnersOutliveAllControls loses all controls and their disks while containers write, come, go and move, some
// time after a backup was made; restores it on one host, with the key alone, and lets the others join. Control may forget
// what it decided since the backup. The bytes of every acknowledged write have to be there, volumes too that were made
// since, no volume may be written to on two nodes, no write may go behind a higher fence, and what control decides from
// then on has to be linearizable.
func TestBytesAndOwnersOutliveAllControls(t *testing.T) {
	t.Parallel()
	b, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cfg := configure(t, 7)
	cfg.Controls, cfg.Agents, cfg.Seed = 3, 4, 7
	c, err := newCluster(cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := c.start(ctx); err != nil {
		t.Fatal(err)
	}
	w := &workload{c: c, h: newHistory(), seed: cfg.Seed, keep: true}
	using, stop := context.WithCancel(ctx)
	defer stop()
	used := make(chan error, 1)
	go func() { used <- w.runContainers(using) }()
	l := &loss{c: c}
	if err := l.play(ctx); err != nil {
		t.Fatal(err)
	}
	pause(ctx, afterRestore)
	stop()
	if err := <-used; err != nil {
		t.Fatal(err)
	}
	events, err := settle(ctx, w, c)
	if err != nil {
		t.Fatal(err)
	}
	l.judge(t, cfg, w, events)
}

// loss is that of all controls.
type loss struct {
	c         *Cluster
	backup    api.Backup
	file, key string
	backedUp  int64 // when, on CLOCK_BOOTTIME
	lost      int64
	decides   int64 // from when on control decides again
}

// play makes a backup, loses all controls a while later, and restores.
func (l *loss) play(ctx context.Context) error {
	operator, err := l.c.client(pki.RoleOperator, "restorer")
	if err != nil {
		return err
	}
	pause(ctx, untilBackup)
	l.backedUp = boottime()
	if l.backup, err = operator.MakeBackup(ctx); err != nil {
		return fmt.Errorf("make a backup: %w", err)
	}
	l.file, l.key = filepath.Join(l.c.Dir, "backup"), filepath.Join(l.c.Dir, "key")
	if err := l.fetch(ctx, operator); err != nil {
		return err
	}
	pause(ctx, afterBackup)
	l.lost = boottime()
	for _, x := range l.c.controls {
		x.halt(unix.SIGKILL)
		if err := l.wipe(x); err != nil {
			return err
		}
	}
	first := l.c.controls[0]
	if err := l.restore(first); err != nil {
		return err
	}
	first.process.start()
	if err := l.c.await(ctx, l.c.controls[:1]); err != nil {
		return err
	}
	if err := l.converged(ctx, operator); err != nil {
		return err
	}
	l.decides = boottime()
	for range 2 {
		for _, x := range l.c.controls[1:] {
			if err := l.c.joinMember(ctx, x); err != nil {
				return err
			}
		}
	}
	for _, x := range l.c.controls[1:] {
		x.process.start()
	}
	return l.c.await(ctx, l.c.controls)
}

// fetch takes the backup and its key to where nothing else is lost.
func (l *loss) fetch(ctx context.Context, operator *api.Client) error {
	key, err := os.ReadFile(seal.PathIn(l.c.controls[0].root))
	if err == nil {
		err = os.WriteFile(l.key, key, 0o600)
	}
	if err != nil {
		return err
	}
	for ctx.Err() == nil { // the control that made it has it
		f, err := os.Create(l.file)
		if err != nil {
			return err
		}
		err = errors.Join(operator.Backup(ctx, l.backup.ID, f), f.Close())
		if err == nil {
			return nil
		}
		pause(ctx, 100*time.Millisecond)
	}
	return ctx.Err()
}

// wipe gives a control a new disk, with certificates as bootstrap makes them, and all but the first, which is to be
// restored with the key that was kept, with that key.
func (l *loss) wipe(x *control) error {
	entries, err := os.ReadDir(x.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(x.root, e.Name())); err != nil {
			return err
		}
	}
	if err := l.c.certifyControl(x); err != nil || x == l.c.controls[0] {
		return err
	}
	return os.WriteFile(seal.PathIn(x.root), l.c.key, 0o600)
}

// restore runs mobyfs-control restore on a control's host.
func (l *loss) restore(x *control) error {
	cmd := exec.Command(l.c.bins.path("mobyfs-control", x.build), "restore", "--cluster", clusterName, "--name", x.name,
		"--root", x.root, "--from", l.file, "--key", l.key)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := x.host.Do(cmd.Run); err != nil {
		return fmt.Errorf("restore on %s: %w: %s", x.name, err, said.String())
	}
	return nil
}

// converged waits until all nodes have told what they hold and control decides again.
func (l *loss) converged(ctx context.Context, operator *api.Client) error {
	for {
		r, err := operator.RestoreStatus(ctx)
		if err == nil && r.Backup == "" {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("control waits for %v: %w", r.Awaited, errors.Join(err, ctx.Err()))
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// judge checks the data of all time, and the history before the backup and since control decides again.
func (l *loss) judge(t *testing.T, cfg Config, w *workload, events []mobyfs.Event) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	v := w.found
	v.checkWindows(w.h.windows)
	var ops []op
	forgotten, after := 0, 0
	for _, o := range w.h.ops {
		switch {
		case o.ret < l.backedUp:
			ops = append(ops, o)
		case o.call > l.decides:
			ops = append(ops, o)
			after++
		case o.ret < l.lost && o.outcome == acked && o.kind != opRead:
			forgotten++
		}
	}
	v.checkLog(ops, events, checkTime)
	t.Logf("%d records restored; %d acknowledged changes and mounts came after the backup; control decided again after %v; %d operations since then; %d containers wrote %d records; linearizable: %s, %d volumes; lost %d, stale %d, double owners %d",
		l.backup.Records, forgotten, time.Duration(l.decides-l.lost).Round(time.Millisecond), after, w.h.counts["container started"], w.h.counts["writes acked"],
		v.linearizable(), v.volumes, len(v.lost), len(v.stale), len(v.doubles))
	for _, wrong := range v.violations() {
		t.Error(wrong)
	}
	(&result{Config: cfg, verdict: v}).keep()
	if forgotten == 0 || after == 0 {
		t.Error("nothing was done that could have been lost")
	}
}
