package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// twoNodes is a cluster with a volume pgdata on h1 that holds rows, unused.
func twoNodes(t *testing.T, wrap func(backend.Backend) backend.Backend) (r *rig, h1, h2 *node) {
	r = newRig(t, "h1")
	h1, h2 = r.nodes["h1"], r.joinWith("h2", wrap)
	h1.create("pgdata", nil)
	write(t, h1.mount("pgdata", "w"), "rows", "1,2,3")
	h1.unmount("pgdata", "w")
	settled()
	r.cluster.took()
	return r, h1, h2
}

// staged lists what is staged on a node.
func (n *node) staged() []string {
	entries, _ := os.ReadDir(filepath.Join(n.root, "incoming"))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestOperatorsMoveBringsTheVolumeWithoutALease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		r.cluster.move("pgdata", "h2")
		settled()
		if v := r.cluster.volume("pgdata"); v.Node != "h2" || v.Lease != nil || v.Migration != nil {
			t.Errorf("got %+v", v)
		}
		if got := read(t, h2.mount("pgdata", "a"), "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
		_, err := h1.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInUse, "h2")
	})
}

func TestMountDuringAnOperatorsMoveWaitsForIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		r.pull = func(context.Context, string, mobyfs.From, func(mobyfs.Progress)) error {
			time.Sleep(30 * time.Second)
			return nil
		}
		r.cluster.move("pgdata", "h2")
		settled()
		_, err := h1.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeMoving, "h1 to h2")
		if got := read(t, h2.mount("pgdata", "b"), "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
	})
}

func TestBrokenPullIsTriedAgainUntilItSucceeds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		var tries atomic.Int32
		r.pull = func(_ context.Context, _ string, _ mobyfs.From, progress func(mobyfs.Progress)) error {
			progress(mobyfs.Progress{Bytes: int64(tries.Load())})
			if tries.Add(1) < 5 {
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "read from h1: connection reset")
			}
			return nil
		}
		if got := read(t, h2.mount("pgdata", "a"), "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
		want := []string{"h2 Claim", "h2 Accept", "h2 Accept", "h2 Accept", "h2 Accept", "h2 Commit"}
		if d := cmp.Diff(want, r.cluster.took()); d != "" {
			t.Error(d)
		}
	})
}

func TestCutPullGoesOnWithWhatCameAndAnotherFailureBeginsAnew(t *testing.T) {
	for _, c := range []struct {
		code mobyfs.Code
		left string // what the second try finds
	}{
		{mobyfs.CodeUnavailable, "1,2,3"},
		{mobyfs.CodeCorrupt, ""},
	} {
		bubble(t, func(t *testing.T) {
			r, _, h2 := twoNodes(t, nil)
			var cuts atomic.Int32
			found := ""
			r.cut = func() error {
				if cuts.Add(1) == 1 {
					return mobyfs.Errorf(c.code, "the first try fails")
				}
				return nil
			}
			r.goesOn = func(into string) error {
				found = read(t, into, "rows")
				return nil
			}
			if got := read(t, h2.mount("pgdata", "a"), "rows"); got != "1,2,3" {
				t.Errorf("%s: got %q", c.code, got)
			}
			if found != c.left {
				t.Errorf("%s: the second try went on with %q, want %q", c.code, found, c.left)
			}
			if n := cuts.Load(); n != 2 {
				t.Errorf("%s: %d tries, want 2", c.code, n)
			}
		})
	}
}

func TestCutPullGoesOnAfterTheAgentWasRestarted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		var cut atomic.Bool
		cut.Store(true)
		r.cut = func() error {
			if cut.Load() {
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "the link is down")
			}
			return nil
		}
		found := ""
		r.goesOn = func(into string) error {
			found = read(t, into, "rows")
			return nil
		}
		r.cluster.move("pgdata", "h2")
		pass(time.Second)
		found = ""
		h2.restart()
		cut.Store(false)
		pass(time.Minute)
		if got := read(t, h2.mount("pgdata", "a"), "rows"); got != "1,2,3" || found != "1,2,3" {
			t.Errorf("got %q, after going on with %q", got, found)
		}
	})
}

func TestPullThatCantSucceedIsAbortedAndTold(t *testing.T) {
	for _, c := range []struct {
		err   error
		tries int32
	}{
		{mobyfs.Errorf(mobyfs.CodeNoSpace, "300 MB don't fit into 20 MB").WithHint("make room on h2"), 1},
		{mobyfs.Errorf(mobyfs.CodeCorrupt, "the digests differ"), 3},
		{mobyfs.Errorf(mobyfs.CodeDenied, "node/h2 may not pull"), 5},
		{errors.New("read: input/output error"), 5},
	} {
		bubble(t, func(t *testing.T) {
			r, h1, h2 := twoNodes(t, nil)
			var tries atomic.Int32
			r.pull = func(context.Context, string, mobyfs.From, func(mobyfs.Progress)) error { tries.Add(1); return c.err }
			_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
			wantCode(t, err, mobyfs.CodeOf(c.err), `"pgdata"`, "from h1 to h2", c.err.Error(), mobyfs.HintOf(c.err))
			settled()
			if n := tries.Load(); n != c.tries {
				t.Errorf("%v: %d tries, want %d", c.err, n, c.tries)
			}
			v := r.cluster.volume("pgdata")
			if v.Node != "h1" || v.Migration != nil || v.LastMove.State != mobyfs.MigrationAborted {
				t.Errorf("got %+v", v)
			}
			reason := c.err.Error()
			if hint := mobyfs.HintOf(c.err); hint != "" {
				reason += "; " + hint
			}
			if v.LastMove.Reason != reason {
				t.Errorf("the reason is %q, want %q", v.LastMove.Reason, reason)
			}
			if left := h2.staged(); left != nil {
				t.Errorf("staged: %v", left)
			}
			h1.mount("pgdata", "b") // nothing is lost
		})
	}
}

func TestSourceThatStaysAwayEndsTheMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		r.pull = func(context.Context, string, mobyfs.From, func(mobyfs.Progress)) error {
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "dial h1:8080: no route to host")
		}
		_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeMoving, "still moving", "no route to host", "run it again")
		pass(5 * time.Minute)
		if v := r.cluster.volume("pgdata"); v.Migration == nil {
			t.Error("the move was given up after five minutes")
		}
		pass(10 * time.Minute)
		if v := r.cluster.volume("pgdata"); v.Migration != nil || v.LastMove.State != mobyfs.MigrationAborted {
			t.Errorf("after a quarter of an hour: %+v", v)
		}
	})
}

func TestMoveThatAnOperatorCancelsEndsTheMount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		stopped := make(chan struct{})
		r.pull = func(ctx context.Context, _ string, _ mobyfs.From, _ func(mobyfs.Progress)) error {
			<-ctx.Done()
			close(stopped)
			return ctx.Err()
		}
		time.AfterFunc(10*time.Second, func() {
			r.cluster.edit("pgdata", func(v *mobyfs.Volume) { end(v, mobyfs.MigrationAborted, "cancelled by operator/ana") })
		})
		start := time.Now()
		_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeMoving, "cancelled by operator/ana", "h1")
		if took := time.Since(start); took > 12*time.Second {
			t.Errorf("took %v", took)
		}
		<-stopped
		settled()
		if v := r.cluster.volume("pgdata"); v.Migration != nil {
			t.Error("the mount began another move")
		}
		if left := h2.staged(); left != nil {
			t.Errorf("staged: %v", left)
		}
		h1.mount("pgdata", "b")
	})
}

// killed between Commit and Adopt: the volume's only true bytes are those that are staged.
func TestDeathBetweenCommitAndAdoptIsMadeGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var dead atomic.Bool
		r, _, h2 := twoNodes(t, func(b backend.Backend) backend.Backend {
			return &faulty{b, func(call string) error {
				if call == "Adopt" && dead.Load() {
					return errors.New("killed")
				}
				return nil
			}}
		})
		dead.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		_, err := h2.agent.Mount(ctx, "pgdata", "a")
		if err == nil {
			t.Fatal("the volume was mounted")
		}
		if v := r.cluster.volume("pgdata"); v.Node != "h2" {
			t.Fatalf("it was not committed: %+v", v)
		}
		h2.stop()
		dead.Store(false)
		r.cluster.took()
		h2.start()
		settled()
		if got := read(t, h2.mount("pgdata", "b"), "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
		if left := h2.staged(); left != nil {
			t.Errorf("staged: %v", left)
		}
	})
}

func TestCommitWhoseAnswerIsLostIsAskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		lost := 0
		r.cluster.hook(nil, func(_, call string) error {
			if call == "Commit" && lost < 2 {
				lost++
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control: the connection was lost")
			}
			return nil
		})
		if got := read(t, h2.mount("pgdata", "a"), "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
		if v := r.cluster.volume("pgdata"); v.Node != "h2" || v.Lease == nil {
			t.Errorf("got %+v", v)
		}
	})
}

func TestMoveThatWasAbortedMeanwhileIsThrownAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		r.cluster.hook(func(_, call string) error {
			if call == "Commit" {
				r.cluster.hook(nil, nil)
				r.cluster.edit("pgdata", func(v *mobyfs.Volume) { end(v, mobyfs.MigrationAborted, "h2 was silent") })
			}
			return nil
		}, nil)
		_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeMoving, "h2 was silent")
		settled()
		if left := h2.staged(); left != nil {
			t.Errorf("staged: %v", left)
		}
		if v := r.cluster.volume("pgdata"); v.Node != "h1" || v.Migration != nil {
			t.Errorf("got %+v", v)
		}
		h1.mount("pgdata", "b")
	})
}

func TestMoveThatEndedWhileTheAgentWasDeadIsCleanedUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		r.pull = func(ctx context.Context, _ string, _ mobyfs.From, _ func(mobyfs.Progress)) error {
			<-ctx.Done()
			return ctx.Err()
		}
		r.cluster.move("pgdata", "h2")
		settled()
		if left := h2.staged(); left == nil {
			t.Fatal("nothing is staged")
		}
		h2.stop()
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { end(v, mobyfs.MigrationAborted, "h2 was silent") })
		h2.start()
		settled()
		if left := h2.staged(); left != nil {
			t.Errorf("staged: %v", left)
		}
	})
}

// A later move that failed must not let the sealed bytes go that an earlier one made the volume.
func TestSealedBytesOutliveALaterMoveThatFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var dead atomic.Bool
		dead.Store(true)
		r, _, h2 := twoNodes(t, func(b backend.Backend) backend.Backend {
			return &faulty{b, func(call string) error {
				if call == "Adopt" && dead.Load() {
					return errors.New("killed")
				}
				return nil
			}}
		})
		r.cluster.move("pgdata", "h2")
		settled()
		h2.stop()
		r.cluster.move("pgdata", "h3")
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { end(v, mobyfs.MigrationAborted, "volume is not on h2") })
		dead.Store(false)
		h2.start()
		settled()
		if got := read(t, h2.mount("pgdata", "b"), "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
	})
}

func TestRestartDuringAPullBeginsItAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		hang := true
		r.pull = func(ctx context.Context, _ string, _ mobyfs.From, _ func(mobyfs.Progress)) error {
			if hang {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		r.cluster.move("pgdata", "h2")
		settled()
		h2.stop()
		hang = false
		h2.start()
		settled()
		if v := r.cluster.volume("pgdata"); v.Node != "h2" {
			t.Errorf("got %+v", v)
		}
	})
}

func TestOldHomeThatWasDeadPutsItsBytesAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		path := filepath.Join(h1.root, "volumes", "v1", "data")
		r.pull = func(context.Context, string, mobyfs.From, func(mobyfs.Progress)) error { return nil }
		var once atomic.Bool
		r.cluster.hook(nil, func(_, call string) error {
			if call == "Commit" && once.CompareAndSwap(false, true) {
				go h1.stop()
			}
			return nil
		})
		h2.mount("pgdata", "a")
		h1.stop()
		h1.start()
		settled()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the old bytes are still in place")
		}
	})
}

func TestBytesInUseAreNotPutAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		path := filepath.Join(h1.root, "volumes", "v1", "data")
		r.cluster.hook(func(_, call string) error {
			if call == "Commit" { // somebody opens a file when all has been read
				h1.kernel.set(path, 0, 1)
			}
			return nil
		}, nil)
		r.cluster.move("pgdata", "h2")
		settled()
		pass(time.Minute)
		if _, err := os.Stat(path); err != nil {
			t.Errorf("a process has a file there open: %v", err)
		}
		h1.kernel.set(path, 0, 0)
		pass(time.Minute)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("they stay for ever")
		}
		if v := r.cluster.volume("pgdata"); v.Node != h2.name {
			t.Errorf("the volume is on %s", v.Node)
		}
	})
}

// A process without a mount of its own that has a file open could still write to what has been read.
func TestC80ProcessWithAnOpenFileStopsAMoveAndARemoval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		path := filepath.Join(h1.root, "volumes", "v1", "data")
		h1.kernel.set(path, 0, 1)
		_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeInUse, "h1", "process 4711 (postgres)", "end it")
		wantCode(t, h1.agent.Remove(t.Context(), "pgdata"), mobyfs.CodeInUse, "h1", "process 4711 (postgres)")
		if v := r.cluster.volume("pgdata"); v.Node != "h1" || v.Migration != nil || v.State != mobyfs.VolumeReady {
			t.Errorf("got %+v", v)
		}
		h1.kernel.set(path, 0, 0)
		h2.mount("pgdata", "a")
	})
}

func TestSourceWithAKernelUserRefusesAndTheMoveIsAborted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		h1.kernel.set(filepath.Join(h1.root, "volumes", "v1", "data"), 1, 0)
		_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeInUse, "h1", "process 4711 (postgres)")
		if v := r.cluster.volume("pgdata"); v.Node != "h1" || v.Migration != nil {
			t.Errorf("got %+v", v)
		}
	})
}

// offer asks h1 for pgdata with a ticket made of t.
func offer(r *rig, peer pki.Identity, signer pki.Files, ticket mobyfs.Ticket) error {
	token, err := signer.SignToken(ticket, time.Hour)
	if err != nil {
		r.t.Fatal(err)
	}
	offered, err := r.nodes["h1"].agent.Offer(context.Background(), peer, token)
	if err == nil {
		offered.Release()
	}
	return err
}

func TestOfferChecksTheTicket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2 := twoNodes(t, nil)
		node := pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h2"}
		good := mobyfs.Ticket{Migration: "m9", Volume: "v1", From: "h1", To: "h2", Fence: r.cluster.volume("pgdata").Fence, Expires: time.Now().Add(time.Minute)}
		change := func(f func(*mobyfs.Ticket)) mobyfs.Ticket { c := good; f(&c); return c }
		control := r.cluster.signer
		wantCode(t, offer(r, node, h2.files, good), mobyfs.CodeDenied)
		wantCode(t, offer(r, pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h3"}, control, good), mobyfs.CodeDenied)
		wantCode(t, offer(r, pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "h2"}, control, good), mobyfs.CodeDenied)
		wantCode(t, offer(r, node, control, change(func(c *mobyfs.Ticket) { c.From = "h3" })), mobyfs.CodeDenied)
		wantCode(t, offer(r, node, control, change(func(c *mobyfs.Ticket) { c.Expires = time.Now() })), mobyfs.CodeDenied)
		wantCode(t, offer(r, node, control, change(func(c *mobyfs.Ticket) { c.Volume = "v7" })), mobyfs.CodeNotFound)
		wantCode(t, offer(r, node, control, change(func(c *mobyfs.Ticket) { c.Fence = 1 })), mobyfs.CodeStaleFence)
		if err := offer(r, node, control, good); err != nil {
			t.Errorf("a good ticket: %v", err)
		}
	})
}

func TestOfferOfAVolumeInUseIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _ := twoNodes(t, nil)
		h1.mount("pgdata", "a")
		peer := pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h2"}
		err := offer(r, peer, r.cluster.signer, mobyfs.Ticket{Migration: "m9", Volume: "v1", From: "h1", To: "h2", Fence: 99, Expires: time.Now().Add(time.Minute)})
		wantCode(t, err, mobyfs.CodeInUse, "h1")
		h1.mount("pgdata", "b") // and nothing has changed
	})
}

func TestExportedVolumeIsAttachedOnlyByANewDecision(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2 := twoNodes(t, nil)
		r.cluster.move("pgdata", "h2")
		settled()
		// h2 has it. h1 claims: the bytes come back under a higher fence.
		h1.mount("pgdata", "a")
		h1.unmount("pgdata", "a")
		_ = h2
		m := r.cluster.volume("pgdata")
		if m.Node != "h1" || m.Lease != nil {
			t.Errorf("got %+v", m)
		}
	})
}

func TestOfferThatNobodyWaitsForIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _ := twoNodes(t, nil)
		peer := pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h2"}
		token, err := r.cluster.signer.SignToken(mobyfs.Ticket{Migration: "m9", Volume: "v1", From: "h1", To: "h2", Fence: 99, Expires: time.Now().Add(time.Minute)}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h1.agent.Offer(ctx, peer, token); err == nil {
			t.Fatal("a caller that had gone was given the volume")
		}
		settled()
		if w := h1.agent.known("v1"); w != nil && w.exports != 0 {
			t.Errorf("%d exports are open", w.exports)
		}
	})
}
