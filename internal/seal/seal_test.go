package seal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// newTestKey makes a key and tells its file.
func newTestKey(t testing.TB) (*Key, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	k, err := Make(path)
	if err != nil {
		t.Fatal(err)
	}
	return k, path
}

func TestSealedOpensUnderItsNameOnly(t *testing.T) {
	k, _ := newTestKey(t)
	b := k.Seal("/m/ca/node", []byte("the key"))
	if raw := k.seal("/m/ca/node", []byte("the key")); bytes.Contains(raw, []byte("the key")) {
		t.Error("the secret can be read")
	}
	if got, err := k.Open("/m/ca/node", b); err != nil || string(got) != "the key" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := k.Open("/m/ca/operator", b); !errors.Is(err, ErrSwapped) {
		t.Errorf("in another's place: got %v, want %v", err, ErrSwapped)
	}
}

func TestSealingTwiceGivesNothingAway(t *testing.T) {
	k, _ := newTestKey(t)
	if once, again := k.Seal("a", []byte("x")), k.Seal("a", []byte("x")); once == again {
		t.Error("the same secret seals to the same bytes")
	}
}

func TestItIsToldWhyItDoesNotOpen(t *testing.T) {
	k, _ := newTestKey(t)
	other, _ := newTestKey(t)
	b := k.Seal("a", []byte("secret"))
	if _, err := other.Open("a", b); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), k.ID()) {
		t.Errorf("another key: got %v, want %v and the key's id", err, ErrKey)
	}
	for what, bad := range map[string]string{"nothing": "", "plain": "secret", "cut": b[:len(b)-4], "no base64": b[:8] + "!" + b[9:]} {
		if _, err := k.Open("a", bad); !errors.Is(err, ErrCut) {
			t.Errorf("%s: got %v, want %v", what, err, ErrCut)
		}
	}
}

func TestEveryByteOfARecordCounts(t *testing.T) {
	k, _ := newTestKey(t)
	b := k.seal("a", []byte("secret"))
	for i := range b {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(b)
			bad[i] ^= bit
			if got, err := k.open("a", bad); err == nil {
				t.Fatalf("byte %d changed: it opens as %q", i, got)
			}
		}
	}
	for n := range b {
		if _, err := k.open("a", b[:n]); !errors.Is(err, ErrCut) {
			t.Fatalf("cut to %d bytes: got %v, want %v", n, err, ErrCut)
		}
	}
	if _, err := k.open("a", append(bytes.Clone(b), 0)); !errors.Is(err, ErrCut) {
		t.Errorf("one byte more: got %v, want %v", err, ErrCut)
	}
}

func TestRotatedKeyOpensWhatWasSealedBefore(t *testing.T) {
	k, path := newTestKey(t)
	before := k.Seal("a", []byte("secret"))
	next, err := k.Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	read, err := Load(path)
	if err != nil || !slices.Equal(read.IDs(), []string{next.ID(), k.ID()}) {
		t.Fatalf("the file holds %v, %v", read.IDs(), err)
	}
	if got, err := read.Open("a", before); err != nil || string(got) != "secret" {
		t.Errorf("what was sealed before: %q, %v", got, err)
	}
	moved, news, err := read.Rewrap("a", before)
	if err != nil || !news {
		t.Fatalf("Rewrap: %v, %v", news, err)
	}
	if _, news, err := read.Rewrap("a", moved); news || err != nil {
		t.Errorf("Rewrap again: %v, %v; want no news", news, err)
	}
	alone, err := read.Retire(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := alone.Open("a", moved); err != nil || string(got) != "secret" {
		t.Errorf("moved, without the old key: %q, %v", got, err)
	}
	if _, err := alone.Open("a", before); !errors.Is(err, ErrKey) {
		t.Errorf("not moved, without the old key: got %v, want %v", err, ErrKey)
	}
	if _, _, err := alone.Rewrap("b", moved); !errors.Is(err, ErrSwapped) {
		t.Errorf("Rewrap under another name: got %v, want %v", err, ErrSwapped)
	}
}

func TestKeyFileIsMadeOnceAndForItsOwnerOnly(t *testing.T) {
	k, path := newTestKey(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file has %v, %v", info.Mode(), err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where there is none: got %v, want %v", err, fs.ErrNotExist)
	}
	if again, err := Make(path); err != nil || again.ID() != k.ID() {
		t.Errorf("made again it is another: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("open to the group: got %v, want the way out", err)
	}
}

func TestMistypedKeyIsRefused(t *testing.T) {
	k, _ := newTestKey(t)
	text := k.Text()
	if _, err := Parse(text); err != nil {
		t.Fatal(err)
	}
	for i := len(fileHead); i < len(text)-1; i++ {
		bad := bytes.Clone(text)
		bad[i] ^= 1
		if _, err := Parse(bad); err == nil {
			t.Fatalf("%q is taken for a key", bad[len(fileHead):])
		}
		if _, err := Parse(text[:i]); err == nil {
			t.Fatalf("cut to %q it is taken for a key", text[len(fileHead):i])
		}
	}
	if _, err := Parse(bytes.Repeat(text, maxKeys+1)); err == nil {
		t.Error("more keys than may be")
	}
}

func stream(t testing.TB, k *Key, name string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := k.Writer(&b, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unstream(k *Key, name string, b []byte) ([]byte, error) {
	r, err := k.Reader(bytes.NewReader(b), name)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestStreamOpensWholeOrNotAtAll(t *testing.T) {
	const chunk = 64<<10 + 16
	k, _ := newTestKey(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 12<<10) // three chunks
	b := stream(t, k, "backup of shop", content)
	if got, err := unstream(k, "backup of shop", b); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	first := len(b) - 3*chunk
	swapped := bytes.Clone(b)
	copy(swapped[first:], b[first+chunk:first+2*chunk])
	copy(swapped[first+chunk:], b[first:first+chunk])
	flipped := bytes.Clone(b)
	flipped[len(b)-1] ^= 1
	for what, bad := range map[string][]byte{
		"its end is missing": b[:len(b)-1], "its last chunk is missing": b[:first+2*chunk], "two chunks are missing": b[:first+chunk],
		"a chunk is missing inside": append(bytes.Clone(b[:first+chunk]), b[first+2*chunk:]...),
		"two chunks changed places": swapped, "a bit is changed": flipped, "something follows": append(bytes.Clone(b), 0),
		"only its head is there": b[:first], "it is empty": nil, "its head is cut": b[:40],
	} {
		if _, err := unstream(k, "backup of shop", bad); !errors.Is(err, ErrTampered) && !errors.Is(err, ErrCut) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestStreamOpensUnderItsNameAndKeyOnly(t *testing.T) {
	k, path := newTestKey(t)
	other, _ := newTestKey(t)
	b := stream(t, k, "backup of shop", []byte("all"))
	if _, err := unstream(k, "backup of yard", b); !errors.Is(err, ErrSwapped) {
		t.Errorf("another name: got %v, want %v", err, ErrSwapped)
	}
	if _, err := unstream(other, "backup of shop", b); !errors.Is(err, ErrKey) {
		t.Errorf("another key: got %v, want %v", err, ErrKey)
	}
	next, err := k.Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unstream(next, "backup of shop", b); err != nil || string(got) != "all" {
		t.Errorf("after a rotation: %q, %v", got, err)
	}
}

// FuzzOpen: whatever lies in a record's place, it opens only if it was sealed for it.
func FuzzOpen(f *testing.F) {
	k := &Key{[]key{newKey([keySize]byte{1})}} // the same in all processes that fuzz
	f.Add("a", k.seal("a", nil))
	f.Add("a", k.seal("b", []byte("secret")))
	f.Add("", []byte(magic))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		secret, err := k.open(name, b)
		if err != nil && secret != nil {
			t.Fatalf("got %q and %v", secret, err)
		}
		if err != nil && !errors.Is(err, ErrKey) && !errors.Is(err, ErrCut) && !errors.Is(err, ErrSwapped) && !errors.Is(err, ErrTampered) {
			t.Fatalf("no reason: %v", err)
		}
		if err == nil {
			if moved, news, err := k.Rewrap(name, base64.StdEncoding.EncodeToString(b)); err != nil || news || moved == "" {
				t.Fatalf("opens and does not rewrap: %v", err)
			}
		}
		_, _ = unstream(k, name, b)
	})
}

// FuzzParse: what is read as keys is written as the same keys.
func FuzzParse(f *testing.F) {
	f.Add((&Key{[]key{newKey([keySize]byte{1})}}).Text())
	f.Add([]byte("# nothing\n\n"))
	f.Add([]byte("kek1.00.AA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(k.Text()); err != nil || !slices.Equal(again.IDs(), k.IDs()) {
			t.Fatalf("%q reads as %v, and again as %v", text, k.IDs(), err)
		}
	})
}
