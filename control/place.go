package control

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
)

// place chooses the home for a new volume: the asked node, if there is one asked, or the best. here is the node that
// asks, if it is one. What the volume needs there is promised to nobody else if the transaction commits.
func (c *Control) place(tx *store.Tx, mine *choice, name string, spec mobyfs.VolumeSpec, asked, here string) (string, error) {
	q := placement.ForNew(spec, c.cfg.Placement)
	what := "volume " + strconv.Quote(name)
	if asked != "" {
		if err := mobyfs.CheckNodeName(asked); err != nil {
			return "", err
		}
		if asked == here {
			q.Here = here
		}
		return asked, c.takes(tx, asked, what, q)
	}
	node, verdicts, err := c.choose(tx, mine, q)
	if err != nil || node != "" {
		return node, err
	}
	return "", unfit{noPlace(what, verdicts), verdicts}
}

// chooseFor chooses where a volume goes that has to leave its home, as place does for a new one. If no node can take it,
// the verdicts say why each can't, and so does the error; they are nil otherwise.
func (c *Control) chooseFor(tx *store.Tx, v mobyfs.Volume) (node string, verdicts []mobyfs.Verdict, err error) {
	return c.chooseBy(tx, v, c.forMove(v, false))
}

// chooseBy is chooseFor with a question of its own.
func (c *Control) chooseBy(tx *store.Tx, v mobyfs.Volume, q placement.Question) (node string, verdicts []mobyfs.Verdict, err error) {
	node, verdicts, err = c.choose(tx, nil, q)
	if err == nil && node == "" {
		err = noPlace(title(v), verdicts)
	}
	return node, verdicts, err
}

// choose picks the best node and promises it what is needed there. If there is none, the verdicts say why.
func (c *Control) choose(tx *store.Tx, mine *choice, q placement.Question) (node string, verdicts []mobyfs.Verdict, err error) {
	node, err = c.promise(tx, q, func(f *placement.Field) (string, error) {
		verdicts = nil
		chosen := c.placing.choose(mine, f, q)
		if chosen == "" {
			verdicts = placement.Explain(f, q)
		}
		return chosen, nil
	})
	return node, verdicts, err
}

// takes is nil if the node can take what is asked for, which is promised then, and says why not otherwise.
func (c *Control) takes(tx *store.Tx, node, what string, q placement.Question) error {
	_, err := c.promise(tx, q, func(f *placement.Field) (string, error) {
		candidate, known := f.Candidate(node)
		if !known {
			return "", notJoined(node, f, q.Here == node)
		}
		if verdict, _ := placement.Judge(f, q, node); !verdict.Fits {
			return "", unfit{refused(what, candidate.Node, verdict), []mobyfs.Verdict{verdict}}
		}
		return node, nil
	})
	return err
}

// staysApart is nil if no other volume of its group is on the node to which a volume goes, and none will be if the
// transaction commits. It asks nothing else of the node: the bytes of the volume go nowhere.
func (c *Control) staysApart(tx *store.Tx, v mobyfs.Volume, node string) error {
	if v.Spec.Apart == "" || v.Migration != nil && v.Migration.To == node { // it was asked when the migration began
		return nil
	}
	q := placement.ForMove(v, c.cfg.Placement)
	_, err := c.promise(tx, q, func(f *placement.Field) (string, error) {
		if _, known := f.Candidate(node); !known {
			return "", notJoined(node, f, true)
		}
		if other := placement.Together(f, q, node); other != "" {
			return "", mobyfs.Errorf(mobyfs.CodeInUse, "%s can't go to %s: it %s", title(v), node, other).
				WithHint("use it on another node, or move the other one away first; mobyctl volume ls tells where each is")
		}
		return node, nil
	})
	return err
}

// roomFor is nil if a node can promise so many bytes more to what is there already, and promises them.
func (c *Control) roomFor(tx *store.Tx, node, what string, more int64) error {
	_, err := c.promise(tx, placement.Question{NeedBytes: more}, func(f *placement.Field) (string, error) {
		n, known := f.Candidate(node)
		if !known {
			return "", notJoined(node, f, false)
		}
		if !n.Node.Ready {
			return "", refused(what, n.Node, mobyfs.Verdict{Filter: placement.NotReady})
		}
		if room := max(n.Room(c.cfg.Placement), 0); room < more {
			return "", mobyfs.Errorf(mobyfs.CodeNoSpace, "%s can't have %s more on %s: %s free for new volumes", what,
				humanize.IBytes(uint64(more)), node, humanize.IBytes(uint64(room))).
				WithHint("make room there, or move it to another node")
		}
		return node, nil
	})
	return err
}

// planMoves are the moves after which no node is fuller by minGain, of 1, than others that could have its volumes.
func (c *Control) planMoves(minGain float64) []placement.Move {
	var f *placement.Field
	var all []mobyfs.Volume
	c.store.View(func(view store.View) {
		f = view.Field().Clone()
		all = slices.Collect(view.Volumes)
	})
	return placement.Rebalance(f, all, c.cfg.Placement, minGain)
}

// promiseWait is how long a decision waits for what this process does not know yet.
const promiseWait = 5 * time.Second

// promise lets decide choose a node until its choice rests on what the node is now and on all that has been promised
// there. Two control processes that promise something to one node at once both change the node's record of promises, so
// that only one commits; the other decides again, and knows of the first. Likewise nothing comes to a node that is being
// cordoned. Killed before the commit, nothing is promised; after it, the volume's record says what is. What needs no room
// and has no group promises nothing, and only asks that the node stays what it is.
func (c *Control) promise(tx *store.Tx, q placement.Question, decide func(f *placement.Field) (string, error)) (string, error) {
	for {
		var node string
		var know known
		var err error
		c.store.View(func(view store.View) {
			node, err = decide(view.Field())
			know = known{store.Nodes.Known(view, node), store.Promises.Known(view, node)}
		})
		if err != nil || node == "" {
			return node, err
		}
		fresh, err := c.isFresh(tx, node, know, q.Promises())
		if err != nil {
			return "", err
		}
		if !fresh {
			continue
		}
		if q.Promises() {
			err = store.Promises.Put(tx, node, store.Promise{Node: node, At: c.now().UTC()})
		}
		return node, err
	}
}

// known are the revisions up to which a decision knew a node, and what was promised there.
type known struct{ node, promised int64 }

// isFresh reports whether a decision knew the newest that the store has. If it did not, it waits until this process does.
func (c *Control) isFresh(tx *store.Tx, node string, know known, promises bool) (bool, error) {
	written, err := store.Nodes.Revision(tx, node)
	switch {
	case err != nil:
		return false, err
	case written == 0:
		return false, mobyfs.Errorf(mobyfs.CodeUnavailable, "%s was forgotten a moment ago", node).WithHint("try again")
	case written > know.node:
		return false, await(tx.Context(), c.store, store.Nodes, node, written)
	case !promises:
		return true, nil
	}
	if written, err = store.Promises.Revision(tx, node); err != nil || written <= know.promised {
		return err == nil, err
	}
	return false, await(tx.Context(), c.store, store.Promises, node, written)
}

// await waits until this process knows what was written of a node at a revision.
func await[T any](ctx context.Context, s *store.Store, table store.Table[T], node string, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, promiseWait)
	defer cancel()
	if err := table.Await(ctx, s, node, revision); err != nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "wait for what is new of %s: %w", node, err).
			WithHint("try again; if it persists, look into the journal of mobyfs-control")
	}
	return nil
}

// placing are the nodes that this process is choosing, so that those who choose at the same moment prefer others and do
// not get into each other's way. That none is chosen for too much is up to promise.
type placing struct {
	mu    sync.Mutex
	nodes map[string]int
}

// choice is a node that is being chosen, from when it is until the transaction has ended.
type choice struct{ node string }

// choose is placement.Choose with regard to what others choose. mine is the choice that it makes, in place of the one
// before; nil if others need not know of it.
func (p *placing) choose(mine *choice, f *placement.Field, q placement.Question) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if mine != nil {
		p.drop(mine)
	}
	q.Placing = p.nodes
	node := placement.Choose(f, q)
	if mine != nil && node != "" {
		mine.node = node
		p.nodes[node]++
	}
	return node
}

// done must be called once the transaction has ended, if it was one that chose.
func (p *placing) done(mine *choice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(mine)
}

func (p *placing) drop(mine *choice) {
	if mine.node == "" {
		return
	}
	if p.nodes[mine.node]--; p.nodes[mine.node] == 0 {
		delete(p.nodes, mine.node)
	}
	mine.node = ""
}

// noPlace says why no node can take something.
func noPlace(what string, verdicts []mobyfs.Verdict) error {
	why := placement.Summary(verdicts)
	if !slices.ContainsFunc(verdicts, func(v mobyfs.Verdict) bool { return v.Filter != placement.NotReady }) {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "no node is there for %s: %s", what, why).
			WithHint("start mobyfs.service on the nodes")
	}
	return mobyfs.Errorf(mobyfs.CodeNoSpace, "no node can take %s: %s", what, why).
		WithHint("make room, add a node, or ask for less; mobyctl volume create --dry-run --explain tells of each node")
}

// refused says why a node can't take something.
func refused(what string, n mobyfs.Node, v mobyfs.Verdict) error {
	switch v.Filter {
	case placement.NotReady:
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s can't go to %s: it is silent since %s", what, n.Name, n.LastSeenAt.Format(time.RFC3339)).
			WithHint("start %s or its mobyfs.service, then try again", n.Name)
	case placement.Closed:
		return mobyfs.Errorf(mobyfs.CodeNoSpace, "%s can't go to %s: it is %s", what, n.Name, v.Reason).
			WithHint("choose another node; mobyctl node uncordon %s opens one that is cordoned", n.Name)
	case placement.NoRoom, placement.NoDisk:
		return mobyfs.Errorf(mobyfs.CodeNoSpace, "%s can't go to %s: %s", what, n.Name, v.Reason).
			WithHint("make room there, or choose another node")
	}
	return mobyfs.Errorf(mobyfs.CodeNoSpace, "%s can't go to %s: %s", what, n.Name, v.Reason).
		WithHint("choose another node; mobyctl node inspect %s tells of it", n.Name)
}

// notJoined says that there is no such node, or not yet.
func notJoined(node string, f *placement.Field, here bool) error {
	if here {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s has not joined the cluster yet: it has not reported", node).
			WithHint("try again in a moment")
	}
	names := map[string]bool{}
	for c := range f.All() {
		names[c.Node.Name] = true
	}
	return mobyfs.Errorf(mobyfs.CodeNotFound, "there is no node %q", node).
		WithHint("the nodes are: %s", cmp.Or(strings.Join(slices.Sorted(maps.Keys(names)), ", "), "none yet"))
}

// noNode says that there is no such node.
func (c *Control) noNode(node string) (err error) {
	c.store.View(func(view store.View) { err = notJoined(node, view.Field(), false) })
	return err
}
