package dir

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// A process that has a removed volume open, and swaps its directories for links while they are deleted, has nothing
// deleted that lies outside.
func TestAttackLinksSwappedUnderADeletion(t *testing.T) {
	outside := t.TempDir()
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(outside, fmt.Sprint("f", i)), []byte("x"), 0o600))
	}
	for range 30 {
		b := open(t, t.TempDir())
		must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
		for i := range 4 {
			dir := filepath.Join(b.Path(vol), fmt.Sprint("d", i))
			must(t, os.Mkdir(dir, 0o700))
			for n := range 20 {
				must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", n)), nil, 0o600))
			}
		}
		inside, err := os.OpenRoot(b.Path(vol)) // as a process has it that was left behind
		must(t, err)
		must(t, b.Remove(t.Context(), vol, 1))
		ending := make(chan struct{})
		var swapping sync.WaitGroup
		swapping.Go(func() {
			for i := 0; ; i = (i + 1) % 4 {
				select {
				case <-ending:
					return
				default:
				}
				dir := fmt.Sprint("d", i)
				if inside.Rename(dir, dir+".away") == nil { // an attempt that loses the race is as good as none
					_ = inside.Symlink(outside, dir)
					_ = inside.Remove(dir)
					_ = inside.Rename(dir+".away", dir)
				}
			}
		})
		_ = b.Purge(t.Context(), time.Now().Add(time.Hour)) // it may find the directory filled again, and then tries later
		close(ending)
		swapping.Wait()
		_ = inside.Close()
		must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
		if entries, err := os.ReadDir(outside); err != nil || len(entries) != 20 {
			t.Fatalf("outside there is %v, %v", entries, err)
		}
	}
}

// IDs that lead elsewhere name no volume, whatever is asked of it.
func TestAttackIDsThatArePaths(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
	before := tree(t, root)
	long := make([]byte, 1<<20)
	for i := range long {
		long[i] = 'x'
	}
	for _, id := range []mobyfs.VolumeID{"", ".", "..", "../volumes/" + vol, vol + "/", vol + "/..", "/etc", vol + "\x00", "\x00", "a\nb", "ｖ1", "e\u0301", "\u202ev", mobyfs.VolumeID(long)} {
		ctx := t.Context()
		_, attach := b.Attach(ctx, id, 9)
		_, _, export := b.Export(ctx, id, 9)
		_, stage := b.Stage(ctx, id, mig, mobyfs.VolumeSpec{})
		_, stageMigration := b.Stage(ctx, vol, mobyfs.MigrationID(id), mobyfs.VolumeSpec{})
		_, used := b.Usage(ctx, id)
		for what, err := range map[string]error{
			"create": b.Create(ctx, id, mobyfs.VolumeSpec{}), "attach": attach, "export": export, "stage": stage, "stage for the migration": stageMigration,
			"used": used, "remove": b.Remove(ctx, id, 9), "detach": b.Detach(ctx, id),
		} {
			if mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
				t.Errorf("%s of %.20q: got %.200v, want invalid", what, id, err)
			}
		}
	}
	if after := tree(t, root); after != before {
		t.Errorf("there was\n%s\nand is\n%s", before, after)
	}
}

// tree lists all that lies below a directory.
func tree(t *testing.T, root string) (all string) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		all += path + "\n"
		return err
	}))
	return all
}
