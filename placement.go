package mobyfs

import (
	"maps"
	"slices"
	"strings"
)

// Bounds of what a spec may ask of nodes.
const (
	maxAskedLabels = 16
	maxTolerations = 16
)

// CheckPlacement tells what is wrong with what a spec asks of the node of its volume, or nil.
func (s VolumeSpec) CheckPlacement() error {
	for _, word := range []struct{ option, text string }{{"zone", s.Zone}, {"apart", s.Apart}} {
		if word.text != "" && !labelKey.MatchString(word.text) {
			return Errorf(CodeInvalid, "%.80q can't be the %s of a volume", word.text, word.option).WithHint(labelHint)
		}
	}
	if len(s.NodeLabels) > maxAskedLabels {
		return Errorf(CodeInvalid, "a volume can't ask for %d labels of its node, %d are the most", len(s.NodeLabels), maxAskedLabels).
			WithHint("ask for less, or give the nodes one label that says it all")
	}
	for _, k := range slices.Sorted(maps.Keys(s.NodeLabels)) {
		if v := s.NodeLabels[k]; !labelKey.MatchString(k) || v != "" && !labelKey.MatchString(v) {
			return Errorf(CodeInvalid, "%.80q can't be the label of a node", k+"="+v).WithHint(labelHint)
		}
	}
	if len(s.Tolerations) > maxTolerations {
		return Errorf(CodeInvalid, "a volume can't have %d tolerations, %d are the most", len(s.Tolerations), maxTolerations).
			WithHint("leave the values out: KEY tolerates all of them")
	}
	for _, t := range s.Tolerations {
		key, value, valued := strings.Cut(t, "=")
		if !labelKey.MatchString(key) || valued && !labelKey.MatchString(value) {
			return Errorf(CodeInvalid, "%.80q is no toleration", t).WithHint("write KEY, or KEY=VALUE, as in the taint of the node")
		}
	}
	return nil
}

// Verdict says of one node whether it can take a volume, and why, in words.
type Verdict struct {
	Node   string  `json:"node"`
	Fits   bool    `json:"fits"`
	Reason string  `json:"reason" doc:"in words"`
	Filter string  `json:"filter,omitempty" doc:"which refused it; empty if it fits"`
	Score  float64 `json:"score" doc:"of a node that fits: 100 at best, negative if it would rather not be used"`
	Scores []Score `json:"scores,omitempty" doc:"of which the score is made"`
}

// Score is what one thing adds to the score of a node.
type Score struct {
	Name   string  `json:"name"`
	Points float64 `json:"points" doc:"of 100, before they are weighted"`
	Weight float64 `json:"weight" doc:"share of the score"`
}

// labelHint says what labels, zones, racks and groups are made of.
const labelHint = "use up to 63 letters, digits and - _ . /, with a letter or digit at both ends"
