package attacks

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The table of attacks names tests that there are.
func TestTheTableOfAttacksNamesTestsThatThereAre(t *testing.T) {
	const root = "../.."
	page, err := os.ReadFile(filepath.Join(root, "docs", "attacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		tests.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`((?:Test|Fuzz)[A-Z]\w+)(…?)`).FindAllStringSubmatch(string(page), -1)
	for _, name := range names {
		whole := "func " + name[1] + "("
		if name[2] != "" {
			whole = "func " + name[1]
		}
		if !strings.Contains(tests.String(), whole) {
			t.Errorf("docs/attacks.md names %s, which there is not", name[1])
		}
	}
	if len(names) < 40 {
		t.Errorf("the page names %d tests", len(names))
	}
}
