package store

import (
	"fmt"
	"unique"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/audit"
)

// Where the records lie. Volumes are spread over 256 shards by a hash of their ID, so that no list is ever long
// and several control processes can divide the work.
const (
	root       = "/m/"
	clusterKey = root + "cluster"
	nameRoot   = root + "name/default/" // "default" is the one tenant there is so far
)

// Kinds of records.
const (
	KindVolume    Kind = "volume"
	KindNode      Kind = "node"
	KindEvent     Kind = "event"
	KindSession   Kind = "session"
	KindDown      Kind = "down"
	KindRequest   Kind = "request"
	KindSegment   Kind = "segment"
	KindCopy      Kind = "copy"
	KindOperation Kind = "operation"
	KindBudget    Kind = "budget"
	KindPromise   Kind = "promise"
)

// The tables. A kind that is not listed in tables is not read.
var (
	Volumes = Table[mobyfs.Volume]{Kind: KindVolume, prefix: "vol/", sharded: true, check: checkVolume}
	Nodes   = Table[mobyfs.Node]{Kind: KindNode, prefix: "node/", check: checkNode}
	Events  = Table[mobyfs.Event]{Kind: KindEvent, prefix: "ev/", passing: true}
	// Segments are those of the audit trail whose events the store holds still, and the head and floor of the trail.
	Segments = Table[audit.Segment]{Kind: KindSegment, prefix: "audit/segment/"}
	// Copies are how far each control process has the trail on its own disk, by the process's name.
	Copies = Table[AuditCopy]{Kind: KindCopy, prefix: "audit/copy/"}
	// Requests are those that their clients may repeat.
	Requests = Table[Request]{Kind: KindRequest, prefix: "req/", passing: true}
	// Sessions are those of nodes that are there, by the node's name. Each is written with a lease, and gone with it.
	Sessions = Table[Session]{Kind: KindSession, prefix: "sess/"}
	// Downs are the sessions of nodes that ended last, by the node's name.
	Downs = Table[Down]{Kind: KindDown, prefix: "down/"}
	// Operations are those that have not ended, and those that ended lately.
	Operations = Table[mobyfs.Operation]{Kind: KindOperation, prefix: "op/", check: checkOperation}
	// Budgets are what is under way of what is limited, by what limits it.
	Budgets = Table[Budget]{Kind: KindBudget, prefix: "budget/"}
	// Promises are where those meet who promise a node's room, by the node's name.
	Promises = Table[Promise]{Kind: KindPromise, prefix: "res/"}

	tables = []table{
		Operations, Budgets, Volumes, Nodes, Events, Sessions, Downs, Requests, Quarantine, Authorities, Issuers, Holders, Evictions, Tokens, People,
		Segments, Copies, Holdings, Inventories,
		Spaces, Turns, Promises, Backups, BackupTurns, Tombstones,
	}
)

func nameKey(name string) string { return nameRoot + mobyfs.FoldName(name) }

func volumeKey(id mobyfs.VolumeID) string { return Volumes.key(string(id)) }

func checkVolume(id string, v *mobyfs.Volume, rev int64) error {
	if string(v.ID) != id || v.Node == "" || v.Fence == 0 {
		return fmt.Errorf("the record is not that of volume %s", id)
	}
	if m := v.Migration; m != nil && m.State != "" && !m.State.Leads(mobyfs.MigrationCommitted) { // who does not know a state must not decide in it
		return fmt.Errorf("the migration %s of volume %s is in the unknown state %q", m.ID, id, m.State)
	}
	v.Revision = rev
	thrifty(id, v)
	return nil
}

// thrifty makes a record share the words that it has in common with many others, for there may be a million of them.
func thrifty(id string, v *mobyfs.Volume) {
	v.ID = mobyfs.VolumeID(id)
	v.State = unique.Make(v.State).Value()
	for _, word := range []*string{&v.Node, &v.Spec.Class, &v.Spec.Backend} {
		*word = unique.Make(*word).Value()
	}
	if v.Lease != nil {
		v.Lease.Node = unique.Make(v.Lease.Node).Value()
	}
}

func checkNode(name string, n *mobyfs.Node, rev int64) error {
	if n.Name != name {
		return fmt.Errorf("the record is not that of node %s", name)
	}
	n.Revision = rev
	return nil
}

func checkOperation(id string, o *mobyfs.Operation, rev int64) error {
	if string(o.ID) != id || mobyfs.CheckOperationID(id) != nil {
		return fmt.Errorf("the record is not that of operation %s", id)
	}
	o.Revision = rev
	return nil
}

// Ref names a record that watchers are told of.
type Ref struct {
	Kind Kind
	ID   string
}

// VolumeRef names the record of a volume.
func VolumeRef(id mobyfs.VolumeID) Ref { return Volumes.Ref(string(id)) }

// NodeRef names the record of a node.
func NodeRef(name string) Ref { return Nodes.Ref(name) }

// tableOf tells in which table a key lies, and at which ID.
func tableOf(key string) (t table, id string, ok bool) {
	for _, t := range tables {
		if id, ok := t.idOf(key); ok {
			return t, id, true
		}
	}
	return nil, "", false
}
