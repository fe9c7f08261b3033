package sandbox

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// debianSuites are the names by which apt's sources call a release of Debian, as against those of its derivatives.
var debianSuites = []string{
	"bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable",
}

// machineMirror is the mirror of Debian that this machine's apt uses, or "" if none is found. dir is /etc/apt.
func machineMirror(dir string) string {
	files, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*")) // the pattern is right
	for _, file := range append([]string{filepath.Join(dir, "sources.list")}, files...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var sources []source
		switch filepath.Ext(file) {
		case ".list":
			sources = parseList(string(text))
		case ".sources":
			sources = parseSources(string(text))
		}
		if mirror := debianMirror(sources); mirror != "" {
			return mirror
		}
	}
	return ""
}

// source is one enabled entry of apt's sources for binary packages.
type source struct {
	uris, suites, components []string
}

// debianMirror picks the first mirror that serves a whole release of Debian, in a way debootstrap can read.
func debianMirror(sources []source) string {
	for _, s := range sources {
		release := slices.ContainsFunc(s.suites, func(suite string) bool { return slices.Contains(debianSuites, suite) })
		if !release || !slices.Contains(s.components, "main") {
			continue
		}
		for _, uri := range s.uris {
			u, err := url.Parse(uri)
			if err == nil && slices.Contains([]string{"http", "https", "file"}, u.Scheme) {
				return strings.TrimSuffix(uri, "/")
			}
		}
	}
	return ""
}

// parseList reads the one-line format: deb [options] uri suite component …
func parseList(text string) []source {
	var found []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "deb" {
			continue
		}
		fields = fields[1:]
		if len(fields) > 0 && strings.HasPrefix(fields[0], "[") {
			end := slices.IndexFunc(fields, func(f string) bool { return strings.HasSuffix(f, "]") })
			fields = fields[end+1:]
		}
		if len(fields) >= 3 {
			found = append(found, source{uris: fields[:1], suites: fields[1:2], components: fields[2:]})
		}
	}
	return found
}

// parseSources reads the format of stanzas (deb822), whose values may go on in lines that begin with a space.
func parseSources(text string) []source {
	var found []source
	for _, stanza := range stanzas(text) {
		if slices.Contains(stanza["types"], "deb") && !slices.Equal(stanza["enabled"], []string{"no"}) {
			found = append(found, source{stanza["uris"], stanza["suites"], stanza["components"]})
		}
	}
	return found
}

func stanzas(text string) []map[string][]string {
	found := []map[string][]string{{}}
	key := ""
	for line := range strings.Lines(text) {
		last := found[len(found)-1]
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			found = append(found, map[string][]string{})
		case strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"):
			last[key] = append(last[key], strings.Fields(line)...)
		default:
			name, value, _ := strings.Cut(line, ":")
			key = strings.ToLower(strings.TrimSpace(name))
			last[key] = strings.Fields(value)
		}
	}
	return found
}
