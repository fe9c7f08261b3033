package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// keeper looks after the authority on behalf of one control: its own certificate, the roots on its disk, and the
// intermediates in the store, with which every control signs.
type keeper struct {
	c    *Control
	seal *seal.Key // nil if this host has none
	runs string    // what its peers are trusted by since the store was opened, as pki.TrustID names it; empty if it has none
	wake chan struct{}
	mu   sync.Mutex // held for a round
}

// openKeeper loads what this host has. On the host with the root's key it makes the key that seals, if there is none.
func openKeeper(c *Control) (*keeper, error) {
	k := &keeper{c: c, wake: make(chan struct{}, 1)}
	path := seal.PathIn(c.cfg.Root)
	key, err := seal.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, own := pki.OpenAuthority(k.dir()); own == nil {
			key, err = seal.Make(path)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	k.seal = key
	if c.cfg.Self.Listen == "" {
		return k, nil
	}
	k.runs, _, err = k.peerFiles().HeldByPeer()
	return k, err
}

func (k *keeper) dir() string { return filepath.Join(k.c.cfg.Root, "pki") }

// kick asks for a round soon.
func (k *keeper) kick() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run makes rounds until ctx ends: with each heartbeat, and when the authority's record changes.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(mobyfs.Heartbeat)
	defer tick.Stop()
	box := k.c.store.Subscribe()
	defer box.Close()
	go func() {
		for {
			refs, err := box.Next(ctx)
			if err != nil {
				return
			}
			for _, ref := range refs {
				if ref.Kind == store.KindAuthority || ref.Kind == store.KindHeld {
					k.kick()
					break
				}
			}
		}
	}()
	last := ""
	for {
		if err := k.round(ctx); err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			k.c.log.Warn("look after the authority; it is tried again", "err", err)
		} else if err == nil {
			last = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.wake:
		}
	}
}

// round does what there is to do. Each part may be repeated, and none waits for another host.
func (k *keeper) round(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return errors.Join(k.adopt(ctx), k.makeNext(ctx), k.follow(), k.renew(), k.followPeers(), k.tell(ctx), k.beginAnew(ctx), k.c.advance(ctx), k.c.dropOldTokens(ctx))
}

// adopt brings the authority that lies on this host into the store, if the store has none yet.
func (k *keeper) adopt(ctx context.Context) error {
	known := false
	k.c.store.View(func(v store.View) { _, known = store.Authorities.In(v, store.TheAuthority) })
	if known {
		return nil
	}
	a, err := pki.OpenAuthority(k.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another host has it
	}
	if err != nil {
		return err
	}
	return k.c.store.Update(ctx, func(tx *store.Tx) error {
		_, err := store.Authorities.Get(tx, store.TheAuthority)
		if mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		if err := k.putIssuers(tx, a, pki.IssuerNode, pki.IssuerOperator); err != nil {
			return err
		}
		return store.Authorities.Put(tx, store.TheAuthority, store.Authority{Root: string(a.RootPEM()), Since: k.c.now().UTC()})
	})
}

// putIssuers writes the intermediates of which every control has need, sealed.
func (k *keeper) putIssuers(tx *store.Tx, a *pki.Authority, kinds ...pki.Kind) error {
	if k.seal == nil {
		return errNoSeal
	}
	for _, kind := range kinds {
		i := a.Issuer(kind)
		key, err := i.KeyPEM()
		if err != nil {
			return err
		}
		id := store.IssuerID(string(kind), a.Fingerprint())
		record := store.Issuer{Kind: string(kind), Root: a.Fingerprint(), Cert: string(i.CertPEM), Key: k.seal.Seal(id, key)}
		if err := store.Issuers.Put(tx, id, record); err != nil {
			return err
		}
	}
	return nil
}

var errNoSeal = errors.New("this control host has no key to open the authority with")

// issuer is the intermediate that signs now.
func (k *keeper) issuer(kind pki.Kind) (*pki.Issuer, error) {
	var record store.Issuer
	id, ok := "", false
	k.c.store.View(func(v store.View) {
		if a, there := store.Authorities.In(v, store.TheAuthority); there {
			id = store.IssuerID(string(kind), signing(a))
			record, ok = store.Issuers.In(v, id)
		}
	})
	if !ok {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "the cluster's authority is not in the store yet").
			WithHint("start mobyfs-control on the host that has pki/ca.key")
	}
	if k.seal == nil {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "sign: %w", errNoSeal).
			WithHint("copy %s from another control host", seal.PathIn(k.c.cfg.Root))
	}
	key, err := k.seal.Open(id, record.Key)
	if err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "sign: %w", err).
			WithHint("copy %s from another control host", seal.PathIn(k.c.cfg.Root))
	}
	return pki.ParseIssuer(kind, k.c.cfg.Cluster, []byte(record.Cert), key)
}

// makeNext makes the root that was asked for, where the key of the present one is.
func (k *keeper) makeNext(ctx context.Context) error {
	a := k.authority()
	if a.Phase != mobyfs.RotationAsked {
		return nil
	}
	own, err := pki.OpenAuthority(k.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || own.Fingerprint() != fingerprint(a.Root) {
		return err
	}
	next, err := pki.NextAuthority(k.dir(), own)
	if err != nil {
		return fmt.Errorf("make the next root: %w", err)
	}
	return k.c.store.Update(ctx, func(tx *store.Tx) error {
		a, err := store.Authorities.Get(tx, store.TheAuthority)
		if err != nil || a.Phase != mobyfs.RotationAsked {
			return err
		}
		a.Next = string(next.RootPEM())
		a = after(a)
		a.Since = k.c.now().UTC()
		kinds := []pki.Kind{pki.IssuerNode, pki.IssuerOperator}
		if was, will := own.Issuer(pki.IssuerPeer), next.Issuer(pki.IssuerPeer); !sameRoots(was.OwnPEM(), will.OwnPEM()) {
			a.Peer, a.NextPeer = string(was.OwnPEM()), string(will.OwnPEM())
			kinds = append(kinds, pki.IssuerPeer)
		}
		if err := k.putIssuers(tx, next, kinds...); err != nil {
			return err
		}
		if err := store.Authorities.Put(tx, store.TheAuthority, a); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "authority: " + phaseSaid(a.Phase)})
	})
}

func (k *keeper) authority() (a store.Authority) {
	k.c.store.View(func(v store.View) { a, _ = store.Authorities.In(v, store.TheAuthority) })
	return a
}

// follow makes this host's disk agree with the authority's record: the roots that are trusted, and what signs.
func (k *keeper) follow() error {
	a := k.authority()
	if a.Root == "" {
		return nil
	}
	roots := trusted(a)
	if err := pki.Trust(k.dir(), roots, signing(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now, err := os.ReadFile(k.c.cfg.Identity.CA)
	if err != nil || sameRoots(now, roots) {
		return err
	}
	return k.c.cfg.Identity.SetRoots(roots)
}

// renew gives this control a new certificate when half of its life is over, or when another root signs.
func (k *keeper) renew() error {
	a := k.authority()
	if a.Root == "" {
		return nil
	}
	chain, err := k.c.cfg.Identity.Chain()
	if err != nil {
		return err
	}
	now := k.c.now()
	if pki.SignedBy(chain, trusted(a)) == signing(a) && now.Before(pki.RenewAt(chain[0], func() float64 { return 0.5 })) {
		return nil
	}
	issuer, err := k.issuer(pki.IssuerNode)
	if err != nil {
		return err
	}
	who, err := pki.IdentityOf(chain[0])
	if err != nil {
		return err
	}
	r, err := k.c.cfg.Identity.Renew()
	if err != nil {
		return err
	}
	cert, err := issuer.SignSince([]byte(r.Request), who, pki.Since(chain[0]), now)
	if err != nil {
		return err
	}
	if err := r.Install(cert, trusted(a)); err != nil {
		return fmt.Errorf("renew control's own certificate: %w", err)
	}
	k.c.log.Info("control's certificate was renewed")
	return nil
}

// tell notes in the store what this control holds.
func (k *keeper) tell(ctx context.Context) error {
	if k.authority().Root == "" {
		return nil
	}
	who, _, err := k.c.cfg.Identity.Identity()
	if err != nil {
		return err
	}
	trust, issuer, err := k.c.cfg.Identity.Held()
	if err != nil {
		return err
	}
	h := mobyfs.Held{Trust: trust, Issuer: issuer}
	if h.PeerTrust, h.PeerIssuer, err = k.heldAsPeer(); err != nil {
		return err
	}
	return k.c.holds(ctx, who.String(), h)
}
