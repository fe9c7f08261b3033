// Package backend is the contract of what keeps the bytes of volumes on a node. Package backendtest holds the
// suite that every backend must pass; backend/dir is the one that works on any file system, backend/shared the one whose
// bytes all nodes see.
//
// A backend knows nothing of the cluster. Two rules make it safe all the same:
//
//   - Fences. It keeps the highest fence it ever saw for a volume beside the volume's bytes, durably, and refuses
//     Attach, Export, Adopt and Remove with a lower one (mobyfs.CodeStaleFence). An equal fence is the same
//     decision told again and is fine.
//   - Nothing vanishes. Bytes are made empty only by Create and Stage, and leave only through Remove and Discard,
//     into the trash first where they were a volume.
//
// Every method may be repeated after a crash at any point, with the same effect. Methods on different volumes may
// run at once; calls for one volume are made one after the other (its worker in the agent does).
package backend

import (
	"context"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Backend keeps volumes. Errors carry a mobyfs.Code; CodeNotFound means that the bytes are not here.
type Backend interface {
	// Name is the word for this backend in VolumeSpec.Backend.
	Name() string

	// Path is where Attach shows the volume: absolute, and the same before, during and after. It asks no disk.
	Path(id mobyfs.VolumeID) string

	// Create makes an empty volume, of the size, owner and mode that spec says. One that is here already keeps its bytes.
	Create(ctx context.Context, id mobyfs.VolumeID, spec mobyfs.VolumeSpec) error

	// Attach makes the volume usable at Path, which it returns.
	Attach(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (string, error)

	// Detach takes the volume from Path where the backend put it there. Nothing attached is fine. CodeInUse while
	// something on this host has a file of it open.
	Detach(ctx context.Context, id mobyfs.VolumeID) error

	// Grow makes the volume as large as that, also while containers write to it. CodeInvalid if it is larger already,
	// CodeNoSpace if there is no room: then it stays as it is.
	Grow(ctx context.Context, id mobyfs.VolumeID, bytes int64) error

	// Export opens the volume for reading by a migration. From then on only a higher fence attaches it again, so
	// nothing changes what is read. The directory stays readable until release is called, once.
	Export(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (dir string, release func(), err error)

	// Stage makes an empty directory for what a migration brings, in place of whatever an earlier try left there. The
	// spec says how much room is set aside for it and how it is kept; whose it is and its mode the migration brings.
	Stage(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, spec mobyfs.VolumeSpec) (dir string, err error)

	// Seal notes durably that the staged bytes are complete and are what receipt says.
	Seal(ctx context.Context, migration mobyfs.MigrationID, receipt mobyfs.Receipt) error

	// Adopt makes the sealed bytes the volume, at the fence, in one step. Bytes of the same volume that were here
	// from an earlier stay go to the trash. When the volume is here at this fence already it does nothing.
	// CodeNotFound if nothing sealed is there.
	Adopt(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, fence mobyfs.Fence) error

	// Discard removes what a migration staged.
	Discard(ctx context.Context, migration mobyfs.MigrationID) error

	// Remove puts the volume into the trash. One that is not here is fine.
	Remove(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error

	// Purge empties the trash of what was put there before a time.
	Purge(ctx context.Context, before time.Time) error

	// List tells what is here, volumes and staged migrations, in no order.
	List(ctx context.Context) ([]Held, []Staged, error)

	// Usage tells what a volume takes on disk. Room that is set aside for it counts.
	Usage(ctx context.Context, id mobyfs.VolumeID) (Usage, error)

	// Capacity tells the space and the inodes for all volumes.
	Capacity(ctx context.Context) (mobyfs.Capacity, error)
}

// Seen is a volume whose bytes this node sees; which node may use them only control knows.
type Seen struct {
	Held
	Last bool // no other node is known to have used it since this one did
}

// Shared is a backend whose bytes all nodes see. A volume moves from node to node without being copied, and a node that
// lost one has nothing to remove.
type Shared interface {
	Backend
	// Survey lists all volumes that can be seen, those too that List leaves out because another node has them. For each
	// volume there is some node that saw it last, also if nobody has it: all nodes of which that may be true say so.
	// CodeUnavailable if they can't be seen now; none if this node never saw any.
	Survey(ctx context.Context) ([]Seen, error)
	// Leave takes the volume from Path and forgets that this node had it. The bytes stay as they are: they are the
	// volume, and another node's. It may be called at any fence.
	Leave(ctx context.Context, id mobyfs.VolumeID) error
	// Bytes is where the bytes lie on this node, whether attached or not. All that is mounted of the volume is of there.
	Bytes(id mobyfs.VolumeID) string
}

// Live is a backend whose volumes can be read by a migration while containers use them.
type Live interface {
	Backend
	// Show opens the volume for reading, at whatever fence, and changes nothing about who may use it. While it is shown
	// Detach does not close it, and Remove is CodeInUse. It stays readable until release is called, once.
	Show(ctx context.Context, id mobyfs.VolumeID) (dir string, release func(), err error)
	// Reopen takes up what an earlier try of the migration left staged, as it is, for more to be brought. What was sealed
	// is not any more. CodeNotFound if nothing is staged.
	Reopen(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID) (dir string, err error)
}

// Trash is a backend that gives removed volumes back until they are purged.
type Trash interface {
	Backend
	// Undelete makes a volume that was removed at a fence the volume again, at a higher one. What lies in the trash of it
	// at other fences has moved away, and is left alone. When the volume is here at the new fence already it does nothing.
	// CodeNotFound if the trash does not have it any more.
	Undelete(ctx context.Context, id mobyfs.VolumeID, removed, fence mobyfs.Fence) error
	// PurgeOldest deletes the volume that has been in the trash longest, and tells which; "" if there is none.
	PurgeOldest(ctx context.Context) (mobyfs.VolumeID, error)
}

// Usage is what a volume takes on disk. A file of several names counts once.
type Usage struct {
	Bytes  int64 // of blocks, so holes take nothing
	Inodes int64 // files and directories of all kinds, the volume's root among them; 0 where nobody counts them
}

// Held is a volume whose bytes are here; whether they are the volume's true bytes only control knows.
type Held struct {
	ID    mobyfs.VolumeID
	Fence mobyfs.Fence // the highest seen, 0 if none
	// SizeBytes is what Create, Stage or Grow last gave it; 0 if it was given none.
	SizeBytes int64
}

// Staged is what a migration brought here.
type Staged struct {
	Migration mobyfs.MigrationID
	Volume    mobyfs.VolumeID
	Receipt   *mobyfs.Receipt // nil until sealed
	SizeBytes int64           // what Stage gave it
}
