package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSealedOpensForItsRecordAndKeyAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	k, err := Make(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.Seal("ca/node", []byte("secret"))
	if strings.Contains(sealed, "secret") || sealed == k.Seal("ca/node", []byte("secret")) {
		t.Errorf("sealed is %q", sealed)
	}
	again, err := Make(path)
	if err != nil || again.ID() != k.ID() {
		t.Fatalf("made again it is %v, %v", again, err)
	}
	if got, err := again.Open("ca/node", sealed); err != nil || !bytes.Equal(got, []byte("secret")) {
		t.Errorf("opened: %q, %v", got, err)
	}
	other, err := Make(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"for another record": func() ([]byte, error) { return k.Open("ca/operator", sealed) },
		"with another key":   func() ([]byte, error) { return other.Open("ca/node", sealed) },
		"with another's ID":  func() ([]byte, error) { return other.Open("ca/node", other.ID()+sealed[len(k.ID()):]) },
		"cut short":          func() ([]byte, error) { return k.Open("ca/node", sealed[:len(sealed)-4]) },
		"of nothing":         func() ([]byte, error) { return k.Open("ca/node", "") },
		"plain":              func() ([]byte, error) { return k.Open("ca/node", "secret") },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened as %q", name, got)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(path); err == nil {
		t.Error("junk was taken for a key")
	}
}
