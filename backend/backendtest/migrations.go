package backendtest

import (
	"context"
	"os"
	"path/filepath"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// migrationPromises are about bytes that another node sends.
var migrationPromises = []promise{
	{"StageBeginsEmpty", func(s *subject) {
		dir := s.stage(volA, mig1, "half", false)
		if !filepath.IsAbs(dir) {
			s.Errorf("%q is not absolute", dir)
		}
		s.must(os.MkdirAll(filepath.Join(dir, "deep", "er"), 0o000))
		again, err := s.Stage(s.ctx, volA, mig1, s.spec)
		s.must(err)
		s.wantEmptyDir(again)
		s.wantHere(nil, []backend.Staged{{Migration: mig1, Volume: volA}})
	}},
	{"StageUnsealsAnEarlierTry", func(s *subject) {
		s.stage(volA, mig1, "sealed", true)
		dir, err := s.Stage(s.ctx, volA, mig1, s.spec)
		s.must(err)
		s.wantEmptyDir(dir)
		s.wantHere(nil, []backend.Staged{{Migration: mig1, Volume: volA}})
		s.wantCode("adopt", s.Adopt(s.ctx, volA, mig1, 1), mobyfs.CodeNotFound)
	}},
	{"StageDoesNotTouchTheVolume", func(s *subject) {
		s.volume(volA, 3, "old")
		s.stage(volA, mig1, "new", true)
		s.wantContent(volA, 3, "old")
	}},
	{"SealMayBeRepeatedAndLasts", func(s *subject) {
		s.stage(volA, mig1, "data", true)
		s.must(s.Seal(s.ctx, mig1, receipt))
		s.reopen()
		s.must(s.Seal(s.ctx, mig1, receipt))
		s.wantHere(nil, []backend.Staged{{Migration: mig1, Volume: volA, Receipt: &receipt}})
	}},
	{"OnlyStagedBytesAreSealed", func(s *subject) {
		s.wantCode("seal", s.Seal(s.ctx, mig1, receipt), mobyfs.CodeNotFound)
		s.wantHere(nil, nil)
	}},
	{"OnlySealedBytesAreAdopted", func(s *subject) {
		s.wantCode("adopt nothing", s.Adopt(s.ctx, volA, mig1, 1), mobyfs.CodeNotFound)
		s.volume(volA, 3, "old")
		s.stage(volA, mig1, "half", false)
		s.wantCode("adopt unsealed", s.Adopt(s.ctx, volA, mig1, 5), mobyfs.CodeNotFound)
		s.wantContent(volA, 3, "old")
	}},
	{"BytesAreAdoptedByTheirOwnVolumeOnly", func(s *subject) {
		s.stage(volA, mig1, "a", true)
		s.wantCode("adopt", s.Adopt(s.ctx, volB, mig1, 1), mobyfs.CodeInvalid)
		s.wantHere(nil, []backend.Staged{{Migration: mig1, Volume: volA, Receipt: &receipt}})
	}},
	{"AdoptedBytesAreTheVolume", func(s *subject) {
		s.stage(volA, mig1, "moved", true)
		for range 2 {
			s.must(s.Adopt(s.ctx, volA, mig1, 5))
			s.wantHere([]backend.Held{{ID: volA, Fence: 5}}, nil)
		}
		s.reopen()
		s.must(s.Adopt(s.ctx, volA, mig1, 5))
		_, err := s.Attach(s.ctx, volA, 4)
		s.wantCode("attach with an old fence", err, mobyfs.CodeStaleFence)
		s.wantContent(volA, 5, "moved")
		if got := s.attach(volA, 5); got != s.Path(volA) {
			s.Errorf("attached at %q, want %q", got, s.Path(volA))
		}
	}},
	{"AdoptedBytesTakeThePlaceOfOlderOnes", func(s *subject) {
		s.volume(volA, 3, "old")
		_, release, err := s.Export(s.ctx, volA, 4) // it left, and now it comes back
		s.must(err)
		release()
		s.stage(volA, mig1, "new", true)
		s.must(s.Adopt(s.ctx, volA, mig1, 9))
		s.wantContent(volA, 9, "new")
		s.must(s.Purge(s.ctx, later()))
		s.wantContent(volA, 9, "new")
		s.wantHere([]backend.Held{{ID: volA, Fence: 9}}, nil)
	}},
	{"AdoptAtTheFenceThatIsHereDoesNothing", func(s *subject) {
		s.volume(volA, 5, "here")
		s.stage(volA, mig1, "other", true)
		s.must(s.Adopt(s.ctx, volA, mig1, 5))
		s.wantContent(volA, 5, "here")
	}},
	{"AdoptKeepsWhatTheMigrationSaysOfTheRoot", func(s *subject) {
		dir := s.stage(volA, mig1, "data", false)
		s.must(os.Chmod(dir, 0o2750|os.ModeSetgid))
		s.must(s.Seal(s.ctx, mig1, receipt))
		s.must(s.Adopt(s.ctx, volA, mig1, 1))
		info, err := os.Stat(s.attach(volA, 1))
		s.must(err)
		if want := os.ModeDir | os.ModeSetgid | 0o750; info.Mode() != want {
			s.Errorf("got mode %v, want %v", info.Mode(), want)
		}
	}},
	{"DiscardedBytesAreGone", func(s *subject) {
		s.volume(volA, 3, "old")
		s.stage(volA, mig1, "half", false)
		s.stage(volA, mig2, "whole", true)
		for range 2 {
			s.must(s.Discard(s.ctx, mig1))
			s.must(s.Discard(s.ctx, mig2))
		}
		s.wantHere([]backend.Held{{ID: volA, Fence: 3}}, nil)
		s.wantCode("seal", s.Seal(s.ctx, mig1, receipt), mobyfs.CodeNotFound)
		s.wantCode("adopt", s.Adopt(s.ctx, volA, mig2, 4), mobyfs.CodeNotFound)
		s.wantContent(volA, 3, "old")
	}},
	{"DiscardCutOffIsEndedByTheNext", func(s *subject) {
		s.stage(volA, mig1, "half", false)
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		_ = s.Discard(ended, mig1)
		s.reopen()
		s.must(s.Discard(s.ctx, mig1))
		s.wantHere(nil, nil)
	}},
	{"DiscardAfterAdoptLeavesTheVolume", func(s *subject) {
		s.stage(volA, mig1, "moved", true)
		s.must(s.Adopt(s.ctx, volA, mig1, 5))
		s.must(s.Discard(s.ctx, mig1))
		s.wantContent(volA, 5, "moved")
	}},
	{"VolumeGoesAndComesBack", func(s *subject) {
		s.volume(volA, 1, "one")
		for round := range mobyfs.Fence(3) {
			fence := 10 * (round + 1)
			_, release, err := s.Export(s.ctx, volA, fence)
			s.must(err)
			release()
			s.must(s.Remove(s.ctx, volA, fence+1))
			s.stage(volA, mig1, "back", true)
			s.must(s.Adopt(s.ctx, volA, mig1, fence+3))
			s.wantContent(volA, fence+3, "back")
		}
		s.wantHere([]backend.Held{{ID: volA, Fence: 33}}, nil)
	}},
}
