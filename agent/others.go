package agent

import (
	"context"
	"slices"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Of a large cluster an agent is told the volumes that concern its node. Everything else it knows is from answers, and
// may be old: a volume of which it knows nothing is unknown to it, not gone, and nothing is destroyed for that reason.
// See docs/decisions/0040-a-node-watches-what-concerns-it.md.

// concerns reports whether control tells this node of every change of a volume.
func (a *Agent) concerns(v mobyfs.Volume) bool {
	return v.Node == a.Node || v.Migration != nil && v.Migration.To == a.Node
}

// follows reports whether what the catalogue holds of a volume is kept up to date.
func (a *Agent) follows(v mobyfs.Volume) bool { return !a.catalogue.isPartial() || a.concerns(v) }

// askForOthers asks control for the volumes of which there is something here and that it has not told of, for they do
// not concern this node any more: they may have moved away, or be gone. It goes on until control has answered, or ctx
// ends. Killed before, the next life asks again: what is here stays until then.
func (a *Agent) askForOthers(ctx context.Context) {
	retry := backoff{first: 200 * time.Millisecond, most: 30 * time.Second}
	for ids := range slices.Chunk(a.untold(), mobyfs.MaxRecords) {
		for ctx.Err() == nil {
			err := a.askFor(ctx, ids)
			if err == nil {
				retry.reset()
				break
			}
			a.Log.Debug("ask control for volumes that do not concern this node", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(retry.fail(time.Now())):
			}
		}
	}
	a.warnOfStrays()
}

// untold lists the volumes of which there is something here but no record that control told in this life.
func (a *Agent) untold() []mobyfs.VolumeID {
	var ids []mobyfs.VolumeID
	for _, w := range a.all() {
		if _, told := a.catalogue.record(w.id); !told {
			ids = append(ids, w.id)
		}
	}
	return ids
}

func (a *Agent) askFor(ctx context.Context, ids []mobyfs.VolumeID) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := a.Control.Records(ctx, ids)
	if err != nil {
		return err
	}
	for _, v := range answer.Volumes {
		a.learn(v)
	}
	for _, id := range answer.Gone {
		a.apply(mobyfs.Change{Gone: id})
	}
	return nil
}

// askUntil asks for a volume that the watch does not tell of, again and again until ok is true of its record or ctx ends.
func (a *Agent) askUntil(ctx context.Context, name string, ok func(*mobyfs.Volume) bool) {
	for ctx.Err() == nil {
		v, err := a.ask(ctx, name)
		if err == nil {
			a.learn(v)
		}
		if err == nil && ok(&v) || mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(askPause):
		}
	}
}

// askPause is how long to wait before control is asked again for what the watch does not tell.
const askPause = 200 * time.Millisecond
