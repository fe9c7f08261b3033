package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/audit"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/pki"
)

const (
	sealEvery   = 5 * time.Minute    // how old an event is at most before it is sealed
	sealMost    = 2000               // events in a segment
	keepEvents  = 24 * time.Hour     // in the store; then the segments on the disks have them alone
	forgetCopy  = 7 * 24 * time.Hour // a control that was not heard of for so long is not waited for
	auditFolder = "audit"            // below the root
)

// Audit implements api.Service.
func (c *Control) Audit(ctx context.Context, who pki.Identity, since int64, each func([]mobyfs.Event, int64) error) error {
	if err := c.allow(who, doAudit); err != nil {
		return err
	}
	return c.followEvents(ctx, since, each)
}

// AuditTrail implements api.Service.
func (c *Control) AuditTrail(ctx context.Context, who pki.Identity) (api.AuditTrail, error) {
	if err := c.allow(who, doAudit); err != nil {
		return api.AuditTrail{}, err
	}
	numbers, err := c.segmentsHere()
	if err != nil {
		return api.AuditTrail{}, err
	}
	trail := api.AuditTrail{Segments: numbers}
	err = c.store.Update(ctx, func(tx *store.Tx) (err error) {
		trail.Head, err = segment(tx, store.SegmentHead)
		return err
	})
	return trail, err
}

// AuditSegment implements api.Service.
func (c *Control) AuditSegment(_ context.Context, who pki.Identity, n int64) ([]byte, error) {
	if err := c.allow(who, doAudit); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(c.segmentFile(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "this control has no segment %d of the audit trail", n).
			WithHint("GET /v1/audit/segments lists those that it has")
	}
	return text, err
}

func (c *Control) segmentFile(n int64) string {
	return filepath.Join(c.cfg.Root, auditFolder, store.SegmentID(n)+".jsonl")
}

// segmentsHere are the numbers of the segments on this disk, in order.
func (c *Control) segmentsHere() ([]int64, error) {
	return segmentsIn(filepath.Join(c.cfg.Root, auditFolder))
}

func segmentsIn(dir string) ([]int64, error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the audit trail: %w", err)
	}
	numbers := []int64{}
	for _, f := range files {
		var n int64
		if _, err := fmt.Sscanf(f.Name(), "%d.jsonl", &n); err == nil && f.Name() == store.SegmentID(n)+".jsonl" {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// segment reads one of the segments that are told apart; the zero one if there is none.
func segment(tx *store.Tx, id string) (audit.Segment, error) {
	s, err := store.Segments.Get(tx, id)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		err = nil
	}
	return s, err
}

// keepTrailUntil keeps the trail until ctx ends.
func (c *Control) keepTrailUntil(ctx context.Context) {
	tick, trim := time.NewTicker(sealEvery), time.NewTicker(trimEvery)
	defer tick.Stop()
	defer trim.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.store.SpaceChanged():
			if !c.short() {
				continue
			}
		case <-trim.C:
			if !c.short() {
				continue
			}
		}
		if err := c.keepTrail(store.MakingRoom(ctx)); err != nil {
			c.log.Error("the audit trail could not be brought to the disk", "err", err)
		}
	}
}

// keepTrail brings the audit trail from the store to this disk: it seals what is new, writes what others or it have
// sealed, and deletes from the store what every control has. Killed after any step, the next run goes on with it: what
// is sealed is a record in the store, which one process wins and all follow, and a segment is the same bytes whoever
// writes it.
func (c *Control) keepTrail(ctx context.Context) error {
	for {
		more, err := c.sealSegment(ctx)
		if err != nil || !more {
			return errors.Join(err, c.copySegments(ctx), c.dropSealed(ctx))
		}
	}
}

// sealSegment seals the events behind the last segment, and reports whether there are more.
func (c *Control) sealSegment(ctx context.Context) (more bool, err error) {
	var head audit.Segment
	err = c.store.Update(ctx, func(tx *store.Tx) (err error) { head, err = segment(tx, store.SegmentHead); return err })
	if err != nil {
		return false, err
	}
	entries, upTo, err := c.store.Trail(ctx, head.To+1, 0, sealMost)
	if err != nil || len(entries) == 0 {
		return false, err
	}
	sealed, _, err := audit.Seal(head, entries, upTo, c.now())
	if err != nil {
		return false, err
	}
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if now, err := segment(tx, store.SegmentHead); err != nil || now.N != head.N {
			return err // another control has sealed them
		}
		return errors.Join(store.Segments.Put(tx, store.SegmentHead, sealed), store.Segments.Put(tx, store.SegmentID(sealed.N), sealed))
	})
	return len(entries) >= sealMost, err
}

// copySegments writes the sealed segments that this disk does not have yet, and tells that it has them.
func (c *Control) copySegments(ctx context.Context) error {
	here, err := c.segmentsHere()
	if err != nil {
		return err
	}
	through := int64(0)
	if len(here) > 0 {
		through = here[len(here)-1]
	}
	if err := durable.Mkdir(filepath.Join(c.cfg.Root, auditFolder), 0o700); err != nil {
		return err
	}
	sealed, err := c.store.SealedSegments(ctx)
	if err != nil {
		return err
	}
	for _, s := range sealed {
		if s.N <= through {
			continue
		}
		if err := c.copySegment(ctx, s); err != nil {
			return err
		}
		through = s.N
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		return store.Copies.Put(tx, c.name, store.AuditCopy{Through: through, At: c.now().UTC()})
	})
}

func (c *Control) copySegment(ctx context.Context, s audit.Segment) error {
	entries, _, err := c.store.Trail(ctx, s.From, s.To, 0)
	if err != nil {
		return err
	}
	text, err := audit.Text(s, entries)
	if err != nil {
		return err
	}
	if is, _, err := audit.Read(text); err != nil || is.Digest != s.Digest {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "segment %d of the audit trail is not what was sealed: events were changed in the store", s.N).
			WithHint("compare it with what another control has: mobyctl audit verify")
	}
	return durable.WriteFile("audit.segment", c.segmentFile(s.N), text, 0o600)
}

// dropSealed deletes events from the store that are old, and on the disk of every control that is heard of. While the store
// has little room no event is too young for that.
func (c *Control) dropSealed(ctx context.Context) error {
	var copies []store.AuditCopy
	c.store.View(func(v store.View) {
		for _, k := range store.Copies.All(v) {
			if c.now().Sub(k.At) < forgetCopy {
				copies = append(copies, k)
			}
		}
	})
	sealed, err := c.store.SealedSegments(ctx)
	if err != nil {
		return err
	}
	var drop []audit.Segment
	for _, s := range sealed {
		missing := slices.ContainsFunc(copies, func(k store.AuditCopy) bool { return k.Through < s.N })
		if len(copies) == 0 || missing || c.now().Sub(s.At) < c.keptEvents() {
			break
		}
		drop = append(drop, s)
	}
	if len(drop) == 0 {
		return nil
	}
	floor := drop[len(drop)-1]
	err = c.store.Update(ctx, func(tx *store.Tx) error { // first, so that nobody is told of a part
		return store.Segments.Put(tx, store.SegmentFloor, floor)
	})
	if err != nil {
		return err
	}
	if err := c.store.DropEvents(ctx, floor.To); err != nil {
		return err
	}
	return c.store.Update(ctx, func(tx *store.Tx) error { // last, so that a run that was cut short is done again
		for _, s := range drop {
			if err := store.Segments.Delete(tx, store.SegmentID(s.N)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Denied implements api.Service: what was refused is part of the trail too. Of each caller one refusal a second is, and
// how many were left out before it; of all callers together ten.
func (c *Control) Denied(ctx context.Context, who pki.Identity, call string, refused error) {
	left, tell := c.denials.tell(who, c.now())
	if !tell {
		return
	}
	text := "denied: " + call + ": " + clean(refused.Error(), maxReason)
	if left > 0 {
		text += fmt.Sprintf(" (and %d refusals before it)", left)
	}
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		return tx.Record(mobyfs.Event{Text: text, Denied: mobyfs.CodeOf(refused)})
	})
	if err != nil {
		c.log.Warn("a refusal could not be written into the audit trail", "who", who.String(), "call", call, "err", err)
	}
}

const (
	denialEvery   = time.Second
	denialsAtOnce = 10   // in denialEvery, of all callers
	denialCallers = 4096 // that are told apart
)

// denials bounds how much of the trail refusals take.
type denials struct {
	mu      sync.Mutex
	began   time.Time
	inAll   int
	callers map[pki.Identity]*denial
}

type denial struct {
	told time.Time
	left int // out since then
}

// tell reports whether a refusal shall be told, and how many of the same caller were left out before it.
func (d *denials) tell(who pki.Identity, now time.Time) (left int, tell bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.callers == nil || len(d.callers) > denialCallers {
		d.callers = map[pki.Identity]*denial{}
	}
	if now.Sub(d.began) >= denialEvery {
		d.began, d.inAll = now, 0
	}
	mine := d.callers[who]
	if mine == nil {
		mine = &denial{}
		d.callers[who] = mine
	}
	if now.Sub(mine.told) < denialEvery || d.inAll >= denialsAtOnce {
		mine.left++
		return 0, false
	}
	d.inAll++
	left = mine.left
	mine.told, mine.left = now, 0
	return left, true
}
