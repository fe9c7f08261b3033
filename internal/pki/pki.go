// Package pki gives every part of a cluster an identity: a key that never leaves its machine and a certificate
// from the cluster's own authority.
//
// An identity stands in the certificate as a URI, spiffe://<cluster>/<role>/<name>; that is what authorisation
// reads. It stands there a second time as a DNS name, <name>.<role>.mobyfs, so that the standard check of a
// server's name says with whom one speaks, whatever its address. All connections are mutual TLS 1.3.
//
// The authority has a root, whose key signs nothing but three intermediates: peer, node and operator. An
// intermediate can only certify the DNS names of its own roles, and a certificate whose URI and DNS name disagree
// is nobody's; so the key of one intermediate is worth nothing for the roles of another. Who shows a certificate
// shows its intermediate with it; who checks one trusts roots alone, except for peers, which trust the
// intermediate peer and nothing else.
package pki

import "time"

// Roles.
const (
	RoleControl  = "control"
	RoleNode     = "node"
	RoleDocker   = "docker" // the dockerd of the node of that name; it may call that node's driver and nobody else
	RolePeer     = "peer"   // a member of the store, towards the other members
	RoleOperator = "operator"
	RoleAdmin    = "admin"   // as operator, and may let others in
	RoleViewer   = "viewer"  // reads
	RoleAuditor  = "auditor" // reads, also who did what
)

// Reads reports whether a role sees the whole cluster.
func Reads(role string) bool {
	return role == RoleOperator || role == RoleAdmin || role == RoleViewer || role == RoleAuditor
}

// Lifetimes of certificates. Those of nodes, of control and of people are renewed by who holds them; that of
// who runs bootstrap also by running it again, which plans it from RenewBefore on.
//
// dockerd reads its certificate once in its life, so that one must outlive any dockerd that began with it: it lasts
// as long as the authority lets it, and is renewed while it still has years. A peer's lasts as long, for a store whose
// members can't speak with each other can't have it renewed either.
const (
	AuthorityLife     = 10 * 365 * 24 * time.Hour
	LeafLife          = 90 * 24 * time.Hour // of control, operators
	NodeLife          = 24 * time.Hour
	Grace             = 30 * 24 * time.Hour // after its end, in which a node's can still be renewed
	PersonLife        = 12 * time.Hour      // of who was let in with a token; mobyctl renews it with each use
	PersonGrace       = 7 * 24 * time.Hour  // after its end, in which a person's of PersonLife can still be renewed
	RenewBefore       = 30 * 24 * time.Hour
	DockerLife        = AuthorityLife
	PeerLife          = AuthorityLife
	RenewDockerBefore = 5 * 365 * 24 * time.Hour
	backdate          = time.Hour // for clocks that are behind
)

// Loopback is the address at which a node's certificate is good for dockerd, which checks the address it calls.
const Loopback = "127.0.0.1"
