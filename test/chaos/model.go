package chaos

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/mobyfs/mobyfs"
)

// state is what is true of one volume, as the model has it.
type state struct {
	next       int // index of the event that comes next
	fence      mobyfs.Fence
	home       string
	lease      string // its holder, "" for nobody
	leaseFence mobyfs.Fence
	migration  mobyfs.MigrationID
	to         string // the migration's destination, "" if no operation told it
	mount      bool   // its commit gives the lease
	vague      bool   // an event came whose meaning for the lease is not known
}

// step is what porcupine places in time: an event of the log, or something that was seen.
type step struct {
	event   *mobyfs.Event // number of which is index
	index   int
	seen    *mobyfs.Volume // the record as an answer told it
	holder  string         // who holds the lease
	fence   mobyfs.Fence   // of the lease
	alone   bool           // it may use the volume without asking while control is away, for its only bytes are there
	refused mobyfs.Code
}

// apply reports whether a step can follow a state, and what is true then. Events follow each other as the log has them;
// so all there is to find is a place among them for what was seen, within the time in which it was seen.
func (s state) apply(x step) (state, bool) {
	switch {
	case x.event != nil:
		if x.index != s.next {
			return s, false
		}
		now, err := s.follow(*x.event)
		return now, err == nil
	case x.seen != nil:
		return s, s.is(*x.seen)
	case x.holder != "":
		return s, s.vague || s.lease == x.holder && s.leaseFence == x.fence ||
			x.alone && s.home == x.holder && (s.lease == "" || s.lease == x.holder) && x.fence <= s.fence
	case x.refused == mobyfs.CodeInUse:
		return s, s.vague || s.lease != ""
	case x.refused == mobyfs.CodeMoving:
		return s, s.migration != ""
	}
	return s, true
}

// is reports whether a record tells this state.
func (s state) is(v mobyfs.Volume) bool {
	lease, fence := "", mobyfs.Fence(0)
	if v.Lease != nil {
		lease, fence = v.Lease.Node, v.Lease.Fence
	}
	var migration mobyfs.MigrationID
	if v.Migration != nil {
		migration = v.Migration.ID
	}
	return v.Fence == s.fence && v.Node == s.home && migration == s.migration &&
		(s.vague || lease == s.lease && fence == s.leaseFence)
}

// follow is the state after an event, or an error if the event can't follow this state: two leases at once, a fence that
// does not go up by one with each decision, a commit without a migration.
func (s state) follow(e mobyfs.Event) (state, error) {
	s.next++
	raise := func(decisions mobyfs.Fence) error {
		if e.Fence != s.fence+decisions && !newEpoch(s.fence, e.Fence) {
			return fmt.Errorf("%s: fence %d comes after %d", e.Text, e.Fence, s.fence)
		}
		s.fence = e.Fence
		return nil
	}
	same := func() error {
		if e.Fence != s.fence || e.Node != s.home {
			return fmt.Errorf("%s at fence %d on %s: it is %d on %s", e.Text, e.Fence, e.Node, s.fence, s.home)
		}
		return nil
	}
	free := func() error {
		switch {
		case s.lease != "" && !s.vague:
			return fmt.Errorf("%s, and %s has the lease", e.Text, s.lease)
		case s.migration != "":
			return fmt.Errorf("%s during migration %s", e.Text, s.migration)
		}
		return nil
	}
	give := func() { s.lease, s.leaseFence, s.vague = s.home, s.fence, false }
	end := func() { s.migration, s.to, s.mount = "", "", false }
	switch text := e.Text; {
	case text == "volume placed":
		if s.fence != 0 {
			return s, fmt.Errorf("it was placed before")
		}
		s.fence, s.home = e.Fence, e.Node
		return s, nil
	case text == "volume is ready", strings.HasPrefix(text, "volume is wanted"):
		return s, same()
	case text == "lease given":
		if err := free(); err != nil {
			return s, err
		}
		err := raise(1)
		give()
		return s, err
	case text == "lease given anew": // something was decided since it was given
		if s.lease != s.home && !s.vague {
			return s, fmt.Errorf("%s, and %s has not had it", e.Text, s.home)
		}
		err := raise(1)
		give()
		return s, err
	case text == "volume moved, lease given", text == "volume moved": // its bytes are everywhere
		if err := free(); err != nil {
			return s, err
		}
		err := raise(1)
		s.home = e.Node
		if text != "volume moved" {
			give()
		}
		return s, err
	case text == "lease released":
		if s.lease == "" && !s.vague {
			return s, fmt.Errorf("nobody had the lease that was released")
		}
		s.lease, s.leaseFence, s.vague = "", 0, false
		return s, raise(1)
	case strings.HasPrefix(text, takenOver): // whatever the silent node was about
		decisions := mobyfs.Fence(1)
		if s.migration != "" {
			decisions = 2 // its end is one
		}
		err := raise(decisions)
		if e.Node == s.home {
			err = fmt.Errorf("%s, which had it", text)
		}
		s.home = e.Node
		s.lease, s.leaseFence, s.vague = "", 0, false
		end()
		if isClaimed(e) {
			give()
		}
		return s, err
	case strings.HasPrefix(text, "migration begins"):
		if err := free(); err != nil {
			return s, err
		}
		s.migration, s.mount = e.Migration, strings.Contains(text, "container waits")
		return s, raise(1)
	case strings.HasPrefix(text, "a container waits"):
		s.mount = true
		return s, same()
	case text == "migration committed":
		if s.migration == "" {
			return s, fmt.Errorf("no migration was under way that could be committed")
		}
		err := raise(1)
		s.home = e.Node
		if s.mount {
			give()
		}
		end()
		return s, err
	case strings.HasPrefix(text, "migration aborted"), strings.HasPrefix(text, "migration cancelled"), strings.HasPrefix(text, "migration given up"):
		if s.migration == "" {
			return s, fmt.Errorf("no migration was under way that could be aborted")
		}
		end()
		if !strings.Contains(text, "lease given") {
			return s, raise(1)
		}
		err := raise(2) // the end and the lease are a decision each, in one transaction
		give()
		return s, err
	case text == "volume is being removed":
		if err := free(); err != nil {
			return s, err
		}
		return s, raise(1)
	case text == "volume is gone":
		return s, same()
	default: // the fence never goes back, whatever it was
		if e.Fence < s.fence {
			return s, fmt.Errorf("%s: fence %d comes after %d", text, e.Fence, s.fence)
		}
		s.fence, s.home, s.migration, s.vague = e.Fence, e.Node, e.Migration, true
		return s, nil
	}
}

// takenOver begins the events of takeovers.
const takenOver = "volume taken over from "

// isClaimed reports whether control gave the volume away by itself, for a node asked for the lease.
func isClaimed(e mobyfs.Event) bool {
	return strings.HasSuffix(e.Text, ": a container on "+e.Node+" wants it")
}

// newEpoch reports whether a fence begins a higher epoch: the store was restored from a backup.
func newEpoch(was, is mobyfs.Fence) bool { return is>>40 > was>>40 }

// model is how porcupine sees a volume.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state{} },
		Step: func(now, input, _ any) (bool, any) {
			next, ok := now.(state).apply(input.(step))
			return ok, next
		},
		DescribeOperation: func(input, _ any) string { return input.(step).String() },
		DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
	}
}

func (x step) String() string {
	switch {
	case x.event != nil:
		return fmt.Sprintf("%d: %s, fence %d, on %s, by %s", x.index, x.event.Text, x.event.Fence, x.event.Node, x.event.Who)
	case x.seen != nil:
		return fmt.Sprintf("seen: fence %d on %s, lease %+v, migration %+v", x.seen.Fence, x.seen.Node, x.seen.Lease, x.seen.Migration)
	case x.holder != "":
		return fmt.Sprintf("%s holds the lease at fence %d", x.holder, x.fence)
	}
	return "refused: " + string(x.refused)
}
