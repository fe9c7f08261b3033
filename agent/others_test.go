package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// largeCluster is twoNodes in a cluster whose nodes watch what concerns them. While h1 did not run, its volume pgdata
// became what change made of it.
func largeCluster(t *testing.T, change func(v *mobyfs.Volume)) (r *rig, h1, h2 *node, bytes string) {
	r, h1, h2 = twoNodes(t, nil)
	r.cluster.partial = true
	bytes = filepath.Join(h1.root, "volumes", string(r.cluster.volume("pgdata").ID), "data")
	r.cluster.setDown(true)
	r.cluster.mu.Lock()
	change(r.cluster.find("pgdata"))
	r.cluster.rev++
	r.cluster.mu.Unlock()
	h1.restart()
	pass(time.Minute)
	return r, h1, h2, bytes
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestVolumeThatMovedAwayUnseenIsVacatedOnceControlSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, _, bytes := largeCluster(t, func(v *mobyfs.Volume) {
			v.Node, v.Revision = "h2", v.Revision+1
			v.Fence++
		})
		unheard := errors.New("the answer was lost")
		r.cluster.hook(func(_, call string) error {
			if call == "Records" {
				return unheard
			}
			return nil
		}, nil)
		r.cluster.setDown(false)
		pass(time.Minute)
		if !there(bytes) {
			t.Fatal("the bytes went although control has not said where the volume is")
		}
		r.cluster.hook(nil, nil)
		pass(time.Minute)
		if there(bytes) {
			t.Error("the bytes are there still, a minute after control said that h2 is the home")
		}
	})
}

func TestVolumeThatControlDoesNotKnowStaysInALargeClusterToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, bytes := largeCluster(t, func(*mobyfs.Volume) {})
		r.cluster.mu.Lock()
		for id := range r.cluster.volumes {
			delete(r.cluster.volumes, id)
		}
		r.cluster.mu.Unlock()
		r.cluster.setDown(false)
		pass(time.Minute)
		_, err := h1.agent.Get(t.Context(), "pgdata")
		wantCode(t, err, mobyfs.CodeNotFound)
		if !there(bytes) {
			t.Error("what nobody knows may be the last copy of something, and it was removed")
		}
	})
}

func TestNodeOfALargeClusterAsksForVolumesThatDoNotConcernIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		r.cluster.partial = true
		r.cluster.setDown(true)
		r.cluster.setDown(false)
		pass(10 * time.Second)
		if list := h2.agent.List(); len(list) != 0 {
			t.Errorf("h2 lists %v, which does not concern it", list)
		}
		if _, err := h2.agent.Get(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		_, err := h2.agent.Get(t.Context(), "pgdata")
		wantCode(t, err, mobyfs.CodeNotFound)
		h1.create("pgdata", nil)
		if got := h2.mount("pgdata", "a"); !there(got) { // the new one comes
			t.Errorf("nothing is at %s", got)
		}
		r.cluster.setDown(true)
		pass(time.Second)
		_, err = h1.agent.Get(t.Context(), "nosuch")
		wantCode(t, err, mobyfs.CodeUnavailable)
	})
}

func TestVolumeMadeElsewhereIsWaitedForInALargeCluster(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		r.cluster.partial = true
		r.cluster.full = map[string]bool{"h2": true}
		r.cluster.setDown(true)
		r.cluster.setDown(false)
		pass(10 * time.Second)
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h2.agent.Create(ctx, "elsewhere", nil); err != nil {
			t.Fatal(err)
		}
		if v := r.cluster.volume("elsewhere"); v.Node != "h1" || v.State != mobyfs.VolumeReady || time.Since(begun) > 2*askPause {
			t.Errorf("after %v it is %s on %s", time.Since(begun), v.State, v.Node)
		}
	})
}
