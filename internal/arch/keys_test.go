package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLogsUseTheWordsThatAreListed(t *testing.T) {
	used, lines := map[string]bool{}, 0
	files := token.NewFileSet()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "../..":
			_, nested := os.Stat(filepath.Join(path, "go.mod")) // a module of its own
			if nested == nil || strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "test", "tools", "bin"}, d.Name()) {
				return filepath.SkipDir
			}
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			keysIn(file, func(at token.Pos, key string) {
				lines++
				if used[key] = true; logKeys[key] == "" {
					t.Errorf("%s: the log key %q is not listed: use one that is in internal/arch/keys.go", files.Position(at), key)
				}
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if lines < 150 {
		t.Errorf("only %d keys were found; the test looks in the wrong place", lines)
	}
	for key := range logKeys {
		if !used[key] {
			t.Errorf("nobody logs under the key %q any more: take it off the list", key)
		}
	}
}

func TestKeysAreFoundWhereverTheyAreWritten(t *testing.T) {
	const source = `package x
func f() {
	log.Info("x", "a", 1, "b", 2)
	w.log.With("c", 3).Warn("x", "d", 4)
	a.Log.Log(ctx, level, "x", "e", 5, attrs...)
	slog.New(h).With("f", 6)
	s.log().Debug("x", "g", 7)
	say("x", "h", 8)
	attrs := []any{"i", 9}
	http.Error(w, "not", "a key")
	other := []string{"nor", "this"}
	c.log.Info(what, attrs...)
}`
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	keysIn(file, func(_ token.Pos, key string) { got = append(got, key) })
	slices.Sort(got)
	if want := "a b c d e f g h i"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
