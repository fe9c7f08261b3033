package step

import (
	"testing"

	"github.com/mobyfs/mobyfs"
)

// FuzzFacts: what a host prints of itself, whatever else it prints, is facts or an error; nothing of it ends mobyctl.
func FuzzFacts(f *testing.F) {
	for _, text := range []string{"os=linux\narch=x86_64\nhostname=h1\nend=\n", "end", "motd\nend=\n", "\x1b[31mos=linux\nend=\n", "installed={\nend=\n", "unit:a=b\nspace:/=1 2\nlisten:1=x\nend=\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := ParseFacts(text); err != nil && (mobyfs.CodeOf(err) == "" || len(err.Error()) > 4000) {
			t.Fatalf("%q is refused with %.300q", text, err)
		}
	})
}
