package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
)

// shopFiles is a directory with something in it.
func shopFiles(t testing.TB, dir string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o710); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "rows", "1,2,3")
	write(t, filepath.Join(dir, "sub"), "more", "4")
	return dir
}

func from(dir string) map[string]string { return map[string]string{"from": dir} }

func TestVolumeBeginsAsACopyAndMovesLikeAnyOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		src := shopFiles(t, t.TempDir())
		h1.create("pgdata", from(src))
		if v := r.cluster.volume("pgdata"); v.State != mobyfs.VolumeReady || v.Node != "h1" || v.Spec.From != src {
			t.Errorf("it is %+v", v)
		}
		path := h1.mount("pgdata", "a")
		if read(t, path, "rows") != "1,2,3" || read(t, path, "sub/more") != "4" {
			t.Error("the volume holds something else")
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o710 {
			t.Errorf("its root is %v, %v", info, err)
		}
		write(t, path, "rows", "5")
		if err := os.RemoveAll(filepath.Join(path, "sub")); err != nil { // which the peers of these tests don't bring
			t.Fatal(err)
		}
		if read(t, src, "rows") != "1,2,3" {
			t.Error("the directory is the volume")
		}
		h1.unmount("pgdata", "a")
		if left := h1.staged(); left != nil {
			t.Errorf("staged is %v", left)
		}

		// The directory is not needed any more, and who asks again, here or elsewhere, gets what is there.
		if err := os.RemoveAll(src); err != nil {
			t.Fatal(err)
		}
		h1.create("pgdata", from(src))
		h2.create("pgdata", from(src))
		wantCode(t, h2.agent.Create(t.Context(), "pgdata", from(src+"-other")), mobyfs.CodeExists, "it has from="+src)
		h1.create("empty", nil)
		wantCode(t, h1.agent.Create(t.Context(), "empty", from(src)), mobyfs.CodeExists, "it began empty")
		if got := read(t, h2.mount("pgdata", "b"), "rows"); got != "5" {
			t.Errorf("on the other node it holds %q", got)
		}
	})
}

func TestCopyThatCanNotBeIsRefusedAndNothingIsMade(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1 := r.nodes["h1"]
		src := shopFiles(t, t.TempDir())
		link, busy := filepath.Join(t.TempDir(), "link"), shopFiles(t, t.TempDir())
		if err := os.Symlink(filepath.Dir(h1.root), link); err != nil {
			t.Fatal(err)
		}
		h1.kernel.set(busy, 1, 0)
		for name, c := range map[string]struct {
			opts map[string]string
			code mobyfs.Code
			says string
		}{
			"nothing there":         {from(src + "/none"), mobyfs.CodeInvalid, "there is no " + src + "/none on h1"},
			"a file":                {from(src + "/rows"), mobyfs.CodeInvalid, "is no directory"},
			"a link":                {from(link), mobyfs.CodeInvalid, "no symbolic link"},
			"where volumes are":     {from(h1.root), mobyfs.CodeInvalid, "volumes are kept in"},
			"below that":            {from(h1.root + "/volumes"), mobyfs.CodeInvalid, "volumes are kept in"},
			"above that":            {from(filepath.Dir(h1.root)), mobyfs.CodeInvalid, "volumes are kept in"},
			"above, through a link": {from(link + "/" + filepath.Base(h1.root)), mobyfs.CodeInvalid, "volumes are kept in"},
			"everything":            {from("/"), mobyfs.CodeInvalid, "is not the path of a directory to copy"},
			"no whole path":         {from("data"), mobyfs.CodeInvalid, "give its whole path"},
			"a path with dots":      {from(src + "/sub/.."), mobyfs.CodeInvalid, "without . or .. in it"},
			"empty":                 {from(""), mobyfs.CodeInvalid, "from= says nothing"},
			"with a mode":           {map[string]string{"from": src, "mode": "0700"}, mobyfs.CodeInvalid, "leave mode, uid and gid out"},
			"in use":                {from(busy), mobyfs.CodeInUse, "stop the containers that use it"},
		} {
			err := h1.agent.Create(t.Context(), "pgdata", c.opts)
			if mobyfs.CodeOf(err) != c.code || !strings.Contains(err.Error()+mobyfs.HintOf(err), c.says) {
				t.Errorf("%s: got %v (%s), want %s and %q", name, err, mobyfs.HintOf(err), c.code, c.says)
			}
		}
		r.cluster.full["h1"] = true
		wantCode(t, h1.agent.Create(t.Context(), "pgdata", from(src)), mobyfs.CodeNoSpace)
		if v := r.cluster.volume("pgdata"); v.ID != "" {
			t.Errorf("a volume was made all the same: %+v", v)
		}
	})
}

// slow is a backend with which a copy never gets on.
type slow struct {
	backend.Backend
	ended chan error
}

func (s slow) Stage(ctx context.Context, _ mobyfs.VolumeID, _ mobyfs.MigrationID, _ mobyfs.VolumeSpec) (string, error) {
	<-ctx.Done()
	s.ended <- ctx.Err()
	return "", ctx.Err()
}

func TestVolumeThatIsRemovedIsNotCopiedOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		ended := make(chan error, 1)
		h1 := r.joinWith("h1", func(b backend.Backend) backend.Backend { return slow{b, ended} })
		settled()
		impatient, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := h1.agent.Create(impatient, "pgdata", from(shopFiles(t, t.TempDir())))
		wantCode(t, err, mobyfs.CodeUnavailable, "is still being copied", "run it again")
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.ID != "" || len(ended) != 1 || len(h1.staged()) > 0 {
			t.Errorf("it is %+v, staged is %v, the copying was ended %d times", v, h1.staged(), len(ended))
		}
	})
}

// stuck is a backend with which a copy never ends.
type stuck struct{ backend.Backend }

func (s stuck) Seal(ctx context.Context, _ mobyfs.MigrationID, _ mobyfs.Receipt) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestCopyTellsHowFarItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		h1 := r.joinWith("h1", func(b backend.Backend) backend.Backend { return stuck{b} })
		settled()
		src := shopFiles(t, t.TempDir())
		impatient, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantCode(t, h1.agent.Create(impatient, "pgdata", from(src)), mobyfs.CodeUnavailable, "is still being copied (99 % of 6 B)")
		if v, err := h1.agent.Get(t.Context(), "pgdata"); err != nil || v.Status["copying"] != "99 % of 6 B, from "+src {
			t.Errorf("inspect shows %v, %v", v.Status, err)
		}
		told := func() map[mobyfs.MigrationID]mobyfs.Progress {
			r.cluster.mu.Lock()
			defer r.cluster.mu.Unlock()
			return r.cluster.reports["h1"].Progress
		}
		v := r.cluster.volume("pgdata")
		if p := told()[v.ID.Copying()]; p.Bytes != 6 || p.TotalBytes != 6 {
			t.Errorf("control was told %+v", p)
		}
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if p := told(); len(p) > 0 {
			t.Errorf("once it is removed control is told %+v", p)
		}
	})
}

// TestCopyCrashChild is the life that TestDeathWhileAVolumeIsCopied ends.
func TestCopyCrashChild(t *testing.T) {
	path := os.Getenv("MOBYFS_CRASH_DIR")
	if path == "" {
		return // on its own it proves nothing and disproves nothing
	}
	at := os.Getenv("MOBYFS_KILL_AT")
	if err := os.Rename(at, at+".later"); err != nil {
		t.Fatal(err)
	}
	bubble(t, func(t *testing.T) {
		r := rigIn(t, path)
		pass(time.Second)
		if err := os.Rename(at+".later", at); err != nil {
			t.Fatal(err)
		}
		r.nodes["h1"].create("pgdata", from(filepath.Join(path, "files")))
		write(t, path, "created", "")
		pass(time.Minute)
	})
}

// TestDeathWhileAVolumeIsCopied: killed at each durable change, the volume is whole in the end, or was never promised.
func TestDeathWhileAVolumeIsCopied(t *testing.T) {
	child := killtest.Build(t)
	deaths := 0
	for _, moment := range durableMoments(t) {
		t.Run(moment, func(t *testing.T) {
			path := t.TempDir()
			src := shopFiles(t, filepath.Join(path, "files"))
			if !child.Run("TestCopyCrashChild", moment, "MOBYFS_CRASH_DIR="+path) {
				return // this life never comes there
			}
			deaths++
			_, err := os.Stat(filepath.Join(path, "created"))
			promised := err == nil
			bubble(t, func(t *testing.T) {
				r := rigIn(t, path)
				pass(time.Minute)
				h1 := r.nodes["h1"]
				if v := r.cluster.volume("pgdata"); v.ID == "" && promised {
					t.Fatal("the volume is gone")
				} else if v.ID == "" {
					return
				} else if v.State != mobyfs.VolumeReady {
					t.Errorf("it is %+v", v)
				}
				at := h1.mount("pgdata", "a")
				if read(t, at, "rows") != "1,2,3" || read(t, at, "sub/more") != "4" || read(t, src, "rows") != "1,2,3" {
					t.Error("it holds something else")
				}
				if left := h1.staged(); left != nil {
					t.Errorf("staged is %v", left)
				}
			})
		})
	}
	if deaths < 8 {
		t.Errorf("the child was killed only %d times", deaths)
	}
	t.Logf("killed %d times", deaths)
}

// TestCopyIsTriedAgain: whoever waits is told why there is none yet, and once that is over the volume is made.
func TestCopyIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		src := shopFiles(t, t.TempDir())
		r.cluster.hook(func(_, call string) error {
			if call == "CreateVolume" {
				return os.Rename(src, src+"-away")
			}
			return nil
		}, nil)
		wantCode(t, h1.agent.Create(context.Background(), "pgdata", from(src)), mobyfs.CodeInvalid, src)
		if v := r.cluster.volume("pgdata"); v.State != mobyfs.VolumeCreating {
			t.Errorf("it is %+v", v)
		}
		if err := os.Rename(src+"-away", src); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.State != mobyfs.VolumeReady {
			t.Errorf("a minute later it is %+v", v)
		}
		if got := read(t, h1.mount("pgdata", "a"), "rows"); got != "1,2,3" {
			t.Errorf("it holds %q", got)
		}
	})
}
