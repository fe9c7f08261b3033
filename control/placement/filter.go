package placement

import (
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
)

// filter refuses nodes for one reason.
type filter struct {
	name    string // as verdicts show it
	refuses func(f *Field, c *Candidate, q *Question) bool
	words   func(f *Field, c *Candidate, q *Question) string // of a node that it refuses
}

// Filters that callers tell apart.
const (
	NotReady = "ready"        // the node has no session
	Closed   = "availability" // it is cordoned, draining, drained or evicted
	NoRoom   = "room"         // it has promised what it has
	NoDisk   = "disk"         // its disk is full
)

// filters are all that there are. The first that refuses a node is the one that is told.
var filters = []filter{
	{NotReady, notReady, says("not ready")},
	{Closed, unavailable, func(_ *Field, c *Candidate, _ *Question) string { return string(c.Node.Use()) }},
	{"home", isHome, says("its home now")},
	{"taint", tainted, taintWords},
	{"zone", inOtherZone, zoneWords},
	{"labels", lacksLabel, labelWords},
	{"backend", lacksBackend, backendWords},
	{"apart", isApart, groupWords},
	{"version", isFar, func(_ *Field, c *Candidate, q *Question) string {
		return fmt.Sprintf("runs %s, more than one minor version away from control's %s", c.Node.Version, q.Policy.Version)
	}},
	{"live", lacksLive, says("runs a mobyfs that can't take volumes while they are used")},
	{"capacity", unmeasured, says("has not told its capacity")},
	{NoRoom, tooFull, roomWords},
	{NoDisk, wouldOverflow, diskWords},
}

// refusal is the first filter that refuses a node, nil if it can take the volume.
func refusal(f *Field, c *Candidate, q *Question) *filter {
	for i := range filters {
		if filters[i].refuses(f, c, q) {
			return &filters[i]
		}
	}
	return nil
}

func says(text string) func(*Field, *Candidate, *Question) string {
	return func(*Field, *Candidate, *Question) string { return text }
}

func notReady(_ *Field, c *Candidate, q *Question) bool {
	return !c.Node.Ready && c.Node.Name != q.Here
}

func unavailable(_ *Field, c *Candidate, _ *Question) bool {
	return c.Node.Availability != "" && c.Node.Availability != mobyfs.NodeActive
}

func isHome(_ *Field, c *Candidate, q *Question) bool { return q.From != "" && c.Node.Name == q.From }

func tainted(_ *Field, c *Candidate, q *Question) bool {
	return len(c.Node.Taints) > 0 && untolerated(c, q, mobyfs.TaintNoPlace) != nil
}

// untolerated is the first taint of an effect that the volume does not tolerate, or nil.
func untolerated(c *Candidate, q *Question, effect mobyfs.TaintEffect) *mobyfs.Taint {
	for i := range c.Node.Taints {
		if t := &c.Node.Taints[i]; t.Effect == effect && !t.Tolerated(q.Spec.Tolerations) {
			return t
		}
	}
	return nil
}

func taintWords(_ *Field, c *Candidate, q *Question) string {
	return fmt.Sprintf("has the taint %s, which is not tolerated", untolerated(c, q, mobyfs.TaintNoPlace))
}

func inOtherZone(_ *Field, c *Candidate, q *Question) bool {
	return q.Spec.Zone != "" && c.Node.Zone != q.Spec.Zone
}

func zoneWords(_ *Field, c *Candidate, q *Question) string {
	if c.Node.Zone == "" {
		return "in no zone, not in " + q.Spec.Zone
	}
	return "in zone " + c.Node.Zone + ", not in " + q.Spec.Zone
}

func lacksLabel(_ *Field, c *Candidate, q *Question) bool {
	for k, v := range q.Spec.NodeLabels {
		if has, ok := c.Node.Labels[k]; !ok || has != v {
			return true
		}
	}
	return false
}

func labelWords(_ *Field, c *Candidate, q *Question) string {
	var worst string // the first by name, so that the words are the same each time
	for k, v := range q.Spec.NodeLabels {
		if has, ok := c.Node.Labels[k]; (!ok || has != v) && (worst == "" || k < worst) {
			worst = k
		}
	}
	if has, ok := c.Node.Labels[worst]; ok {
		return fmt.Sprintf("has the label %s=%s, not %s=%s", worst, has, worst, q.Spec.NodeLabels[worst])
	}
	return fmt.Sprintf("lacks the label %s=%s", worst, q.Spec.NodeLabels[worst])
}

func lacksBackend(_ *Field, c *Candidate, q *Question) bool {
	if len(c.Node.Backends) == 0 { // it has not said which it has, and an older one has no others than these
		return mobyfs.BoundsSize(q.Spec.Backend)
	}
	for _, b := range c.Node.Backends {
		if b == q.Spec.Backend {
			return false
		}
	}
	return true
}

func backendWords(_ *Field, _ *Candidate, q *Question) string {
	return "does not keep volumes of the backend " + q.Spec.Backend
}

func isApart(f *Field, c *Candidate, q *Question) bool {
	return q.Spec.Apart != "" && f.others(q, c.Node.Name) > 0
}

func groupWords(_ *Field, _ *Candidate, q *Question) string {
	return fmt.Sprintf("has another volume of the group %s", q.Spec.Apart)
}

// Together says in words that a node has another volume of the group of the one that is asked about, or "".
func Together(f *Field, q Question, node string) string {
	c, known := f.Candidate(node)
	if !known || !isApart(f, &c, &q) {
		return ""
	}
	return groupWords(f, &c, &q)
}

func isFar(_ *Field, c *Candidate, q *Question) bool {
	return c.released && q.released && c.release.far(q.release)
}

func lacksLive(_ *Field, c *Candidate, q *Question) bool { return q.Live && !c.Node.Live }

func unmeasured(_ *Field, c *Candidate, q *Question) bool {
	return c.Node.Capacity.TotalBytes <= 0 && !mobyfs.SharesBytes(q.Spec.Backend)
}

func tooFull(_ *Field, c *Candidate, q *Question) bool {
	if mobyfs.SharesBytes(q.Spec.Backend) {
		return false
	}
	room := c.room(&q.Policy)
	return room < q.NeedBytes || room <= 0
}

func roomWords(_ *Field, c *Candidate, q *Question) string {
	return fmt.Sprintf("%s free for new volumes, %s needed", bytes(max(c.room(&q.Policy), 0)), bytes(q.NeedBytes))
}

// Room is what the node can promise to more volumes, in bytes; negative if it has promised too much.
func (c Candidate) Room(p Policy) int64 { return c.room(&p) }

func (c *Candidate) room(p *Policy) int64 {
	used := max(c.Node.Capacity.TotalBytes-c.Node.Capacity.FreeBytes, 0)
	return p.limit(c.Node.Capacity.TotalBytes) - used - c.PromisedBytes
}

// wouldOverflow looks at the disk as it is, of which more may be promised than there is.
func wouldOverflow(_ *Field, c *Candidate, q *Question) bool {
	if mobyfs.SharesBytes(q.Spec.Backend) {
		return false
	}
	disk := c.disk(&q.Policy)
	return disk < q.ArrivingBytes || disk <= 0
}

// disk is what is free on the disk beside the headroom and what is on its way, in bytes.
func (c *Candidate) disk(p *Policy) int64 {
	return c.Node.Capacity.FreeBytes - p.headroom(c.Node.Capacity.TotalBytes) - c.ArrivingBytes
}

func diskWords(_ *Field, c *Candidate, q *Question) string {
	return fmt.Sprintf("%s free on its disk, %s would come", bytes(max(c.disk(&q.Policy), 0)), bytes(q.ArrivingBytes))
}

func bytes(n int64) string { return humanize.IBytes(uint64(n)) }
