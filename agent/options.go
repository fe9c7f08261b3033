package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"github.com/mobyfs/mobyfs"
)

// optionNames are the options that docker volume create -o may give.
var optionNames = []string{"backend", "size"}

// parseOptions makes a spec of Docker's options. An error names the option and never shows the value of one that is
// not known: it may be a secret.
func parseOptions(opts map[string]string, backends []string) (mobyfs.VolumeSpec, error) {
	var spec mobyfs.VolumeSpec
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		value := opts[key]
		switch key {
		case "size":
			size, err := mobyfs.ParseSize(value)
			if err != nil {
				return spec, err
			}
			spec.SizeBytes = size
		case "backend":
			if !slices.Contains(backends, value) {
				return spec, mobyfs.Errorf(mobyfs.CodeInvalid, "there is no backend %.40q", value).
					WithHint("%s", suggest(value, backends))
			}
			spec.Backend = value
		default:
			return spec, mobyfs.Errorf(mobyfs.CodeInvalid, "there is no option %.40q", key).
				WithHint("%s", suggest(key, optionNames))
		}
	}
	return spec, nil
}

// suggest names the known word that is nearest to what was typed, and all of them.
func suggest(typed string, known []string) string {
	known = slices.Sorted(slices.Values(known))
	all := "known: " + strings.Join(known, ", ")
	for _, k := range known {
		if levenshtein.Distance(strings.ToLower(typed), k, nil) <= 2 {
			return fmt.Sprintf("did you mean %s? (%s)", k, all)
		}
	}
	return all
}

// difference tells in what a volume that exists differs from what is asked for, or "". Labels can't be given
// through Docker, so they are not asked for.
func difference(has, asked mobyfs.VolumeSpec) string {
	has, asked = has.WithDefaults(), asked.WithDefaults()
	var parts []string
	if has.SizeBytes != asked.SizeBytes {
		parts = append(parts, fmt.Sprintf("it has %s, asked for was %s", shownSize(has.SizeBytes), shownSize(asked.SizeBytes)))
	}
	if has.Backend != asked.Backend {
		parts = append(parts, fmt.Sprintf("it has backend=%s, asked for was backend=%s", has.Backend, asked.Backend))
	}
	return strings.Join(parts, "; ")
}

// shownSize writes a size as it could have been given.
func shownSize(bytes int64) string {
	if bytes == 0 {
		return "no size"
	}
	return "size=" + mobyfs.FormatSize(bytes)
}
