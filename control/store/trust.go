package store

import (
	"fmt"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Kinds of records about who belongs to the cluster.
const (
	KindAuthority Kind = "authority"
	KindIssuer    Kind = "issuer"
	KindHeld      Kind = "held"
	KindEviction  Kind = "eviction"
	KindToken     Kind = "token"
	KindPerson    Kind = "person"
)

// Tables about who belongs to the cluster.
var (
	// Authorities has one record, at TheAuthority.
	Authorities = Table[Authority]{Kind: KindAuthority, prefix: "ca/"}
	// Issuers are the intermediates, at their kind and the fingerprint of their root, such as node/3f….
	Issuers = Table[Issuer]{Kind: KindIssuer, prefix: "issuer/"}
	// Holders tells what members said they hold, at their role and name, such as node/h1.
	Holders = Table[mobyfs.Held]{Kind: KindHeld, prefix: "held/"}
	// Evictions are at role and name.
	Evictions = Table[mobyfs.Eviction]{Kind: KindEviction, prefix: "rev/", check: checkEviction}
	Tokens    = Table[Token]{Kind: KindToken, prefix: "tok/"}
	// People are those who are in, at role and name. Who was certified on a control host has a record from the first
	// call on.
	People = Table[mobyfs.Person]{Kind: KindPerson, prefix: "person/", check: checkPerson}
)

// TheAuthority is the ID of the cluster's one authority.
const TheAuthority = "authority"

// Authority tells which roots are to be trusted and which one signs.
type Authority struct {
	Phase  mobyfs.RotationPhase `json:"phase"`
	Since  time.Time            `json:"since"`
	Root   string               `json:"root"`             // PEM
	Next   string               `json:"next,omitempty"`   // PEM, of the one that replaces it
	Forced []string             `json:"forced,omitempty"` // role and name of who is not waited for
	Joined int                  `json:"joined,omitempty"` // who came in since the rotation began, so that no phase ends unaware of one
	// Peer and NextPeer are the intermediates of the peers during a rotation, PEM; empty if it leaves that one alone.
	Peer     string `json:"peer,omitempty"`
	NextPeer string `json:"next_peer,omitempty"`
	Turn     string `json:"turn,omitempty"` // the control that begins anew to learn what its peers trust: one after the other
}

// Issuer is an intermediate.
type Issuer struct {
	Kind string `json:"kind"`
	Root string `json:"root"` // fingerprint
	Cert string `json:"cert"` // PEM
	Key  string `json:"key"`  // PEM, sealed for IssuerID
}

// IssuerID is at which ID an intermediate is.
func IssuerID(kind, root string) string { return kind + "/" + root }

// Token is the record of an invitation.
type Token struct {
	mobyfs.JoinToken
	Hash  string `json:"hash"`             // of the secret
	Key   string `json:"key,omitempty"`    // of who used it; who comes with the same one again gets the same answer
	Chain string `json:"answer,omitempty"` // the certificate that it got, PEM
}

func checkPerson(id string, p *mobyfs.Person, _ int64) error {
	if p.Role+"/"+p.Name != id {
		return fmt.Errorf("the record is not that of %s", id)
	}
	return nil
}

func checkEviction(id string, e *mobyfs.Eviction, _ int64) error {
	if e.Role+"/"+e.Name != id {
		return fmt.Errorf("the record is not that of %s", id)
	}
	return nil
}
