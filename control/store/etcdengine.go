package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdEngine is the engine in etcd.
type etcdEngine struct {
	client *clientv3.Client
	own    *own // nil if etcd runs elsewhere
}

func (e etcdEngine) get(ctx context.Context, key string) (found entry, err error) {
	if e.own == nil {
		return getFrom(ctx, e.client, key)
	}
	err = patiently(ctx, func() error {
		return e.own.read(ctx, func(ctx context.Context) error { found, err = getFrom(ctx, e.own.kv, key); return err })
	})
	return found, err
}

func getFrom(ctx context.Context, kv clientv3.KV, key string) (entry, error) {
	resp, err := kv.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return entry{}, err
	}
	return entry{resp.Kvs[0].Value, resp.Kvs[0].ModRevision}, nil
}

func (e etcdEngine) peek(key string) (entry, bool) {
	if e.own == nil {
		return entry{}, false
	}
	return e.own.peek(key)
}

// read streams all: a range in pages, asked for over the network, would cost etcd all keys below the prefix for each page.
// A stream takes no revision to begin with, so what has changed since then comes in one piece.
func (e etcdEngine) read(ctx context.Context, prefix string, since int64, each func(key string, e entry)) (int64, error) {
	if since > 0 {
		resp, err := e.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithMinModRev(since))
		if err != nil {
			return 0, err
		}
		tell(resp.Kvs, each)
		return resp.Header.Revision, nil
	}
	if e.own != nil {
		return e.own.below(ctx, prefix, each)
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := e.client.GetStream(reading, prefix, clientv3.WithPrefix())
	if err != nil {
		return 0, err
	}
	rev := int64(0)
	for chunk := range stream {
		if err := chunk.Err(); err != nil {
			return 0, err
		}
		tell(chunk.Kvs, each)
		rev = max(rev, chunk.Header.GetRevision()) // the last one has it
	}
	if rev == 0 {
		return 0, errors.New("the stream of records was cut short")
	}
	return rev, nil
}

func tell(kvs []*mvccpb.KeyValue, each func(key string, e entry)) {
	for _, kv := range kvs {
		each(string(kv.Key), entry{kv.Value, kv.ModRevision})
	}
}

func (e etcdEngine) commit(ctx context.Context, reads map[string]int64, writes map[string]write) (int64, bool, error) {
	var unchanged []clientv3.Cmp
	for key, rev := range reads {
		unchanged = append(unchanged, clientv3.Compare(clientv3.ModRevision(key), "=", rev))
	}
	var ops []clientv3.Op
	for key, w := range writes {
		switch {
		case w.raw == nil:
			ops = append(ops, clientv3.OpDelete(key))
		case w.lease != 0:
			ops = append(ops, clientv3.OpPut(key, string(w.raw), clientv3.WithLease(clientv3.LeaseID(w.lease))))
		default:
			ops = append(ops, clientv3.OpPut(key, string(w.raw)))
		}
	}
	if e.own != nil && len(ops) > 0 {
		return e.own.write(ctx, unchanged, ops)
	}
	resp, err := e.transact(ctx, unchanged, ops)
	if err != nil {
		return 0, false, refusedWrite(err)
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// refusedWrite is an error of a transaction as engines tell it.
func refusedWrite(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return ErrNoLease
	case errors.Is(err, rpctypes.ErrNoSpace):
		return errFull
	default:
		return err
	}
}

// transact makes a transaction, in this process only one that writes nothing: that may be tried again, and looks into the
// files.
func (e etcdEngine) transact(ctx context.Context, unchanged []clientv3.Cmp, ops []clientv3.Op) (resp *clientv3.TxnResponse, err error) {
	if e.own == nil {
		return e.client.Txn(ctx).If(unchanged...).Then(ops...).Commit()
	}
	err = patiently(ctx, func() error {
		return e.own.read(ctx, func(ctx context.Context) error {
			resp, err = e.own.kv.Txn(ctx).If(unchanged...).Commit()
			return err
		})
	})
	return resp, err
}

func (e etcdEngine) watch(ctx context.Context, prefix string, from int64, each func(changes []change)) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for resp := range e.client.Watch(clientv3.WithRequireLeader(watching), prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		switch {
		case resp.CompactRevision > 0:
			return errCompacted
		case resp.Err() != nil:
			return resp.Err()
		case len(resp.Events) == 0:
			continue
		}
		changes := make([]change, len(resp.Events))
		for i, event := range resp.Events {
			changes[i] = change{string(event.Kv.Key), event.Kv.Value, event.Kv.ModRevision}
			if event.Type == clientv3.EventTypeDelete {
				changes[i].raw = nil
			}
		}
		each(changes)
	}
	return errors.New("the watch has ended")
}

func (e etcdEngine) grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	resp, err := e.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if errors.Is(err, rpctypes.ErrNoSpace) {
		err = errFull
	}
	if err != nil {
		return 0, err
	}
	return Lease(resp.ID), nil
}

func (e etcdEngine) renew(ctx context.Context, l Lease) error {
	if e.own != nil {
		return e.own.renew(ctx, l)
	}
	_, err := e.client.KeepAliveOnce(ctx, clientv3.LeaseID(l))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return ErrNoLease
	}
	return err
}

func (e etcdEngine) revoke(ctx context.Context, l Lease) error {
	_, err := e.client.Revoke(ctx, clientv3.LeaseID(l))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}
