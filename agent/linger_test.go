package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

// lingering is a rig whose nodes keep a lease for five seconds, with pgdata on h1.
func lingering(t *testing.T, names ...string) *rig {
	r := newRig(t)
	r.linger = 5 * time.Second
	for _, name := range names {
		r.join(name, t.TempDir())
	}
	r.nodes["h1"].create("pgdata", nil)
	settled()
	r.cluster.took()
	return r
}

func TestC94ContainerThatStartsAgainAndAgainIsOneClaimAndOneAttach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := lingering(t, "h1")
		h1 := r.nodes["h1"]
		for i := range 20 {
			h1.mount("pgdata", fmt.Sprint(i))
			pass(100 * time.Millisecond)
			h1.unmount("pgdata", fmt.Sprint(i))
			pass(3 * time.Second)
		}
		if diff := cmp.Diff([]string{"h1 Claim"}, r.cluster.took()); diff != "" {
			t.Errorf("control was asked (-want +got):\n%s", diff)
		}
		pass(3 * time.Second)
		if diff := cmp.Diff([]string{"h1 Release"}, r.cluster.took()); diff != "" {
			t.Errorf("after the last one (-want +got):\n%s", diff)
		}
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("the lease is %+v", v.Lease)
		}
	})
}

func TestLeaseThatLingersIsGivenBackWhenAnotherNodeWantsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := lingering(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		write(t, h1.mount("pgdata", "a"), "rows", "1")
		h1.unmount("pgdata", "a")
		if v := r.cluster.volume("pgdata"); v.Lease == nil {
			t.Fatal("the lease does not linger")
		}
		start := time.Now()
		if got := read(t, h2.mount("pgdata", "b"), "rows"); got != "1" {
			t.Errorf("h2 reads %q", got)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("h2 waited for %v", took)
		}
	})
}

func TestLeaseThatWasWantedDoesNotLinger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := lingering(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.mount("pgdata", "a")
		_, err := h2.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInUse, "h1")
		h1.unmount("pgdata", "a")
		settled()
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("it lingers although h2 wanted it: %+v", v.Lease)
		}
	})
}

func TestRemoveDoesNotWaitForALeaseThatLingers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := lingering(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h2.create("other", nil)
		for _, from := range []*node{h1, h2} {
			name := map[*node]string{h1: "pgdata", h2: "other"}[from]
			h1.mount(name, "a")
			pass(time.Minute)
			h1.unmount(name, "a")
			start := time.Now()
			if err := from.agent.Remove(t.Context(), name); err != nil {
				t.Errorf("%s removes: %v", from.name, err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s waited for %v", from.name, took)
			}
		}
	})
}

func TestLeaseThatLingersEndsWithTheAgentsLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := lingering(t, "h1")
		h1 := r.nodes["h1"]
		h1.mount("pgdata", "a")
		h1.unmount("pgdata", "a")
		h1.restart()
		settled()
		if !slices.Contains(r.cluster.took(), "h1 Release") {
			t.Error("the lease that nobody uses was not given back")
		}
	})
}

func TestLingeringMountsAskNobodyWhileControlIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := lingering(t, "h1")
		h1 := r.nodes["h1"]
		h1.mount("pgdata", "a")
		h1.unmount("pgdata", "a")
		r.cluster.setDown(true)
		h1.mount("pgdata", "b")
	})
}
