package shared

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/backendtest"
)

const vol = mobyfs.VolumeID("01jcx0000000000000000000va")

// node opens the backend of one node over a shared directory.
func node(t *testing.T, root, local string) *Backend {
	t.Helper()
	b, err := Open(root, local)
	must(t, err)
	t.Cleanup(func() {
		entries, _ := os.ReadDir(local)
		for _, e := range entries {
			_ = b.hide(mobyfs.VolumeID(e.Name()))
		}
	})
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, want mobyfs.Code) {
	t.Helper()
	if got := mobyfs.CodeOf(err); got != want {
		t.Errorf("got %v (code %q), want code %q", err, got, want)
	}
}

func TestBackend(t *testing.T) {
	backendtest.Run(t, func(t *testing.T, root string) backend.Backend {
		must(t, os.MkdirAll(filepath.Join(root, "all"), 0o700))
		return node(t, filepath.Join(root, "all"), filepath.Join(root, "here"))
	})
}

// two are two nodes with a volume that the first one made and attached at fence 2.
func two(t *testing.T) (h1, h2 *Backend) {
	root := t.TempDir()
	h1, h2 = node(t, root, filepath.Join(t.TempDir(), "h1")), node(t, root, filepath.Join(t.TempDir(), "h2"))
	must(t, h1.Create(t.Context(), vol, mobyfs.VolumeSpec{Backend: "shared"}))
	path, err := h1.Attach(t.Context(), vol, 2)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(path, "rows"), []byte("1,2,3"), 0o600))
	return h1, h2
}

func TestAVolumeMovesWithoutBeingCopied(t *testing.T) {
	h1, h2 := two(t)
	must(t, h1.Leave(t.Context(), vol))
	path, err := h2.Attach(t.Context(), vol, 3)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(path, "rows")); string(got) != "1,2,3" {
		t.Errorf("got %q, %v", got, err)
	}
	if held, _, err := h1.List(t.Context()); len(held) != 0 || err != nil {
		t.Errorf("the node that left it lists %v, %v", held, err)
	}
	if held, _, err := h2.List(t.Context()); len(held) != 1 || held[0].Fence != 3 || err != nil {
		t.Errorf("the node that has it lists %v, %v", held, err)
	}
	must(t, h1.Leave(t.Context(), vol)) // again
	if _, err := os.Stat(filepath.Join(path, "rows")); err != nil {
		t.Errorf("leaving touched the bytes: %v", err)
	}
}

func TestTheNodeThatLostTheVolumeIsRefusedEverything(t *testing.T) {
	h1, h2 := two(t)
	_, err := h2.Attach(t.Context(), vol, 3)
	must(t, err)
	_, err = h1.Attach(t.Context(), vol, 2)
	wantCode(t, err, mobyfs.CodeStaleFence)
	_, _, err = h1.Export(t.Context(), vol, 2)
	wantCode(t, err, mobyfs.CodeStaleFence)
	wantCode(t, h1.Remove(t.Context(), vol, 2), mobyfs.CodeStaleFence)
	wantCode(t, h1.Adopt(t.Context(), vol, "m1", 2), mobyfs.CodeStaleFence)
	_, err = h2.Attach(t.Context(), vol, 3)
	must(t, err)
}

// Many nodes attach at once, each with a fence of its own. Whatever order they come in, the fence never goes back, and
// who was let in is never older than somebody who was let in before it began.
func TestFencesOnlyGrowWhoeverWritesThem(t *testing.T) {
	root := t.TempDir()
	first := node(t, root, filepath.Join(t.TempDir(), "first"))
	must(t, first.Create(t.Context(), vol, mobyfs.VolumeSpec{Backend: "shared"}))
	var highest atomic.Uint64
	var passed, refused atomic.Int64
	var all sync.WaitGroup
	for n := range 8 {
		b := node(t, root, filepath.Join(t.TempDir(), fmt.Sprint("h", n)))
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		all.Go(func() {
			for range 40 {
				before := highest.Load()
				fence := mobyfs.Fence(before + rng.Uint64N(4))
				_, err := b.Attach(t.Context(), vol, fence)
				switch {
				case mobyfs.CodeOf(err) == mobyfs.CodeStaleFence:
					refused.Add(1)
					continue
				case err != nil:
					t.Error(err)
					continue
				case uint64(fence) < before:
					t.Errorf("fence %d was let in after %d", fence, before)
				}
				passed.Add(1)
				for now := highest.Load(); now < uint64(fence) && !highest.CompareAndSwap(now, uint64(fence)); now = highest.Load() {
				}
			}
		})
	}
	all.Wait()
	if got, err := first.highest(vol); err != nil || uint64(got) < highest.Load() {
		t.Errorf("in the end fence %d lies beside the bytes, %d was let in; %v", got, highest.Load(), err)
	}
	t.Logf("8 nodes: %d attached, %d refused, highest fence %d", passed.Load(), refused.Load(), highest.Load())
}

func TestAnEmptyMountPointIsNotTakenForTheSharedDirectory(t *testing.T) {
	root, local := t.TempDir(), filepath.Join(t.TempDir(), "h1")
	must(t, unix.Mount("none", root, "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
	h1 := node(t, root, local)
	must(t, h1.Create(t.Context(), vol, mobyfs.VolumeSpec{Backend: "shared"}))
	must(t, unix.Unmount(root, unix.MNT_DETACH))
	again := node(t, root, local) // the host has started, and its network has not
	wantCode(t, again.Create(t.Context(), vol, mobyfs.VolumeSpec{Backend: "shared"}), mobyfs.CodeUnavailable)
	_, err := again.Attach(t.Context(), vol, 1)
	wantCode(t, err, mobyfs.CodeUnavailable)
	if mobyfs.HintOf(err) == "" {
		t.Error("nothing says what to do")
	}
	if held, _, err := again.List(t.Context()); err != nil || len(held) != 1 || held[0].ID != vol {
		t.Errorf("meanwhile it lists %v, %v", held, err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 0 {
		t.Errorf("the mount point holds %v, %v", entries, err)
	}
}

func TestASharedDirectoryThatHangsDoesNotKeepTheAgentFromStarting(t *testing.T) {
	h1, _ := two(t)
	h1.mu.Lock() // whoever asks for the directory waits, as in a mount whose server is away
	defer h1.mu.Unlock()
	start := time.Now()
	held, _, err := h1.List(t.Context())
	if err != nil || len(held) != 1 || held[0].ID != vol {
		t.Errorf("got %v, %v", held, err)
	}
	if took := time.Since(start); took > listFor+3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// surveyed tells which volumes a node sees, and of each its fence and whether it saw it last.
func surveyed(t *testing.T, b *Backend) map[mobyfs.VolumeID]backend.Seen {
	t.Helper()
	all, err := b.Survey(t.Context())
	must(t, err)
	seen := map[mobyfs.VolumeID]backend.Seen{}
	for _, v := range all {
		seen[v.ID] = v
	}
	return seen
}

func TestWhoUsedAVolumeLastSaysSoEvenIfNobodyHasIt(t *testing.T) {
	h1, h2 := two(t)
	_, _, err := h2.List(t.Context()) // it looks into the shared directory, as agents do when they start
	must(t, err)
	want := func(what string, fence mobyfs.Fence, last1, last2 bool) {
		t.Helper()
		one, two := surveyed(t, h1)[vol], surveyed(t, h2)[vol]
		if one.Fence != fence || two.Fence != fence || one.Last != last1 || two.Last != last2 {
			t.Errorf("%s: h1 sees %+v, h2 sees %+v; want fence %d, last %v and %v", what, one, two, fence, last1, last2)
		}
	}
	want("attached by h1", 2, true, false)
	must(t, h1.Leave(t.Context(), vol))
	want("left by h1", 2, true, false)
	h1 = node(t, h1.root, h1.local)
	want("h1 begins anew", 2, true, false)
	_, err = h2.Attach(t.Context(), vol, 3)
	must(t, err)
	want("attached by h2", 3, false, true)
	must(t, os.WriteFile(filepath.Join(h1.volume(vol), fencePrefix+"00000000000000000004"), nil, 0o600))
	want("attached by an agent that left no mark", 4, true, true)

	const fresh = mobyfs.VolumeID("01jcx0000000000000000000vb")
	must(t, h1.Create(t.Context(), fresh, mobyfs.VolumeSpec{Backend: "shared"}))
	if one, two := surveyed(t, h1)[fresh], surveyed(t, h2)[fresh]; !one.Last || !two.Last {
		t.Errorf("never attached: h1 sees %+v, h2 sees %+v", one, two)
	}
	must(t, h1.Remove(t.Context(), fresh, 2))
	if seen := surveyed(t, h2); len(seen) != 1 {
		t.Errorf("of a removed volume h2 sees %v", seen)
	}
}

func TestOnlyWhoHasSeenTheSharedDirectoryWaitsForIt(t *testing.T) {
	h1, _ := two(t)
	must(t, os.Rename(h1.root, h1.root+".away"))
	t.Cleanup(func() { must(t, os.Rename(h1.root+".away", h1.root)) })
	_, err := h1.Survey(t.Context())
	wantCode(t, err, mobyfs.CodeUnavailable)
	if all, err := node(t, h1.root, t.TempDir()).Survey(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("who has never seen it tells %v, %v", all, err)
	}
}

func TestAttachAfterTheWatchdogCanBeWrittenToAgain(t *testing.T) {
	h1, _ := two(t)
	path := h1.Path(vol)
	must(t, unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	if err := os.WriteFile(filepath.Join(path, "rows"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Fatalf("got %v", err)
	}
	_, err := h1.Attach(t.Context(), vol, 2)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(path, "rows"), []byte("4"), 0o600))
}
