package nearest

import "testing"

func TestWordIsTheNearestOneOrNone(t *testing.T) {
	known := []string{"size", "site", "backend", "x"}
	for typed, want := range map[string]string{
		"sise": "size", "SIZE": "size", "sie": "size", "backand": "backend", "colour": "", "": "", "y": "", "siteX": "site",
	} {
		if got := Word(typed, known); got != want {
			t.Errorf("%q: got %q, want %q", typed, got, want)
		}
	}
}
