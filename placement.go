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

// labelHint says what labels, zones, racks and groups are made of.
const labelHint = "use up to 63 letters, digits and - _ . /, with a letter or digit at both ends"
