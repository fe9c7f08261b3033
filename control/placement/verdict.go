package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Explain says of every node what Choose makes of it. The verdicts are in the order of preference, and those that can't
// take the volume come last, by name.
func Explain(f *Field, q Question) []mobyfs.Verdict {
	s := newScorer(f, q)
	verdicts := make([]mobyfs.Verdict, 0, len(f.candidates))
	points := make(map[string]int64, len(f.candidates))
	for i := range f.candidates {
		c := &f.candidates[i]
		points[c.Node.Name] = s.points(c)
		verdicts = append(verdicts, s.judge(c))
	}
	slices.SortFunc(verdicts, func(a, b mobyfs.Verdict) int {
		switch {
		case !a.Fits && !b.Fits:
			return strings.Compare(a.Node, b.Node)
		case !a.Fits:
			return 1
		case !b.Fits:
			return -1
		case points[a.Node] != points[b.Node]:
			return cmp.Compare(points[b.Node], points[a.Node])
		case before(f.find(a.Node), f.find(b.Node), &q):
			return -1
		default:
			return 1
		}
	})
	return verdicts
}

// Judge is Explain of one node. It reports false if there is none of the name.
func Judge(f *Field, q Question, node string) (mobyfs.Verdict, bool) {
	c := f.find(node)
	if c == nil {
		return mobyfs.Verdict{}, false
	}
	s := newScorer(f, q)
	return s.judge(c), true
}

func (s *scorer) judge(c *Candidate) mobyfs.Verdict {
	v := mobyfs.Verdict{Node: c.Node.Name}
	if no := refusal(s.f, c, &s.q); no != nil {
		v.Filter, v.Reason = no.name, no.words(s.f, c, &s.q)
		return v
	}
	v.Fits, v.Reason = true, s.praise(c)
	v.Score = float64(s.points(c)) * 100 / perfect
	room, volumes, zone, churn, taint := s.each(c)
	for kind, points := range [kinds]int64{byRoom: room, byVolumes: volumes, byZone: zone, byChurn: churn, byTaint: taint} {
		if kind == byTaint && points == 0 {
			continue
		}
		v.Scores = append(v.Scores, mobyfs.Score{
			Name: scoreNames[kind], Points: float64(points) * 100 / one, Weight: float64(weights[kind]) * one / perfect,
		})
	}
	return v
}

// praise says of a node that fits what it has to give.
func (s *scorer) praise(c *Candidate) string {
	text := "all nodes see the bytes"
	if !mobyfs.SharesBytes(s.q.Spec.Backend) {
		text = bytes(c.room(&s.q.Policy)) + " free for new volumes"
	}
	if t := untolerated(c, &s.q, mobyfs.TaintPreferNot); t != nil {
		text += ", but has the taint " + t.String()
	}
	return text
}

// fewNodes is of how many nodes Summary speaks one by one.
const fewNodes = 8

// Summary puts verdicts into one line: of each node if there are few, and else how many nodes which filter refuses.
func Summary(verdicts []mobyfs.Verdict) string {
	if len(verdicts) == 0 {
		return "no node has joined the cluster"
	}
	if len(verdicts) <= fewNodes {
		parts := make([]string, len(verdicts))
		for i, v := range verdicts {
			parts[i] = v.Node + ": " + v.Reason
		}
		return strings.Join(parts, "; ")
	}
	by := map[string][]mobyfs.Verdict{}
	for _, v := range verdicts {
		by[v.Filter] = append(by[v.Filter], v)
	}
	var parts []string
	for _, f := range filters {
		if some := by[f.name]; len(some) > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d nodes (%s: %s)", f.name, len(some), some[0].Node, some[0].Reason))
		}
	}
	if fit := by[""]; len(fit) > 0 {
		parts = append(parts, fmt.Sprintf("fit: %d nodes", len(fit)))
	}
	return strings.Join(parts, "; ")
}
