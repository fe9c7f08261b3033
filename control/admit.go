package control

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

var _ api.Gatekeeper = (*Control)(nil)

// Admit implements api.Gatekeeper.
func (c *Control) Admit(cert *x509.Certificate) error {
	who, err := pki.IdentityOf(cert)
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeDenied, "%w", err)
	}
	if err = c.admit(who, pki.Since(cert)); err == nil {
		c.meet(who, cert)
	}
	return err
}

// admit is nil unless an eviction shuts out who was let in at a time.
func (c *Control) admit(who pki.Identity, since time.Time) (err error) {
	c.store.View(func(v store.View) {
		if e, ok := store.Evictions.In(v, who.String()); ok && !since.After(e.Until) {
			err = evicted(e)
		}
	})
	return err
}

func evicted(e mobyfs.Eviction) error {
	why := ""
	if e.Cause != "" {
		why = ": " + e.Cause
	}
	return mobyfs.Errorf(mobyfs.CodeDenied, "%s/%s was evicted from the cluster%s", e.Role, e.Name, why).
		WithHint("to let it in again: mobyctl token create --role %s --name %s", e.Role, e.Name)
}

// OnEviction implements api.Gatekeeper.
func (c *Control) OnEviction(ctx context.Context, again func()) {
	box := c.store.Subscribe()
	defer box.Close()
	for {
		refs, err := box.Next(ctx)
		if err != nil {
			return
		}
		if slices.ContainsFunc(refs, func(r store.Ref) bool { return r.Kind == store.KindEviction }) {
			again()
		}
	}
}

// Evict implements api.Gatekeeper.
func (c *Control) Evict(ctx context.Context, who pki.Identity, role, name, cause string) error {
	if err := c.allow(who, doAdmit); err != nil {
		return err
	}
	if err := checkMember(role, name); err != nil {
		return err
	}
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		_, err := c.shutOut(tx, role, name, cause)
		return err
	})
	if err == nil {
		c.log.Info("evicted", "who", role+"/"+name, "cause", cause)
	}
	return err
}

// shutOut refuses who has the role and name from the moment on in which the transaction is there: on connections that
// are open, on new ones, and when the certificate is to be renewed. What becomes of a node's volumes is not its matter.
func (c *Control) shutOut(tx *store.Tx, role, name, cause string) (mobyfs.Eviction, error) {
	id := role + "/" + name
	old, err := store.Evictions.Get(tx, id)
	if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return old, err
	}
	e := mobyfs.Eviction{Role: role, Name: name, Cause: clean(cause, 500), Until: c.now().UTC().Truncate(time.Millisecond)}
	if old.Until.After(e.Until) {
		e.Until = old.Until // our clock is behind that of who wrote it
	}
	c.sign(&e)
	if err := store.Evictions.Put(tx, id, e); err != nil {
		return e, err
	}
	if isPerson(role) {
		if err := store.People.Delete(tx, id); err != nil {
			return e, err
		}
	}
	event := mobyfs.Event{Text: "evicted " + id}
	if role == pki.RoleNode {
		event.Node = name
		if err := c.markEvicted(tx, name); err != nil {
			return e, err
		}
	}
	return e, tx.Record(event)
}

// markEvicted makes the record of a node, if there is one, say that it is evicted.
func (c *Control) markEvicted(tx *store.Tx, name string) error {
	n, err := tx.Node(name)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil
	}
	if err != nil || n.Availability == mobyfs.NodeEvicted {
		return err
	}
	n.Availability = mobyfs.NodeEvicted
	n.Generation++
	return tx.PutNode(n)
}

// covers reports whether an eviction is of a node as it is in its record, and not of an earlier one of the name.
func covers(e mobyfs.Eviction, n mobyfs.Node) bool {
	return !n.JoinedAt.Truncate(time.Millisecond).After(e.Until)
}

// checkMember refuses who can't be let in or shut out.
func checkMember(role, name string) error {
	if k := pki.IssuerOf(role); k != pki.IssuerOperator && role != pki.RoleNode {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "nobody is let in or shut out as %q", role).
			WithHint("the role is node, operator, admin, viewer or auditor")
	}
	if mobyfs.CheckNodeName(name) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a %s", name, role).
			WithHint("use up to 63 lower-case letters, digits and -")
	}
	return nil
}

// trust is what every member must know of who belongs to the cluster; nil before there is an authority.
func (c *Control) trust() *mobyfs.Trust {
	var t *mobyfs.Trust
	c.store.View(func(v store.View) {
		a, ok := store.Authorities.In(v, store.TheAuthority)
		if !ok {
			return
		}
		roots := trusted(a)
		t = &mobyfs.Trust{ID: pki.TrustID(roots), Roots: string(roots), Issuing: signing(a)}
		for _, e := range store.Evictions.All(v) {
			t.Evicted = append(t.Evicted, e)
		}
	})
	if t != nil {
		slices.SortFunc(t.Evicted, func(a, b mobyfs.Eviction) int { return strings.Compare(a.Role+"/"+a.Name, b.Role+"/"+b.Name) })
	}
	return t
}
