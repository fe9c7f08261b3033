package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// PatchVolume implements api.Service. It says what the volume is asked to be; the fence stays, for it decides nothing on
// who owns the bytes. All of a patch is done, or nothing of it.
func (c *Control) PatchVolume(ctx context.Context, who pki.Identity, name string, patch api.VolumePatch) (mobyfs.Volume, error) {
	if err := c.allow(who, doPatch); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err = c.decideFreed(ctx, v.ID, who, func(tx *store.Tx, v *mobyfs.Volume) (string, error) {
		return patchVolume(v, patch, c.limits(tx, *v))
	})
	if err != nil {
		return mobyfs.Volume{}, err
	}
	return c.told.volume(v), nil
}

// limits are what a patch of a volume depends on besides its record.
type limits struct {
	used  int64                                // bytes, as its home last said
	inUse func(to string) error                // for what can't be done while a container uses it
	takes func(node string, bytes int64) error // nil if the node can promise so many bytes more
}

func (c *Control) limits(tx *store.Tx, v mobyfs.Volume) limits {
	return limits{
		used:  c.told.volume(v).UsedBytes,
		inUse: func(to string) error { return c.inUse(v, to) },
		takes: func(node string, bytes int64) error { return c.roomFor(tx, node, title(v), bytes) },
	}
}

// patchVolume changes the record of a volume as a patch says, and tells in words what it changed.
func patchVolume(v *mobyfs.Volume, patch api.VolumePatch, l limits) (string, error) {
	if v.State == mobyfs.VolumeRemoving {
		return "", gone(*v)
	}
	after := *v
	after.Spec.Labels = patched(v.Spec.Labels, patch.Labels)
	if patch.SizeBytes != nil {
		after.Spec.SizeBytes = *patch.SizeBytes
	}
	if patch.Takeover != nil {
		after.Spec.Takeover = *patch.Takeover
	}
	var did []string
	if !maps.Equal(after.Spec.Labels, v.Spec.Labels) {
		did = append(did, "labels changed")
	}
	if after.Spec.SizeBytes != v.Spec.SizeBytes {
		did = append(did, "size changed")
	}
	if takeoverOf(after) != takeoverOf(*v) {
		did = append(did, "takeover changed")
	}
	if len(did) == 0 {
		return "", nil
	}
	for _, err := range []error{
		checkSpec(v.Name, after.Spec.WithDefaults()), mayResize(*v, after, l), mayChangeTakeover(*v, after, l),
	} {
		if err != nil {
			return "", err
		}
	}
	v.Spec = after.Spec
	return strings.Join(did, ", "), nil
}

func takeoverOf(v mobyfs.Volume) mobyfs.Takeover {
	return cmp.Or(v.Spec.Takeover, mobyfs.TakeoverNever)
}

// mayResize is nil if the volume may be promised the size that it has in after. What it makes each node owe more, the
// node must be able to promise; no volume is promised less than it uses. Size 0 is no promise, which any volume may have.
func mayResize(v, after mobyfs.Volume, l limits) error {
	if size := after.Spec.SizeBytes; size < v.Spec.SizeBytes && size != 0 && size < l.used {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s can't be %s large: it uses %s", title(v), humanize.IBytes(uint64(size)), humanize.IBytes(uint64(l.used))).
			WithHint("make room in it first, or give it %d bytes at least", l.used)
	}
	if size := after.Spec.SizeBytes; size < v.Spec.SizeBytes && mobyfs.BoundsSize(v.Spec.Backend) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s can't shrink: of backend %s a volume only grows", title(v), v.Spec.Backend).
			WithHint("make a smaller volume and copy the files")
	}
	more := map[string]int64{}
	placement.Owes(after, func(node string, l placement.Load) { more[node] += l.PromisedBytes })
	placement.Owes(v, func(node string, l placement.Load) { more[node] -= l.PromisedBytes })
	for _, node := range slices.Sorted(maps.Keys(more)) {
		if bytes := more[node]; bytes > 0 {
			if err := l.takes(node, bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayChangeTakeover is nil if the class of takeover may become the one in after. Whether a node has to end writing by
// itself when its session is over was decided when it attached the volume: so that may not change while it has the lease.
// Rule: decision 0057.
func mayChangeTakeover(v, after mobyfs.Volume, l limits) error {
	fences := takeoverOf(v) == mobyfs.TakeoverAuto
	if v.Lease == nil || fences == (takeoverOf(after) == mobyfs.TakeoverAuto) {
		return nil
	}
	return l.inUse(fmt.Sprintf("change its takeover from %s to %s", takeoverOf(v), takeoverOf(after)))
}

// patched is a map with a change as of RFC 7396.
func patched(m map[string]string, patch map[string]*string) map[string]string {
	after := maps.Clone(m)
	for k, v := range patch {
		if v == nil {
			delete(after, k)
			continue
		}
		if after == nil {
			after = map[string]string{}
		}
		after[k] = *v
	}
	return after
}

// matches is nil if a record of this revision is the one that the caller wants to change.
func matches(ctx context.Context, revision int64, what string) error {
	if want, asked := mobyfs.MatchOf(ctx); asked && want != revision {
		return mobyfs.Errorf(mobyfs.CodeChanged, "%s has changed: it is of revision %d now, not of %d", what, revision, want).
			WithHint("look at it again, and repeat the request with its new ETag")
	}
	return nil
}
