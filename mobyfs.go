// Package mobyfs holds the model: what a volume, a node, a lease and a migration are, and the three
// interfaces through which the parts of the system meet. It uses the standard library only and does no I/O.
//
// # The model on one page
//
// A Volume is a named directory tree that belongs to the whole cluster. Its bytes are on exactly one Node, its
// home. To use a volume, a node needs the Lease; only the home may hold it. Every change of lease or of home
// raises the volume's Fence, a number that only goes up, and each node keeps the highest fence it has seen beside
// the bytes and refuses whatever comes with a lower one. So a message that is late, repeated or from a node that
// was believed dead can't bring a second owner to life.
//
// The control plane (package control) alone decides who is home and who holds the lease, each time in one
// transaction on the volume's record. The agents (package agent) carry out: they watch the records and work until
// what is on their disk agrees.
//
// A Migration moves the home. Control writes it into the volume's record; the destination pulls the bytes
// straight from the source (package migrate/transfer), with a ticket that control has signed; then it commits,
// and that one transaction makes the destination the home:
//
//	volume ready on A ──start──▶ copying A→B ──commit──▶ volume ready on B      fence n ▶ n+1 ▶ n+2
//	                                 └────────abort────▶ volume ready on A      fence n ▶ n+1 ▶ n+2
//
// Until the commit the bytes on A are the volume and those on B are a copy that may be thrown away; after it,
// the other way round. Commit and abort compete for the same record, so exactly one of them happens, whoever is
// killed or cut off.
package mobyfs
