package store

import "github.com/mobyfs/mobyfs"

// KindTombstone is the kind of what stays of removed volumes.
const KindTombstone Kind = "tombstone"

// Tombstones are those of removed volumes that may come back, by the volume's ID.
var Tombstones = Table[mobyfs.Tombstone]{Kind: KindTombstone, prefix: "tomb/"}
