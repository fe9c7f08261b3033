package mobyfs

import "fmt"

// Fence orders all decisions about one volume: each grant, migration, commit and abort gets a higher one. Nodes
// keep the highest they saw beside the bytes and refuse lower ones.
//
// It is an epoch of the cluster (24 bits) above a counter (40 bits). A restore from a backup forgets decisions, and so
// begins a new epoch: each fence of it is higher than all that were ever given out before. The first epoch is 0, so a
// fence is a small number until then. In JSON it is a number; it stays below 2^53, up to which every reader of JSON is
// exact, for epochs up to MaxEpoch.
type Fence uint64

const (
	fenceCounter = 40 // bits of the counter
	// MaxEpoch is the highest epoch of a cluster.
	MaxEpoch = 1<<13 - 1
)

// Next is the fence of the decision after this one, in the epoch that the cluster has now. It is always higher.
func (f Fence) Next(epoch uint32) Fence {
	return max(f+1, Fence(epoch)<<fenceCounter+1)
}

// Epoch tells the epoch in which the decision was made.
func (f Fence) Epoch() uint32 { return uint32(f >> fenceCounter) }

// Counter tells which of its epoch's decisions it was.
func (f Fence) Counter() uint64 { return uint64(f) & (1<<fenceCounter - 1) }

// String is how people read it: 3.17 is the 17th of epoch 3, and 17 that of the first one.
func (f Fence) String() string {
	if f.Epoch() == 0 {
		return fmt.Sprint(uint64(f))
	}
	return fmt.Sprintf("%d.%d", f.Epoch(), f.Counter())
}
