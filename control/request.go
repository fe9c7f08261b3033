package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

const (
	requestLife  = 24 * time.Hour   // for which a request may be repeated
	requestWork  = 30 * time.Second // after which the process that began to answer is taken for dead
	requestsOnce = 200              // deleted in one transaction
)

// Begin implements api.Service. A try that was cut off by the death of its process is begun anew: every decision that is
// asked for again is answered again.
func (c *Control) Begin(ctx context.Context, who pki.Identity, asked api.Asked) (*api.Answer, error) {
	if err := c.allow(who, doRepeat); err != nil {
		return nil, err
	}
	var before *api.Answer
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		before = nil
		r, err := store.Requests.Get(tx, store.RequestID(asked.Key))
		switch now := c.now(); {
		case mobyfs.CodeOf(err) == mobyfs.CodeNotFound || err == nil && now.Sub(r.At) > requestLife:
		case err != nil:
			return err
		case r.Who != asked.Who || r.Digest != asked.Digest:
			return mobyfs.Errorf(mobyfs.CodeReused, "the key of this request was another request's").
				WithHint("use a new key for each request that is not a repetition")
		case r.Answer != nil:
			return json.Unmarshal(r.Answer, &before)
		case now.Sub(r.At) < requestWork:
			return mobyfs.Errorf(mobyfs.CodeBusy, "the same request is being answered now").WithHint("repeat it in a moment")
		}
		return store.Requests.Put(tx, store.RequestID(asked.Key), store.Request{Who: asked.Who, Digest: asked.Digest, At: c.now().UTC()})
	})
	return before, err
}

// Finish implements api.Service.
func (c *Control) Finish(ctx context.Context, who pki.Identity, asked api.Asked, answer *api.Answer) error {
	if err := c.allow(who, doRepeat); err != nil {
		return err
	}
	var raw []byte
	if answer != nil {
		var err error
		if raw, err = json.Marshal(answer); err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		id := store.RequestID(asked.Key)
		r, err := store.Requests.Get(tx, id)
		switch {
		case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
			return nil
		case err != nil:
			return err
		case r.Who != asked.Who || r.Digest != asked.Digest || r.Answer != nil:
			return nil // it is another's by now, or answered by another process
		case raw == nil:
			return store.Requests.Delete(tx, id)
		}
		r.Answer = raw
		return store.Requests.Put(tx, id, r)
	})
}

// forgetRequests deletes those that are too old to be repeated.
func (c *Control) forgetRequests(ctx context.Context) error {
	ids, err := c.store.RequestsBefore(ctx, c.now().Add(-requestLife), requestsOnce)
	if err != nil || len(ids) == 0 {
		return err
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		for _, id := range ids {
			if err := store.Requests.Delete(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}
