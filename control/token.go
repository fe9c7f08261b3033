package control

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Of tokens.
const (
	tokenLife = 15 * time.Minute
	maxLife   = 24 * time.Hour
	tokenKept = time.Hour // after its end, so that who was let in may ask again, and to be looked at

	maxTokenLabels = 32
)

// CreateToken implements api.Gatekeeper.
func (c *Control) CreateToken(ctx context.Context, who pki.Identity, r api.TokenRequest) (api.NewToken, error) {
	none := api.NewToken{}
	if err := c.allow(who, doAdmit); err != nil {
		return none, err
	}
	if err := checkToken(r); err != nil {
		return none, err
	}
	a := c.keeper.authority()
	root := a.Root
	if signing(a) == fingerprint(a.Next) && a.Next != "" {
		root = a.Next
	}
	i, err := pki.NewInvitation(r.Role, c.newID(), []byte(root))
	if err != nil {
		return none, mobyfs.Errorf(mobyfs.CodeUnavailable, "the cluster's authority is not in the store yet").
			WithHint("start mobyfs-control on the host that has pki/ca.key")
	}
	life := time.Duration(r.Seconds) * time.Second
	if life == 0 {
		life = tokenLife
	}
	now := c.now().UTC()
	t := store.Token{Hash: i.Hash(), JoinToken: mobyfs.JoinToken{
		ID: i.ID, Role: r.Role, Name: r.Name, Network: r.Network, Labels: r.Labels, Replace: r.Replace, CreatedAt: now, ExpiresAt: now.Add(life),
	}}
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if err := store.Tokens.Put(tx, t.ID, t); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "token " + t.ID + " made for a " + t.Role})
	})
	return api.NewToken{JoinToken: t.JoinToken, Token: i.String()}, err
}

func checkToken(r api.TokenRequest) error {
	name := r.Name
	if name == "" {
		name = "any"
	}
	if err := checkMember(r.Role, name); err != nil {
		return err
	}
	if r.Network != "" {
		if _, err := netip.ParsePrefix(r.Network); err != nil {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no network", clean(r.Network, 64)).WithHint("write it as 10.1.0.0/16")
		}
	}
	switch {
	case r.Seconds < 0 || time.Duration(r.Seconds)*time.Second > maxLife:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "a token can't be good for that time").WithHint("%v at most", maxLife)
	case r.Replace && (r.Name == "" || r.Role != pki.RoleNode):
		return mobyfs.Errorf(mobyfs.CodeInvalid, "which node is to be replaced is not said").WithHint("give the name of the node, too")
	case len(r.Labels) > maxTokenLabels:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "a node can't have more than %d labels", maxTokenLabels)
	}
	return nil
}

// Tokens implements api.Gatekeeper.
func (c *Control) Tokens(_ context.Context, who pki.Identity) ([]mobyfs.JoinToken, error) {
	if err := c.allow(who, doAdmit); err != nil {
		return nil, err
	}
	all := []mobyfs.JoinToken{}
	c.store.View(func(v store.View) {
		for _, t := range store.Tokens.All(v) {
			all = append(all, t.JoinToken)
		}
	})
	slices.SortFunc(all, func(a, b mobyfs.JoinToken) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return all, nil
}

// RemoveToken implements api.Gatekeeper.
func (c *Control) RemoveToken(ctx context.Context, who pki.Identity, id string) error {
	if err := c.allow(who, doAdmit); err != nil {
		return err
	}
	return c.dropToken(ctx, id, "token "+clean(id, 64)+" removed")
}

func (c *Control) dropToken(ctx context.Context, id, said string) error {
	return c.store.Update(ctx, func(tx *store.Tx) error {
		_, err := store.Tokens.Get(tx, id)
		if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			return nil
		}
		if err := store.Tokens.Delete(tx, id); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: said})
	})
}

// dropOldTokens forgets tokens that are over for long.
func (c *Control) dropOldTokens(ctx context.Context) error {
	var old []string
	c.store.View(func(v store.View) {
		for id, t := range store.Tokens.All(v) {
			if c.now().After(t.ExpiresAt.Add(tokenKept)) {
				old = append(old, id)
			}
		}
	})
	for _, id := range old {
		if err := c.dropToken(ctx, id, "token "+id+" is over"); err != nil {
			return err
		}
	}
	return nil
}
