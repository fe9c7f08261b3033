package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/backup"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// RestoreConfig says what to restore, and where.
type RestoreConfig struct {
	Cluster   string // whose backup it has to be
	Name      string // of this control
	Root      string // an existing private directory with a directory pki
	Identity  pki.Files
	From      string    // file of the backup
	Key       *seal.Key // which opens it
	MoveAside bool      // the store that is in Root, instead of refusing
	Log       *slog.Logger
	Now       func() time.Time
}

// RestoreResult is what was restored.
type RestoreResult struct {
	backup.Summary
	Aside    []string // where lies what was moved aside
	Identity bool     // control got a certificate that it did not have
	Again    bool     // nothing was done: the backup had been restored before
}

// Restore makes a store of one member in Root from a backup. The whole backup is read and checked first: what is refused
// changes nothing. Killed at any point, it can be run again: the store appears in its place in one step, and before that
// step what is there is untouched.
func Restore(ctx context.Context, cfg RestoreConfig) (RestoreResult, error) {
	c, err := inspect(cfg)
	if err != nil {
		return RestoreResult{}, err
	}
	result := RestoreResult{Summary: c.summary}
	if err := c.fits(cfg); err != nil {
		return result, err
	}
	done, release, err := lockRoot(cfg, c.summary.ID)
	if err != nil {
		return result, err
	}
	defer release()
	scratch := filepath.Join(cfg.Root, "restoring")
	if done {
		result.Again = true
		return result, os.RemoveAll(scratch)
	}
	if err := fillScratch(ctx, cfg, c, scratch); err != nil {
		return result, err
	}
	if result.Identity, err = c.identify(cfg); err != nil {
		return result, err
	}
	if result.Aside, err = clearPlace(cfg, c); err != nil {
		return result, err
	}
	if err := durable.Rename("control.restored", filepath.Join(scratch, "etcd"), filepath.Join(cfg.Root, "etcd")); err != nil {
		return result, fmt.Errorf("put the restored store in its place: %w", err)
	}
	return result, os.RemoveAll(scratch)
}

// content is what must be known of a backup before anything is done with it.
type content struct {
	summary   backup.Summary
	authority store.Authority
	issuers   map[string]store.Issuer
	sealed    int64 // number of the last segment of the audit trail
}

// readBackup calls each with all records of a backup.
func readBackup(cfg RestoreConfig, each func(store.Record) error) (s backup.Summary, err error) {
	f, err := os.Open(cfg.From)
	if err != nil {
		return s, mobyfs.Errorf(mobyfs.CodeNotFound, "read the backup: %w", err).WithHint("mobyfs backup ls on a node lists those that it keeps")
	}
	defer f.Close()
	b, err := backup.Open(f)
	if err != nil {
		return s, fmt.Errorf("read %s: %w", cfg.From, err)
	}
	defer b.Close()
	if b.Cluster != cfg.Cluster {
		return s, mobyfs.Errorf(mobyfs.CodeInvalid, "the backup %s is of cluster %q, this is %q", b.ID, b.Cluster, cfg.Cluster).
			WithHint("give a backup of %s, or the root and the name of %s", cfg.Cluster, b.Cluster)
	}
	for r, err := range b.Records(cfg.Key) {
		if err == nil {
			err = each(r)
		}
		if err != nil {
			return s, err
		}
	}
	s, _ = b.Summary()
	return s, nil
}

// inspect reads the whole backup.
func inspect(cfg RestoreConfig) (content, error) {
	c := content{issuers: map[string]store.Issuer{}}
	var err error
	c.summary, err = readBackup(cfg, func(r store.Record) error {
		kind, id := store.KindOf(r.Key)
		switch kind {
		case store.KindAuthority:
			return json.Unmarshal(r.Raw, &c.authority)
		case store.KindIssuer:
			var i store.Issuer
			err := json.Unmarshal(r.Raw, &i)
			c.issuers[id] = i
			return err
		case store.KindSegment:
			var head struct {
				N int64 `json:"segment"`
			}
			if id != store.SegmentHead {
				return nil
			}
			err := json.Unmarshal(r.Raw, &head)
			c.sealed = head.N
			return err
		}
		return nil
	})
	return c, err
}

// fits refuses to bring together a cluster and an authority that are not each other's.
func (c content) fits(cfg RestoreConfig) error {
	chain, err := cfg.Identity.Chain()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it will get one
	}
	if err != nil {
		return fmt.Errorf("read control's certificate: %w", err)
	}
	if c.authority.Root == "" || pki.SignedBy(chain, trusted(c.authority)) != "" {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "the certificates in %s are of another authority than that of the backup", filepath.Dir(cfg.Identity.Cert)).
		WithHint("move that directory away, so that they are made anew from the backup, or restore where the cluster's authority lies")
}

// lockRoot makes sure that nobody else works in the root, and reports whether the backup was restored there before.
func lockRoot(cfg RestoreConfig, id string) (done bool, release func(), err error) {
	outer, err := store.Lock(cfg.Root)
	if err != nil {
		return false, nil, err
	}
	place := filepath.Join(cfg.Root, "etcd")
	if _, err := os.Stat(place); errors.Is(err, fs.ErrNotExist) {
		return false, outer, nil
	}
	inner, err := store.Lock(place)
	if err != nil {
		outer()
		return false, nil, mobyfs.Errorf(mobyfs.CodeInUse, "restore %s: %w", id, err).WithHint("systemctl stop mobyfs-control")
	}
	both := func() { inner(); outer() }
	var was restoredFile
	if err := durable.ReadJSON(filepath.Join(place, restoredName), &was); err == nil && was.Backup == id && !cfg.MoveAside {
		return true, both, nil
	}
	if !cfg.MoveAside {
		both()
		return false, nil, mobyfs.Errorf(mobyfs.CodeExists, "restore %s: there is a store in %s already", id, cfg.Root).
			WithHint("if it is lost, --move-aside keeps it beside the restored one")
	}
	return false, both, nil
}

// restoredName is the file in the store's directory that says from what it was restored.
const restoredName = "restored.json"

type restoredFile struct {
	Backup string    `json:"backup"`
	At     time.Time `json:"at"`
}

// fillScratch makes the store where nobody looks for it.
func fillScratch(ctx context.Context, cfg RestoreConfig, c content, scratch string) error {
	if err := os.RemoveAll(scratch); err != nil { // of a run that was killed
		return err
	}
	if err := durable.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	failpoint.Reach("control.restore.scratch")
	r := store.Restored{Backup: c.summary.ID, MadeAt: c.summary.MadeAt, At: cfg.Now().UTC()}
	into := store.Config{Root: scratch, Cluster: cfg.Cluster, Log: cfg.Log, Self: store.Self{Name: cfg.Name}}
	records := func(yield func(store.Record, error) bool) {
		enough := errors.New("enough")
		_, err := readBackup(cfg, func(r store.Record) error {
			if !yield(r, nil) {
				return enough
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			yield(store.Record{}, err)
		}
	}
	if err := store.Restore(ctx, into, r, records); err != nil {
		return err
	}
	return durable.WriteJSON("control.restored-note", filepath.Join(scratch, "etcd", restoredName), restoredFile{r.Backup, r.At}, 0o600)
}

// clearPlace moves aside what the restored store takes the place of, and those segments of the audit trail that it knows
// nothing of.
func clearPlace(cfg RestoreConfig, c content) (aside []string, err error) {
	place := filepath.Join(cfg.Root, "etcd")
	if _, err := os.Stat(place); err == nil {
		to, err := moveAside(place, c.summary.ID)
		if err != nil {
			return nil, err
		}
		aside = append(aside, to)
	}
	newer, err := segmentsAfter(cfg.Root, c.sealed)
	if err != nil || !newer {
		return aside, err
	}
	to, err := moveAside(filepath.Join(cfg.Root, auditFolder), c.summary.ID)
	return append(aside, to), err
}

// segmentsAfter reports whether the disk has segments of the audit trail after number n.
func segmentsAfter(root string, n int64) (bool, error) {
	numbers, err := segmentsIn(filepath.Join(root, auditFolder))
	return len(numbers) > 0 && numbers[len(numbers)-1] > n, err
}

// moveAside gives a directory a name that none beside it has.
func moveAside(path, id string) (string, error) {
	to := path + ".before-" + id
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s.before-%s-%d", path, id, n)
	}
	if err := durable.Rename("control.aside", path, to); err != nil {
		return "", fmt.Errorf("move %s aside: %w", path, err)
	}
	return to, nil
}

// identify gives this host the key that seals and a certificate for control, if it has none: the backup holds what signs.
func (c content) identify(cfg RestoreConfig) (made bool, err error) {
	path := seal.PathIn(cfg.Root)
	if _, err := seal.Load(path); errors.Is(err, fs.ErrNotExist) {
		if err := durable.WriteFile("seal.key", path, cfg.Key.Text(), 0o600); err != nil {
			return false, fmt.Errorf("write the key: %w", err)
		}
	} else if err != nil {
		return false, err
	}
	if _, _, err := cfg.Identity.Identity(); !errors.Is(err, fs.ErrNotExist) || c.authority.Root == "" {
		return false, nil
	}
	id := store.IssuerID(string(pki.IssuerNode), signing(c.authority))
	key, err := cfg.Key.Open(id, c.issuers[id].Key)
	if err != nil {
		return false, fmt.Errorf("sign control's certificate: %w", err)
	}
	issuer, err := pki.ParseIssuer(pki.IssuerNode, cfg.Cluster, []byte(c.issuers[id].Cert), key)
	if err != nil {
		return false, fmt.Errorf("sign control's certificate: %w", err)
	}
	csr, err := cfg.Identity.NewRequest()
	if err != nil {
		return false, fmt.Errorf("make control's key: %w", err)
	}
	cert, err := issuer.Sign(csr, pki.Identity{Cluster: cfg.Cluster, Role: pki.RoleControl, Name: cfg.Name}, cfg.Now())
	if err != nil {
		return false, fmt.Errorf("sign control's certificate: %w", err)
	}
	return true, cfg.Identity.Install(cert, trusted(c.authority))
}
