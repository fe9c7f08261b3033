package provision

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// Cluster is what provisioning asks of the control plane. *api.Client is one.
type Cluster interface {
	Nodes(ctx context.Context) ([]mobyfs.Node, error)
	Volumes(ctx context.Context) ([]mobyfs.Volume, error)
	Volume(ctx context.Context, name string) (mobyfs.Volume, error)
	CreateVolume(ctx context.Context, name string, spec mobyfs.VolumeSpec, node string) (mobyfs.Volume, error)
	MoveVolume(ctx context.Context, name, to string) (mobyfs.Volume, error)
	RemoveVolume(ctx context.Context, name string) error
	DescribeNode(ctx context.Context, name string, spec mobyfs.NodeSpec) (mobyfs.Node, error)
}

// Verify waits until every node is ready in the cluster. It changes nothing.
type Verify struct {
	Cluster Cluster
	Nodes   []string
	Say     func(step.Event)
	Limit   time.Duration // for all to become ready, and for each volume of the proof
	Every   time.Duration // between questions
}

// Ready returns a problem for each node that is not ready within Limit.
func (v Verify) Ready(ctx context.Context) []*host.Problem {
	ctx, cancel := context.WithTimeout(ctx, v.Limit)
	defer cancel()
	began, told := time.Now(), time.Now()
	waiting := map[string]string{}
	for _, n := range v.Nodes {
		waiting[n] = "control has not heard of it"
	}
	for {
		nodes, err := v.Cluster.Nodes(ctx)
		for _, n := range nodes {
			if _, ours := waiting[n.Name]; ours && n.Ready {
				delete(waiting, n.Name)
			} else if ours {
				waiting[n.Name] = "control heard of it last at " + n.LastSeenAt.Local().Format(time.TimeOnly)
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		if time.Since(told) > time.Second {
			told = time.Now()
			for n := range waiting {
				v.Say(step.Event{Host: n, Step: "ready", State: step.StateWaiting,
					Text: fmt.Sprintf("waiting for the node to report to control (%.0f s of %.0f s)", time.Since(began).Seconds(), v.Limit.Seconds())})
			}
		}
		if !v.pause(ctx) {
			return v.notReady(waiting, err)
		}
	}
}

func (v Verify) notReady(waiting map[string]string, err error) []*host.Problem {
	var all []*host.Problem
	for _, n := range v.Nodes {
		why, missing := waiting[n]
		if !missing {
			continue
		}
		if mobyfs.CodeOf(err) == mobyfs.CodeUnavailable {
			why = "control can't be asked: " + err.Error()
		}
		all = append(all, host.NotReady.Problem(n, "%s, after %v", why, v.Limit))
	}
	return all
}

func (v Verify) pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(v.Every):
		return true
	}
}

// Proof is what the proof of a cluster did.
type Proof struct {
	Nodes int           `json:"nodes"` // on which a volume was made and removed
	From  string        `json:"from,omitempty"`
	To    string        `json:"to,omitempty"` // a volume was moved; empty with a single node
	Took  time.Duration `json:"took_ns"`
}

// proofPrefix begins the names of the volumes that a proof makes. They hold nobody's data.
const proofPrefix = "mobyfs-proof-"

// Sweep removes what proofs that were killed left behind. Volumes young enough to be those of a proof under way stay.
func (v Verify) Sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.Limit)
	defer cancel()
	all, err := v.Cluster.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, vol := range all {
		if strings.HasPrefix(vol.Name, proofPrefix) && vol.State == mobyfs.VolumeReady && time.Since(vol.CreatedAt) > 2*v.Limit {
			if err := v.remove(ctx, vol.Name); err != nil {
				return fmt.Errorf("remove %s, which an earlier proof left behind: %w", vol.Name, err)
			}
		}
	}
	return nil
}

// Prove makes a volume on every node, moves one to the next node, and removes them all.
func (v Verify) Prove(ctx context.Context) (Proof, []*host.Problem) {
	began := time.Now()
	proof := Proof{Nodes: len(v.Nodes)}
	run := make([]byte, 4)
	_, _ = rand.Read(run) // never fails
	var mu sync.Mutex
	var failed []*host.Problem
	var g errgroup.Group
	g.SetLimit(16)
	for i, node := range v.Nodes {
		to := ""
		if i == 0 && len(v.Nodes) > 1 {
			to = v.Nodes[1]
			proof.From, proof.To = node, to
		}
		name := fmt.Sprintf(proofPrefix+"%s-%s", hex.EncodeToString(run), node)
		g.Go(func() error {
			if err := v.proveOne(ctx, name, node, to); err != nil {
				mu.Lock()
				defer mu.Unlock()
				p := host.ProofFailed.Problem(node, "%w", err)
				if hint := mobyfs.HintOf(err); hint != "" {
					p.Fix = hint
				}
				failed = append(failed, p)
			}
			return nil
		})
	}
	_ = g.Wait()
	proof.Took = time.Since(began)
	return proof, failed
}

// proveOne takes one volume through its life. It is removed also when something went wrong.
func (v Verify) proveOne(ctx context.Context, name, node, to string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, v.Limit)
	defer cancel()
	if _, err := v.Cluster.CreateVolume(ctx, name, mobyfs.VolumeSpec{}, node); err != nil {
		return fmt.Errorf("create a volume on %s: %w", node, err)
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.Limit)
		defer cancel()
		if removeErr := v.remove(clean, name); removeErr != nil && err == nil {
			err = fmt.Errorf("remove the volume on %s: %w", node, removeErr)
		}
	}()
	err = v.until(ctx, name, func(vol mobyfs.Volume) bool { return vol.State == mobyfs.VolumeReady && vol.Node == node })
	if err != nil {
		return fmt.Errorf("create a volume on %s: %w", node, err)
	}
	if to == "" {
		return nil
	}
	if _, err = v.Cluster.MoveVolume(ctx, name, to); err == nil {
		err = v.until(ctx, name, func(vol mobyfs.Volume) bool { return vol.Node == to && vol.Migration == nil })
	}
	if err != nil {
		return fmt.Errorf("move a volume from %s to %s: %w", node, to, err)
	}
	return nil
}

// until asks for a volume again and again until it is as wanted.
func (v Verify) until(ctx context.Context, name string, wanted func(mobyfs.Volume) bool) error {
	for {
		vol, err := v.Cluster.Volume(ctx, name)
		if err == nil && wanted(vol) {
			return nil
		}
		if err == nil && vol.LastMove != nil && vol.LastMove.State == mobyfs.MigrationAborted {
			return mobyfs.Errorf(mobyfs.CodeInternal, "the move was given up: %s", vol.LastMove.Reason)
		}
		if !v.pause(ctx) {
			if err != nil {
				return err
			}
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "it is still %s on %s after %v", vol.Condition(), vol.Node, v.Limit)
		}
	}
}

// remove removes a volume and waits until its bytes are gone as well.
func (v Verify) remove(ctx context.Context, name string) error {
	for {
		err := v.Cluster.RemoveVolume(ctx, name)
		if err == nil || mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			break
		}
		if code := mobyfs.CodeOf(err); code != mobyfs.CodeMoving && code != mobyfs.CodeUnavailable || !v.pause(ctx) {
			return err
		}
	}
	for {
		all, err := v.Cluster.Volumes(ctx)
		left := err != nil
		for _, vol := range all {
			left = left || strings.EqualFold(vol.Name, name)
		}
		if !left {
			return nil
		}
		if !v.pause(ctx) {
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "its bytes are still being removed after %v", v.Limit)
		}
	}
}
