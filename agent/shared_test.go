package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/shared"
)

// openShared opens the rig's shared directory as the node sees it. What it mounts goes with the test.
func (n *node) openShared() backend.Backend {
	local := filepath.Join(n.root, "shared")
	b, err := shared.Open(n.rig.shared, local)
	if err != nil {
		n.rig.t.Fatal(err)
	}
	n.rig.t.Cleanup(func() {
		entries, _ := os.ReadDir(local)
		for _, e := range entries {
			_ = b.Detach(context.Background(), mobyfs.VolumeID(e.Name()))
		}
	})
	return b
}

// sharing is a cluster whose nodes all see one directory, with an unused volume in it whose home is h1.
func sharing(t *testing.T, takeover string) (r *rig, h1, h2 *node) {
	r = newRig(t)
	r.shared = t.TempDir()
	h1, h2 = r.join("h1", t.TempDir()), r.join("h2", t.TempDir())
	h1.create("pgdata", map[string]string{"backend": "shared", "takeover": takeover})
	write(t, h1.mount("pgdata", "w"), "rows", "1,2,3")
	h1.unmount("pgdata", "w")
	settled()
	return r, h1, h2
}

// has reports whether a node has anything of a shared volume left.
func (n *node) has(id mobyfs.VolumeID) bool {
	_, err := os.Lstat(filepath.Join(n.root, "shared", string(id)))
	return !errors.Is(err, os.ErrNotExist)
}

func TestSharedVolumeMovesWithoutAPull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := sharing(t, "never")
		id := r.cluster.volume("pgdata").ID
		r.pull = func(context.Context, string, mobyfs.From, func(mobyfs.Progress)) error {
			t.Error("bytes were pulled")
			return nil
		}
		path := h2.mount("pgdata", "a")
		if got := read(t, path, "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
		settled()
		if h1.has(id) || !h2.has(id) {
			t.Errorf("h1 has it: %v, h2 has it: %v", h1.has(id), h2.has(id))
		}
		write(t, path, "rows", "4")
		h2.kernel.set(path, 1, 0)
		h1.restart() // a new life that lists what is here touches nothing
		pass(time.Hour)
		if got := read(t, path, "rows"); got != "4" {
			t.Errorf("got %q", got)
		}
		h2.kernel.set(path, 0, 0)
		h2.unmount("pgdata", "a")
		settled()
		if got := read(t, h1.mount("pgdata", "b"), "rows"); got != "4" {
			t.Errorf("back again: got %q", got)
		}
	})
}

// holds is what a node would tell of a volume if control were restored now.
func (n *node) holds(id mobyfs.VolumeID) (mobyfs.Holding, bool) {
	n.rig.t.Helper()
	all, err := n.agent.holdings(n.rig.t.Context())
	if err != nil {
		n.rig.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(h mobyfs.Holding) bool { return h.ID == id })
	if i < 0 {
		return mobyfs.Holding{}, false
	}
	return all[i], true
}

// A volume that was given to a node which has not used it yet is had by none; a control that was restored has to hear of it
// all the same, also if the new home does not know yet, or the old one does not any more.
func TestASharedVolumeThatNoNodeHasIsToldOf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := sharing(t, "never")
		h3 := r.join("h3", t.TempDir())
		id := r.cluster.volume("pgdata").ID
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Node = "h2" }) // as a drain does
		settled()
		if h1.has(id) || h2.has(id) {
			t.Fatalf("h1 has it: %v, h2 has it: %v; want neither", h1.has(id), h2.has(id))
		}
		h1.restart()
		settled()
		for n, want := range map[*node]bool{h1: true, h2: true, h3: false} {
			h, told := n.holds(id)
			if told != want || told && (!h.Bytes || h.Fence == 0 || h.Lease != 0 || h.Known == nil || h.Known.Node != "h2") {
				t.Errorf("%s tells %+v, %v", n.name, h, told)
			}
		}
		h1.agent.catalogue.remove(id)
		h, told := h1.holds(id)
		if !told || h.Known == nil || h.Known.Spec.Backend != mobyfs.SharedBackend || h.Known.Node != "" {
			t.Errorf("who does not know the record tells %+v, %v", h, told)
		}
		h1.restart()
		h2.mount("pgdata", "a")
		h2.unmount("pgdata", "a")
		settled()
		if h, told := h1.holds(id); told {
			t.Errorf("another node has used it since, and h1 tells %+v", h)
		}
		if _, told := h2.holds(id); !told {
			t.Error("its home does not tell of it")
		}
	})
}

func TestNothingIsToldUntilTheSharedDirectoryIsThere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, _ := sharing(t, "never")
		away := filepath.Join(t.TempDir(), "away")
		if err := os.Rename(r.shared, away); err != nil {
			t.Fatal(err)
		}
		r.cluster.ask("restore-1", "")
		pass(time.Minute)
		if held, _ := r.cluster.heldBy(); len(held) > 0 {
			t.Errorf("it told of %v", held)
		}
		if err := os.Rename(away, r.shared); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		r.cluster.ask("", "")
		if held, last := r.cluster.heldBy(); !held["pgdata"].Bytes || !last.Last {
			t.Errorf("it told of %v, last %v", held, last.Last)
		}
	})
}

// TestRemovedSharedVolumeComesBack waits for the bytes as control does: a volume that is on its way back can't be used.
func TestRemovedSharedVolumeComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := sharing(t, "never")
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		r.cluster.undelete("pgdata")
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.ID == "" || v.Returning() {
			t.Errorf("got %+v, want it to be back", v)
		}
		if got := read(t, h2.mount("pgdata", "a"), "rows"); got != "1,2,3" {
			t.Errorf("on the other node it holds %q", got)
		}
		h2.unmount("pgdata", "a")
		settled()
	})
}

func TestReturningNodeLearnsThatItLostTheVolumeAndKeepsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := sharing(t, "manual")
		link := &cut{Control: r.cluster.as("h1")}
		h1.control = link
		h1.restart()
		settled()
		old := h1.mount("pgdata", "a")
		id := r.cluster.volume("pgdata").ID
		link.down.Store(true)
		link.lose()
		pass(time.Minute)
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Node, v.Arrived, v.Lease = "h2", "", nil }) // an operator takes it over
		path := h2.mount("pgdata", "b")
		write(t, path, "rows", "new")
		h2.kernel.set(path, 1, 0)
		link.down.Store(false)
		pass(time.Minute)
		_, err := h1.agent.Mount(t.Context(), "pgdata", "c")
		wantCode(t, err, mobyfs.CodeInUse, "h2")
		h1.unmount("pgdata", "a")
		pass(time.Minute)
		if h1.has(id) || len(h1.agent.ledger.volumes()) != 0 {
			t.Errorf("the node that lost it still has it: %v, ledger %v", h1.has(id), h1.agent.ledger.volumes())
		}
		if _, err := os.Stat(filepath.Join(old, "rows")); err == nil {
			t.Error("it is still mounted there")
		}
		h1.restart()
		pass(time.Hour)
		if got := read(t, path, "rows"); got != "new" {
			t.Errorf("got %q", got)
		}
	})
}

// A node that is cut off and does not know of the takeover is kept out by the fence beside the bytes.
func TestFenceBesideTheBytesKeepsTheOldNodeOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := sharing(t, "manual")
		link := &cut{Control: r.cluster.as("h1")}
		h1.control = link
		h1.restart()
		settled()
		h1.mount("pgdata", "a")
		link.down.Store(true)
		link.lose()
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Node, v.Arrived, v.Lease = "h2", "", nil })
		h2.mount("pgdata", "b")
		h1.restart() // it holds the lease, as its ledger says
		_, err := h1.agent.Mount(t.Context(), "pgdata", "c")
		wantCode(t, err, mobyfs.CodeStaleFence, "older than")
	})
}

func TestSharedVolumeIsNotUsedWithoutControl(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _ := sharing(t, "never")
		pass(5 * time.Second)
		r.cluster.setDown(true)
		_, err := h1.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeUnavailable, "control")
	})
}

func TestNodeWithoutTheBackendDoesNotClaimTheVolume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _ := sharing(t, "never")
		r.shared = ""
		h3 := r.join("h3", t.TempDir())
		_, err := h3.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeInvalid, `no backend "shared"`)
		if v := r.cluster.volume("pgdata"); v.Node != "h1" {
			t.Errorf("it went to %s", v.Node)
		}
		h1.mount("pgdata", "b")
	})
}

func TestTakeoverIsGivenAsAnOption(t *testing.T) {
	spec, err := parseOptions(map[string]string{"takeover": "auto", "backend": "shared"}, []string{"dir", "shared"})
	if err != nil || spec.Takeover != mobyfs.TakeoverAuto {
		t.Errorf("got %+v, %v", spec, err)
	}
	for _, bad := range []string{"", "always"} {
		_, err := parseOptions(map[string]string{"takeover": bad}, []string{"dir"})
		wantCode(t, err, mobyfs.CodeInvalid, "auto")
	}
}
