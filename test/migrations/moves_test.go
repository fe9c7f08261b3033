package migrations

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// TestMovesWithFaults: nothing acknowledged is lost, two never write, and the container runs or it is told why not, whatever
// fails in a move.
func TestMovesWithFaults(t *testing.T) {
	l := newLab(t, the, *seed)
	r := &report{seed: *seed, began: time.Now()}
	l.newVolume()
	defer func() { l.dropVolume() }()
	came := l.lookAround(r)
	all := came.faults(l.rng.IntN)
	if pattern := regexp.MustCompile(*only); *only != "" {
		all = slices.DeleteFunc(all, func(f fault) bool { return !pattern.MatchString(f.String()) })
	}
	if len(all) == 0 {
		t.Fatalf("no fault is left of those at %v", came)
	}
	t.Logf("%d faults can happen", len(all))
	for i := range *moves {
		if i%len(all) == 0 {
			l.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		}
		began := time.Now()
		if *until > 0 && began.Sub(r.began) > *until {
			break
		}
		o := l.try(all[i%len(all)])
		r.outcomes = append(r.outcomes, o)
		t.Logf("%3d %v: happened %t, moved %t, silent for %v, took %v%s", i+1, o.fault, o.happened, o.moved,
			o.gap.Round(10*time.Millisecond), time.Since(began).Round(100*time.Millisecond), strings.Repeat(", BAD", len(o.Lost)+len(o.Doubles)+len(o.wrong)))
		if !o.moved && o.kind != cancelled {
			t.Logf("    it stays: %s", strings.TrimSpace(o.said))
		}
		if o.bad() {
			t.Logf("    lost %v, two writers %v, else %q\n%s", o.Lost, o.Doubles, o.wrong, l.logs(began))
			l.ledgerOf(r)
			l.newVolume() // what is wrong with the other one stays for a look
		}
	}
	l.ledgerOf(r)
	t.Logf("\n%s", r.table())
	if problems := r.problems(); problems != "" {
		t.Errorf("promises that do not hold:\n%s", problems)
	}
	if *into != "" {
		writePage(t, r)
	}
}

// lookAround moves the volume once in each way, undisturbed, and finds out which moments the programs come to.
func (l *lab) lookAround(r *report) moments {
	l.t.Helper()
	came := moments{}
	for _, k := range kinds {
		from := l.Volume(l.t, l.volume).Node
		if from == controlHost { // its agent's moments and those of control are told apart by their names alone
			l.mobyctl(l.args(live, l.elsewhere(controlHost))...)
			if v, missing := l.quiet(); missing != "" || v.Node == controlHost {
				l.t.Fatalf("a move away from %s fails: %s", controlHost, missing)
			}
			from = l.Volume(l.t, l.volume).Node
		}
		to := l.elsewhere(controlHost, from)
		for _, h := range hostNames {
			if k != cancelled || h != to { // it is held there, by the same file
				l.arm(h, "* note always")
			}
		}
		o := l.tryTo(fault{kind: k}, to)
		came[k] = map[role][]string{}
		came[k][source], _ = split(l.noted(from))
		came[k][destination], _ = split(l.noted(to))
		_, came[k][control] = split(l.noted(controlHost))
		for _, h := range hostNames {
			l.disarm(h)
		}
		if o.bad() || o.moved == (k == cancelled) {
			l.t.Fatalf("an undisturbed move: %+v", o)
		}
		for role, at := range came[k] {
			l.t.Logf("%s move, %s: %s", k, role, strings.Join(at, " "))
		}
		r.outcomes = append(r.outcomes, o)
	}
	return came
}

// ledgerOf counts what was acknowledged of the volume.
func (l *lab) ledgerOf(r *report) { r.acked += len(l.ledger.Acks(l.volume)) }

// logs is what the agents and control have logged since.
func (l *lab) logs(since time.Time) string {
	var b strings.Builder
	for _, h := range hostNames {
		r := l.TryOn(l.t, h, "journalctl", "--no-pager", "-o", "cat", "-u", "mobyfs", "-u", "mobyfs-control", "--since", fmt.Sprintf("@%d", since.Unix()))
		fmt.Fprintf(&b, "--- %s\n%.20000s", h, r.Stdout)
	}
	return b.String()
}

func writePage(t *testing.T, r *report) {
	t.Helper()
	how := "`make chaos-moves`"
	if *until > 0 {
		how += fmt.Sprintf(", ended after %v,", *until)
	}
	page := "# Moves with faults\nMade by " + how + " on " + time.Now().Format(time.DateOnly) + " with " + runtime.Version() +
		": a volume is moved to and fro between three real hosts, with a fault in\neach move, while a container writes to it. What each line means tells `test/migrations/doc.go`.\n\n" + r.table()
	if err := os.WriteFile(*into, []byte(page), 0o644); err != nil {
		t.Error(err)
	}
}

// TestWithoutAskingControlTwoWritersAreFound: a source that lets its container go on without asking control, while the
// destination commits, is noticed. With the guard it is not, for then it is right.
func TestWithoutAskingControlTwoWritersAreFound(t *testing.T) {
	l := newLab(t, the, *seed)
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded %t", guarded), func(t *testing.T) {
			l.t = t
			l.ledger = l.Ledger(t)
			l.newVolume()
			defer l.dropVolume()
			from := l.Volume(t, l.volume).Node
			to := l.elsewhere(from)
			if !guarded {
				l.Sh(t, from, `mkdir -p /run/systemd/system/mobyfs.service.d && printf '[Service]\nEnvironment=MOBYFS_WITHOUT=thaw\n' >/run/systemd/system/mobyfs.service.d/without.conf && systemctl daemon-reload`)
				defer l.Sh(t, from, `rm -r /run/systemd/system/mobyfs.service.d && systemctl daemon-reload && systemctl restart mobyfs`)
			}
			l.arm(to, "agent.commit.before hold")
			l.mobyctl(append(l.args(live, to), "--detach")...)
			fleet.Eventually(t, moveWithin, func() string {
				if !l.held(to) {
					return "the destination does not come to its commit"
				}
				return ""
			})
			before := len(l.ledger.Acks(l.volume))
			l.Sh(t, from, "systemctl kill -s KILL mobyfs")
			fleet.Eventually(t, settleWithin, func() string { // the next life finds the freeze, and lets it go on
				if len(l.ledger.Acks(l.volume)) < before+5 {
					return "the container does not go on"
				}
				return ""
			})
			l.disarm(to)
			fleet.Eventually(t, settleWithin, func() string {
				if v, ok := l.record(); !ok || v.Migration != nil || guarded && v.Node == from {
					return "the move does not end"
				}
				return ""
			})
			fleet.Writes(t, l.ledger, l.volume, settleWithin)
			verdict := l.Judge(t, l.ledger, l.Volume(t, l.volume))
			t.Logf("%d records are lost, %d times two wrote; the first: %v", len(verdict.Lost), len(verdict.Doubles), first(append(verdict.Lost, verdict.Doubles...)))
			if found := len(verdict.Lost)+len(verdict.Doubles) > 0; found == guarded {
				t.Errorf("guarded %t: %+v", guarded, verdict)
			}
		})
	}
}
