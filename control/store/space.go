package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/mobyfs/mobyfs"
)

// DefaultQuota is how many bytes the records and their history may take, on each member.
const DefaultQuota = 8 << 30

// Quotas that a store may have. Beyond the larger one etcd becomes slow to start and to pass on.
const (
	MinQuota = mobyfs.MinStoreQuota
	MaxQuota = mobyfs.MaxStoreQuota
)

// Level is how much room a member of the store has.
type Level string

const (
	SpaceEnough Level = "enough"
	// SpaceLow: more than 60 % of the quota is in use, or the disk has less than 512 MiB. Everything works.
	SpaceLow Level = "low"
	// SpaceFull: no new volumes, nodes and tokens are recorded. What is there can be claimed, moved and removed.
	SpaceFull Level = "full"
)

// Space is how much room a member of the store has. Sizes are in bytes.
type Space struct {
	Member string    `json:"member"`
	Level  Level     `json:"level"`
	Cause  string    `json:"cause,omitempty"` // of a level that is not enough
	Size   int64     `json:"size"`            // of the file, with what is free in it
	InUse  int64     `json:"in_use"`
	Quota  int64     `json:"quota"`           // 0 if it is not known: somebody else runs the etcd
	Alarm  bool      `json:"alarm,omitempty"` // etcd takes no more writes that need room
	Worth  bool      `json:"worth,omitempty"` // so much is free in the file that it is worth to compress it
	Disk   Disk      `json:"disk"`
	At     time.Time `json:"at"`
}

// Disk is the filesystem that a member lies on; zero for an etcd that somebody else runs.
type Disk struct {
	Total   int64 `json:"total"`
	Free    int64 `json:"free"`
	Ballast int64 `json:"ballast"` // bytes that are kept back in a file and given up when the disk is full
}

// Fragmented is how much of the file is free.
func (s Space) Fragmented() int64 { return max(s.Size-s.InUse, 0) }

// SizeIn is how many bytes the file has in which the store of a root keeps its records, with what is free in it and what
// etcd reserves after it; 0 if there is none yet, or its etcd is somebody else's.
func SizeIn(root string) int64 {
	info, err := os.Stat(filepath.Join(root, "etcd", "data", "member", "snap", "db"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// KindSpace is the kind of the records of how much room members have.
const KindSpace Kind = "space"

// Spaces are how much room each member had when it told last, by the member's name.
var Spaces = Table[Space]{Kind: KindSpace, prefix: "space/"}

// When a member has less room than it should.
const (
	lowPercent  = 60        // of the quota
	diskLow     = 512 << 20 // bytes free
	diskFloor   = 16 << 20  // bytes free at which the ballast is given up
	worthShare  = 30        // percent of the file that must be free to compress it
	worthBytes  = 64 << 20  // and so much, or an eighth of the quota if that is less
	reserveMost = 1 << 30   // what etcd takes beyond the quota, for what makes room: an eighth of the quota, but no more
	reserveLess = 64 << 20  // and no less, for what is in use is known a moment later
)

// reserve is how much etcd takes beyond the quota: removals, releases and the keeping of the store write too.
func reserve(quota int64) int64 { return min(max(quota/8, reserveLess), reserveMost) }

// judge tells the level of a member and why, and whether to compress its file is worth it. The level that it had is part
// of that: it is left only when there is clearly more room.
func (s Space) judge() Space {
	free := s.Fragmented()
	s.Worth = s.Quota > 0 && free*100 > s.Size*worthShare && free > min(worthBytes, s.Quota/8)
	full, low, room := s.Quota, s.Quota*lowPercent/100, int64(diskLow)
	switch s.Level {
	case SpaceFull:
		full -= s.Quota / 20
	case SpaceLow:
		low -= s.Quota / 20
		room += diskLow / 8
	}
	switch {
	case s.Alarm:
		s.Level, s.Cause = SpaceFull, "etcd takes no more writes (NOSPACE)"
	case s.Quota > 0 && s.InUse >= full:
		s.Level, s.Cause = SpaceFull, s.used()
	case s.Disk.Total > 0 && s.Disk.Ballast == 0 && s.Disk.Free < ballastSize+diskRoom:
		s.Level, s.Cause = SpaceFull, s.left()
	case s.Quota > 0 && s.InUse > low:
		s.Level, s.Cause = SpaceLow, s.used()
	case s.Disk.Total > 0 && s.Disk.Free < room:
		s.Level, s.Cause = SpaceLow, s.left()
	default:
		s.Level, s.Cause = SpaceEnough, ""
	}
	return s
}

func (s Space) used() string { return inMiB(s.InUse) + " of " + inMiB(s.Quota) + " are in use" }

func (s Space) left() string { return "its disk has " + inMiB(s.Disk.Free) + " left" }

func inMiB(bytes int64) string {
	return strconv.FormatFloat(float64(bytes)/(1<<20), 'f', 1, 64) + " MiB"
}

// Space tells how much room this process's member has at this moment; of an etcd that somebody else runs, the fullest of
// its members a while ago. The level is empty until it was looked at.
func (s *Store) Space() Space {
	space := s.noted()
	if s.etcd == nil || space.Level == "" {
		return space
	}
	return s.spaceOf(space)
}

// noted is how much room there was at the last look.
func (s *Store) noted() Space {
	if p := s.space.Load(); p != nil {
		return *p
	}
	return Space{}
}

// SpaceChanged is sent a value when the level of this process's member has changed. It is for one receiver.
func (s *Store) SpaceChanged() <-chan struct{} { return s.levelled }

// errFull is what an engine says when it takes no more.
var errFull = errors.New("etcd takes no more writes: its quota is used up")

type roomKey struct{}

// MakingRoom returns a context in which changes may take the last bytes that the store has: those of removals and of what
// trims the store.
func MakingRoom(ctx context.Context) context.Context { return context.WithValue(ctx, roomKey{}, true) }

// hasRoom is nil if the store may take what tx writes. While it is full no new record is made of the kinds that grow, and
// when half of its reserve is used too, all that is written must make room.
func (tx *Tx) hasRoom() error {
	if len(tx.writes) == 0 {
		return nil
	}
	space := tx.s.Space()
	if space.Level != SpaceFull || tx.ctx.Value(roomKey{}) != nil {
		return nil
	}
	last := space.Quota > 0 && space.InUse >= space.Quota+reserve(space.Quota)/2
	deletes := false
	for key, w := range tx.writes {
		deletes = deletes || w.raw == nil
		if w.raw != nil && tx.reads[key].rev == 0 && grows(key) {
			return full(space)
		}
	}
	if last && !deletes {
		return full(space)
	}
	return nil
}

// grows reports whether a key is that of a record of which there may be any number.
func grows(key string) bool {
	t, _, ok := tableOf(key)
	return ok && (t.kind() == KindVolume || t.kind() == KindNode || t.kind() == KindToken)
}

// full is the refusal of a change for which there is no room, or of one that etcd has not taken.
func full(space Space) error {
	cause := errFull
	if space.Cause != "" {
		cause = errors.New(space.Cause)
	}
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "write to the store: member %s is full: %w", space.Member, cause).
		WithHint("control makes room by itself and takes new records again then; if it lasts, remove volumes that nobody needs or give control more disk or quota: mobyctl status tells")
}
