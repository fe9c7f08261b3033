package placement

import "github.com/mobyfs/mobyfs"

// one is the best that a node can get for one thing, in points.
const one = 1_000_000

// What makes a node better, and how much each counts.
const (
	byRoom    = iota // how much of it is left for volumes, or with BinPack how little
	byVolumes        // how few volumes it has, against the average; or how many
	byZone           // how few volumes of the group are in its zone, or how few of all
	byChurn          // how few volumes come, go or are made there now
	byTaint          // whether it has a prefer-not taint: then it comes after all nodes that have none
	kinds
)

var scoreNames = [kinds]string{"room", "volumes", "zone", "churn", "taint"}

// weights of the scores. That of a taint is more than all the others together.
var weights = [kinds]int64{10, 2, 4, 2, 18}

// perfect is the most points that a node can have: those of all but the taint, which can only take away.
const perfect = (10 + 2 + 4 + 2) * one

// scorer gives points to the nodes of a field for one question.
type scorer struct {
	f     *Field
	q     Question
	zones []int64 // points of each zone
	mean  float64 // volumes of a node
}

func newScorer(f *Field, q Question) scorer {
	s := scorer{f: f, q: q, zones: make([]int64, len(f.zones))}
	s.mean = float64(f.volumes) / float64(max(len(f.candidates), 1))
	if q.Spec.Apart == "" {
		for i, z := range f.zones {
			s.zones[i] = few(float64(z.volumes)/float64(max(z.nodes, 1)), s.mean)
		}
		return s
	}
	counts := make([]int, len(f.zones))
	for node := range f.groups[q.Spec.Apart] {
		if c := f.find(node); c != nil {
			counts[c.zone] += f.others(&q, node)
		}
	}
	for i, n := range counts {
		s.zones[i] = few(float64(n), 0)
	}
	return s
}

// few are points for having little of something, against what is usual: all for nothing, about half for the usual.
func few(n, usual float64) int64 { return int64(one * (usual + 1) / (usual + 1 + n)) }

// points are those of a node.
func (s *scorer) points(c *Candidate) int64 {
	room, volumes, zone, churn, taint := s.each(c)
	return weights[byRoom]*room + weights[byVolumes]*volumes + weights[byZone]*zone + weights[byChurn]*churn + weights[byTaint]*taint
}

// each tells the points of a node for each thing.
func (s *scorer) each(c *Candidate) (room, volumes, zone, churn, taint int64) {
	room, volumes = s.room(c), few(float64(c.Volumes), s.mean)
	if s.q.Policy.Strategy == BinPack {
		room, volumes = one-room, one-volumes
	}
	if len(c.Node.Taints) > 0 && untolerated(c, &s.q, mobyfs.TaintPreferNot) != nil {
		taint = -one
	}
	return room, volumes, s.zones[c.zone], s.churn(c), taint
}

// room are points for the share of the node that is left for others once the volume is there.
func (s *scorer) room(c *Candidate) int64 {
	limit := s.q.Policy.limit(c.Node.Capacity.TotalBytes)
	if limit <= 0 || mobyfs.SharesBytes(s.q.Spec.Backend) {
		return 0
	}
	left := float64(c.room(&s.q.Policy)-s.q.NeedBytes) / float64(limit)
	return int64(one * min(max(left, 0), 1))
}

func (s *scorer) churn(c *Candidate) int64 {
	n := c.Moves
	if len(s.q.Placing) > 0 {
		n += s.q.Placing[c.Node.Name]
	}
	return few(float64(n), 0)
}
