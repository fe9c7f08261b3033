package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/nearest"
)

// optionNames are the options that docker volume create -o may give.
var optionNames = []string{"apart", "backend", "class", "from", "fs", "gid", "mode", "node-label", "size", "takeover", "toleration", "uid", "zone"}

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
		case "fs": // whether the backend has file systems, and which, control knows
			spec.Filesystem = value
		case "from":
			spec.From = value
			if value == "" {
				return spec, mobyfs.Errorf(mobyfs.CodeInvalid, "from= says nothing").WithHint("leave it out, or name the directory on this host that the volume is to begin as a copy of")
			}
		case "mode":
			spec.Mode = value
			if _, err := spec.RootMode(); err != nil || value == "" {
				return spec, cmp.Or(err, error(mobyfs.Errorf(mobyfs.CodeInvalid, "mode= says nothing").WithHint("leave it out, or write it in octal, such as 0750")))
			}
		case "uid", "gid":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil || n < 0 {
				return spec, mobyfs.Errorf(mobyfs.CodeInvalid, "%s=%.40q is no number of an owner", key, value).WithHint("give the number, such as %s=999; names are not known here", key)
			}
			if key == "uid" {
				spec.UID = int(n)
			} else {
				spec.GID = int(n)
			}
		case "backend":
			if !slices.Contains(backends, value) {
				return spec, mobyfs.Errorf(mobyfs.CodeInvalid, "there is no backend %.40q", value).
					WithHint("%s", suggest(value, backends))
			}
			spec.Backend = value
		case "class": // control knows which there are
			if value == "" {
				return spec, mobyfs.Errorf(mobyfs.CodeInvalid, "class= names no class").WithHint("leave it out, or name one of those that mobyctl class ls lists")
			}
			spec.Class = value
		case "takeover": // whether the backend allows it, control knows
			spec.Takeover = mobyfs.Takeover(value)
			if err := mobyfs.CheckTakeover(spec.Takeover, mobyfs.SharedBackend); err != nil || value == "" {
				return spec, cmp.Or(err, error(mobyfs.Errorf(mobyfs.CodeInvalid, "takeover= says nothing").WithHint("leave it out, or choose never, manual or auto")))
			}
		default:
			if ours, err := parsePlacement(&spec, key, value); err != nil || !ours {
				return spec, cmp.Or(err, unknownOption(key))
			}
		}
	}
	return spec, spec.CheckFrom()
}

func unknownOption(key string) error {
	return mobyfs.Errorf(mobyfs.CodeInvalid, "there is no option %.40q", key).WithHint("%s", suggest(key, optionNames))
}

// suggest names the known word that is nearest to what was typed, and all of them.
func suggest(typed string, known []string) string {
	known = slices.Sorted(slices.Values(known))
	all := "known: " + strings.Join(known, ", ")
	if meant := nearest.Word(typed, known); meant != "" {
		return fmt.Sprintf("did you mean %s? (%s)", meant, all)
	}
	return all
}

// difference tells in what a volume that exists differs from what is asked for, or "". What is left open does not
// differ. Labels can't be given through Docker, so they are not asked for.
func difference(has, asked mobyfs.VolumeSpec) string {
	has = has.WithDefaults()
	var parts []string
	if asked.SizeBytes != 0 && has.SizeBytes != asked.SizeBytes {
		parts = append(parts, fmt.Sprintf("it has %s, asked for was %s", shownSize(has.SizeBytes), shownSize(asked.SizeBytes)))
	}
	if asked.Backend != "" && has.Backend != asked.Backend {
		parts = append(parts, fmt.Sprintf("it has backend=%s, asked for was backend=%s", has.Backend, asked.Backend))
	}
	if has, asked := cmp.Or(has.Takeover, mobyfs.TakeoverNever), asked.Takeover; asked != "" && has != asked {
		parts = append(parts, fmt.Sprintf("it has takeover=%s, asked for was takeover=%s", has, asked))
	}
	if has, asked := cmp.Or(has.Filesystem, "ext4"), asked.Filesystem; asked != "" && has != asked {
		parts = append(parts, fmt.Sprintf("it has fs=%s, asked for was fs=%s", has, asked))
	}
	if asked.Mode != "" && has.Mode != asked.Mode || asked.UID != 0 && has.UID != asked.UID || asked.GID != 0 && has.GID != asked.GID {
		parts = append(parts, "it was made with another mode, uid or gid")
	}
	if asked.From != "" && has.From != asked.From {
		parts = append(parts, fmt.Sprintf("it %s, asked for was from=%s", shownFrom(has.From), asked.From))
	}
	if asked.Class != "" && has.Class != asked.Class {
		parts = append(parts, fmt.Sprintf("it has %s, asked for was class=%s", shownClass(has.Class), asked.Class))
	}
	return strings.Join(append(parts, differentPlacement(has, asked)...), "; ")
}

// shownSize writes a size as it could have been given.
func shownSize(bytes int64) string {
	if bytes == 0 {
		return "no size"
	}
	return "size=" + mobyfs.FormatSize(bytes)
}

// shownFrom says likewise what a volume began as.
func shownFrom(path string) string {
	if path == "" {
		return "began empty"
	}
	return "has from=" + path
}

// shownClass likewise.
func shownClass(name string) string {
	if name == "" {
		return "no class"
	}
	return "class=" + name
}
