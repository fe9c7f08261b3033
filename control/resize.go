package control

import (
	"context"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// ResizeVolume implements api.Service. What can be promised at once is done in the same transaction; what can't for want of
// room waits for it.
func (c *Control) ResizeVolume(ctx context.Context, who pki.Identity, name string, bytes int64) (mobyfs.Operation, error) {
	if err := c.allow(who, doPatch); err != nil {
		return mobyfs.Operation{}, err
	}
	if err := c.observing(); err != nil {
		return mobyfs.Operation{}, err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Operation{}, err
	}
	begun := c.start(ctx, mobyfs.OperationResize, mobyfs.OperationID(c.newID()))
	begun.Volume, begun.Name, begun.SizeBytes, begun.Progress.Total = v.ID, v.Name, bytes, 1
	var o mobyfs.Operation
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		o = begun
		if err := c.stepResize(tx, &o); err != nil {
			return err
		}
		if o.Phase == mobyfs.OperationFailed {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "%s", o.Cause).WithHint("choose another size")
		}
		return putOperation(tx, mobyfs.Operation{}, &o)
	})
	if err != nil {
		return mobyfs.Operation{}, err
	}
	c.sayOperation(begun, o)
	return c.completedOperation(o), nil
}

// stepResize promises the volume the size, if it can be.
func (c *Control) stepResize(tx *store.Tx, o *mobyfs.Operation) error {
	if o.Paused || o.Phase == mobyfs.OperationWaiting && c.now().Before(o.NextTry) {
		return nil
	}
	v, err := tx.Volume(o.Volume)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		c.finish(o, mobyfs.OperationFailed, "the volume was removed")
		return nil
	}
	if err != nil {
		return err
	}
	decided, err := patchVolume(&v, api.VolumePatch{SizeBytes: &o.SizeBytes}, c.limits(tx, v))
	switch code := mobyfs.CodeOf(err); {
	case code == mobyfs.CodeNoSpace || code == mobyfs.CodeUnavailable:
		c.wait(o, err)
		return nil
	case err != nil:
		c.finish(o, mobyfs.OperationFailed, causeOf(err))
		return nil
	case decided != "":
		err = put(tx, decided, &v)
	}
	o.Progress.Done = 1
	c.finish(o, mobyfs.OperationDone, "")
	return err
}
