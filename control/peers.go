package control

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// The members of the store trust one intermediate among themselves, and no root. It is replaced with the root: in the
// phase add they learn to trust both, in issue each gets a certificate of the next one, in retire they unlearn the old
// one. etcd reads certificates at each handshake, but what it trusts when it starts. So a control begins anew for that,
// twice in a rotation: one after the other, and none while another member is away, so that the store goes on deciding.
//
// Killed at any point, a control begins anew all the same, and finds on its disk what it is to trust. One that does not
// come back keeps its turn and the phase, until it is taken out of the store or left behind by name.

// peersTrusted are the intermediates that members of the store are to trust, PEM, the one that signs first; empty while
// they are not replaced.
func peersTrusted(a store.Authority) []byte {
	switch {
	case a.NextPeer == "":
		return nil
	case a.Phase == mobyfs.RotationAdd:
		return []byte(a.Peer + a.NextPeer)
	case a.Phase == mobyfs.RotationIssue:
		return []byte(a.NextPeer + a.Peer)
	case a.Phase == mobyfs.RotationRetire:
		return []byte(a.NextPeer)
	default:
		return nil
	}
}

// lacksAsPeer tells what a control still has to do in the phase as a member of the store, or "".
func lacksAsPeer(a store.Authority, h mobyfs.Held) string {
	want := peersTrusted(a)
	switch {
	case want == nil:
		return ""
	case h.PeerTrust == "":
		return "it has not said which other members of the store it trusts; its version may be too old for that"
	case a.Phase == mobyfs.RotationIssue && h.PeerIssuer != fingerprint(a.NextPeer):
		return "its certificate as a member of the store is of the old intermediate"
	case a.Phase != mobyfs.RotationIssue && h.PeerTrust != pki.TrustID(want):
		return "it has not begun anew since the members of the store are to trust others"
	default:
		return ""
	}
}

// seats names the controls that keep the store; nil if it is kept elsewhere, or by one that opens no port for others.
func (c *Control) seats() []string {
	names, known := c.store.Members()
	if !known || c.cfg.Self.Listen == "" {
		return nil
	}
	return names
}

func (k *keeper) peerFiles() pki.Files { return pki.PeerFiles(k.dir()) }

// followPeers makes this host's files of a peer agree with the authority's record.
func (k *keeper) followPeers() error {
	a := k.authority()
	want := peersTrusted(a)
	if want == nil {
		return nil
	}
	f := k.peerFiles()
	trust, issuer, err := f.HeldByPeer()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is no peer of anybody
	}
	if err != nil {
		return err
	}
	if trust != pki.TrustID(want) {
		if err := f.SetRoots(want); err != nil {
			return err
		}
	}
	if a.Phase == mobyfs.RotationAdd || issuer == fingerprint(a.NextPeer) {
		return nil
	}
	i, err := k.issuer(pki.IssuerPeer)
	if err != nil {
		return err
	}
	if err := f.Recertify(i, k.c.now()); err != nil {
		return err
	}
	k.c.log.Info("control's certificate as a member of the store was renewed")
	return nil
}

// heldAsPeer is what this control holds as a member of the store. One that is none holds what is wanted.
func (k *keeper) heldAsPeer() (trust, issuer string, err error) {
	trust, issuer, err = k.peerFiles().HeldByPeer()
	if errors.Is(err, os.ErrNotExist) {
		a := k.authority()
		return pki.TrustID(peersTrusted(a)), fingerprint(a.NextPeer), nil
	}
	if k.runs != "" {
		trust = k.runs
	}
	return trust, issuer, err
}

// beginAnew asks this process to end and be started again if the store was opened with another trust than that of the
// phase, once it is its turn and the files have what it is to trust: the phase may have begun since they were written,
// and a start that finds the old ones is one for nothing.
func (k *keeper) beginAnew(ctx context.Context) error {
	want := peersTrusted(k.authority())
	if want == nil || k.runs == "" || k.runs == pki.TrustID(want) {
		return nil
	}
	if trust, _, err := k.peerFiles().HeldByPeer(); err != nil || trust != pki.TrustID(want) {
		return err
	}
	if q, known := k.c.store.Quorum(); known && q.Reachable < q.Voters {
		return nil // the store may need this member now
	}
	me, mine := pki.RoleControl+"/"+k.c.name, false
	err := k.c.store.Update(ctx, func(tx *store.Tx) error {
		mine = false
		a, err := store.Authorities.Get(tx, store.TheAuthority)
		if err != nil || !sameRoots(peersTrusted(a), want) {
			return err
		}
		if a.Turn != me {
			if busy, err := k.busy(tx, a); err != nil || busy {
				return err
			}
			a.Turn = me
			if err := store.Authorities.Put(tx, store.TheAuthority, a); err != nil {
				return err
			}
		}
		mine = true
		return nil
	})
	if err == nil && mine {
		k.c.askForRestart()
	}
	return err
}

// busy reports whether the control whose turn it is has not come back yet with what it is to trust.
func (k *keeper) busy(tx *store.Tx, a store.Authority) (bool, error) {
	if a.Turn == "" {
		return false, nil
	}
	h, err := store.Holders.Get(tx, a.Turn)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		err = nil
	}
	return hasTurn(a, h, k.c.seats()), err
}

// hasTurn reports whether the control whose turn it is, which holds h, still keeps it. seats are the controls that keep
// the store, nil if that is not known.
func hasTurn(a store.Authority, h mobyfs.Held, seats []string) bool {
	name := strings.TrimPrefix(a.Turn, pki.RoleControl+"/")
	left := slices.Contains(a.Forced, a.Turn) || seats != nil && !slices.Contains(seats, name)
	return a.Turn != "" && !left && h.PeerTrust != pki.TrustID(peersTrusted(a))
}

// Restart is closed when this process should end in order and be started again, for it has to read anew what is read at
// the start alone.
func (c *Control) Restart() <-chan struct{} { return c.restart }

func (c *Control) askForRestart() {
	c.restartOnce.Do(func() {
		c.log.Info("control is to begin anew, to trust the other members of the store by another intermediate")
		close(c.restart)
	})
}
