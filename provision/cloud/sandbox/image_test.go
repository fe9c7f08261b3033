package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
)

func TestRecipeHashChangesWithEverythingThatMakesAnotherImage(t *testing.T) {
	r, err := recipeFor("bookworm")
	if err != nil {
		t.Fatal(err)
	}
	again, err := recipeFor("bookworm")
	if err != nil || again.hash() != r.hash() {
		t.Errorf("the same recipe: got %s and %s, %v", r.hash(), again.hash(), err)
	}
	seen := map[string]string{r.hash(): "itself"}
	for name, other := range map[string]recipe{
		"distro":           {"trixie", r.packages, r.finish},
		"one package less": {r.distro, r.packages[1:], r.finish},
		"script":           {r.distro, r.packages, r.finish + "\n"},
	} {
		if was, ok := seen[other.hash()]; ok {
			t.Errorf("%s: the hash is that of %s", name, was)
		}
		seen[other.hash()] = name
	}
	if want := "mobyfs-sandbox:bookworm-" + r.hash(); r.tag() != want || len(r.hash()) != 12 {
		t.Errorf("tag: got %s, want %s", r.tag(), want)
	}
	if _, err := recipeFor("buster"); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || !strings.Contains(mobyfs.HintOf(err), "bookworm and trixie") {
		t.Errorf("unknown distro: got %v (hint %q)", err, mobyfs.HintOf(err))
	}
}

func TestMirrorIsTheMachinesOwnWhereItHasDebian(t *testing.T) {
	for _, tc := range []struct {
		name, file, text, want string
	}{
		{"one line", "sources.list", "# old\ndeb http://mirror.example/debian bookworm main contrib # ours\n", "http://mirror.example/debian"},
		{"options", "sources.list", "deb [arch=amd64 signed-by=/k.gpg] https://m.example/debian/ trixie main\n", "https://m.example/debian"},
		{"only sources, security and others", "sources.list", "deb-src http://a/debian bookworm main\ndeb http://b/debian-security bookworm-security main\ndeb http://c/ubuntu noble main\ndeb cdrom:[Debian]/ bookworm main\ndeb http://d/debian bookworm contrib\n", ""},
		{"stanzas", "sources.list.d/debian.sources", "Types: deb deb-src\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://m.example/debian-security\nSuites: bookworm-security\nComponents: main\n", "http://m.example/debian"},
		{"stanza over lines, second one", "sources.list.d/x.sources", "Types: deb\nURIs: https://repo.example/node\nSuites: nodistro\nComponents: main\n\n# ours\nTypes: deb\nURIs:\n http://first.example/debian\n http://second.example/debian\nSuites: stable\nComponents: main\n", "http://first.example/debian"},
		{"disabled", "sources.list.d/x.sources", "Types: deb\nEnabled: no\nURIs: http://m.example/debian\nSuites: trixie\nComponents: main\n", ""},
		{"file that apt does not read", "sources.list.d/x.list.disabled", "deb http://m.example/debian bookworm main\n", ""},
		{"rubbish", "sources.list.d/x.sources", "::\n \x00\ndeb\n:\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, tc.file), []byte(tc.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := machineMirror(dir); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
