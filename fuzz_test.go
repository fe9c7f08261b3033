package mobyfs

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParseSize: what is a size lies in its bounds and is written so that it reads the same; what is none is refused
// in one line with the way out.
func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"1", "10G", "1.5 GiB", "1024P", "1025P", "0.4", "-1", "1e9", "１G", "999999999999999999P", "1G\n", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		bytes, err := ParseSize(text)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if bytes < 1 || bytes > 1<<60 {
			t.Fatalf("%q is %d bytes", text, bytes)
		}
		if again, err := ParseSize(FormatSize(bytes)); err != nil || again != bytes {
			t.Fatalf("%q is %d, written as %s, read as %d, %v", text, bytes, FormatSize(bytes), again, err)
		}
	})
}

// FuzzCheckVolumeName: a name that is agreed to is harmless wherever it is shown or written.
func FuzzCheckVolumeName(f *testing.F) {
	for _, name := range []string{"pgdata", "x", "", "..", "a/b", "-dash", "a\n", "a\x00b", "caf\u00e9", "\xff\xfe", strings.Repeat("a", 128), strings.Repeat("a", 129)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if err := CheckVolumeName(name); err != nil {
			checkRefusal(t, err)
			return
		}
		if len(name) < 2 || len(name) > 128 || strings.TrimLeft(name, ".-_") != name || filepath.Base(filepath.Clean("/"+name)) != name {
			t.Fatalf("%q is agreed to", name)
		}
		for _, c := range []byte(name) {
			if c <= ' ' || c > '~' || strings.IndexByte(`/\:"'<>|&;$*?`+"`", c) >= 0 {
				t.Fatalf("%q is agreed to", name)
			}
		}
		if FoldName(FoldName(name)) != FoldName(name) {
			t.Fatalf("%q folds to %q and then to %q", name, FoldName(name), FoldName(FoldName(name)))
		}
	})
}

// checkRefusal fails unless err tells in one line of bearable length what is wrong and what to do.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	if CodeOf(err) != CodeInvalid || HintOf(err) == "" || len(err.Error()) > 400 || strings.ContainsAny(err.Error()+HintOf(err), "\n\r\x00\x1b") {
		t.Fatalf("refused with %q (%s), hint %q", err, CodeOf(err), HintOf(err))
	}
}
