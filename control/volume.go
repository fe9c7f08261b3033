package control

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Bounds of what a spec may hold.
const (
	maxLabels   = 64
	maxLabelKey = 63  // bytes
	maxLabel    = 256 // bytes
)

// CreateVolume implements api.Service.
func (c *Control) CreateVolume(ctx context.Context, who pki.Identity, name string, spec mobyfs.VolumeSpec, node string) (mobyfs.Volume, error) {
	if err := c.allow(who, doCreate); err != nil {
		return mobyfs.Volume{}, err
	}
	if err := mobyfs.CheckVolumeName(name); err != nil {
		return mobyfs.Volume{}, err
	}
	full, err := c.fill(name, spec)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	here := ""
	if who.Role == pki.RoleNode {
		here = who.Name
	}
	if err := c.observing(); err != nil {
		return mobyfs.Volume{}, err
	}
	mine := &choice{}
	defer c.placing.done(mine)
	var v mobyfs.Volume
	var isNew, unplaced bool
	failpoint.Reach("control.create.before")
	err = c.store.Update(ctx, func(tx *store.Tx) (err error) {
		unplaced = false
		v, err = tx.VolumeNamed(name)
		if isNew = mobyfs.CodeOf(err) == mobyfs.CodeNotFound; !isNew {
			if err == nil {
				err = sameVolume(v, name, spec)
			}
			return err
		}
		if err := mayCopy(who, name, full, spec, node); err != nil {
			return err
		}
		home, err := c.place(tx, mine, name, full, node, here)
		if err != nil {
			unplaced = true
			return err
		}
		v = mobyfs.Volume{
			ID: mobyfs.VolumeID(c.newID()), Name: name, Spec: full, State: mobyfs.VolumeCreating,
			CreatedAt: c.now().UTC(), Node: home, Fence: mobyfs.Fence(0).Next(c.store.Epoch()),
		}
		return put(tx, "volume placed", &v)
	})
	failpoint.Reach("control.create.after")
	if unplaced {
		c.metrics.unplaced.WithLabelValues(string(mobyfs.CodeOf(err))).Inc()
		c.metrics.unplaceable(err)
	}
	if err != nil {
		return mobyfs.Volume{}, err
	}
	if isNew {
		c.say("volume placed", v)
	}
	return c.told.volume(v), nil
}

// mayCopy is nil if the volume does not begin as a copy of a directory, or who asks may read that one: whoever has a host's
// Docker has all of the host, and an operator of the cluster has not.
func mayCopy(who pki.Identity, name string, full, asked mobyfs.VolumeSpec, node string) error {
	if asked.From == "" {
		return nil
	}
	asked.Backend = full.Backend // which a class may have said
	if err := asked.CheckFrom(); err != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "create volume %s: %w", name, err).WithHint("%s", mobyfs.HintOf(err))
	}
	if who.Role != pki.RoleNode || who.Name != node {
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s may not copy a directory of a host into volume %s: only Docker on that host may, and the volume begins there", who, name).
			WithHint("on that host: docker volume create --driver mobyfs --opt from=%s %s", asked.From, name)
	}
	return nil
}

// sameVolume is nil if the volume that has the name is the one that was asked for.
func sameVolume(v mobyfs.Volume, name string, spec mobyfs.VolumeSpec) error {
	if v.Name != name {
		return mobyfs.Errorf(mobyfs.CodeExists, "volume %q can't be made beside %q: names must differ by more than case", name, v.Name).
			WithHint("use %s, or choose another name", v.Name)
	}
	if !v.Spec.Meets(spec) {
		return mobyfs.Errorf(mobyfs.CodeExists, "volume %q exists on %s with other options", name, v.Node).
			WithHint("leave the options out to use it, or choose another name")
	}
	return nil
}

// checkSpec tells what is wrong with a spec, or nil.
func checkSpec(name string, s mobyfs.VolumeSpec) error {
	bad := func(format string, args ...any) error {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "create volume "+name+": "+format, args...).
			WithHint("leave it out, or give less")
	}
	switch {
	case len(s.Labels) > maxLabels:
		return bad("it has %d labels, %d are the most", len(s.Labels), maxLabels)
	}
	if err := s.CheckLayout(); err != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "create volume %s: %w", name, err).WithHint("%s", mobyfs.HintOf(err))
	}
	if err := cmp.Or(mobyfs.CheckTakeover(s.Takeover, s.Backend), s.CheckPlacement()); err != nil {
		return err
	}
	for k, v := range s.Labels {
		if k == "" || !norm.NFC.IsNormalString(k) || len(k) > maxLabelKey || len(v) > maxLabel || !printable(k) || !printable(v) {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "create volume %s: the label %q is not allowed", name, clean(k, maxLabelKey)).
				WithHint("a label has a name of 1 to %d printable bytes, composed as of Unicode's NFC, and a value of up to %d", maxLabelKey, maxLabel)
		}
	}
	return nil
}

// Volume implements api.Service.
func (c *Control) Volume(ctx context.Context, who pki.Identity, name string) (mobyfs.Volume, error) {
	if err := c.allow(who, doGet); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.named(ctx, name)
	return c.told.volume(v), err
}

// named reads the record of the volume that has the name now, in the same case.
func (c *Control) named(ctx context.Context, name string) (mobyfs.Volume, error) {
	if err := mobyfs.CheckVolumeName(name); err != nil {
		return mobyfs.Volume{}, err
	}
	var v mobyfs.Volume
	err := c.store.Update(ctx, func(tx *store.Tx) (err error) {
		v, err = tx.VolumeNamed(name)
		return err
	})
	if err == nil && v.Name != name {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name).
			WithHint("there is %s", v.Name)
	}
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		err = mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name).WithHint("mobyctl volume ls lists all")
	}
	return v, err
}

// Volumes lists all volumes, sorted by name.
func (c *Control) Volumes(_ context.Context, who pki.Identity) ([]mobyfs.Volume, error) {
	if err := c.allow(who, doList); err != nil {
		return nil, err
	}
	return c.snapshot().Full.Volumes, nil
}

// RemoveVolume implements api.Service.
func (c *Control) RemoveVolume(ctx context.Context, who pki.Identity, name string) error {
	if err := c.allow(who, doRemove); err != nil {
		return err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return err
	}
	_, err = c.decideFreed(store.MakingRoom(ctx), v.ID, who, func(_ *store.Tx, v *mobyfs.Volume) (string, error) { return c.remove(v) })
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil // removed since
	}
	return err
}

func (c *Control) remove(v *mobyfs.Volume) (string, error) {
	switch {
	case v.State == mobyfs.VolumeRemoving:
		return "", nil
	case v.Lease != nil:
		return "", c.inUse(*v, "remove it")
	case v.Migration != nil:
		return "", c.moving(*v)
	}
	v.State = mobyfs.VolumeRemoving
	c.raise(v)
	return "volume is being removed", nil
}

// Created implements api.Service.
func (c *Control) Created(ctx context.Context, who pki.Identity, id mobyfs.VolumeID) (mobyfs.Volume, error) {
	if err := c.allow(who, doCreated); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) {
		switch {
		case v.Node != who.Name:
			return "", notTheHome(*v, who.Name)
		case v.State == mobyfs.VolumeRemoving:
			return "", gone(*v)
		case v.Returning():
			v.Undeletion.Pending = false
			return "volume is back from the trash", nil
		case v.State == mobyfs.VolumeReady:
			return "", nil
		}
		v.State = mobyfs.VolumeReady
		return "volume is ready", nil
	})
	return c.told.volume(v), err
}

// Removed implements api.Service.
func (c *Control) Removed(ctx context.Context, who pki.Identity, id mobyfs.VolumeID) error {
	if err := c.allow(who, doRemoved); err != nil {
		return err
	}
	if err := c.observing(); err != nil {
		return err
	}
	var v mobyfs.Volume
	failpoint.Reach("control.removed.before")
	err := c.store.Update(store.MakingRoom(ctx), func(tx *store.Tx) (err error) {
		if v, err = tx.Volume(id); err != nil {
			return err
		}
		switch {
		case v.Node != who.Name:
			return notTheHome(v, who.Name)
		case v.Returning():
			return c.missed(tx, &v)
		case v.State != mobyfs.VolumeRemoving:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "%s is not being removed", title(v)).
				WithHint("mobyctl volume rm %s", v.Name)
		}
		return errors.Join(c.bury(tx, v), tx.DeleteVolume(id), record(tx, "volume is gone", v))
	})
	failpoint.Reach("control.removed.after")
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
		return nil // it was told before
	case err == nil:
		c.say("volume is gone", v)
	}
	return err
}

// Errors that several decisions have in common.

// lookAgain is what an agent can do about an answer that its picture of a volume does not explain.
const lookAgain = "read the volume's record again: newer decisions than the caller's are in it"

func (c *Control) inUse(v mobyfs.Volume, to string) error {
	where, _ := c.told.volume(v).InUse()
	return mobyfs.Errorf(mobyfs.CodeInUse, "%s is in use %s", title(v), where).WithHint("stop it there, then %s", to)
}

func (c *Control) moving(v mobyfs.Volume) error {
	m := c.told.volume(v).Migration
	return mobyfs.Errorf(mobyfs.CodeMoving, "%s is moving from %s to %s (%s)", title(v), m.From, m.To, progress(m.Progress)).
		WithHint("wait until it has arrived, or: mobyctl volume move %s --cancel", v.Name)
}

// notReady says why a volume that is not VolumeReady can't be used yet or any more.
func notReady(v mobyfs.Volume) error {
	if v.State == mobyfs.VolumeRemoving {
		return gone(v)
	}
	if v.Aside != nil {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "%s is set aside since control was restored: %s", title(v), v.Aside.Reason).
			WithHint("start the node that has them, or remove the volume: mobyctl volume rm %s", v.Name)
	}
	if v.Returning() {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s is on its way back from the trash of %s", title(v), v.Node).
			WithHint("try again in a moment; mobyctl node ls tells whether %s is there", v.Node)
	}
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s is being made on %s", title(v), v.Node).
		WithHint("try again in a moment; mobyctl node ls tells whether %s is there", v.Node)
}

func gone(v mobyfs.Volume) error {
	return mobyfs.Errorf(mobyfs.CodeNotFound, "%s is being removed", title(v)).
		WithHint("create it again, or use another")
}

func notTheHome(v mobyfs.Volume, node string) error {
	return mobyfs.Errorf(mobyfs.CodeDenied, "%s is not the home of %s, %s is", node, title(v), v.Node).WithHint(lookAgain)
}

// printable reports whether a text may be shown as it is.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// clean makes a text that a machine sent fit to be shown: printable, one line, at most so many bytes.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	for len(s) > most {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return strings.TrimSpace(s)
}
