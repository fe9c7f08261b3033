package store

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// leaderGrace is how long a write may take once another member leads: it may be in the log of the new leader.
const leaderGrace = 200 * time.Millisecond

// proposalDropped is raft.ErrProposalDropped, as it is left of it when it comes through etcd: a leader takes nothing while
// it lets another one lead.
const proposalDropped = "raft proposal dropped"

// write makes a transaction that writes. What is on its way to a leader that leads no more is lost without a word, and
// etcd would wait seven seconds for it: so the transaction is made again then. It takes effect once all the same, for it
// holds only if what it changes is as it was read; if that is not so any more, because the first try was not lost, what
// it wrote is there.
func (o *own) write(ctx context.Context, unchanged []clientv3.Cmp, ops []clientv3.Op) (rev int64, done bool, err error) {
	doubt := false // whether a try before this one may have taken effect
	for n := 1; ; n++ {
		resp, lost, err := o.writeOnce(ctx, unchanged, ops)
		switch {
		case err == nil && resp.Succeeded:
			return resp.Header.Revision, true, nil
		case err == nil && doubt:
			return o.written(ctx, ops)
		case err == nil:
			return resp.Header.Revision, false, nil
		case n == patience || ctx.Err() != nil || !lost && !strings.HasSuffix(err.Error(), proposalDropped):
			return 0, false, refusedWrite(err)
		}
		doubt = doubt || lost
		select {
		case <-time.After(againAfter):
		case <-ctx.Done():
			return 0, false, err
		}
	}
}

// writeOnce reports a transaction as lost if another member has come to lead, and no answer has come since.
func (o *own) writeOnce(ctx context.Context, unchanged []clientv3.Cmp, ops []clientv3.Op) (resp *clientv3.TxnResponse, lost bool, err error) {
	trying, giveUp := context.WithCancel(ctx)
	defer giveUp()
	changed := o.server.LeaderChangedNotify()
	go func() {
		select {
		case <-trying.Done():
			return
		case <-changed:
		}
		select {
		case <-trying.Done():
		case <-time.After(leaderGrace):
			giveUp()
		}
	}()
	resp, err = o.kv.Txn(trying).If(unchanged...).Then(ops...).Commit()
	return resp, err != nil && trying.Err() != nil && ctx.Err() == nil, err
}

// written reports whether the store is as ops leave it, and since which revision. An event is of one transaction alone, so
// it tells for all of it.
func (o *own) written(ctx context.Context, ops []clientv3.Op) (rev int64, done bool, err error) {
	if i := slices.IndexFunc(ops, isEvent); i >= 0 {
		ops = ops[i : i+1]
	}
	newest := int64(0)
	for _, op := range ops {
		var found entry
		err := patiently(ctx, func() error {
			return o.read(ctx, func(ctx context.Context) error {
				resp, err := o.kv.Get(ctx, string(op.KeyBytes()))
				if err != nil {
					return err
				}
				found, newest = entry{}, resp.Header.Revision
				for _, kv := range resp.Kvs {
					found = entry{kv.Value, kv.ModRevision}
				}
				return nil
			})
		})
		if err != nil {
			return 0, false, err
		}
		if there := found.rev > 0; there != op.IsPut() || there && !bytes.Equal(found.raw, op.ValueBytes()) {
			return 0, false, nil
		}
		rev = max(rev, found.rev)
	}
	return cmp.Or(rev, newest), true, nil
}

func isEvent(op clientv3.Op) bool {
	_, ok := Events.idOf(string(op.KeyBytes()))
	return ok && op.IsPut()
}
