package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
)

// Create records a volume and, when its home is here, returns once its bytes exist. This node is asked for first: a
// container that will use the volume is likely to start where it was created.
func (a *Agent) Create(ctx context.Context, name string, opts map[string]string) (err error) {
	ctx, end := a.trace(ctx, "create", name)
	defer func() { end(err) }()
	if err := mobyfs.CheckVolumeName(name); err != nil {
		return err
	}
	if err := a.mayAct(); err != nil {
		return about(err, "create", name)
	}
	spec, err := parseOptions(opts, slices.Sorted(maps.Keys(a.backends)))
	if err == nil && spec.From != "" {
		err = a.checkSource(ctx, name, spec.From)
	}
	if err != nil {
		return about(err, "create", name)
	}
	v, err := a.Control.CreateVolume(ctx, name, spec, a.Node)
	if mobyfs.CodeOf(err) == mobyfs.CodeNoSpace && spec.From == "" {
		v, err = a.Control.CreateVolume(ctx, name, spec, "")
	}
	switch mobyfs.CodeOf(err) {
	case "":
	case mobyfs.CodeExists:
		return a.agree(ctx, name, spec, err)
	default:
		return about(err, "create", name)
	}
	a.learn(v)
	a.ensure(v.ID)
	return a.awaitReady(ctx, v)
}

// agree decides on a volume that exists already: Docker may ask for it again, though not differently.
func (a *Agent) agree(ctx context.Context, name string, asked mobyfs.VolumeSpec, refusal error) error {
	v, err := a.Control.Volume(ctx, name)
	if err != nil || v.Name != name {
		return refusal
	}
	a.learn(v)
	if diff := difference(v.Spec, asked); diff != "" {
		return mobyfs.Errorf(mobyfs.CodeExists, "volume %q exists already: %s", name, diff).
			WithHint("leave the option out, use another name, or remove the volume first")
	}
	return a.awaitReady(ctx, v)
}

// awaitReady waits until the home of a new volume has made its bytes. Elsewhere that is left to the home after a
// moment: whoever mounts the volume waits for it anyway.
func (a *Agent) awaitReady(ctx context.Context, v mobyfs.Volume) error {
	if v.State != mobyfs.VolumeCreating {
		return nil
	}
	ready := func(now *mobyfs.Volume) bool { return now == nil || now.State != mobyfs.VolumeCreating }
	if v.Node != a.Node {
		ctx, cancel := context.WithTimeout(ctx, controlPatience)
		defer cancel()
		if a.follows(v) {
			_ = a.catalogue.wait(ctx, v.ID, ready)
		} else {
			a.askUntil(ctx, v.Name, ready)
		}
		return nil
	}
	w := a.worker(v.ID)
	err := w.until(ctx, func() bool {
		now, _ := a.catalogue.record(v.ID)
		return ready(now) || w.failure != nil && mobyfs.CodeOf(w.failure) != mobyfs.CodeUnavailable
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	switch now, _ := a.catalogue.record(v.ID); {
	case ready(now):
		return nil
	case w.failure != nil:
		return about(w.failure, "create", v.Name)
	default:
		doing := "created"
		if w.filling != nil {
			doing = fmt.Sprintf("copied (%s)", w.filled.share())
		}
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q is still being %s: %w", v.Name, doing, err).WithHint("run it again")
	}
}

// Remove removes a volume that nobody uses. What was counted here does not matter if the kernel shows no user.
func (a *Agent) Remove(ctx context.Context, name string) (err error) {
	ctx, end := a.trace(ctx, "remove", name)
	defer func() { end(err) }()
	v, err := a.find(ctx, name)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil
	}
	if err == nil {
		err = a.mayAct()
	}
	if err != nil {
		return about(err, "remove", name)
	}
	if v.Node == a.Node {
		if err := a.free(ctx, v); err != nil {
			return err
		}
	}
	err = a.Control.RemoveVolume(ctx, name)
	if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return about(err, "remove", name)
	}
	a.catalogue.leaving(v.ID)
	a.worker(v.ID).poke()
	if v.Node == a.Node { // the bytes go at once, and if not, then soon
		ctx, cancel := context.WithTimeout(ctx, controlPatience)
		defer cancel()
		_ = a.catalogue.wait(ctx, v.ID, func(now *mobyfs.Volume) bool { return now == nil })
	}
	return nil
}

// free gives the lease of a volume back that the kernel shows no user of. A container that is just starting shows
// none either, so a use that was counted a moment ago stands.
func (a *Agent) free(ctx context.Context, v mobyfs.Volume) error {
	w := a.worker(v.ID)
	if s := a.ledger.standing(v.ID); s.uses > 0 && time.Since(s.last) < settleAfter {
		return w.inUse(&v, "a container that is starting")
	}
	if err := w.checkUnusedForGood(&v); err != nil {
		return err
	}
	w.mu.Lock()
	a.ledger.change(v.ID, func(e *entry) { clear(e.Uses); clear(e.doubt) })
	w.failure, w.lingers = nil, time.Time{}
	w.hurry()
	w.mu.Unlock()
	if err := a.ledger.flush(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var failure error
	err := w.until(ctx, func() bool {
		s := a.ledger.standing(v.ID)
		failure = w.failure
		return s.lease == 0 && s.releasing == 0 && w.granted == 0 || failure != nil
	})
	switch {
	case failure != nil:
		return about(failure, "remove", v.Name)
	case err != nil:
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q is still being given back: %w", v.Name, err).WithHint("run it again")
	}
	return nil
}

// Mount brings the volume here if need be and counts a use by id, durably, before it answers.
func (a *Agent) Mount(ctx context.Context, name, id string) (path string, err error) {
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	bound, end := a.trace(bound, "mount", name)
	defer func() { end(err) }()
	path, err = a.mount(bound, name, id)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound && bound.Err() == nil {
		// The name may belong to another volume by now.
		if v, asked := a.ask(bound, name); asked == nil {
			if known, ok := a.catalogue.named(name); !ok || known.ID != v.ID {
				a.learn(v)
				path, err = a.mount(bound, name, id)
			}
		}
	}
	return path, err
}

func (a *Agent) mount(ctx context.Context, name, id string) (string, error) {
	v, err := a.find(ctx, name)
	if err == nil {
		err = a.mayAct()
	}
	if err != nil {
		return "", about(err, "mount", name)
	}
	w := a.worker(v.ID)
	wt := w.enter(ctx, name, id)
	select {
	case <-wt.done:
	case <-ctx.Done():
		if w.leave(wt) {
			return "", w.whyNot(ctx, name)
		}
	}
	if wt.err != nil {
		return "", wt.err
	}
	if err := a.ledger.flush(); err != nil {
		w.takeBack(id)
		return "", about(err, "mount", name)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		w.takeBack(id)
		return "", ctx.Err()
	}
	w.log.Info("mounted", "volume", name, "mount", id)
	a.roster.look(v.ID, name)
	return wt.path, nil
}

// whyNot tells a Mount whose time is up how things stand.
func (w *worker) whyNot(ctx context.Context, name string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var err *mobyfs.Error
	switch {
	case w.move.migration != "":
		err = mobyfs.Errorf(mobyfs.CodeMoving, "still moving %q from %s (%s)", name, w.move.source, w.move.share())
	case w.doing == claim || w.doing == confirm || w.doing == release:
		err = mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q can't be mounted yet: control has not answered", name)
	default:
		err = mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q is not ready yet", name)
	}
	if w.failure != nil {
		err.Text += "; the last try: " + w.failure.Error()
	}
	return err.WithHint("run it again")
}

// Unmount takes a use back. The last one gives the lease back, once it has lingered; if that takes long it goes on in
// the background.
func (a *Agent) Unmount(ctx context.Context, name, id string) error {
	volume, ok := a.ledger.holder(name, id)
	if !ok {
		return nil
	}
	w := a.worker(volume)
	w.give(id)
	w.log.Info("unmounted", "volume", name, "mount", id)
	if err := a.ledger.flush(); err != nil {
		return err
	}
	if a.ledger.standing(volume).uses > 0 || a.Linger > 0 {
		a.roster.look(volume, name)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_ = w.until(ctx, func() bool {
		s := a.ledger.standing(volume)
		released := s.lease == 0 && s.releasing == 0
		return released || s.uses > 0 || len(w.waiters) > 0 || w.freezing() || mobyfs.CodeOf(w.failure) == mobyfs.CodeUnavailable
	})
	return nil
}

// Get tells of one volume: from the catalogue, or else from control, for a name that is not in the catalogue may be
// that of a volume which somebody has just made.
func (a *Agent) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	v, err := a.find(ctx, name)
	if err != nil {
		return mobyfs.DockerVolume{}, err
	}
	return a.describe(v, !a.catalogue.isFresh()), nil
}

// find returns the record of the volume that has a name. It waits for control for two seconds at most, and only if
// the name is not known here, or what is known of it may be old; if control can't be asked, that has to do.
func (a *Agent) find(ctx context.Context, name string) (mobyfs.Volume, error) {
	known, ok := a.catalogue.named(name)
	if ok && a.follows(known) {
		a.ensure(known.ID)
		return known, nil
	}
	v, err := a.findElsewhere(ctx, name)
	switch code := mobyfs.CodeOf(err); {
	case ok && code == mobyfs.CodeUnavailable:
		return known, nil
	case ok && (code == mobyfs.CodeNotFound || err == nil && v.ID != known.ID):
		a.catalogue.leaving(known.ID) // the name is not its own any more
	}
	if err == nil {
		a.learn(v)
		a.ensure(v.ID)
	}
	return v, err
}

// findElsewhere asks control for the volume that has a name.
func (a *Agent) findElsewhere(ctx context.Context, name string) (mobyfs.Volume, error) {
	if err := mobyfs.CheckVolumeName(name); err != nil {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "no volume can have the name %.40q", name)
	}
	v, err := a.ask(ctx, name)
	switch code := mobyfs.CodeOf(err); {
	case code == mobyfs.CodeNotFound, err == nil && v.Name != name:
		return v, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name)
	case err != nil && code != mobyfs.CodeUnavailable:
		return v, mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control for volume %q: %w", name, err)
	}
	return v, err
}

// ensure sees to it that a volume which Docker is told of is known after a crash. If that can't be done it is told of
// all the same.
func (a *Agent) ensure(id mobyfs.VolumeID) {
	if err := a.catalogue.ensure(id); err != nil {
		a.Log.Warn("save the catalogue", "err", err)
	}
}

// ask asks control for a record.
func (a *Agent) ask(ctx context.Context, name string) (mobyfs.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return a.Control.Volume(ctx, name)
}

// List tells of all volumes of the cluster, from the catalogue; of a large cluster of those that this node knows.
func (a *Agent) List() []mobyfs.DockerVolume {
	all := a.catalogue.all()
	list := make([]mobyfs.DockerVolume, 0, len(all))
	for _, v := range all {
		if v.State != mobyfs.VolumeRemoving {
			list = append(list, mobyfs.DockerVolume{Name: v.Name, Mountpoint: a.pathOf(&v), CreatedAt: v.CreatedAt})
		}
	}
	slices.SortFunc(list, func(x, y mobyfs.DockerVolume) int { return strings.Compare(x.Name, y.Name) })
	return list
}

// describe makes what docker volume inspect shows.
func (a *Agent) describe(v mobyfs.Volume, stale bool) mobyfs.DockerVolume {
	status := map[string]any{
		"node": v.Node, "state": v.Condition(), "fence": uint64(v.Fence), "backend": v.Spec.WithDefaults().Backend,
	}
	if v.Spec.Class != "" {
		status["class"] = v.Spec.Class
	}
	if v.Spec.SizeBytes > 0 {
		status["size"] = humanize.IBytes(uint64(v.Spec.SizeBytes))
	}
	if v.UsedBytes > 0 {
		status["used"] = humanize.IBytes(uint64(v.UsedBytes))
	}
	if v.Lease != nil && len(v.Lease.Users) > 0 {
		status["containers"] = v.Lease.Users
	}
	if m := v.Migration; m != nil {
		status["moving"] = m.From + " to " + m.To
	}
	if stale {
		status["stale"] = true // what was known when control was heard last
	}
	if w := a.known(v.ID); w != nil {
		w.mu.Lock()
		if w.problem != "" {
			status["problem"] = w.problem
		}
		if w.filling != nil {
			status["copying"] = fmt.Sprintf("%s, from %s", w.filled.share(), v.Spec.From)
		}
		if h := w.hold; h != nil && !h.Over {
			status["frozen"] = fmt.Sprintf("since %s, for a move to %s; containers go on here, or there, once control has decided",
				h.Since.UTC().Format(time.RFC3339), h.To)
		}
		w.mu.Unlock()
	}
	if err := a.mayAct(); err != nil {
		status["problem"] = err.Error()
	}
	return mobyfs.DockerVolume{Name: v.Name, Mountpoint: a.pathOf(&v), CreatedAt: v.CreatedAt, Status: status}
}

// pathOf is where a volume is or would be shown on this node.
func (a *Agent) pathOf(v *mobyfs.Volume) string {
	if w := a.known(v.ID); w != nil {
		return w.path(v)
	}
	return a.backendOf(v).Path(v.ID)
}
