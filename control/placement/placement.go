// Package placement chooses the node for a volume and says of every node why it was chosen or not. It is pure: the
// same question about the same nodes gets the same answer, in whichever order they became known.
//
// Filters refuse nodes; what is left is scored, and the highest score wins. Choose makes no texts and allocates nothing
// per node, for it is asked with each volume; Explain answers the same question in words.
package placement

import (
	"cmp"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Question is what a volume needs of a node.
type Question struct {
	Spec          mobyfs.VolumeSpec
	NeedBytes     int64  // of room that the node must promise
	ArrivingBytes int64  // that come to its disk at once
	From          string // the home that the volume has; never the answer; empty if it is new
	Here          string // the node that asks, which is there whether or not its session is known; empty if it is none
	Live          bool   // the volume moves while it is used
	Policy        Policy
	// Placing are the nodes for which others are being chosen at this moment, and how many. They are not preferred.
	Placing map[string]int

	release  release // of Policy.Version
	released bool
}

// ForNew asks for the home of a new volume.
func ForNew(spec mobyfs.VolumeSpec, p Policy) Question {
	q := Question{Spec: spec.WithDefaults(), Policy: p}
	q.release, q.released = releaseOf(p.Version)
	if !mobyfs.SharesBytes(q.Spec.Backend) {
		q.NeedBytes = spec.SizeBytes
	}
	return q
}

// ForMove asks where a volume can go that is to leave its home.
func ForMove(v mobyfs.Volume, p Policy) Question {
	q := ForNew(v.Spec, p)
	q.From = v.Node
	if !mobyfs.SharesBytes(q.Spec.Backend) {
		q.NeedBytes, q.ArrivingBytes = need(v), v.UsedBytes
	}
	return q
}

// Promises reports whether a node that takes the volume takes on what others must know of before they choose it too.
func (q Question) Promises() bool { return q.NeedBytes > 0 || q.Spec.Apart != "" }

// Choose picks the best of the nodes that no filter refuses; of equal ones that with more room, then with fewer volumes,
// then the first by name. It is empty if none fits.
func Choose(f *Field, q Question) string {
	s := newScorer(f, q)
	var best *Candidate
	var most int64
	for i := range f.candidates {
		c := &f.candidates[i]
		points := s.points(c)
		if best != nil && (points < most || points == most && !before(c, best, &q)) {
			continue // whether or not it fits, which takes longer to find out than its points
		}
		if refusal(f, c, &q) == nil {
			best, most = c, points
		}
	}
	if best == nil {
		return ""
	}
	return best.Node.Name
}

// before reports whether a is preferred to b though their scores are equal.
func before(a, b *Candidate, q *Question) bool {
	return cmp.Or(
		cmp.Compare(b.room(&q.Policy), a.room(&q.Policy)),
		cmp.Compare(a.Volumes, b.Volumes),
		strings.Compare(a.Node.Name, b.Node.Name)) < 0
}

// Fits reports whether a node, if there is one of the name, can take the volume.
func Fits(f *Field, q Question, node string) bool {
	c := f.find(node)
	return c != nil && refusal(f, c, &q) == nil
}
