package control

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Enroll implements api.Gatekeeper. The token is used up and the node is there in one transaction, so of two that come
// with one token one is let in; killed before the answer has arrived, who repeats it with the same key gets it.
func (c *Control) Enroll(ctx context.Context, r api.EnrollRequest) (api.Certificate, error) {
	none := api.Certificate{}
	token, err := pki.ParseInvitation(r.Token)
	if err != nil {
		return none, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", err).WithHint("mobyctl token create makes another")
	}
	if err := api.CheckClock(c.now().Sub(r.Clock)); err != nil {
		return none, err
	}
	if err := checkMember(token.Role, r.Name); err != nil {
		return none, err
	}
	key, err := pki.KeyID([]byte(r.Request))
	if err != nil {
		return none, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", err).WithHint("the request must be one in PEM for an ECDSA P-256 key")
	}
	issuer, err := c.keeper.issuer(pki.IssuerOf(token.Role))
	if err != nil {
		return none, err
	}
	who := pki.Identity{Cluster: c.cfg.Cluster, Role: token.Role, Name: r.Name}
	ctx = mobyfs.WithActor(ctx, as(ctx, who))
	var answer api.Certificate
	joined := false
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		t, again, err := c.redeem(tx, token, r.Name, key)
		if err != nil {
			return err
		}
		if joined = !again; joined {
			if t.Chain, err = c.letIn(tx, t, issuer, who, r.Request); err != nil {
				return err
			}
			t.UsedAt, t.UsedBy, t.Key = c.now().UTC(), r.Name, key
			if err := store.Tokens.Put(tx, t.ID, t); err != nil {
				return err
			}
		}
		a, err := store.Authorities.Get(tx, store.TheAuthority)
		if err == nil && joined && a.Phase != mobyfs.RotationNone {
			a.Joined++
			err = store.Authorities.Put(tx, store.TheAuthority, a)
		}
		answer = api.Certificate{Cluster: c.cfg.Cluster, Chain: t.Chain, Roots: string(trusted(a))}
		return err
	})
	if err == nil && joined {
		c.log.Info("let in with a token", "who", who.String(), "token", token.ID)
	}
	return answer, err
}

// as is the actor of ctx, who is somebody now.
func as(ctx context.Context, who pki.Identity) mobyfs.Actor {
	a := mobyfs.ActorOf(ctx)
	a.Who = who.URI().String()
	return a
}

// redeem finds the record of a token and checks that it lets this one in. again tells that it was let in already. What
// is wrong with a token that does not exist, or whose secret is another, is not told.
func (c *Control) redeem(tx *store.Tx, token pki.Invitation, name, key string) (t store.Token, again bool, err error) {
	refused := func(format string, args ...any) (store.Token, bool, error) {
		return store.Token{}, false, mobyfs.Errorf(mobyfs.CodeDenied, format, args...).WithHint("mobyctl token create makes another")
	}
	t, err = store.Tokens.Get(tx, token.ID)
	if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return t, false, err
	}
	if err != nil || !token.Is(t.Hash) || t.Role != token.Role {
		return refused("the token to join with is not one of this cluster, or was removed")
	}
	if t.Key != "" {
		if t.Key != key || t.UsedBy != name {
			return refused("the token to join with was used by %s", t.UsedBy)
		}
		return t, true, nil
	}
	switch {
	case !c.now().Before(t.ExpiresAt):
		return refused("the token to join with has expired")
	case t.Name != "" && t.Name != name:
		return refused("the token to join with is for another name than %s", name)
	case t.Network != "" && !within(mobyfs.ActorOf(tx.Context()).From, t.Network):
		return refused("the token to join with is for another network")
	}
	return t, false, nil
}

// within reports whether an address (host:port) lies in a network.
func within(address, network string) bool {
	a, err := netip.ParseAddrPort(address)
	n, netErr := netip.ParsePrefix(network)
	return err == nil && netErr == nil && n.Contains(a.Addr().Unmap())
}

// letIn makes the certificate of who joins, and its record if it is a node.
func (c *Control) letIn(tx *store.Tx, t store.Token, issuer *pki.Issuer, who pki.Identity, csr string) (chain string, err error) {
	now := c.now()
	since := now.UTC().Truncate(time.Millisecond)
	out, err := store.Evictions.Get(tx, who.String())
	if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return "", err
	}
	if who.Role == pki.RoleNode {
		if out, err = c.newNode(tx, t, who.Name, out); err != nil {
			return "", err
		}
	}
	if !since.After(out.Until) {
		since = out.Until.Add(time.Millisecond) // whoever evicted it had a clock ahead of ours
	}
	cert, err := signFor(issuer, csr, who, since, now, true)
	if err != nil {
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "sign for %s: %w", who, err)
	}
	if err := knowPerson(tx, who, since, now.Add(pki.PersonLife)); err != nil {
		return "", err
	}
	return string(cert), tx.Record(mobyfs.Event{Text: "let in " + who.String(), Node: nodeOf(who)})
}

// signFor makes a certificate. That of a person is short if it was given for a token, and stays so when it is renewed.
func signFor(issuer *pki.Issuer, csr string, who pki.Identity, since, now time.Time, short bool) ([]byte, error) {
	if short && isPerson(who.Role) {
		return issuer.SignFor(pki.PersonLife, []byte(csr), who, since, now)
	}
	return issuer.SignSince([]byte(csr), who, since, now)
}

func nodeOf(who pki.Identity) string {
	if who.Role == pki.RoleNode {
		return who.Name
	}
	return ""
}

// newNode makes the record of a node that joins. A name that a node has is not given to another, unless the token says
// that this one takes its place; then the old one is shut out in the same transaction. out is the eviction of who had the
// name before; the one that holds now is returned.
func (c *Control) newNode(tx *store.Tx, t store.Token, name string, out mobyfs.Eviction) (mobyfs.Eviction, error) {
	n, err := tx.Node(name)
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
		n = mobyfs.Node{Name: name}
	case err != nil:
		return out, err
	case !covers(out, n) && !t.Replace:
		return out, mobyfs.Errorf(mobyfs.CodeExists, "there is a node %s already", name).
			WithHint("if this one is to take its place: mobyctl token create --role node --name %s --replace", name)
	case !covers(out, n):
		if out, err = c.shutOut(tx, pki.RoleNode, name, "another machine takes its place"); err != nil {
			return out, err
		}
	}
	if n.JoinedAt = c.now().UTC(); covers(out, n) {
		n.JoinedAt = out.Until.Add(time.Millisecond)
	}
	if len(t.Labels) > 0 {
		n.Labels = t.Labels
	}
	n.Availability = mobyfs.NodeActive
	n.Generation++
	return out, tx.PutNode(n)
}

// Bundle implements api.Gatekeeper.
func (c *Control) Bundle(context.Context) (api.Bundle, error) {
	t := c.trust()
	if t == nil {
		return api.Bundle{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "the cluster's authority is not in the store yet").
			WithHint("start mobyfs-control on the host that has pki/ca.key")
	}
	return api.Bundle{Cluster: c.cfg.Cluster, Roots: t.Roots, Issuing: t.Issuing, Now: c.now().UTC()}, nil
}

// Renew implements api.Gatekeeper. Nodes have a grace after the end of their certificates, and people have one whose
// certificates are short. Control, peers and dockerds get theirs otherwise.
func (c *Control) Renew(ctx context.Context, r pki.Renewal) (api.Certificate, error) {
	none := api.Certificate{}
	t := c.trust()
	if t == nil {
		_, err := c.Bundle(ctx)
		return none, err
	}
	cert, who, err := pki.CheckRenewal(r, []byte(t.Roots), pki.Grace, c.now())
	if err != nil {
		return none, mobyfs.Errorf(mobyfs.CodeDenied, "renew a certificate: %w", err).
			WithHint("whoever has no certificate that can be renewed joins anew: mobyctl token create, or mobyctl bootstrap")
	}
	kind := pki.IssuerOf(who.Role)
	switch {
	case who.Cluster != c.cfg.Cluster:
		return none, mobyfs.Errorf(mobyfs.CodeDenied, "%s belongs to cluster %q, this is %q", who, who.Cluster, c.cfg.Cluster)
	case who.Role != pki.RoleNode && kind != pki.IssuerOperator:
		return none, mobyfs.Errorf(mobyfs.CodeDenied, "the certificate of %s is not renewed here", who).
			WithHint("mobyctl bootstrap renews it")
	case who.Role != pki.RoleNode && c.now().After(cert.NotAfter.Add(personGrace(cert))):
		return none, mobyfs.Errorf(mobyfs.CodeDenied, "the certificate of %s has expired", who).
			WithHint("another operator lets you in: mobyctl token create --role %s --name %s", who.Role, who.Name)
	}
	issuer, err := c.keeper.issuer(kind)
	if err != nil {
		return none, err
	}
	since := pki.Since(cert)
	var chain []byte
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		e, err := store.Evictions.Get(tx, who.String())
		if err == nil && !since.After(e.Until) {
			return evicted(e)
		}
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		if chain, err = signFor(issuer, r.Request, who, since, c.now(), pki.IsShort(cert)); err != nil {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "sign for %s: %w", who, err)
		}
		return knowPerson(tx, who, since, pki.EndOf(chain))
	})
	if err != nil {
		return none, err
	}
	c.log.Debug("a certificate was renewed", "who", who.String())
	return api.Certificate{Cluster: c.cfg.Cluster, Chain: string(chain), Roots: t.Roots}, nil
}

// personGrace is for how long after its end a person's certificate may still be renewed.
func personGrace(cert *x509.Certificate) time.Duration {
	if pki.IsShort(cert) {
		return pki.PersonGrace
	}
	return 0
}
