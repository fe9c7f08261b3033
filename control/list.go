package control

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// defaultPage is how many volumes a page has if nobody says.
const defaultPage = 500

// cursor says where a page ended: behind the volume of this name and ID. Names don't change, so what is written
// meanwhile moves no volume from one page to another.
type cursor struct {
	Name string          `json:"n"`
	ID   mobyfs.VolumeID `json:"i"`
}

func (k cursor) String() string {
	raw, err := json.Marshal(k)
	if err != nil {
		panic(err) // two strings
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// readCursor reads a cursor that control has given out; the empty one is the beginning.
func readCursor(text string) (cursor, error) {
	var k cursor
	if text == "" {
		return k, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &k)
	}
	if err != nil || k.Name == "" || k.ID == "" || k.String() != text {
		return cursor{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the cursor is none that a list has given").WithHint("begin the list anew, without a cursor")
	}
	return k, nil
}

// maxLooked is how many volumes are looked at for one page, whether or not they are asked for. So no page takes long.
const maxLooked = 20_000

// VolumePage implements api.Service. It takes as long with a million volumes as with a thousand: the narrowest index
// that has all that is asked for is read from where the page before ended.
func (c *Control) VolumePage(_ context.Context, who pki.Identity, q api.VolumeQuery) (api.VolumePage, error) {
	if err := c.allow(who, doList); err != nil {
		return api.VolumePage{}, err
	}
	after, err := readCursor(q.Cursor)
	if err != nil {
		return api.VolumePage{}, err
	}
	limit := cmp.Or(q.Limit, defaultPage)
	page := api.VolumePage{Volumes: []*mobyfs.Volume{}}
	c.store.View(func(view store.View) {
		looked := 0
		for v := range view.Ordered(narrowest(view, q), store.Place(after)) {
			if len(page.Volumes) == limit || looked == maxLooked {
				page.Next = after.String()
				return
			}
			looked++
			after = cursor{v.Name, v.ID}
			if asked(q, v) {
				page.Volumes = append(page.Volumes, v)
			}
		}
	})
	for i, v := range page.Volumes {
		page.Volumes[i] = c.told.latest(v)
	}
	return page, nil
}

// narrowest names the fewest volumes among which are all that the query asks for.
func narrowest(view store.View, q api.VolumeQuery) store.By {
	var best store.By
	try := func(by store.By) {
		if view.Count(by) < view.Count(best) {
			best = by
		}
	}
	if q.Node != "" {
		try(store.OfNode(q.Node))
	}
	if q.State != "" {
		try(store.InCondition(q.State))
	}
	for _, label := range q.Labels {
		if name, value, exact := strings.Cut(label, "="); exact {
			try(store.WithLabel(name, value))
		}
	}
	return best
}

// asked reports whether a query asks for a volume.
func asked(q api.VolumeQuery, v *mobyfs.Volume) bool {
	return (q.Node == "" || q.Node == v.Node) &&
		(q.State == "" || q.State == v.Condition()) &&
		(q.Text == "" || strings.Contains(mobyfs.FoldName(v.Name), mobyfs.FoldName(q.Text))) &&
		!slices.ContainsFunc(q.Labels, func(label string) bool { return !labelled(v, label) })
}

// labelled reports whether a volume has a label, given as name=value, or as name for any value.
func labelled(v *mobyfs.Volume, label string) bool {
	name, value, exact := strings.Cut(label, "=")
	has, ok := v.Spec.Labels[name]
	return ok && (!exact || has == value)
}

// WaitVolume implements api.Service.
func (c *Control) WaitVolume(ctx context.Context, who pki.Identity, name string, revision int64, patience time.Duration) (mobyfs.Volume, error) {
	if err := c.allow(who, doGet); err != nil {
		return mobyfs.Volume{}, err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	v, err := c.named(ctx, name)
	if err != nil {
		return v, err
	}
	box := c.store.SubscribeTo(store.VolumeRef(v.ID))
	defer box.Close()
	c.store.Touch(store.VolumeRef(v.ID)) // it may have changed before box was there
	for v.Revision <= revision {
		if _, err := box.Next(waiting); err != nil {
			break
		}
		there := false
		c.store.View(func(view store.View) { v, there = view.Volume(v.ID) })
		if !there || v.State == mobyfs.VolumeRemoving {
			return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "volume %q was removed", name).WithHint("mobyctl volume ls lists all")
		}
	}
	return c.told.volume(v), nil
}
