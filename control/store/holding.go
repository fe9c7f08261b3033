package store

import (
	"errors"
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
	// Compared says that the records agree with what the node told.
	Compared bool `json:"compared,omitempty"`
}

// Rename gives a volume another name, which nobody may have.
func (tx *Tx) Rename(v *mobyfs.Volume, name string) error {
	old, err := tx.get(nameKey(v.Name))
	if err != nil {
		return err
	}
	if mobyfs.VolumeID(old.raw) == v.ID {
		tx.writes[nameKey(v.Name)] = write{}
	}
	v.Name = name
	return errors.Join(tx.PutVolume(v), tx.takeName(v))
}

// takeName is putName for a record that was there before under another name.
func (tx *Tx) takeName(v *mobyfs.Volume) error {
	if v.State == mobyfs.VolumeRemoving {
		return nil
	}
	return tx.putName(*v)
}
