package control

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// meetTime bounds how long somebody is waited for to be written down.
const meetTime = 5 * time.Second

// isPerson reports whether a role is that of people, not of machines.
func isPerson(role string) bool { return pki.IssuerOf(role) == pki.IssuerOperator }

// People implements api.Gatekeeper.
func (c *Control) People(_ context.Context, who pki.Identity) ([]mobyfs.Person, error) {
	if err := c.allow(who, doAudit); err != nil {
		return nil, err
	}
	all := []mobyfs.Person{}
	c.store.View(func(v store.View) {
		for _, p := range store.People.All(v) {
			all = append(all, p)
		}
	})
	slices.SortFunc(all, func(a, b mobyfs.Person) int { return strings.Compare(a.Name+"/"+a.Role, b.Name+"/"+b.Role) })
	return all, nil
}

// knowPerson writes down who has a certificate, in the transaction that gives it.
func knowPerson(tx *store.Tx, who pki.Identity, since, until time.Time) error {
	if !isPerson(who.Role) {
		return nil
	}
	return store.People.Put(tx, who.String(), mobyfs.Person{Role: who.Role, Name: who.Name, Since: since.UTC(), Until: until.UTC()})
}

// met is somebody who called, and with which certificate.
type met struct {
	who  pki.Identity
	cert *x509.Certificate
}

// meet has somebody written down who has a certificate that was not given by the store. It waits for nothing: who is not
// written down now is with the next call.
func (c *Control) meet(who pki.Identity, cert *x509.Certificate) {
	if !isPerson(who.Role) || who.Cluster != c.cfg.Cluster {
		return
	}
	known := false
	c.store.View(func(v store.View) { _, known = store.People.In(v, who.String()) })
	if known {
		return
	}
	select {
	case c.unknown <- met{who, cert}:
	default:
	}
}

// meetUntil writes down who was met, until ctx ends.
func (c *Control) meetUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-c.unknown:
			if err := c.writePerson(ctx, m); err != nil && ctx.Err() == nil {
				c.log.Warn("somebody who called could not be written down", "who", m.who.String(), "err", err)
			}
		}
	}
}

func (c *Control) writePerson(ctx context.Context, m met) error {
	ctx, cancel := context.WithTimeout(ctx, meetTime)
	defer cancel()
	return c.store.Update(ctx, func(tx *store.Tx) error {
		if _, err := store.People.Get(tx, m.who.String()); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		return knowPerson(tx, m.who, pki.Since(m.cert), m.cert.NotAfter)
	})
}
