package store

import (
	"time"

	"github.com/mobyfs/mobyfs"
)

// Kinds of records about what nodes hold, which they tell after a restore.
const (
	KindHolding   Kind = "holding"
	KindInventory Kind = "inventory"
)

var (
	// Holdings is what nodes told that they hold, at HoldingID. It is of use until it was compared with the records.
	Holdings = Table[mobyfs.Holding]{Kind: KindHolding, prefix: "hold/"}
	// Inventories are at the names of nodes that have told all that they hold.
	Inventories = Table[Inventory]{Kind: KindInventory, prefix: "inventory/"}
)

// HoldingID is where it lies what a node holds of a volume.
func HoldingID(node string, id mobyfs.VolumeID) string { return node + "/" + string(id) }

// Inventory says that a node has told what it holds.
type Inventory struct {
	History string    `json:"history"` // since which restore; see Store.History
	Epoch   uint32    `json:"epoch"`   // the highest that the node knows a fence of
	At      time.Time `json:"at"`
}
