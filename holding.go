package mobyfs

// Holding is what a node has of a volume. Nodes tell it after control was restored from a backup, which knows nothing of
// what was decided since it was made.
type Holding struct {
	ID     VolumeID    `json:"id"`
	Bytes  bool        `json:"bytes,omitempty"`  // the volume's bytes are there
	Fence  Fence       `json:"fence,omitempty"`  // the highest that lies beside them
	Lease  Fence       `json:"lease,omitempty"`  // of the lease that the node relies on, 0 for none
	Sealed MigrationID `json:"sealed,omitempty"` // a migration that brought all bytes, which are not the volume's yet
	Known  *Volume     `json:"known,omitempty"`  // the record as the node knows it, nil if it knows none
}

// Nameless is the record of a volume of which a node has nothing but the bytes.
func Nameless(id VolumeID, spec VolumeSpec) *Volume {
	return &Volume{ID: id, Name: "restored-" + string(id), Spec: spec.WithDefaults(), State: VolumeReady}
}

// Inventory is a part of what a node holds.
type Inventory struct {
	History  string    `json:"history"` // for which Session.Tell asked
	Holdings []Holding `json:"holdings,omitempty"`
	Epoch    uint32    `json:"epoch"` // the highest of all fences that the node knows
	// Evicted is who was evicted, as the node has heard of it.
	Evicted []Eviction `json:"evicted,omitempty"`
	Last    bool       `json:"last"` // with this part all is told
}

// MaxHoldings is how many holdings, and how many evictions, a part of an inventory may have.
const MaxHoldings = 200
