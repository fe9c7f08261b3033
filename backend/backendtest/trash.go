package backendtest

import (
	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// trash is the backend under test as one that gives volumes back.
func (s *subject) trash() backend.Trash { return s.Backend.(backend.Trash) }

// trashPromises are about backends that give removed volumes back.
var trashPromises = []promise{
	{"RemovedVolumeComesBackAtANewFence", func(s *subject) {
		s.volume(volA, 5, "data")
		s.must(s.Remove(s.ctx, volA, 6))
		s.wantCode("undelete at the fence of the removal", s.trash().Undelete(s.ctx, volA, 6, 6), mobyfs.CodeStaleFence)
		s.wantCode("undelete what was removed at another fence", s.trash().Undelete(s.ctx, volA, 5, 7), mobyfs.CodeNotFound)
		for range 2 {
			s.must(s.trash().Undelete(s.ctx, volA, 6, 7))
			s.wantHere([]backend.Held{{ID: volA, Fence: 7}}, nil)
			s.reopen()
		}
		_, err := s.Attach(s.ctx, volA, 6)
		s.wantCode("attach with an old fence", err, mobyfs.CodeStaleFence)
		s.wantContent(volA, 7, "data")
		s.must(s.Purge(s.ctx, later()))
		s.wantContent(volA, 7, "data")
	}},
	{"PurgedVolumeDoesNotComeBack", func(s *subject) {
		s.volume(volA, 5, "data")
		s.must(s.Remove(s.ctx, volA, 6))
		s.must(s.Purge(s.ctx, later()))
		s.wantCode("undelete", s.trash().Undelete(s.ctx, volA, 6, 7), mobyfs.CodeNotFound)
		s.wantHere(nil, nil)
	}},
	{"CopyThatMovedAwayIsNotTheRemovedVolume", func(s *subject) {
		s.volume(volA, 3, "old")
		s.stage(volA, mig1, "new", true)
		s.must(s.Adopt(s.ctx, volA, mig1, 5)) // the old bytes are in the trash
		s.must(s.Remove(s.ctx, volA, 6))
		s.must(s.trash().Undelete(s.ctx, volA, 6, 7))
		s.wantContent(volA, 7, "new")
		s.wantCode("undelete over the volume", s.trash().Undelete(s.ctx, volA, 3, 8), mobyfs.CodeExists)
	}},
	{"OldestOfTheTrashIsPurgedFirst", func(s *subject) {
		for _, id := range []mobyfs.VolumeID{volB, volA} {
			s.volume(id, 1, string(id))
			s.must(s.Remove(s.ctx, id, 2))
		}
		for _, want := range []mobyfs.VolumeID{volB, volA, ""} {
			got, err := s.trash().PurgeOldest(s.ctx)
			s.must(err)
			if got != want {
				s.Errorf("purged was %q, want %q", got, want)
			}
		}
		s.wantCode("undelete", s.trash().Undelete(s.ctx, volA, 2, 3), mobyfs.CodeNotFound)
	}},
}
