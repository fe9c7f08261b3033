package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// renewRetry is how long to wait after a renewal that failed, at first; most is for later ones.
const (
	renewRetry = 10 * time.Second
	renewMost  = 5 * time.Minute
)

// identity looks after who this node is and whom it believes: it renews the node's certificate, keeps the cluster's
// roots as control tells them, and knows who was evicted. The latter is kept on disk, so that an evicted node gets
// nothing from here when control can't be reached either, also after a restart.
type identity struct {
	files   pki.Files
	path    string // of who was evicted
	control *api.Client
	log     *slog.Logger
	wake    chan struct{}
	now     func() time.Time

	mu      sync.Mutex
	issuing string                     // fingerprint of the root below which a certificate should be
	evicted map[string]mobyfs.Eviction // by role and name
}

// openIdentity reads what an earlier life was told.
func openIdentity(s settings, control *api.Client, log *slog.Logger) *identity {
	i := &identity{
		files: s.files(), path: filepath.Join(s.root, "pki", "evicted.json"), control: control, log: log,
		wake: make(chan struct{}, 1), now: failpoint.Now, evicted: map[string]mobyfs.Eviction{},
	}
	var all []mobyfs.Eviction
	if err := durable.ReadJSON(i.path, &all); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the list of who was evicted can't be read; control will tell it again", "err", err)
	}
	i.note(all)
	return i
}

func (i *identity) note(all []mobyfs.Eviction) {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.evicted)
	for _, e := range all {
		i.evicted[e.Who()] = e
	}
}

// known is who was evicted, as control has said it last.
func (i *identity) known() []mobyfs.Eviction {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Collect(maps.Values(i.evicted))
}

// learn takes over what control says of whom to believe. It may be repeated.
func (i *identity) learn(t mobyfs.Trust) {
	i.note(t.Evicted)
	if err := durable.WriteJSON("identity.evicted", i.path, t.Evicted, 0o600); err != nil {
		i.log.Warn("keep the list of who was evicted", "err", err)
	}
	now, err := os.ReadFile(i.files.CA)
	if err == nil && !bytes.Equal(now, []byte(t.Roots)) {
		if err = i.files.SetRoots([]byte(t.Roots)); err == nil {
			i.log.Info("the cluster's roots have changed", "trust", t.ID)
		}
	}
	if err != nil {
		i.log.Warn("take over the cluster's roots", "err", err)
	}
	i.mu.Lock()
	i.issuing = t.Issuing
	i.mu.Unlock()
	i.kick()
}

func (i *identity) kick() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// admit refuses nodes that were evicted.
func (i *identity) admit(cert *x509.Certificate) error {
	who, err := pki.IdentityOf(cert)
	if err != nil {
		return err
	}
	i.mu.Lock()
	e, out := i.evicted[who.String()]
	i.mu.Unlock()
	if out && !pki.Since(cert).After(e.Until) {
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s was evicted from the cluster", who)
	}
	return nil
}

// held tells what this node has; nil if that can't be read.
func (i *identity) held() *mobyfs.Held {
	trust, issuer, err := i.files.Held()
	if err != nil {
		i.log.Warn("read the node's certificate", "err", err)
		return nil
	}
	return &mobyfs.Held{Trust: trust, Issuer: issuer}
}

// run renews the certificate whenever it is due, until ctx ends: at half its life, and at once when another root signs.
func (i *identity) run(ctx context.Context) {
	wait, said := renewRetry, false
	var at time.Time // drawn once for each certificate
	var of string
	for ctx.Err() == nil {
		leaf, due := i.look()
		if leaf != nil && leaf.SerialNumber.String() != of {
			at, of = pki.RenewAt(leaf, nil), leaf.SerialNumber.String()
		}
		sleep := at.Sub(i.now())
		if due || leaf == nil || sleep <= 0 {
			err := api.RenewFiles(ctx, i.control.Endpoints(), i.files)
			if err == nil {
				i.renewed()
				if err = i.stale(); err == nil {
					wait, said = renewRetry, false
					continue
				}
			}
			if !said && ctx.Err() == nil {
				i.log.Warn("renew the node's certificate; it is tried again", "err", err, "hint", mobyfs.HintOf(err))
				said = true
			}
			sleep, wait = wait, min(2*wait, renewMost)
		}
		select {
		case <-ctx.Done():
		case <-time.After(sleep):
		case <-i.wake:
		}
	}
}

// stale says what is wrong if a certificate that control has just made is to be renewed at once by the clock here.
func (i *identity) stale() error {
	leaf, _ := i.look()
	earliest := func() float64 { return 0 }
	if now := i.now(); leaf != nil && !now.Before(pki.RenewAt(leaf, earliest)) {
		return mobyfs.Errorf(mobyfs.CodeInternal, "the clock here says %s UTC, when the certificate that control has just made is half over: it is good until %s",
			now.UTC().Format(time.DateTime), leaf.NotAfter.UTC().Format(time.DateTime)).WithHint(pki.ClockHint)
	}
	return nil
}

// look gives the present certificate, and whether it is of a root that does not sign any more.
func (i *identity) look() (leaf *x509.Certificate, other bool) {
	chain, err := i.files.Chain()
	if err != nil {
		return nil, false
	}
	held := i.held()
	i.mu.Lock()
	defer i.mu.Unlock()
	return chain[0], held != nil && i.issuing != "" && held.Issuer != i.issuing
}

// renewed makes calls to control show the new certificate.
func (i *identity) renewed() {
	_, until, _ := i.files.Identity()
	config, err := i.files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		i.log.Warn("read the renewed certificate", "err", err)
		return
	}
	i.control.Redirect(i.control.Endpoints(), config)
	i.log.Info("the node's certificate was renewed", "until", until.UTC().Format(time.RFC3339))
}
