package control

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/backup"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/retain"
)

// How backups are made and kept.
const (
	BackupEvery  = time.Hour        // unless Config.BackupEvery says otherwise
	backupTick   = 15 * time.Second // how often it is looked whether one is due
	turnLasts    = 10 * time.Minute // how long who has the turn may take
	backupCopies = 2                // on as many nodes, at least
	backupsHere  = 3                // on the disk of the control that made them
	backupWait   = 12 * time.Second // a call waits; less than the API gives it
	backupFolder = "backups"        // below the root
	backupEnding = ".mbk"
)

// keepBackupsUntil makes backups and has them kept until ctx ends.
func (c *Control) keepBackupsUntil(ctx context.Context) {
	tick := time.NewTicker(min(backupTick, c.cfg.BackupEvery))
	defer tick.Stop()
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.keepBackups(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			c.log.Error("look after the backups; it is tried again", "err", err, "hint", mobyfs.HintOf(err))
			said = err.Error()
		}
		if err == nil {
			said = ""
		}
	}
}

// keepBackups makes a backup if one is due and it is this control's turn, and sees to it that the newest is kept. In the
// time after a restore nothing is made: what is worth keeping is the backup that was restored.
func (c *Control) keepBackups(ctx context.Context) error {
	if c.store.Restored() != nil || c.keeper.seal == nil {
		return nil
	}
	mine, err := c.takeTurn(ctx)
	if err != nil {
		return err
	}
	if mine {
		if _, err := c.makeBackup(ctx); err != nil {
			return fmt.Errorf("make the backup: %w", err)
		}
	}
	return errors.Join(c.askForCopies(ctx), c.dropBackups(ctx))
}

// takeTurn reports whether this control makes a backup now.
func (c *Control) takeTurn(ctx context.Context) (mine bool, err error) {
	newest, _ := c.newestBackup()
	if c.now().Sub(newest.MadeAt) < c.cfg.BackupEvery {
		return false, nil
	}
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		turn, err := store.BackupTurns.Get(tx, store.TheBackupTurn)
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		age := c.now().Sub(turn.At)
		if mine = age >= min(turnLasts, c.cfg.BackupEvery) || age < 0; !mine {
			return nil
		}
		return store.BackupTurns.Put(tx, store.TheBackupTurn, store.BackupTurn{By: c.name, At: c.now().UTC()})
	})
	return mine && err == nil, err
}

// backups are all that are kept, the newest first.
func (c *Control) backups() []store.Backup {
	var all []store.Backup
	c.store.View(func(v store.View) {
		for _, b := range store.Backups.All(v) {
			all = append(all, b)
		}
	})
	slices.SortFunc(all, func(a, b store.Backup) int { return strings.Compare(b.ID, a.ID) })
	return all
}

func (c *Control) newestBackup() (store.Backup, bool) {
	all := c.backups()
	if len(all) == 0 {
		return store.Backup{}, false
	}
	return all[0], true
}

func (c *Control) backupFile(id string) string {
	return filepath.Join(c.cfg.Root, backupFolder, id+backupEnding)
}

// makeBackup makes a backup on this disk and records it. Killed in between, it leaves a file that nobody asks for and
// that the next one removes.
func (c *Control) makeBackup(ctx context.Context) (store.Backup, error) {
	c.backing.Lock()
	defer c.backing.Unlock()
	if c.keeper.seal == nil {
		return store.Backup{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "this control has no key to seal a backup with").
			WithHint("copy pki/kek from another control host")
	}
	dir := filepath.Join(c.cfg.Root, backupFolder)
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return store.Backup{}, err
	}
	if err := c.clearBackupFolder(dir); err != nil {
		return store.Backup{}, err
	}
	b := store.Backup{ID: c.newID(), By: c.name, MadeAt: c.now().UTC(), Epoch: c.store.Epoch()}
	scratch := filepath.Join(dir, "."+b.ID)
	if err := c.writeBackup(ctx, scratch, &b); err != nil {
		return b, errors.Join(err, os.Remove(scratch))
	}
	if err := durable.Rename("control.backup", scratch, c.backupFile(b.ID)); err != nil {
		return b, err
	}
	b.Asked = c.keepersOf(b)
	failpoint.Reach("control.backup-record.before")
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		if err := store.Backups.Put(tx, b.ID, b); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "backup " + b.ID + " made"})
	})
	failpoint.Reach("control.backup-record.after")
	if err == nil {
		c.log.Info("backup made", "backup", b.ID, "bytes", b.Bytes)
	}
	return b, err
}

func (c *Control) writeBackup(ctx context.Context, path string, b *store.Backup) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	digest, buffered := sha256.New(), bufio.NewWriterSize(f, 1<<20)
	counted := &counter{w: io.MultiWriter(buffered, digest)}
	s, err := backup.Write(ctx, counted, c.store, c.keeper.seal, backup.Header{ID: b.ID, Cluster: c.cfg.Cluster, MadeAt: b.MadeAt})
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	b.Bytes, b.Digest, b.Records, b.Revision = counted.n, hex.EncodeToString(digest.Sum(nil)), s.Records, s.Revision
	return errors.Join(err, f.Close())
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// clearBackupFolder removes what a killed run left, and all but the newest files.
func (c *Control) clearBackupFolder(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var ids []string
	for _, f := range files {
		id, whole := strings.CutSuffix(f.Name(), backupEnding)
		if _, ok := retain.MadeAt(id); ok && whole {
			ids = append(ids, id)
			continue
		}
		if _, ok := retain.MadeAt(strings.TrimPrefix(f.Name(), ".")); ok {
			if err := durable.Remove("control.backup-scratch", filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	slices.Sort(ids)
	for _, id := range ids[:max(len(ids)-backupsHere+1, 0)] {
		if err := durable.Remove("control.backup-old", c.backupFile(id)); err != nil {
			return err
		}
	}
	return nil
}

// keepersOf names the nodes that are to keep a backup: those that have it or were asked and are there, and as many others
// as it takes. It is the same nodes each time, as long as they are there, and they are of different zones if they can be.
func (c *Control) keepersOf(b store.Backup) []string {
	var there []mobyfs.Node
	for _, n := range c.nodes() {
		if n.Ready && n.Use() != mobyfs.NodeEvicted {
			there = append(there, n)
		}
	}
	slices.SortFunc(there, func(a, b mobyfs.Node) int {
		return cmp.Or(cmp.Compare(score(a.Name), score(b.Name)), strings.Compare(a.Name, b.Name))
	})
	var chosen []string
	zones := map[string]bool{}
	choose := func(fits func(mobyfs.Node) bool) {
		for _, n := range there {
			if len(chosen) < backupCopies && !slices.Contains(chosen, n.Name) && fits(n) {
				chosen = append(chosen, n.Name)
				zones[n.Zone] = true
			}
		}
	}
	choose(func(n mobyfs.Node) bool { return slices.Contains(b.Held, n.Name) })
	choose(func(n mobyfs.Node) bool { return slices.Contains(b.Asked, n.Name) && !zones[n.Zone] })
	choose(func(n mobyfs.Node) bool { return !zones[n.Zone] })
	choose(func(mobyfs.Node) bool { return true })
	slices.Sort(chosen)
	return chosen
}

// score is a number of a node, the same for ever and at all controls: it orders and spreads nodes in a way that has nothing
// to do with the order of their names.
func score(node string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(node)) // never fails
	return h.Sum32()
}

// askForCopies asks other nodes to keep the newest backup while too few have it, and tells once that it is so.
func (c *Control) askForCopies(ctx context.Context) error {
	newest, ok := c.newestBackup()
	if !ok {
		return nil
	}
	wants := c.keepersOf(newest)
	for _, node := range newest.Asked {
		if len(newest.Held) < backupCopies && !slices.Contains(wants, node) {
			wants = append(wants, node) // it may come back
		}
	}
	slices.Sort(wants)
	more := slices.ContainsFunc(wants, func(n string) bool { return !slices.Contains(newest.Asked, n) })
	warn := !newest.Warned && len(newest.Held) < backupCopies && c.now().Sub(newest.MadeAt) > turnLasts
	if !more && !warn {
		return nil
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		b, err := store.Backups.Get(tx, newest.ID)
		if err != nil {
			return ignoreGone(err)
		}
		if more {
			b.Asked = wants
		}
		if warn = warn && !b.Warned; warn {
			b.Warned = true
			text := fmt.Sprintf("backup %s is on %d nodes, %d should keep it", b.ID, len(b.Held), backupCopies)
			if err := tx.Record(mobyfs.Event{Text: text}); err != nil {
				return err
			}
		}
		return store.Backups.Put(tx, b.ID, b)
	})
}

func ignoreGone(err error) error {
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil
	}
	return err
}

// dropBackups forgets the backups that nobody keeps any more by the rule for all.
func (c *Control) dropBackups(ctx context.Context) error {
	var ids []string
	for _, b := range c.backups() {
		ids = append(ids, b.ID)
	}
	gone := retain.Surplus(ids)
	if len(gone) == 0 {
		return nil
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		for _, id := range gone {
			if err := store.Backups.Delete(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// toKeep is the backup of which a node is to fetch a copy, "" for none.
func (c *Control) toKeep(node string) string {
	newest, ok := c.newestBackup()
	if !ok || !slices.Contains(newest.Asked, node) || slices.Contains(newest.Held, node) {
		return ""
	}
	return newest.ID
}

// hearOfBackups notes which backups a node has.
func (c *Control) hearOfBackups(ctx context.Context, node string, ids []string) error {
	var changed []string
	for _, b := range c.backups() {
		if slices.Contains(b.Held, node) != slices.Contains(ids, b.ID) {
			changed = append(changed, b.ID)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		for _, id := range changed {
			b, err := store.Backups.Get(tx, id)
			if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
				continue
			}
			if err != nil {
				return err
			}
			b.Held = slices.DeleteFunc(slices.Clone(b.Held), func(n string) bool { return n == node })
			if slices.Contains(ids, id) {
				b.Held = append(b.Held, node)
				slices.Sort(b.Held)
			}
			if err := store.Backups.Put(tx, id, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// MakeBackup implements api.Service.
func (c *Control) MakeBackup(ctx context.Context, who pki.Identity) (api.Backup, error) {
	if err := c.allow(who, doBackup); err != nil {
		return api.Backup{}, err
	}
	type outcome struct {
		b   store.Backup
		err error
	}
	done := make(chan outcome, 1)
	background := mobyfs.WithActor(c.background, mobyfs.ActorOf(ctx))
	go func() {
		b, err := c.makeBackup(background)
		done <- outcome{b, err}
	}()
	select {
	case o := <-done:
		return shown(o.b), o.err
	case <-time.After(backupWait):
	case <-ctx.Done():
	}
	return api.Backup{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "the backup is being made still").
		WithHint("mobyctl control backups shows it once it is there")
}

func shown(b store.Backup) api.Backup {
	return api.Backup{
		ID: b.ID, By: b.By, MadeAt: b.MadeAt, Bytes: b.Bytes, Digest: b.Digest, Records: b.Records, Revision: b.Revision,
		Asked: b.Asked, Held: b.Held,
	}
}

// Backups implements api.Service.
func (c *Control) Backups(_ context.Context, who pki.Identity) ([]api.Backup, error) {
	if err := c.allow(who, doList); err != nil {
		return nil, err
	}
	all := []api.Backup{}
	for _, b := range c.backups() {
		all = append(all, shown(b))
	}
	return all, nil
}

// BackupContent implements api.Service. A node gets what it is asked to keep.
func (c *Control) BackupContent(_ context.Context, who pki.Identity, id string) (io.ReadCloser, int64, error) {
	if err := c.allow(who, doFetch); err != nil {
		return nil, 0, err
	}
	var b store.Backup
	known := false
	c.store.View(func(v store.View) { b, known = store.Backups.In(v, id) })
	if !known {
		return nil, 0, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no backup %.40q", id).WithHint("mobyctl control backups lists them")
	}
	if who.Role == pki.RoleNode && !slices.Contains(b.Asked, who.Name) {
		return nil, 0, mobyfs.Errorf(mobyfs.CodeDenied, "%s is not asked to keep backup %s", who.Name, id).WithHint("others keep it")
	}
	f, err := os.Open(c.backupFile(b.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, mobyfs.Errorf(mobyfs.CodeUnavailable, "backup %s is not on the disk of this control; %s made it", id, b.By).
			WithHint("%s", elsewhere(b))
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// elsewhere says where else a backup can be had.
func elsewhere(b store.Backup) string {
	if len(b.Held) == 0 {
		return "start mobyfs-control on " + b.By
	}
	return fmt.Sprintf("on %s: mobyfs backup export %s", b.Held[0], b.ID)
}

// backupOverdue reports whether an operator should look after the backups: the newest is old, or too few nodes have it.
func (c *Control) backupOverdue() bool {
	newest, ok := c.newestBackup()
	if !ok {
		return c.now().Sub(c.opened) > turnLasts
	}
	age := c.now().Sub(newest.MadeAt)
	return age > 2*c.cfg.BackupEvery || age > turnLasts && len(newest.Held) < backupCopies
}
