package migrations

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/test/fleet"
)

// moveWithin is how long a move is followed. One that goes on is waited for by settle.
const moveWithin = 45 * time.Second

// outage is how long a link is cut or a disk full.
const outage = 3 * time.Second

// goal picks where a move goes.
func (l *lab) goal(f fault, from string) string {
	if f.kind == cancelled && f.role == control {
		return l.elsewhere(from, controlHost) // the file there tells of control's moment
	}
	return l.elsewhere(from)
}

// move moves the volume as a kind of move does, and lets the fault happen in it, or until end is called, which tells whether
// it did. It returns what mobyctl said.
func (l *lab) move(f fault, from, to string) (said string, end func() (happened bool)) {
	l.t.Helper()
	if f.kind == cold {
		l.TryOn(l.t, from, "docker", "rm", "-f", l.volume)
		_ = await(settleWithin, func() string { // if nothing takes it back, the move says so
			if v, ok := l.record(); !ok || v.Lease != nil {
				return "it is in use"
			}
			return ""
		})
	}
	host := l.hostOf(f.role, from, to)
	end = l.begin(f, host)
	if f.kind == cancelled {
		return l.cancelFrozen(to), end
	}
	return l.mobyctl(l.args(f.kind, to)...), end
}

// hostOf is where the program of a role runs.
func (l *lab) hostOf(r role, from, to string) string {
	return map[role]string{source: from, destination: to, control: controlHost}[r]
}

func (l *lab) args(k kind, to string) []string {
	args := []string{"volume", "move", l.volume, "--to", to}
	if k != cold {
		args = append(args, "--live", "--with-containers", "--on-busy", "freeze", "--max-rounds", "3")
	}
	return args
}

// mobyctl runs a command that may end in any way, and may be left.
func (l *lab) mobyctl(args ...string) string {
	ctx, cancel := context.WithTimeout(l.t.Context(), moveWithin)
	defer cancel()
	cmd := l.Command("mobyctl", args...)
	bounded := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	bounded.Env = cmd.Env
	out, err := bounded.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err)
	}
	return string(out)
}

// cancelFrozen begins a live move, holds its destination just before it commits, and gives the move up.
func (l *lab) cancelFrozen(to string) string {
	l.t.Helper()
	l.arm(to, "agent.commit.before hold")
	defer l.disarm(to)
	said := l.mobyctl(append(l.args(cancelled, to), "--detach")...)
	for begun := time.Now(); time.Since(begun) < moveWithin && !l.held(to); {
		time.Sleep(50 * time.Millisecond)
		if v, ok := l.record(); ok && v.Migration == nil {
			return said + "the move ended by itself"
		}
	}
	return said + l.mobyctl("volume", "move", l.volume, "--cancel")
}

// begin has a fault happen at its moment. The function that it returns ends what is left of it, and tells whether it
// happened.
func (l *lab) begin(f fault, host string) (end func() bool) {
	if f.what == "" {
		return func() bool { return true }
	}
	if f.what == kill {
		l.arm(host, f.moment)
		return func() bool { return l.disarm(host) }
	}
	l.arm(host, f.moment+" hold")
	over := make(chan struct{})
	happened := false
	var work sync.WaitGroup
	work.Go(func() {
		for !l.held(host) {
			select {
			case <-over:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
		happened = true
		begin, end := l.cut, l.heal
		if f.what == full {
			begin, end = l.fill, l.empty
		}
		begin(host)
		defer end(host)
		l.disarm(host) // whoever is held goes on into it
		time.Sleep(outage)
	})
	return func() bool {
		close(over)
		work.Wait()
		l.disarm(host)
		return happened
	}
}

// record reads the volume's record; false while control can't be asked.
func (l *lab) record() (v mobyfs.Volume, ok bool) {
	r := l.Try(l.t, "volume", "inspect", l.volume, "-o", "json")
	return v, r.Code == 0 && decode(r.Stdout, &v) == nil
}

// runAgain starts the container of a cold move on the volume's node, or tells what is missing.
func (l *lab) runAgain(node string) (missing string) {
	l.t.Helper()
	return await(settleWithin, func() string {
		l.TryOn(l.t, node, "docker", "rm", "-f", l.volume)
		if r := l.TryOn(l.t, node, l.WriterArgs(l.t, l.ledger, l.volume, fleet.WriterImage)...); r.Code != 0 {
			return "the container does not start on " + node + ": " + r.String()
		}
		return ""
	})
}
