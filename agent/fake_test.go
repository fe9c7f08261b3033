package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/internal/mountns"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// cluster is a control plane in memory that keeps the rules of ownership. With a file it survives the process.
type cluster struct {
	mu      sync.Mutex
	file    string
	signer  pki.Files
	down    bool // nobody can be reached
	full    map[string]bool
	seq     int
	rev     int64
	volumes map[mobyfs.VolumeID]*mobyfs.Volume
	reports map[string]mobyfs.Report
	removed map[string]mobyfs.Volume // by name, as they were

	inventories      []mobyfs.Inventory // that nodes told
	backups          map[string][]byte  // their content, by ID
	askTell, askKeep string             // what the answers to reports ask for

	calls   []string
	ttl     time.Duration // of sessions; mobyfs.SessionTTL if 0
	next    time.Duration // what answers to heartbeats tell of the next; 0: nothing
	partial bool          // nodes watch what concerns them
	watches map[*watch]bool
	// before may look at a call, hold it up, or make it fail; after may do the same once it took effect.
	before, after func(node, call string) error
}

type watch struct {
	changes chan mobyfs.Change
	node    string
	mine    map[mobyfs.VolumeID]bool // that concern the node, as it was told
}

// concerned reports whether a change is of a volume that concerns the node now, or did.
func (w *watch) concerned(change mobyfs.Change) bool {
	if change.Volume == nil {
		return w.mine[change.Gone]
	}
	was := w.mine[change.Volume.ID]
	w.mine[change.Volume.ID] = concernsNode(*change.Volume, w.node)
	return was || w.mine[change.Volume.ID]
}

// saved is the cluster's file.
type saved struct {
	Seq     int
	Rev     int64
	Volumes map[mobyfs.VolumeID]*mobyfs.Volume
}

func newCluster(signer pki.Files, file string) *cluster {
	c := &cluster{file: file, signer: signer, full: map[string]bool{}, volumes: map[mobyfs.VolumeID]*mobyfs.Volume{},
		reports: map[string]mobyfs.Report{}, watches: map[*watch]bool{}}
	if data, err := os.ReadFile(file); err == nil {
		var s saved
		if err := json.Unmarshal(data, &s); err != nil {
			panic(err)
		}
		c.seq, c.rev, c.volumes = s.Seq, s.Rev, s.Volumes
	}
	return c
}

// change makes one transaction. f is called under mu and answers the volume that it changed, or nil.
func (c *cluster) change(ctx context.Context, node, call string, f func() (*mobyfs.Volume, error)) error {
	c.mu.Lock()
	before, after := c.before, c.after
	c.calls = append(c.calls, node+" "+call)
	down := c.down
	c.mu.Unlock()
	away := mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control at control:7946: connection refused").WithHint("check that it runs")
	if down || ctx.Err() != nil {
		return away
	}
	if before != nil {
		if err := before(node, call); err != nil {
			return err
		}
	}
	c.mu.Lock()
	v, err := f()
	if v != nil && err == nil {
		c.rev++
		v.Revision = c.rev
		c.save()
		copied := *v
		c.tell(mobyfs.Change{Revision: c.rev, Volume: &copied})
	}
	c.mu.Unlock()
	if err == nil && after != nil {
		return after(node, call)
	}
	return err
}

func (c *cluster) save() {
	if c.file == "" {
		return
	}
	data, err := json.Marshal(saved{c.seq, c.rev, c.volumes})
	if err == nil {
		err = os.WriteFile(c.file+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(c.file+".new", c.file)
	}
	if err != nil {
		panic(err)
	}
}

func (c *cluster) tell(change mobyfs.Change) {
	for w := range c.watches {
		if !c.partial || w.concerned(change) {
			w.changes <- change
		}
	}
}

// setDown cuts everybody off, or lets them in again.
func (c *cluster) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
	if down {
		for w := range c.watches {
			close(w.changes)
			delete(c.watches, w)
		}
	}
}

// heartbeats is how many have come since the last time that took was asked, those that were not answered too.
func (c *cluster) heartbeats() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.calls {
		if strings.HasSuffix(call, " Report") {
			n++
		}
	}
	return n
}

// took returns the calls since the last time, without reports and watches.
func (c *cluster) took() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := slices.DeleteFunc(c.calls, func(s string) bool { return strings.HasSuffix(s, " Report") })
	c.calls = nil
	if len(calls) == 0 {
		return nil
	}
	return calls
}

func (c *cluster) hook(before, after func(node, call string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before, c.after = before, after
}

// volume returns the record that has a name, or the zero Volume.
func (c *cluster) volume(name string) mobyfs.Volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.find(name); v != nil {
		return *v
	}
	return mobyfs.Volume{}
}

// edit changes a record as an operator does.
func (c *cluster) edit(name string, f func(v *mobyfs.Volume)) {
	_ = c.change(context.Background(), "operator", "edit", func() (*mobyfs.Volume, error) {
		v := c.find(name)
		f(v)
		v.Fence++
		return v, nil
	})
}

// undelete brings a removed volume back as an operator does.
func (c *cluster) undelete(name string) {
	_ = c.change(context.Background(), "operator", "undelete", func() (*mobyfs.Volume, error) {
		v := c.removed[name]
		v.State, v.Undeletion = mobyfs.VolumeReady, &mobyfs.Undeletion{Removed: v.Fence, Pending: true}
		v.Fence++
		c.volumes[v.ID] = &v
		return &v, nil
	})
}

func (c *cluster) find(name string) *mobyfs.Volume {
	for _, v := range c.volumes {
		if v.Name == name && v.State != mobyfs.VolumeRemoving {
			return v
		}
	}
	return nil
}

func (c *cluster) move(name, to string) {
	c.edit(name, func(v *mobyfs.Volume) { c.begin(v, to, false) })
}

// moveLive begins a live migration, as an operator does.
func (c *cluster) moveLive(name, to string, o mobyfs.MoveOptions) {
	c.edit(name, func(v *mobyfs.Volume) {
		c.begin(v, to, false)
		v.Migration.Live, v.Migration.Options = true, o
	})
}

func (c *cluster) begin(v *mobyfs.Volume, to string, mount bool) {
	c.seq++
	v.Migration = &mobyfs.Migration{ID: mobyfs.MigrationID(fmt.Sprintf("m%d", c.seq)), From: v.Node, To: to, Fence: v.Fence + 1, Mount: mount,
		State: mobyfs.MigrationCopying, StartedAt: time.Now()}
}

func end(v *mobyfs.Volume, state mobyfs.MigrationState, reason string) {
	m := *v.Migration
	m.State, m.Reason, m.EndedAt = state, reason, time.Now()
	v.LastMove, v.Migration = &m, nil
	v.Fence++
}

// as is the cluster as a node sees it.
func (c *cluster) as(node string) mobyfs.Control { return &seat{c, node} }

type seat struct {
	*cluster
	node string
}

func (s *seat) CreateVolume(ctx context.Context, name string, spec mobyfs.VolumeSpec, node string) (mobyfs.Volume, error) {
	var out mobyfs.Volume
	err := s.change(ctx, s.node, "CreateVolume", func() (*mobyfs.Volume, error) {
		for _, v := range s.volumes {
			if v.State == mobyfs.VolumeRemoving || mobyfs.FoldName(v.Name) != mobyfs.FoldName(name) {
				continue
			}
			if v.Name != name || !v.Spec.Meets(spec) {
				return nil, mobyfs.Errorf(mobyfs.CodeExists, "volume %q exists already", v.Name).WithHint("choose another name")
			}
			out = *v
			return nil, nil
		}
		home := node
		if s.full[node] {
			return nil, mobyfs.Errorf(mobyfs.CodeNoSpace, "there is no room on %s", node)
		}
		for _, n := range slices.Sorted(maps.Keys(s.reports)) {
			if home == "" && !s.full[n] {
				home = n
			}
		}
		if home == "" {
			return nil, mobyfs.Errorf(mobyfs.CodeNoSpace, "no node has room")
		}
		s.seq++
		v := &mobyfs.Volume{ID: mobyfs.VolumeID(fmt.Sprintf("v%d", s.seq)), Name: name, Spec: spec, State: mobyfs.VolumeCreating,
			CreatedAt: time.Now(), Node: home, Fence: 1}
		s.volumes[v.ID] = v
		out = *v
		out.Revision = s.rev + 1
		return v, nil
	})
	return out, err
}

// on makes a transaction on one record, which must exist.
func (s *seat) on(ctx context.Context, call string, id mobyfs.VolumeID, f func(v *mobyfs.Volume) (changed bool, err error)) (mobyfs.Volume, error) {
	var out mobyfs.Volume
	err := s.change(ctx, s.node, call, func() (*mobyfs.Volume, error) {
		v := s.volumes[id]
		if v == nil {
			return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %s", id)
		}
		next := *v
		changed, err := f(&next)
		if err != nil {
			return nil, err
		}
		out = next
		if !changed {
			return nil, nil
		}
		s.volumes[id] = &next
		out.Revision = s.rev + 1
		return &next, nil
	})
	return out, err
}

func (s *seat) Created(ctx context.Context, id mobyfs.VolumeID) (mobyfs.Volume, error) {
	return s.on(ctx, "Created", id, func(v *mobyfs.Volume) (bool, error) {
		if v.State == mobyfs.VolumeRemoving {
			return false, mobyfs.Errorf(mobyfs.CodeNotFound, "it is being removed")
		}
		changed := v.State != mobyfs.VolumeReady || v.Returning()
		v.State = mobyfs.VolumeReady
		if v.Undeletion != nil {
			v.Undeletion = &mobyfs.Undeletion{Removed: v.Undeletion.Removed}
		}
		return changed, nil
	})
}

func (s *seat) Volume(ctx context.Context, name string) (mobyfs.Volume, error) {
	var out mobyfs.Volume
	err := s.change(ctx, s.node, "Volume", func() (*mobyfs.Volume, error) {
		v := s.find(name)
		if v == nil {
			return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name)
		}
		out = *v
		return nil, nil
	})
	return out, err
}

// recalled makes a call again for which the volume was in use, once its holder has given the lease back. Like control
// it writes down who wants the volume, and waits a second.
func (s *seat) recalled(ctx context.Context, find func() *mobyfs.Volume, call func() error) error {
	err := call()
	if mobyfs.CodeOf(err) != mobyfs.CodeInUse {
		return err
	}
	_ = s.change(ctx, s.node, "recall", func() (*mobyfs.Volume, error) {
		v := find()
		if v == nil || v.Lease == nil || v.Lease.Wanted != "" {
			return nil, nil
		}
		next, lease := *v, *v.Lease
		lease.Wanted, next.Lease = s.node, &lease
		s.volumes[v.ID] = &next
		return &next, nil
	})
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		s.mu.Lock()
		v := find()
		free := v == nil || v.Lease == nil
		s.mu.Unlock()
		if free {
			return call()
		}
	}
	return err
}

func (s *seat) RemoveVolume(ctx context.Context, name string) error {
	return s.recalled(ctx, func() *mobyfs.Volume { return s.find(name) }, func() error { return s.removeVolume(ctx, name) })
}

func (s *seat) removeVolume(ctx context.Context, name string) error {
	return s.change(ctx, s.node, "RemoveVolume", func() (*mobyfs.Volume, error) {
		v := s.find(name)
		if v == nil {
			return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name)
		}
		if where, used := v.InUse(); used {
			return nil, mobyfs.Errorf(mobyfs.CodeInUse, "volume %q is in use %s", name, where).WithHint("stop it there, then remove it")
		}
		if v.Migration != nil {
			return nil, mobyfs.Errorf(mobyfs.CodeMoving, "volume %q is moving", name).WithHint("wait")
		}
		next := *v
		next.State = mobyfs.VolumeRemoving
		next.Fence++
		s.volumes[v.ID] = &next
		return &next, nil
	})
}

func (s *seat) Removed(ctx context.Context, id mobyfs.VolumeID) error {
	return s.change(ctx, s.node, "Removed", func() (*mobyfs.Volume, error) {
		v := s.volumes[id]
		if v == nil {
			return nil, nil
		}
		if v.State != mobyfs.VolumeRemoving && !v.Returning() || v.Node != s.node {
			return nil, mobyfs.Errorf(mobyfs.CodeDenied, "volume %q is %s on %s", v.Name, v.State, v.Node)
		}
		if s.removed == nil {
			s.removed = map[string]mobyfs.Volume{}
		}
		s.removed[v.Name] = *v
		delete(s.volumes, id)
		s.rev++
		s.save()
		s.tell(mobyfs.Change{Revision: s.rev, Gone: id})
		return nil, nil
	})
}

func (s *seat) grant(v mobyfs.Volume) mobyfs.Grant {
	g := mobyfs.Grant{Volume: v, Fence: v.Fence}
	if m := v.Migration; m != nil && m.To == s.node {
		g.Fence = m.Fence
		ticket, err := s.signer.SignToken(mobyfs.Ticket{Migration: m.ID, Volume: v.ID, From: m.From, To: m.To, Fence: m.Fence,
			Expires: time.Now().Add(5 * time.Minute), Live: m.Live}, 5*time.Minute)
		if err != nil {
			panic(err)
		}
		g.From = &mobyfs.From{Migration: m.ID, Node: m.From, Address: m.From + ":8080", Ticket: ticket}
	}
	return g
}

func (s *seat) Claim(ctx context.Context, id mobyfs.VolumeID) (g mobyfs.Grant, err error) {
	err = s.recalled(ctx, func() *mobyfs.Volume { return s.volumes[id] }, func() error { g, err = s.claim(ctx, id); return err })
	return g, err
}

func (s *seat) claim(ctx context.Context, id mobyfs.VolumeID) (mobyfs.Grant, error) {
	v, err := s.on(ctx, "Claim", id, func(v *mobyfs.Volume) (bool, error) {
		m := v.Migration
		switch {
		case v.State == mobyfs.VolumeCreating:
			return false, mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q is being made on %s", v.Name, v.Node).WithHint("wait")
		case v.State == mobyfs.VolumeRemoving:
			return false, mobyfs.Errorf(mobyfs.CodeNotFound, "volume %q is being removed", v.Name)
		case m != nil && m.To == s.node:
			next := *m
			next.Mount = true
			v.Migration = &next
			return !m.Mount, nil
		case m != nil && !(m.Live && m.State == mobyfs.MigrationCopying && v.Node == s.node):
			return false, mobyfs.Errorf(mobyfs.CodeMoving, "volume %q is moving from %s to %s", v.Name, m.From, m.To).WithHint("wait")
		case v.Node == s.node && v.Lease != nil:
			return false, nil
		case v.Node == s.node:
			v.Fence++
			v.Lease = &mobyfs.Lease{Node: s.node, Fence: v.Fence, Since: time.Now()}
			return true, nil
		case v.Lease != nil:
			where, _ := v.InUse()
			return false, mobyfs.Errorf(mobyfs.CodeInUse, "volume %q is in use %s", v.Name, where).WithHint("stop it there, then try again")
		}
		if mobyfs.SharesBytes(v.Spec.Backend) {
			v.Fence++
			v.Node, v.Arrived, v.Lease = s.node, "", &mobyfs.Lease{Node: s.node, Fence: v.Fence, Since: time.Now()}
			return true, nil
		}
		s.begin(v, s.node, true)
		v.Fence++
		return true, nil
	})
	if err != nil {
		return mobyfs.Grant{}, err
	}
	return s.grant(v), nil
}

func (s *seat) Release(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	_, err := s.on(ctx, "Release", id, func(v *mobyfs.Volume) (bool, error) {
		if v.Lease == nil || v.Lease.Node != s.node || v.Lease.Fence > fence {
			return false, nil
		}
		if v.Lease.Fence < fence {
			return false, mobyfs.Errorf(mobyfs.CodeInvalid, "fence %d was never given", fence)
		}
		v.Lease = nil
		v.Fence++
		return true, nil
	})
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil
	}
	return err
}

func (s *seat) Accept(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID) (mobyfs.Grant, error) {
	v, err := s.on(ctx, "Accept", id, func(v *mobyfs.Volume) (bool, error) {
		if v.Migration == nil || v.Migration.ID != m {
			return false, mobyfs.Errorf(mobyfs.CodeNotFound, "migration %s is not under way", m)
		}
		return false, nil
	})
	if err != nil {
		return mobyfs.Grant{}, err
	}
	return s.grant(v), nil
}

func (s *seat) Commit(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, r mobyfs.Receipt) (mobyfs.Grant, error) {
	v, err := s.on(ctx, "Commit", id, func(v *mobyfs.Volume) (bool, error) {
		if v.Migration == nil || v.Migration.ID != m {
			if v.Arrived == m && v.Node == s.node {
				return false, nil
			}
			return false, mobyfs.Errorf(mobyfs.CodeStaleFence, "migration %s was aborted", m)
		}
		now := v.Migration
		if now.Live && (now.State != mobyfs.MigrationFreezing || r.Freeze != now.Freezes) {
			return false, mobyfs.Errorf(mobyfs.CodeChanged, "freeze %d of migration %s was taken back", r.Freeze, m)
		}
		mount := now.Mount || now.Live && now.Options.WithContainers
		v.Lease = nil
		v.Node, v.Arrived = s.node, m
		end(v, mobyfs.MigrationCommitted, "")
		v.LastMove.Digest = r.Digest
		if mount {
			v.Lease = &mobyfs.Lease{Node: s.node, Fence: v.Fence, Since: time.Now()}
		}
		return true, nil
	})
	if err != nil {
		return mobyfs.Grant{}, err
	}
	return s.grant(v), nil
}

func (s *seat) Abort(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, reason string) error {
	_, err := s.on(ctx, "Abort", id, func(v *mobyfs.Volume) (bool, error) {
		if v.Migration == nil || v.Migration.ID != m {
			if v.LastMove != nil && v.LastMove.ID == m && v.LastMove.State == mobyfs.MigrationAborted {
				return false, nil
			}
			return false, mobyfs.Errorf(mobyfs.CodeStaleFence, "migration %s was committed", m)
		}
		end(v, mobyfs.MigrationAborted, reason)
		return true, nil
	})
	return err
}

func (s *seat) Freeze(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID) (mobyfs.Volume, error) {
	return s.on(ctx, "Freeze", id, func(v *mobyfs.Volume) (bool, error) {
		switch now := v.Migration; {
		case now == nil || now.ID != m:
			return false, mobyfs.Errorf(mobyfs.CodeStaleFence, "migration %s has ended", m)
		case now.From != s.node:
			return false, mobyfs.Errorf(mobyfs.CodeDenied, "it moves from %s", now.From)
		case now.State == mobyfs.MigrationFreezing:
			return false, nil
		}
		next := *v.Migration
		next.State, next.FrozenAt = mobyfs.MigrationFreezing, time.Now()
		next.Freezes++
		v.Migration = &next
		v.Fence++
		return true, nil
	})
}

func (s *seat) Thaw(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, freeze int, _ string) (mobyfs.Volume, error) {
	return s.on(ctx, "Thaw", id, func(v *mobyfs.Volume) (bool, error) {
		now, last := v.Migration, v.LastMove
		switch {
		case now != nil && now.ID == m && now.From != s.node:
			return false, mobyfs.Errorf(mobyfs.CodeDenied, "it moves from %s", now.From)
		case now != nil && now.ID == m && (freeze < 1 || freeze > now.Freezes):
			return false, mobyfs.Errorf(mobyfs.CodeInvalid, "there was no freeze %d", freeze)
		case now != nil && now.ID == m && now.State != mobyfs.MigrationFreezing:
			return false, nil
		case now != nil && now.ID == m && freeze < now.Freezes:
			return false, mobyfs.Errorf(mobyfs.CodeChanged, "freeze %d holds", now.Freezes)
		case now != nil && now.ID == m:
			next := *now
			next.State, next.FrozenAt = mobyfs.MigrationCopying, time.Time{}
			v.Migration = &next
			v.Fence++
			return true, nil
		case last != nil && last.ID == m && last.State == mobyfs.MigrationAborted:
			return false, nil
		case last != nil && last.ID == m || v.Arrived == m || v.Node != s.node:
			return false, mobyfs.Errorf(mobyfs.CodeStaleFence, "migration %s was committed", m)
		}
		return false, mobyfs.Errorf(mobyfs.CodeNotFound, "nothing is known of migration %s", m)
	})
}

func (s *seat) Moved(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, r mobyfs.MoveReport) error {
	_, err := s.on(ctx, "Moved", id, func(v *mobyfs.Volume) (bool, error) {
		if v.LastMove == nil || v.LastMove.ID != m || v.LastMove.Told() {
			return false, nil
		}
		last := *v.LastMove
		last.Pause, last.Containers, last.Trouble, last.ToldAt = r.Pause, r.Containers, r.Trouble, time.Now()
		v.LastMove = &last
		return true, nil
	})
	return err
}

func (s *seat) Report(ctx context.Context, r mobyfs.Report) (mobyfs.Session, error) {
	s.mu.Lock()
	ttl := cmp.Or(s.ttl, mobyfs.SessionTTL)
	session := mobyfs.Session{Epoch: 1, TTLMillis: ttl.Milliseconds(), NextMillis: s.next.Milliseconds(), Tell: s.askTell, Keep: s.askKeep}
	s.mu.Unlock()
	return session, s.change(ctx, s.node, "Report", func() (*mobyfs.Volume, error) {
		s.reports[s.node] = r
		for id, names := range r.Users {
			if v := s.volumes[id]; v != nil && v.Lease != nil && v.Lease.Node == s.node {
				lease := *v.Lease
				lease.Users = names
				v.Lease = &lease
			}
		}
		return nil, nil
	})
}

func (s *seat) Watch(ctx context.Context, each func(mobyfs.Change)) error {
	w := &watch{make(chan mobyfs.Change, 100000), s.node, map[mobyfs.VolumeID]bool{}}
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control: connection refused")
	}
	full := mobyfs.Change{Revision: s.rev, Full: &mobyfs.Snapshot{Cluster: "shop"}}
	full.Full.Partial = s.partial
	for _, v := range s.volumes {
		if !s.partial || concernsNode(*v, s.node) {
			full.Full.Volumes = append(full.Full.Volumes, *v)
			w.mine[v.ID] = true
		}
	}
	s.watches[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watches, w)
		s.mu.Unlock()
	}()
	each(full)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case change, ok := <-w.changes:
			if !ok {
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "watch: the connection was lost")
			}
			each(change)
		}
	}
}

// concernsNode reports whether control tells the node of a volume though it does not tell it of all.
func concernsNode(v mobyfs.Volume, node string) bool {
	return v.Node == node || v.Migration != nil && v.Migration.To == node
}

func (s *seat) Records(ctx context.Context, ids []mobyfs.VolumeID) (mobyfs.Records, error) {
	var out mobyfs.Records
	err := s.change(ctx, s.node, "Records", func() (*mobyfs.Volume, error) {
		for _, id := range ids {
			if v := s.volumes[id]; v != nil {
				out.Volumes = append(out.Volumes, *v)
			} else {
				out.Gone = append(out.Gone, id)
			}
		}
		return nil, nil
	})
	return out, err
}

// kernel is a Kernel whose users a test sets.
type kernel struct {
	mu    sync.Mutex
	mount map[string]int // dir → namespaces
	open  map[string]int

	strangers []mountns.User
}

func (k *kernel) set(dir string, mounts, files int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mount[dir], k.open[dir] = mounts, files
}

func (k *kernel) Users(dir string) ([]mountns.User, error) { return k.ask(k.mount, dir) }

func (k *kernel) Open(dir string) ([]mountns.User, error) { return k.ask(k.open, dir) }

func (k *kernel) ask(of map[string]int, dir string) ([]mountns.User, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var users []mountns.User
	for i := range of[dir] {
		users = append(users, mountns.User{PID: 4711 + i, Command: "postgres", Path: "/data"})
	}
	return users, nil
}

// containers is a dockerd whose containers a test sets.
type containers struct {
	mu       sync.Mutex
	of       map[string][]string
	asks     int
	stranded []Container
	refuse   error         // of Start
	did      []string      // what it was asked for besides Running
	up       chan struct{} // closed when dockerd ends; nil: it is down
	ended    func()
	boxes    map[string]*box // by name
	file     string          // in which they lie
	begins   func(*box) error
	break_   func(what, id string) error // makes a call fail
}

func (c *containers) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.did = append(c.did, what)
}

// took returns what dockerd was asked for since the last time.
func (c *containers) took() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	did := c.did
	c.did = nil
	return did
}

// begin is a new life of dockerd; end ends it.
func (c *containers) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = make(chan struct{})
}

func (c *containers) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.up)
	c.up = nil
}

func (c *containers) Follow(ctx context.Context, began, ended func()) error {
	c.mu.Lock()
	up := c.up
	c.ended = ended
	c.mu.Unlock()
	if up == nil {
		return errors.New("follow dockerd: connection refused")
	}
	began()
	select {
	case <-up:
		return io.ErrUnexpectedEOF
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *containers) ListVolumes(context.Context) error {
	c.note("list volumes")
	return nil
}

func (c *containers) Stranded(context.Context) ([]Container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.stranded), nil
}

func (c *containers) Start(_ context.Context, id string) error {
	c.note("start " + id)
	if b, err := c.box(id); err == nil {
		c.mu.Lock()
		begins, refuse := c.begins, c.refuse
		c.mu.Unlock()
		if begins != nil && refuse == nil {
			refuse = begins(b)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if refuse == nil {
			b.state = "running"
			c.save()
		}
		return refuse
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse == nil {
		c.stranded = slices.DeleteFunc(c.stranded, func(s Container) bool { return s.ID == id })
	}
	return c.refuse
}

func (c *containers) set(volume string, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[volume] = names
}

func (c *containers) Running(_ context.Context, volume string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asks++
	return c.of[volume], nil
}

// rig is a cluster with nodes, all in this process.
type rig struct {
	evicted   []mobyfs.Eviction // of whom all nodes have heard
	linger    time.Duration     // of all agents that start from now on
	t         testing.TB
	authority *pki.Authority
	cluster   *cluster
	nodes     map[string]*node
	booted    time.Time
	shared    string // a directory that all nodes see; "" for none
	// session may hold a step of a live session up or make it fail; pause is what sessions predict.
	session func(ctx context.Context, to, step string) error
	pause   time.Duration
	dockers string // a directory in which the dockerds of all nodes outlive the process; "" for none
	// pull may hold a pull up or make it fail, before anything is copied.
	pull func(ctx context.Context, to string, from mobyfs.From, progress func(mobyfs.Progress)) error
	// cut, if set, is asked once all has come, and breaks the connection with its error
	cut func() error
	// goesOn, if set, is told of a cold move that goes on with what lies in the directory
	goesOn func(into string) error
}

// node is one agent and what it stands on, which outlives the agent.
type node struct {
	rig    *rig
	name   string
	root   string
	files  pki.Files
	kernel *kernel
	docker *containers
	wrap   func(backend.Backend) backend.Backend
	// control is what the agent asks, the rig's cluster if nil.
	control  mobyfs.Control
	watchdog Watchdog // nil: none
	agent    *Agent
	peers    atomic.Pointer[Agent] // the agent once more, as other nodes reach it while it may be restarting
	stop     func()
}

func newRig(t testing.TB, names ...string) *rig {
	t.Helper()
	authority, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, authority: authority, nodes: map[string]*node{}, booted: time.Now()}
	r.cluster = newCluster(r.member(pki.RoleControl, "control"), "")
	for _, name := range names {
		r.join(name, t.TempDir())
	}
	return r
}

func (r *rig) member(role, name string) pki.Files {
	f := pki.FilesIn(r.t.TempDir(), name)
	csr, err := f.NewRequest()
	if err != nil {
		r.t.Fatal(err)
	}
	cert, err := r.authority.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
	if err == nil {
		err = f.Install(cert, r.authority.CertPEM)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// joinWith adds a node whose backend is wrapped.
func (r *rig) joinWith(name string, wrap func(backend.Backend) backend.Backend) *node {
	return r.add(&node{name: name, root: r.t.TempDir(), wrap: wrap})
}

func (r *rig) join(name, root string) *node { return r.add(&node{name: name, root: root}) }

func (r *rig) add(n *node) *node {
	n.rig, n.files = r, r.member(pki.RoleNode, n.name)
	n.kernel = &kernel{mount: map[string]int{}, open: map[string]int{}}
	n.docker = &containers{of: map[string][]string{}}
	r.nodes[n.name] = n
	if r.dockers != "" {
		n.docker.keep(r.t, filepath.Join(r.dockers, n.name+".docker"))
		n.starts()
		n.docker.begin()
	}
	n.start()
	r.t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start() {
	n.rig.t.Helper()
	store, err := dir.Open(n.root)
	if err != nil {
		n.rig.t.Fatal(err)
	}
	var b backend.Backend = store
	if n.wrap != nil {
		b = n.wrap(b)
	}
	backends := []backend.Backend{b}
	if n.rig.shared != "" {
		backends = append(backends, n.openShared())
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n.name)
	}
	if n.control == nil {
		n.control = n.rig.cluster.as(n.name)
	}
	a, err := Open(Config{Node: n.name, Address: n.name + ":8080", Version: "test", Root: n.root, Backends: backends,
		Control: n.control, Peer: &peer{n}, Files: n.files, Docker: n.docker, Kernel: n.kernel, Linger: n.rig.linger, Log: log,
		Evicted:  func() []mobyfs.Eviction { return n.rig.evicted },
		Watchdog: n.watchdog, Clock: func() time.Duration { return time.Since(n.rig.booted) }})
	if err != nil {
		n.rig.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	n.agent = a
	n.peers.Store(a)
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// restart is the agent's death and next life. Containers and the kernel go on.
func (n *node) restart() {
	n.stop()
	n.start()
}

// peer copies from the agents of the rig.
type peer struct{ *node }

func (p *peer) Pull(ctx context.Context, from mobyfs.From, into string, progress func(mobyfs.Progress)) (mobyfs.Receipt, error) {
	if hook := p.rig.pull; hook != nil {
		if err := hook(ctx, p.name, from, progress); err != nil {
			return mobyfs.Receipt{}, err
		}
	}
	me := pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: p.name}
	offered, err := p.rig.nodes[from.Node].peers.Load().Offer(ctx, me, from.Ticket)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	defer offered.Release()
	source := offered.Dir
	r := mobyfs.Receipt{Digest: digest(p.rig.t, source)}
	err = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r.Progress.Files++
		r.Progress.Bytes += int64(len(data))
		return os.WriteFile(filepath.Join(into, d.Name()), data, 0o600) // flat trees only
	})
	if cut := p.rig.cut; err == nil && cut != nil {
		err = cut()
	}
	return r, err
}

// digest is of the names and contents in a flat directory.
func digest(t testing.TB, path string) string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(path, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%s %d %s", e.Name(), len(data), data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Inventory notes what the node tells that it holds.
func (s *seat) Inventory(ctx context.Context, part mobyfs.Inventory) error {
	return s.change(ctx, s.node, "Inventory", func() (*mobyfs.Volume, error) {
		s.inventories = append(s.inventories, part)
		return nil, nil
	})
}

// Backup gives the bytes of a backup that the test has put there.
func (s *seat) Backup(ctx context.Context, id string, w io.Writer) error {
	return s.change(ctx, s.node, "Backup", func() (*mobyfs.Volume, error) {
		b, ok := s.backups[id]
		if !ok {
			return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no backup %s", id)
		}
		_, err := w.Write(b)
		return nil, err
	})
}
