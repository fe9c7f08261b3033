package agent

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
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
			size, err := parseSize(value)
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
	slices.Sort(known)
	all := "known: " + strings.Join(known, ", ")
	for _, k := range known {
		if levenshtein.Distance(strings.ToLower(typed), k, nil) <= 2 {
			return fmt.Sprintf("did you mean %s? (%s)", k, all)
		}
	}
	return all
}

var sizeForm = regexp.MustCompile(`(?i)^([0-9]{1,18}(?:\.[0-9]{1,6})?) ?(?:([kmgtp])(i?b)?|b)?$`)

// parseSize reads a size in bytes as the tools of a Linux host do: K, M, G, T, P and KiB … are powers of 1024, KB …
// are powers of 1000.
func parseSize(text string) (int64, error) {
	parts := sizeForm.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return 0, mobyfs.Errorf(mobyfs.CodeInvalid, "size=%.40q is no size", text).WithHint("write it as 10G, 512MiB or in bytes")
	}
	number, err := strconv.ParseFloat(parts[1], 64)
	if err != nil {
		return 0, err
	}
	base := 1024.0
	if strings.EqualFold(parts[3], "b") {
		base = 1000
	}
	number *= math.Pow(base, float64(slices.Index(units, strings.ToUpper(parts[2]))))
	if number < 1 || number > 1<<60 {
		return 0, mobyfs.Errorf(mobyfs.CodeInvalid, "size=%.40q is not between one byte and 1024 PiB", text)
	}
	return int64(number), nil
}

// units are the letters of the powers of 1024 or 1000.
var units = []string{"", "K", "M", "G", "T", "P"}

// difference tells in what a volume that exists differs from what is asked for, or "". Labels can't be given
// through Docker, so they are not asked for.
func difference(has, asked mobyfs.VolumeSpec) string {
	has, asked = has.WithDefaults(), asked.WithDefaults()
	var parts []string
	if has.SizeBytes != asked.SizeBytes {
		parts = append(parts, fmt.Sprintf("it has %s, asked for was %s", showSize(has.SizeBytes), showSize(asked.SizeBytes)))
	}
	if has.Backend != asked.Backend {
		parts = append(parts, fmt.Sprintf("it has backend=%s, asked for was backend=%s", has.Backend, asked.Backend))
	}
	return strings.Join(parts, "; ")
}

// showSize writes a size as it could have been given, exactly.
func showSize(bytes int64) string {
	if bytes == 0 {
		return "no size"
	}
	power := 0
	for bytes%1024 == 0 && power < len(units)-1 {
		bytes /= 1024
		power++
	}
	return fmt.Sprintf("size=%d%s", bytes, units[power])
}
