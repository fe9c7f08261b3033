package backendtest

import (
	"os"
	"path/filepath"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// fencePromises are about decisions that arrive late, twice or in the wrong order.
var fencePromises = []promise{
	{"LowerFencesAreRefused", func(s *subject) {
		s.volume(volA, 5, "data")
		s.stage(volA, mig1, "brought", true)
		for _, restarted := range []bool{false, true} {
			if restarted {
				s.reopen()
			}
			_, err := s.Attach(s.ctx, volA, 4)
			s.wantCode("attach", err, mobyfs.CodeStaleFence)
			_, _, err = s.Export(s.ctx, volA, 4)
			s.wantCode("export", err, mobyfs.CodeStaleFence)
			s.wantCode("adopt", s.Adopt(s.ctx, volA, mig1, 4), mobyfs.CodeStaleFence)
			s.wantCode("remove", s.Remove(s.ctx, volA, 4), mobyfs.CodeStaleFence)
		}
		s.wantContent(volA, 5, "data")
		s.wantHere([]backend.Held{{ID: volA, Fence: 5}},
			[]backend.Staged{{Migration: mig1, Volume: volA, Receipt: &receipt}})
	}},
	{"EqualFencesAreTheSameDecisionToldAgain", func(s *subject) {
		s.volume(volA, 5, "data")
		s.wantContent(volA, 5, "data")
		for range 2 {
			_, release, err := s.Export(s.ctx, volA, 6)
			s.must(err)
			release()
		}
		for range 2 {
			s.must(s.Remove(s.ctx, volA, 6))
		}
		s.wantHere(nil, nil)
	}},
	{"EveryUseRaisesTheFence", func(s *subject) {
		s.volume(volA, 2, "data")
		s.wantContent(volA, 7, "data")
		s.wantHere([]backend.Held{{ID: volA, Fence: 7}}, nil)
		_, release, err := s.Export(s.ctx, volA, 9)
		s.must(err)
		release()
		s.reopen()
		s.wantHere([]backend.Held{{ID: volA, Fence: 9}}, nil)
		_, err = s.Attach(s.ctx, volA, 8)
		s.wantCode("attach with a fence between", err, mobyfs.CodeStaleFence)
	}},
	{"RefusedFencesChangeNothing", func(s *subject) {
		s.volume(volA, 5, "data")
		_, _ = s.Attach(s.ctx, volA, 1)
		_, _, _ = s.Export(s.ctx, volA, 1)
		s.reopen()
		s.wantContent(volA, 5, "data") // had the export counted, fence 5 would not attach
	}},
	{"ExportedVolumeIsNotAttachedByAnOlderGrant", func(s *subject) {
		s.volume(volA, 5, "data")
		dir, release, err := s.Export(s.ctx, volA, 6)
		s.must(err)
		for _, restarted := range []bool{false, true} {
			if restarted {
				release()
				s.reopen()
			}
			for _, fence := range []mobyfs.Fence{5, 6} {
				_, err = s.Attach(s.ctx, volA, fence)
				s.wantCode("attach", err, mobyfs.CodeStaleFence)
			}
		}
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "data" {
			s.Errorf("the exported directory: got %q, %v", got, err)
		}
		s.wantContent(volA, 7, "data") // the migration was aborted
		s.wantContent(volA, 7, "data")
	}},
	{"ExportStaysReadableUntilReleased", func(s *subject) {
		s.volume(volA, 5, "data")
		dir, release, err := s.Export(s.ctx, volA, 6)
		s.must(err)
		_ = s.Remove(s.ctx, volA, 7) // a backend may refuse or do it, but the reader reads on
		_ = s.Purge(s.ctx, later())
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "data" {
			s.Errorf("the exported directory: got %q, %v", got, err)
		}
		release()
		s.must(s.Remove(s.ctx, volA, 7))
		s.wantHere(nil, nil)
	}},
	{"RemovedVolumeDoesNotComeBackByAnOlderAdoption", func(s *subject) {
		s.volume(volA, 5, "data")
		s.stage(volA, mig1, "older", true)
		s.must(s.Remove(s.ctx, volA, 8))
		s.reopen()
		s.wantCode("adopt", s.Adopt(s.ctx, volA, mig1, 7), mobyfs.CodeStaleFence)
		s.must(s.Adopt(s.ctx, volA, mig1, 9))
		s.wantContent(volA, 9, "older")
	}},
}
