package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// parsePlacement reads an option that says on which nodes the volume may be. Several labels and tolerations are parted by
// commas, which they can't hold themselves. It reports false for an option of another kind.
func parsePlacement(spec *mobyfs.VolumeSpec, key, value string) (ours bool, err error) {
	switch key {
	case "zone":
		spec.Zone = value
	case "apart":
		spec.Apart = value
	case "node-label":
		spec.NodeLabels = map[string]string{}
		for _, label := range strings.Split(value, ",") {
			name, text, _ := strings.Cut(label, "=")
			spec.NodeLabels[name] = text
		}
	case "toleration":
		spec.Tolerations = strings.Split(value, ",")
	default:
		return false, nil
	}
	if value == "" {
		return true, mobyfs.Errorf(mobyfs.CodeInvalid, "%s= says nothing", key).WithHint("leave it out, or give it a value")
	}
	return true, spec.CheckPlacement()
}

// differentPlacement tells in what the nodes differ on which a volume may be.
func differentPlacement(has, asked mobyfs.VolumeSpec) []string {
	var parts []string
	for _, o := range []struct {
		key, has, asked string
		alone           mobyfs.VolumeSpec // what is asked, and nothing else
	}{
		{"zone", has.Zone, asked.Zone, mobyfs.VolumeSpec{Zone: asked.Zone}},
		{"apart", has.Apart, asked.Apart, mobyfs.VolumeSpec{Apart: asked.Apart}},
		{"node-label", shownLabels(has.NodeLabels), shownLabels(asked.NodeLabels), mobyfs.VolumeSpec{NodeLabels: asked.NodeLabels}},
		{"toleration", shownWords(has.Tolerations), shownWords(asked.Tolerations), mobyfs.VolumeSpec{Tolerations: asked.Tolerations}},
	} {
		switch {
		case has.Meets(o.alone):
		case o.has == "":
			parts = append(parts, fmt.Sprintf("it has no %s, asked for was %s=%s", o.key, o.key, o.asked))
		default:
			parts = append(parts, fmt.Sprintf("it has %s=%s, asked for was %s=%s", o.key, o.has, o.key, o.asked))
		}
	}
	return parts
}

// shownLabels writes labels as they could have been given.
func shownLabels(labels map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, k+"="+labels[k])
	}
	return strings.Join(all, ",")
}

// shownWords likewise.
func shownWords(words []string) string { return strings.Join(words, ",") }
