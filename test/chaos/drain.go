package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// drainNodes is an operator who drains one node after the other for a while, and opens each again.
func (w *workload) drainNodes(ctx context.Context, client *api.Client, rng *rand.Rand) {
	for pause(ctx, 4*time.Second); ctx.Err() == nil; pause(ctx, time.Duration(2+rng.IntN(6))*time.Second) {
		node := w.c.agents[rng.IntN(len(w.c.agents))].node
		call, cancel := context.WithTimeout(ctx, 12*time.Second)
		_, err := client.DrainNode(call, node, "chaos")
		cancel()
		w.h.count("drain " + map[bool]string{true: "acked", false: "failed"}[err == nil])
		pause(ctx, time.Duration(1000+rng.IntN(5000))*time.Millisecond)
		w.open(client, node)
	}
}

// open ends the draining of a node and lets it have volumes again, however often that has to be tried.
func (w *workload) open(client *api.Client, node string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, 12*time.Second)
		page, err := client.Operations(call, api.OperationQuery{Kind: string(mobyfs.OperationDrain), Node: node, Active: true})
		for _, o := range page.Operations {
			if _, err := client.CancelOperation(call, o.ID); err != nil {
				w.say("cancel a drain", err)
			}
		}
		if err == nil {
			_, err = client.CordonNode(call, node, false)
		}
		cancel()
		if err == nil {
			return
		}
		pause(ctx, 200*time.Millisecond)
	}
	w.say("open a node", fmt.Errorf("%s: %w", node, ctx.Err()))
}

// awaitOperations returns the operations that have not ended although nothing stands in their way any more, once all have
// or patience is over.
func awaitOperations(ctx context.Context, operator *api.Client, patience time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var left []string
	for heard := false; ; pause(ctx, 500*time.Millisecond) {
		page, err := operator.Operations(ctx, api.OperationQuery{Active: true})
		if err == nil {
			left, heard = nil, true
			for _, o := range page.Operations {
				left = append(left, fmt.Sprintf("stuck: %s %s of volume %q on %s is %s: %s", o.Kind, o.ID, o.Name, o.Node, o.Phase, o.Cause))
			}
		}
		switch {
		case heard && (len(left) == 0 || ctx.Err() != nil):
			return left, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("list the operations: %w", err)
		}
	}
}
