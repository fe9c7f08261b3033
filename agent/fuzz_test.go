package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// FuzzParseOptions: whatever options Docker passes on, what comes of them is a spec that can be carried out, or one
// line that tells the way out and shows no value of an option that is not known.
func FuzzParseOptions(f *testing.F) {
	for _, o := range [][4]string{{"size", "1G", "backend", "dir"}, {"szie", "1G", "", ""}, {"password", "hunter2-hunter2", "size", "x"}, {"backend", "d\nr", "SIZE", "1G"}, {"", "", "\x00", "\xff"}} {
		f.Add(o[0], o[1], o[2], o[3])
	}
	known := []string{"btrfs", "dir"}
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string) {
		opts := map[string]string{key1: value1, key2: value2}
		spec, err := parseOptions(opts, known)
		if err == nil {
			if spec.SizeBytes < 0 || spec.SizeBytes > 1<<60 || spec.Backend != "" && !slices.Contains(known, spec.Backend) {
				t.Fatalf("%q became %+v", opts, spec)
			}
			for key := range opts {
				if !slices.Contains(optionNames, key) {
					t.Fatalf("%q was agreed to", opts)
				}
			}
			if d := difference(spec, spec); d != "" {
				t.Fatalf("%+v differs from itself: %s", spec, d)
			}
			return
		}
		text := err.Error() + mobyfs.HintOf(err)
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" || len(text) > 600 || strings.ContainsAny(text, "\n\r\x00\x1b") {
			t.Fatalf("%q was refused with %q, hint %q", opts, err, mobyfs.HintOf(err))
		}
		for key, value := range opts {
			if unknown := !slices.Contains(optionNames, key); unknown && len(value) > 12 && strings.Contains(text, value) && !strings.Contains(key1+key2, value) {
				t.Fatalf("%q was refused with %q, which shows what may be a secret", opts, text)
			}
		}
	})
}
