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

func (k cursor) compare(v mobyfs.Volume) int {
	return cmp.Or(strings.Compare(k.Name, v.Name), strings.Compare(string(k.ID), string(v.ID)))
}

// VolumePage implements api.Service.
func (c *Control) VolumePage(_ context.Context, who pki.Identity, q api.VolumeQuery) (api.VolumePage, error) {
	if err := c.allow(who, doList); err != nil {
		return api.VolumePage{}, err
	}
	after, err := readCursor(q.Cursor)
	if err != nil {
		return api.VolumePage{}, err
	}
	limit := cmp.Or(q.Limit, defaultPage)
	var first lowest
	c.store.View(func(view store.View) {
		for v := range view.Volumes {
			if after.compare(v) < 0 && asked(q, v) {
				first.add(v, limit+1)
			}
		}
	})
	page := api.VolumePage{Volumes: first.sorted()}
	if len(page.Volumes) > limit {
		page.Volumes = page.Volumes[:limit]
		last := page.Volumes[limit-1]
		page.Next = cursor{last.Name, last.ID}.String()
	}
	for i, v := range page.Volumes {
		page.Volumes[i] = c.told.volume(v)
	}
	return page, nil
}

// lowest are the first of many volumes in the order of a list.
type lowest struct{ volumes []mobyfs.Volume }

// add keeps v if it is among the n first. Of the others at most n are held for a while.
func (l *lowest) add(v mobyfs.Volume, n int) {
	if l.volumes = append(l.volumes, v); len(l.volumes) >= 2*n {
		byName(l.volumes)
		l.volumes = l.volumes[:n]
	}
}

func (l *lowest) sorted() []mobyfs.Volume {
	byName(l.volumes)
	if l.volumes == nil {
		return []mobyfs.Volume{}
	}
	return l.volumes
}

// asked reports whether a query asks for a volume.
func asked(q api.VolumeQuery, v mobyfs.Volume) bool {
	return (q.Node == "" || q.Node == v.Node) &&
		(q.State == "" || q.State == v.Condition()) &&
		(q.Text == "" || strings.Contains(mobyfs.FoldName(v.Name), mobyfs.FoldName(q.Text))) &&
		!slices.ContainsFunc(q.Labels, func(label string) bool { return !labelled(v, label) })
}

// labelled reports whether a volume has a label, given as name=value, or as name for any value.
func labelled(v mobyfs.Volume, label string) bool {
	name, value, exact := strings.Cut(label, "=")
	has, ok := v.Spec.Labels[name]
	return ok && (!exact || has == value)
}

// WaitVolume implements api.Service.
func (c *Control) WaitVolume(ctx context.Context, who pki.Identity, name string, revision int64, patience time.Duration) (mobyfs.Volume, error) {
	if err := c.allow(who, doGet); err != nil {
		return mobyfs.Volume{}, err
	}
	box := c.store.Subscribe() // before the record is read, so that nothing falls in between
	defer box.Close()
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	v, err := c.named(ctx, name)
	if err != nil {
		return v, err
	}
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
