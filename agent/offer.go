package agent

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/tracing"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

// Offer opens a volume for the node that pulls it. The ticket is control's word that the migration was decided, so
// control is not asked; peer is who the connection's certificate says is there. The worker of the volume opens it
// between two of its steps, and from then on the backend lets only a newer decision attach it: no Mount can change
// what is read.
func (a *Agent) Offer(ctx context.Context, peer pki.Identity, ticket string) (_ transfer.Offered, err error) {
	defer func() { a.metrics.served.WithLabelValues(codeLabel(err)).Inc() }()
	t, err := a.checkTicket(peer, ticket)
	if err != nil {
		return transfer.Offered{}, err
	}
	ctx, span := a.serving(ctx, t)
	w := a.worker(t.Volume)
	if t.Live {
		return a.offerLive(ctx, w, t, span)
	}
	var o offered
	if err := w.run(ctx, func() { o.settle(w.export(ctx, t)) }); err != nil {
		o.abandon()
		tracing.End(span, err)
		return transfer.Offered{}, err
	}
	if o.err != nil {
		tracing.End(span, o.err)
		return transfer.Offered{}, o.err
	}
	a.metrics.serving.Inc()
	return transfer.Offered{Dir: o.dir, Release: func() {
		o.release()
		a.metrics.serving.Dec()
		tracing.End(span, nil)
	}}, nil
}

// offerLive is Offer of a volume that goes on being used.
func (a *Agent) offerLive(ctx context.Context, w *worker, t mobyfs.Ticket, span trace.Span) (transfer.Offered, error) {
	var s *liveOffer
	var o offered
	err := w.run(ctx, func() {
		var err error
		if s, err = w.offerLive(ctx, t); err != nil {
			o.settle("", nil, err)
			return
		}
		o.settle(s.dir, s.release, nil)
	})
	if err != nil {
		o.abandon()
	} else {
		err = o.err
	}
	if err != nil {
		tracing.End(span, err)
		return transfer.Offered{}, err
	}
	a.metrics.serving.Inc()
	return s.offered(func() {
		a.metrics.serving.Dec()
		tracing.End(span, nil)
	}), nil
}

// offered hands an opened volume over to who asked for it, or closes it if nobody waits any more.
type offered struct {
	mu        sync.Mutex
	dir       string
	release   func()
	err       error
	abandoned bool
}

func (o *offered) settle(dir string, release func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dir, o.release, o.err = dir, release, err
	if o.abandoned && release != nil {
		release()
	}
}

func (o *offered) abandon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.abandoned = true
	if o.release != nil {
		o.release()
	}
}

// checkTicket checks that control signed the ticket for this peer, this node and this time.
func (a *Agent) checkTicket(peer pki.Identity, ticket string) (mobyfs.Ticket, error) {
	var t mobyfs.Ticket
	denied := func(why string) (mobyfs.Ticket, error) {
		return t, mobyfs.Errorf(mobyfs.CodeDenied, "%s may not pull from %s: %s", peer, a.Node, why)
	}
	if err := a.Files.OpenToken(ticket, pki.RoleControl, &t); err != nil {
		return t, mobyfs.Errorf(mobyfs.CodeDenied, "%s may not pull from %s: %w", peer, a.Node, err)
	}
	switch {
	case peer.Role != pki.RoleNode:
		return denied("only nodes pull volumes")
	case t.To != peer.Name:
		return denied("the ticket is for " + t.To)
	case t.From != a.Node:
		return denied("the ticket is for pulling from " + t.From)
	case !failpoint.Now().Before(t.Expires):
		return denied("the ticket has expired")
	}
	return t, nil
}

// export opens the volume, as a step of its worker.
func (w *worker) export(ctx context.Context, t mobyfs.Ticket) (string, func(), error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	record, _ := w.agent.catalogue.record(w.id)
	w.mu.Lock()
	v := w.view()
	w.mu.Unlock()
	if !v.bytes {
		return "", nil, mobyfs.Errorf(mobyfs.CodeNotFound, "volume %q is not on %s", w.name(record), w.agent.Node)
	}
	if v.lease != 0 || v.uses > 0 {
		return "", nil, w.inUse(record, "a container")
	}
	if err := w.checkUnusedForGood(record); err != nil { // what is open now could be written to later
		return "", nil, err
	}
	b := w.home(record)
	if err := b.Detach(ctx, w.id); err != nil {
		return "", nil, err
	}
	dir, release, err := b.Export(ctx, w.id, t.Fence)
	w.agent.metrics.fence("export", err)
	if err != nil {
		return "", nil, err
	}
	w.log.Info("giving the volume away", "volume", w.name(record), "to", t.To, "migration", t.Migration, "fence", t.Fence)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attached, w.seen = "", max(w.seen, t.Fence)
	w.exports++
	return dir, func() {
		release()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.exports--
		w.start()
	}, nil
}
