package backendtest

import (
	"os"
	"path/filepath"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// livePromises are those of backends whose volumes can be read while they are used. Agents refuse to move others live.
var livePromises = []promise{
	{"ShownVolumeStaysUsableAndReadable", func(s *subject) {
		b := s.Backend.(backend.Live)
		s.volume(volA, 3, "old")
		path := s.attach(volA, 3)
		dir, release, err := b.Show(s.ctx, volA)
		s.must(err)
		s.write(path, "new")
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "new" {
			s.Errorf("what is shown is %q, %v", got, err)
		}
		s.must(s.Detach(s.ctx, volA)) // the last container has ended
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "new" {
			s.Errorf("after the detach what is shown is %q, %v", got, err)
		}
		s.attach(volA, 3) // the same lease goes on: it was not given away
		s.wantCode("remove", s.Remove(s.ctx, volA, 4), mobyfs.CodeInUse)
		release()
		release()
		s.must(s.Detach(s.ctx, volA))
		s.must(s.Remove(s.ctx, volA, 4))
	}},
	{"ShowNeedsTheVolume", func(s *subject) {
		_, _, err := s.Backend.(backend.Live).Show(s.ctx, volA)
		s.wantCode("show", err, mobyfs.CodeNotFound)
	}},
	{"ReopenKeepsWhatWasStagedAndUnseals", func(s *subject) {
		b := s.Backend.(backend.Live)
		_, err := b.Reopen(s.ctx, volA, mig1)
		s.wantCode("reopen nothing", err, mobyfs.CodeNotFound)
		s.stage(volA, mig1, "half", true)
		s.reopen()
		b = s.Backend.(backend.Live)
		_, err = b.Reopen(s.ctx, volB, mig1)
		s.wantCode("reopen for another volume", err, mobyfs.CodeInvalid)
		for range 2 {
			dir, err := b.Reopen(s.ctx, volA, mig1)
			s.must(err)
			if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "half" {
				s.Errorf("it holds %q, %v", got, err)
			}
		}
		s.wantHere(nil, []backend.Staged{{Migration: mig1, Volume: volA}})
		s.wantCode("adopt", s.Adopt(s.ctx, volA, mig1, 1), mobyfs.CodeNotFound)
		s.must(s.Seal(s.ctx, mig1, receipt))
		s.must(s.Adopt(s.ctx, volA, mig1, 1))
		s.wantContent(volA, 1, "half")
	}},
}
