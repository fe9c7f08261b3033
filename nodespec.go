package mobyfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// NodeSpec is what a description of the cluster, such as cluster.yaml, says of a node. What it leaves empty it says nothing of.
type NodeSpec struct {
	Zone   string            `json:"zone,omitempty"`
	Rack   string            `json:"rack,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Taints []Taint           `json:"taints,omitempty"`
}

// Check tells what is wrong with it, or nil.
func (s NodeSpec) Check() error {
	if err := (Node{Zone: s.Zone, Rack: s.Rack, Labels: s.Labels}).CheckLabels(); err != nil {
		return err
	}
	return CheckTaints(s.Taints)
}

// Empty reports whether it says nothing.
func (s NodeSpec) Empty() bool { return len(s.said()) == 0 }

// Equal reports whether two say the same.
func (s NodeSpec) Equal(other NodeSpec) bool { return maps.Equal(s.said(), other.said()) }

// said is each thing that is said, by what it is said of.
func (s NodeSpec) said() map[string]string {
	all := map[string]string{}
	if s.Zone != "" {
		all["zone"] = s.Zone
	}
	if s.Rack != "" {
		all["rack"] = s.Rack
	}
	for k, v := range s.Labels {
		all["label "+k] = v
	}
	for _, t := range s.Taints {
		all[t.what()] = t.Value
	}
	return all
}

func (t Taint) what() string { return "taint " + t.Key + ":" + string(t.Effect) }

// Spec is what is said of the node now, by whomever.
func (n Node) Spec() NodeSpec {
	return NodeSpec{Zone: n.Zone, Rack: n.Rack, Labels: n.Labels, Taints: n.Taints}
}

// Description is what a description said of the node last.
func (n Node) Description() NodeSpec {
	if n.Described == nil {
		return NodeSpec{}
	}
	return *n.Described
}

// Describe is the node once a description says next of it. Only what the description says otherwise than last time is
// changed, and of that only what is still as it said then: what an operator has set stays, until it is what the
// description says.
func (n Node) Describe(next NodeSpec) Node {
	is, was, wanted := n.Spec().said(), n.Description().said(), next.said()
	after := maps.Clone(is)
	for what := range union(was, wanted) {
		if is, was := valueOf(is, what), valueOf(was, what); is != was {
			continue // somebody has set it
		}
		if value, ok := wanted[what]; ok {
			after[what] = value
		} else {
			delete(after, what)
		}
	}
	taints := append(slices.Clone(n.Taints), next.Taints...)
	n.Zone, n.Rack, n.Labels, n.Taints = after["zone"], after["rack"], nil, nil
	for what, value := range after {
		if key, ok := strings.CutPrefix(what, "label "); ok {
			if n.Labels == nil {
				n.Labels = map[string]string{}
			}
			n.Labels[key] = value
		}
	}
	for _, t := range taints {
		if value, ok := after[t.what()]; ok {
			t.Value = value
			n.Taints = append(n.Taints, t)
			delete(after, t.what())
		}
	}
	n.Described = nil
	if !next.Empty() {
		n.Described = &next
	}
	return n
}

// Undescribed says in words what of the node is not as its description says, because somebody has set it otherwise.
func (n Node) Undescribed() []string {
	var all []string
	is, wanted := n.Spec().said(), n.Description().said()
	for _, what := range slices.Sorted(maps.Keys(wanted)) {
		if has, wants := valueOf(is, what), valueOf(wanted, what); has != wants {
			all = append(all, fmt.Sprintf("%s is %s and not %s", what, has, wants))
		}
	}
	return all
}

// Changes says in words what differs once s is next.
func (s NodeSpec) Changes(next NodeSpec) []string {
	var all []string
	is, will := s.said(), next.said()
	for _, what := range slices.Sorted(maps.Keys(union(is, will))) {
		if is, will := valueOf(is, what), valueOf(will, what); is != will {
			all = append(all, fmt.Sprintf("%s %s → %s", what, is, will))
		}
	}
	return all
}

// value is what is said of something, if it is.
type value struct {
	text string
	ok   bool
}

func valueOf(said map[string]string, what string) value {
	text, ok := said[what]
	return value{text, ok}
}

func (v value) String() string {
	switch {
	case !v.ok:
		return "none"
	case v.text == "":
		return `""`
	}
	return v.text
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
