package keep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/mobyfs/mobyfs"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func idAt(at time.Time) string {
	return strings.ToLower(ulid.MustNew(ulid.Timestamp(at), nil).String())
}

// content gives a file with the header of a backup.
func content(id string, size int) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		_, err := fmt.Fprintf(w, `{"mobyfs_backup":1,"id":%q,"cluster":"shop","made_at":"2026-11-26T12:00:00Z","key":"k1"}`+"\n%s", id, strings.Repeat("x", size))
		return err
	}
}

func fetch(t *testing.T, c *Copies, id string, size int) {
	t.Helper()
	if err := c.Fetch(t.Context(), id, content(id, size)); err != nil {
		t.Fatal(err)
	}
}

func ids(t *testing.T, c *Copies) []string {
	t.Helper()
	all, err := c.IDs()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestACopyIsThereWholeOrNotAtAllAndForItsOwnerAlone(t *testing.T) {
	root := t.TempDir()
	c, id := In(root), idAt(noon)
	if got := ids(t, c); len(got) != 0 {
		t.Errorf("at first there are %v", got)
	}
	cut := errors.New("cut")
	err := c.Fetch(t.Context(), id, func(ctx context.Context, w io.Writer) error {
		return errors.Join(content(id, 10)(ctx, w), cut)
	})
	if !errors.Is(err, cut) || len(ids(t, c)) != 0 {
		t.Errorf("cut short: %v, %v", err, ids(t, c))
	}
	if err := c.Fetch(t.Context(), id, content(idAt(noon.Add(time.Hour)), 10)); mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || len(ids(t, c)) != 0 {
		t.Errorf("another backup: %v, %v", err, ids(t, c))
	}
	if err := c.Fetch(t.Context(), "../x", content("../x", 10)); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		t.Errorf("a path: %v", err)
	}
	fetch(t, c, id, 10)
	fetch(t, c, id, 10) // again is fine
	if left, _ := filepath.Glob(filepath.Join(root, "backups", ".*")); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	for path, want := range map[string]os.FileMode{"backups": 0o700, "backups/" + id + ".mbk": 0o600} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	list, err := c.List()
	if err != nil || len(list) != 1 || list[0].Cluster != "shop" || list[0].Key != "k1" || list[0].Bytes == 0 {
		t.Errorf("got %+v, %v", list, err)
	}
	f, err := c.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || !strings.HasSuffix(string(text), "xxxxxxxxxx") {
		t.Errorf("got %q, %v", text, err)
	}
	if _, err := c.Open(idAt(noon.Add(time.Minute))); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		t.Errorf("what is not here: %v", err)
	}
}

func TestOldCopiesAreDroppedAndTheNewestNever(t *testing.T) {
	c := In(t.TempDir())
	for i := range 40 {
		fetch(t, c, idAt(noon.Add(time.Duration(i)*time.Hour)), 10)
	}
	if got := ids(t, c); len(got) < 24 || len(got) > 31 || got[0] != idAt(noon.Add(39*time.Hour)) {
		t.Errorf("%d are kept", len(got))
	}
	c.maxBytes = 1000
	newest := idAt(noon.Add(40 * time.Hour))
	fetch(t, c, newest, 5000)
	if got := ids(t, c); !slices.Equal(got, []string{newest}) {
		t.Errorf("where the newest takes all the space there are %d", len(got))
	}
	scratch := filepath.Join(c.dir, "."+idAt(noon))
	if err := os.WriteFile(scratch, []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	fetch(t, c, newest, 5000)
	if _, err := os.Stat(scratch); err == nil {
		t.Error("what a killed agent left stays")
	}
}
