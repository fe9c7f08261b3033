package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"google.golang.org/grpc/codes"
)

// own is the member of etcd that runs in this process, called as what it is: functions. The way through its socket takes
// as much time as all the rest of a transaction. Watches go there all the same, for etcd's own client without a network
// can't end many of them (etcd issue 20716).
type own struct {
	server *etcdserver.EtcdServer
	kv     clientv3.KV // what is written goes through the log, and never touches the files from here
	mu     sync.RWMutex
	over   bool            // nothing may be read any more
	life   context.Context // ends when nothing is to be read any more
	end    context.CancelFunc
}

func newOwn(server *etcdserver.EtcdServer, client *clientv3.Client) *own {
	o := &own{server: server}
	o.kv = clientv3.NewKVFromKVClient(adapter.KvServerToKvClient(v3rpc.NewQuotaKVServer(server)), client)
	o.life, o.end = context.WithCancel(context.Background())
	return o
}

// close ends all reading, and returns when nobody reads: then the files may be closed. It may be called twice.
func (o *own) close() {
	o.end()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

// read calls fn while the files are open. Its context ends with ctx, and when they are to be closed.
func (o *own) read(ctx context.Context, fn func(ctx context.Context) error) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.stopped() {
		return rpctypes.ErrStopped
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.life, cancel)()
	return fn(ctx)
}

// stopped reports whether nothing may be read any more. o.mu is held.
func (o *own) stopped() bool {
	select {
	case <-o.server.StoppingNotify(): // by itself
		return true
	default:
		return o.over
	}
}

// peek reads a key from this member's own files, which may be behind those of the others.
func (o *own) peek(key string) (entry, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.stopped() {
		return entry{}, false
	}
	tx := o.server.KV().Read(mvcc.SharedBufReadTxMode, traceutil.TODO())
	defer tx.End()
	found, err := tx.Range(context.Background(), []byte(key), nil, mvcc.RangeOptions{})
	if err != nil {
		return entry{}, false
	}
	if len(found.KVs) == 0 {
		return entry{}, true
	}
	return entry{found.KVs[0].Value, found.KVs[0].ModRevision}, true
}

// pageOfRecords is how many records are read in one go; etcd lets nobody change its index while it looks them up.
const pageOfRecords = 1000

// below calls each with every record below the prefix, as they are at one moment, whose revision it returns.
func (o *own) below(ctx context.Context, prefix string, each func(key string, e entry)) (rev int64, err error) {
	if err = patiently(ctx, func() error { return o.read(ctx, o.caughtUp) }); err != nil {
		return 0, err
	}
	from, end := []byte(prefix), []byte(clientv3.GetPrefixRangeEnd(prefix))
	for {
		var page []*mvccpb.KeyValue
		err := o.read(ctx, func(ctx context.Context) error {
			tx := o.server.KV().Read(mvcc.ConcurrentReadTxMode, traceutil.TODO())
			defer tx.End()
			if rev == 0 {
				rev = tx.Rev()
			}
			found, err := tx.Range(ctx, from, end, mvcc.RangeOptions{Rev: rev, Limit: pageOfRecords})
			if err == nil {
				page = found.KVs
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		tell(page, each)
		if len(page) < pageOfRecords {
			return rev, nil
		}
		from = append(page[len(page)-1].Key, 0)
	}
}

// caughtUp waits until this member knows all that was written before the call.
func (o *own) caughtUp(ctx context.Context) error {
	err := o.server.LinearizableReadNotify(ctx)
	if err != nil && ctx.Err() == nil { // there is no leader, or another one by now
		return comesBack{err}
	}
	return err
}

// renew begins a lease's time anew.
func (o *own) renew(ctx context.Context, l Lease) error {
	return patiently(ctx, func() error {
		_, err := o.server.LeaseRenew(ctx, lease.LeaseID(l))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, lease.ErrLeaseNotFound):
			return ErrNoLease
		case ctx.Err() != nil:
			return ctx.Err()
		default: // there is no leader, or another one by now
			return comesBack{err}
		}
	})
}

// How long this process waits for an etcd that elects its leader, as etcd's client does.
const (
	againAfter = 25 * time.Millisecond
	patience   = 100 // tries
)

// comesBack is an error that another try may not have.
type comesBack struct{ error }

func (e comesBack) Unwrap() error { return e.error }

// patiently tries something that changes nothing, again and again while etcd has no leader.
func patiently(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		var of rpctypes.EtcdError
		again := errors.As(err, &comesBack{}) || errors.As(err, &of) && of.Code() == codes.Unavailable && !errors.Is(err, rpctypes.ErrStopped)
		if !again || n == patience {
			return err
		}
		select {
		case <-time.After(againAfter):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
