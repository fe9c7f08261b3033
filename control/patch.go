package control

import (
	"context"
	"maps"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// PatchVolume implements api.Service. It says what the volume is asked to be; the fence stays, for it decides nothing on
// who owns the bytes.
func (c *Control) PatchVolume(ctx context.Context, who pki.Identity, name string, patch api.VolumePatch) (mobyfs.Volume, error) {
	if err := c.allow(who, doPatch); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err = c.decide(ctx, v.ID, func(v *mobyfs.Volume) (string, error) {
		if v.State == mobyfs.VolumeRemoving {
			return "", gone(*v)
		}
		spec := v.Spec
		spec.Labels = patched(spec.Labels, patch.Labels)
		if maps.Equal(spec.Labels, v.Spec.Labels) {
			return "", nil
		}
		if err := checkSpec(v.Name, spec); err != nil {
			return "", err
		}
		v.Spec = spec
		return "labels changed", nil
	})
	if err != nil {
		return mobyfs.Volume{}, err
	}
	return c.told.volume(v), nil
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
