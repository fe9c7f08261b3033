package mobyfs

import (
	"context"
	"time"
)

// Event tells of one change of the cluster. It is written in the transaction of the change: each change has its event,
// and no event is of a change that did not happen. So the events are the audit trail too.
type Event struct {
	ID        string      `json:"id"`       // a ULID, lower case
	Revision  int64       `json:"revision"` // of the change in the store; events come in this order
	At        time.Time   `json:"at"`       // by the clock of the control process that decided
	Text      string      `json:"text"`     // what was decided, in a few words, such as "lease given"
	Volume    VolumeID    `json:"volume,omitempty"`
	Name      string      `json:"name,omitempty"`  // of the volume
	Node      string      `json:"node,omitempty"`  // the volume's home after the change, or the node that it is about
	Fence     Fence       `json:"fence,omitempty"` // of the volume after the change
	Migration MigrationID `json:"migration,omitempty"`
	Operation OperationID `json:"operation,omitempty"`
	Denied    Code        `json:"denied,omitempty"` // the code of a refusal; empty if what Text says has happened
	Actor
}

// Actor is who asked for a change, from where, with which request.
type Actor struct {
	Who     string `json:"who,omitempty"`     // the URI in the certificate; empty if control decided by itself
	From    string `json:"from,omitempty"`    // address of the connection
	Request string `json:"request,omitempty"` // the request's ID, as the client chose it
}

type actorKey struct{}

// WithActor returns a context in which a is who asks.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf is who asks, or the zero Actor if control does by itself.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}

type matchKey struct{}

// WithMatch returns a context in which a change is made only if the record to change is of the revision.
func WithMatch(ctx context.Context, revision int64) context.Context {
	return context.WithValue(ctx, matchKey{}, revision)
}

// MatchOf is the revision that the record to change must be of, and whether it must be of one.
func MatchOf(ctx context.Context) (int64, bool) {
	revision, ok := ctx.Value(matchKey{}).(int64)
	return revision, ok
}
