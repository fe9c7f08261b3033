package control

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// The root is replaced in phases. Each goes on until every member has done its part, and any control may end it: the
// step is one transaction on the authority's record. Killed anywhere, the phase is as it was or the next one.
//
//	asked ── the control that has the root's key has made the next one ──▶ add
//	add ──── every member trusts both ──▶ issue
//	issue ── every member's certificate is below the next ──▶ retire
//	retire ─ no member trusts the old one ──▶ none
//
// The intermediate that the members of the store trust among themselves is replaced along with it, in the same phases;
// see peers.go.

// trusted are the roots to be trusted, PEM, the one that signs first.
func trusted(a store.Authority) []byte {
	switch a.Phase {
	case mobyfs.RotationAdd:
		return []byte(a.Root + a.Next)
	case mobyfs.RotationIssue:
		return []byte(a.Next + a.Root)
	case mobyfs.RotationRetire:
		return []byte(a.Next)
	default:
		return []byte(a.Root)
	}
}

// signing is the fingerprint of the root below which certificates are made.
func signing(a store.Authority) string {
	if a.Phase == mobyfs.RotationIssue || a.Phase == mobyfs.RotationRetire {
		return fingerprint(a.Next)
	}
	return fingerprint(a.Root)
}

// fingerprint is that of the one root in a PEM text, "" if it holds none.
func fingerprint(rootPEM string) string {
	for f := range maps.Keys(pki.Roots([]byte(rootPEM))) {
		return f
	}
	return ""
}

// lacking lists the members that keep the phase from ending, sorted. held tells what each member that counts has said.
func lacking(a store.Authority, held map[string]mobyfs.Held) []mobyfs.Lacking {
	var all []mobyfs.Lacking
	for who, h := range held {
		if slices.Contains(a.Forced, who) {
			continue
		}
		why := lacks(a, h)
		if why == "" && strings.HasPrefix(who, pki.RoleControl+"/") {
			why = lacksAsPeer(a, h)
		}
		if why != "" {
			all = append(all, mobyfs.Lacking{Who: who, Why: why})
		}
	}
	slices.SortFunc(all, func(a, b mobyfs.Lacking) int { return strings.Compare(a.Who, b.Who) })
	return all
}

// lacks tells what a member that holds h still has to do in the phase, or "".
func lacks(a store.Authority, h mobyfs.Held) string {
	switch {
	case a.Phase == mobyfs.RotationNone || a.Phase == mobyfs.RotationAsked:
		return ""
	case h.Trust == "":
		return "it has not said which roots it trusts"
	case a.Phase == mobyfs.RotationIssue && h.Issuer != signing(a):
		return "its certificate is below the old root"
	case a.Phase != mobyfs.RotationIssue && h.Trust != pki.TrustID(trusted(a)):
		return "it does not have the roots of this phase"
	default:
		return ""
	}
}

// waitedFor tells what every member holds that the rotation waits for: all nodes that are not evicted, also those that said
// nothing, and all controls: those that keep the store, also those that said nothing, or those that said something if it
// is kept elsewhere.
func (c *Control) waitedFor(v store.View) map[string]mobyfs.Held {
	all := map[string]mobyfs.Held{}
	for who, h := range store.Holders.All(v) {
		if strings.HasPrefix(who, pki.RoleControl+"/") {
			all[who] = h
		}
	}
	if names := c.seats(); names != nil {
		said := all
		all = map[string]mobyfs.Held{}
		for _, name := range names {
			all[pki.RoleControl+"/"+name] = said[pki.RoleControl+"/"+name]
		}
	}
	for n := range v.Nodes {
		who := pki.RoleNode + "/" + n.Name
		e, out := store.Evictions.In(v, who)
		if out && covers(e, n) {
			continue
		}
		all[who], _ = store.Holders.In(v, who)
	}
	return all
}

// advance ends the phase if nothing keeps it from ending.
func (c *Control) advance(ctx context.Context) error {
	var a store.Authority
	var missing []mobyfs.Lacking
	c.store.View(func(v store.View) {
		a, _ = store.Authorities.In(v, store.TheAuthority)
		missing = lacking(a, c.waitedFor(v))
	})
	if a.Phase == mobyfs.RotationNone || a.Phase == mobyfs.RotationAsked || len(missing) > 0 {
		return nil
	}
	next, said := after(a), ""
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		said = ""
		now, err := store.Authorities.Get(tx, store.TheAuthority)
		if err != nil || now.Phase != a.Phase || now.Next != a.Next || now.Joined != a.Joined {
			return err // another control was faster, or somebody came in whom we did not see
		}
		next.Turn = ""
		next.Since, next.Forced, said = c.now().UTC(), now.Forced, "authority: "+phaseSaid(next.Phase)
		if next.Phase == mobyfs.RotationNone {
			next.Forced, next.Joined = nil, 0
			if err := store.Issuers.Delete(tx, store.IssuerID(string(pki.IssuerPeer), fingerprint(a.Next))); err != nil {
				return err
			}
			for _, kind := range []pki.Kind{pki.IssuerNode, pki.IssuerOperator} {
				if err := store.Issuers.Delete(tx, store.IssuerID(string(kind), fingerprint(a.Root))); err != nil {
					return err
				}
			}
		}
		if err := store.Authorities.Put(tx, store.TheAuthority, next); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: said})
	})
	if err == nil && said != "" {
		c.log.Info(said)
	}
	return err
}

// after is the authority in the phase that follows.
func after(a store.Authority) store.Authority {
	switch a.Phase {
	case mobyfs.RotationAsked:
		a.Phase = mobyfs.RotationAdd
	case mobyfs.RotationAdd:
		a.Phase = mobyfs.RotationIssue
	case mobyfs.RotationIssue:
		a.Phase = mobyfs.RotationRetire
	case mobyfs.RotationRetire:
		a.Phase, a.Root, a.Next = mobyfs.RotationNone, a.Next, ""
		a.Peer, a.NextPeer = "", ""
	}
	return a
}

func phaseSaid(p mobyfs.RotationPhase) string {
	switch p {
	case mobyfs.RotationAdd:
		return "a new root is told to all members"
	case mobyfs.RotationIssue:
		return "the new root signs"
	case mobyfs.RotationRetire:
		return "the old root is taken back"
	default:
		return "the root was replaced"
	}
}

// Rotation implements api.Gatekeeper.
func (c *Control) Rotation(_ context.Context, who pki.Identity) (mobyfs.Rotation, error) {
	if err := c.allow(who, doList); err != nil {
		return mobyfs.Rotation{}, err
	}
	return c.rotation(), nil
}

func (c *Control) rotation() (r mobyfs.Rotation) {
	c.store.View(func(v store.View) {
		a, ok := store.Authorities.In(v, store.TheAuthority)
		if !ok {
			return
		}
		r = mobyfs.Rotation{Phase: a.Phase, Since: a.Since, Root: fingerprint(a.Root), Forced: a.Forced, Lacking: lacking(a, c.waitedFor(v))}
		if a.Next != "" {
			r.Next = fingerprint(a.Next)
		}
		if a.Phase == mobyfs.RotationAsked {
			r.Lacking = []mobyfs.Lacking{{Who: pki.RoleControl, Why: "no control that runs has the root's key (pki/ca.key)"}}
		}
	})
	return r
}

// Rotate implements api.Gatekeeper.
func (c *Control) Rotate(ctx context.Context, who pki.Identity, force []string) (mobyfs.Rotation, error) {
	if err := c.allow(who, doAdmit); err != nil {
		return mobyfs.Rotation{}, err
	}
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		a, err := store.Authorities.Get(tx, store.TheAuthority)
		if err != nil {
			return err
		}
		said := ""
		if a.Phase == mobyfs.RotationNone {
			if len(force) > 0 {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "no rotation is under way in which somebody could be left behind").
					WithHint("mobyctl ca rotate begins one")
			}
			a.Phase, a.Since, said = mobyfs.RotationAsked, c.now().UTC(), "authority: a new root is asked for"
		}
		for _, f := range force {
			if !slices.Contains(a.Forced, f) {
				a.Forced, said = append(a.Forced, f), "authority: "+clean(f, 80)+" is not waited for"
			}
		}
		if said == "" {
			return nil // it is under way already
		}
		if err := store.Authorities.Put(tx, store.TheAuthority, a); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: said})
	})
	if err != nil {
		return mobyfs.Rotation{}, err
	}
	c.keeper.kick()
	return c.rotation(), nil
}

// holds notes what a member says it holds, if that is news.
func (c *Control) holds(ctx context.Context, who string, h mobyfs.Held) error {
	var known mobyfs.Held
	c.store.View(func(v store.View) { known, _ = store.Holders.In(v, who) })
	if known == h {
		return nil
	}
	return c.store.Update(ctx, func(tx *store.Tx) error { return store.Holders.Put(tx, who, h) })
}

// sameRoots reports whether two PEM texts hold the same.
func sameRoots(a, b []byte) bool { return bytes.Equal(bytes.TrimSpace(a), bytes.TrimSpace(b)) }
