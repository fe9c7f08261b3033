package backendtest

import (
	"context"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// lifePromises are about volumes that stay where they are.
var lifePromises = []promise{
	{"NothingIsHereAtFirst", func(s *subject) {
		s.wantHere(nil, nil)
		if s.Name() == "" {
			s.Error("the backend has no name")
		}
	}},
	{"CreatedVolumeIsEmptyAndReadyForDocker", func(s *subject) {
		s.create(volA)
		path := s.attach(volA, 1)
		s.wantEmptyDir(path)
		info, err := os.Stat(path)
		s.must(err)
		if info.Mode() != os.ModeDir|0o755 {
			s.Errorf("got mode %v, want drwxr-xr-x", info.Mode())
		}
	}},
	{"RootDirectoryIsWhoseTheSpecSays", func(s *subject) {
		spec := s.spec
		spec.Mode, spec.UID, spec.GID = "2770", 70, 999
		s.must(s.Create(s.ctx, volA, spec))
		s.reopen()
		info, err := os.Stat(s.attach(volA, 1))
		s.must(err)
		st := info.Sys().(*syscall.Stat_t)
		if want := os.ModeDir | os.ModeSetgid | 0o770; info.Mode() != want || st.Uid != 70 || st.Gid != 999 {
			s.Errorf("got %v of %d:%d, want %v of 70:999", info.Mode(), st.Uid, st.Gid, want)
		}
		spec.Mode = "9"
		s.wantCode("a mode that is none", s.Create(s.ctx, volB, spec), mobyfs.CodeInvalid)
		s.wantHere([]backend.Held{{ID: volA, Fence: 1}}, nil)
	}},
	{"CreateKeepsTheBytesThatAreHere", func(s *subject) {
		s.volume(volA, 3, "kept")
		s.create(volA)
		s.wantContent(volA, 3, "kept")
		s.wantHere([]backend.Held{{ID: volA, Fence: 3}}, nil)
	}},
	{"CreateRefusesAnotherBackendsVolume", func(s *subject) {
		err := s.Create(s.ctx, volA, mobyfs.VolumeSpec{Backend: "no-such-backend"})
		s.wantCode("create", err, mobyfs.CodeInvalid)
		s.wantHere(nil, nil)
	}},
	{"AttachAndDetachMayBeRepeated", func(s *subject) {
		s.volume(volA, 1, "data")
		for range 2 {
			s.wantContent(volA, 1, "data")
		}
		for range 2 {
			s.must(s.Detach(s.ctx, volA))
		}
		s.wantContent(volA, 1, "data")
		s.must(s.Detach(s.ctx, volB)) // never seen
	}},
	{"PathIsAbsoluteAndNeverChanges", func(s *subject) {
		before := s.Path(volA)
		if !filepath.IsAbs(before) {
			s.Errorf("%q is not absolute", before)
		}
		s.create(volA)
		if got := s.attach(volA, 1); got != before {
			s.Errorf("attached at %q, want %q", got, before)
		}
		s.must(s.Detach(s.ctx, volA))
		if got := s.Path(volA); got != before {
			s.Errorf("detached: got %q, want %q", got, before)
		}
		s.must(s.Remove(s.ctx, volA, 1))
		s.reopen()
		if got := s.Path(volA); got != before {
			s.Errorf("reopened: got %q, want %q", got, before)
		}
	}},
	{"UnknownVolumesAreNotFound", func(s *subject) {
		_, err := s.Attach(s.ctx, volA, 1)
		s.wantCode("attach", err, mobyfs.CodeNotFound)
		_, _, err = s.Export(s.ctx, volA, 1)
		s.wantCode("export", err, mobyfs.CodeNotFound)
		_, err = s.Usage(s.ctx, volA)
		s.wantCode("used bytes", err, mobyfs.CodeNotFound)
		s.wantHere(nil, nil)
	}},
	{"RemovedVolumeIsGoneAndMayBeRemovedAgain", func(s *subject) {
		s.volume(volA, 1, "data")
		for range 2 {
			s.must(s.Remove(s.ctx, volA, 2))
		}
		s.wantHere(nil, nil)
		_, err := s.Attach(s.ctx, volA, 3)
		s.wantCode("attach", err, mobyfs.CodeNotFound)
		if _, err := os.Stat(s.Path(volA)); !os.IsNotExist(err) {
			s.Errorf("stat of the removed volume's path: got %v, want that it does not exist", err)
		}
	}},
	{"VolumesDoNotTouchEachOther", func(s *subject) {
		s.volume(volA, 1, "a")
		s.volume(volB, 9, "b")
		if s.Path(volA) == s.Path(volB) {
			s.Error("two volumes have the same path")
		}
		s.wantHere([]backend.Held{{ID: volA, Fence: 1}, {ID: volB, Fence: 9}}, nil)
		s.must(s.Remove(s.ctx, volA, 2))
		s.must(s.Purge(s.ctx, later()))
		s.wantContent(volB, 9, "b")
		s.wantHere([]backend.Held{{ID: volB, Fence: 9}}, nil)
	}},
	{"RestartShowsTheSameState", func(s *subject) {
		s.volume(volA, 4, "a")
		s.stage(volB, mig1, "half", false)
		s.stage(volB, mig2, "all", true)
		s.reopen()
		s.wantHere([]backend.Held{{ID: volA, Fence: 4}}, []backend.Staged{
			{Migration: mig1, Volume: volB}, {Migration: mig2, Volume: volB, Receipt: &receipt},
		})
		_, err := s.Attach(s.ctx, volA, 3)
		s.wantCode("attach with an old fence", err, mobyfs.CodeStaleFence)
		s.wantContent(volA, 4, "a")
		s.must(s.Adopt(s.ctx, volB, mig2, 7))
		s.wantContent(volB, 7, "all")
	}},
	{"HostileIDsAreRefused", checkHostileIDs},
	{"PurgeOfAnEmptyTrashIsFine", func(s *subject) { s.must(s.Purge(s.ctx, later())) }},
	{"PurgeStopsWhenItsContextEnds", func(s *subject) {
		s.volume(volA, 1, "data")
		s.must(s.Remove(s.ctx, volA, 1))
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		if err := s.Purge(ended, later()); err == nil {
			s.Error("purge went on after its context had ended")
		}
		s.must(s.Purge(s.ctx, later()))
	}},
	{"PurgeLeavesVolumesAndStagedBytesAlone", func(s *subject) {
		s.volume(volA, 1, "data")
		s.stage(volB, mig1, "brought", true)
		s.must(s.Purge(s.ctx, later()))
		s.wantContent(volA, 1, "data")
		s.must(s.Adopt(s.ctx, volB, mig1, 1))
		s.wantContent(volB, 1, "brought")
	}},
	{"UsageFollowsTheContent", func(s *subject) {
		s.create(volA)
		path := s.attach(volA, 1)
		empty, err := s.Usage(s.ctx, volA)
		s.must(err)
		const size = 4 << 20
		s.must(os.WriteFile(filepath.Join(path, "big"), make([]byte, size), 0o600))
		s.must(os.Link(filepath.Join(path, "big"), filepath.Join(path, "same")))
		s.must(os.WriteFile(filepath.Join(path, "sparse"), nil, 0o600))
		s.must(os.Truncate(filepath.Join(path, "sparse"), 1<<40))
		s.sync(path) // some backends know what was written by the last commit
		full, err := s.Usage(s.ctx, volA)
		s.must(err)
		if empty.Bytes >= s.spec.SizeBytes && empty.Bytes > 1<<20 { // all of it is set aside
			if full.Bytes != empty.Bytes {
				s.Errorf("%d bytes are set aside, and %d once some are written", empty.Bytes, full.Bytes)
			}
			return
		}
		if grown := full.Bytes - empty.Bytes; grown < size || grown > size+size/2 {
			s.Errorf("a file of %d bytes with two names and an empty one of 1 TiB: %d bytes more are used", size, grown)
		}
		if full.Inodes == 0 && empty.Inodes == 0 { // nobody counts them
			return
		}
		if empty.Inodes != 1 || full.Inodes != 3 {
			s.Errorf("a directory has %d inodes, with a file of two names and another %d", empty.Inodes, full.Inodes)
		}
	}},
	{"CapacityIsThatOfADisk", func(s *subject) {
		c, err := s.Capacity(s.ctx)
		s.must(err)
		if c.TotalBytes <= 0 || c.FreeBytes < 0 || c.FreeBytes > c.TotalBytes {
			s.Errorf("got %+v, want 0 <= free <= total", c)
		}
		if c.TotalInodes < 0 || c.FreeInodes < 0 || c.FreeInodes > c.TotalInodes {
			s.Errorf("got %+v, want 0 <= free <= total inodes", c)
		}
	}},
}

func checkHostileIDs(s *subject) {
	for _, bad := range hostile {
		id, m := mobyfs.VolumeID(bad), mobyfs.MigrationID(bad)
		s.wantCode("create "+bad, s.Create(s.ctx, id, mobyfs.VolumeSpec{}), mobyfs.CodeInvalid)
		_, err := s.Attach(s.ctx, id, 1)
		s.wantCode("attach "+bad, err, mobyfs.CodeInvalid)
		s.wantCode("detach "+bad, s.Detach(s.ctx, id), mobyfs.CodeInvalid)
		_, _, err = s.Export(s.ctx, id, 1)
		s.wantCode("export "+bad, err, mobyfs.CodeInvalid)
		_, err = s.Stage(s.ctx, id, mig1, s.spec)
		s.wantCode("stage of volume "+bad, err, mobyfs.CodeInvalid)
		_, err = s.Stage(s.ctx, volA, m, s.spec)
		s.wantCode("stage of migration "+bad, err, mobyfs.CodeInvalid)
		s.wantCode("seal "+bad, s.Seal(s.ctx, m, receipt), mobyfs.CodeInvalid)
		s.wantCode("adopt volume "+bad, s.Adopt(s.ctx, id, mig1, 1), mobyfs.CodeInvalid)
		s.wantCode("adopt migration "+bad, s.Adopt(s.ctx, volA, m, 1), mobyfs.CodeInvalid)
		s.wantCode("discard "+bad, s.Discard(s.ctx, m), mobyfs.CodeInvalid)
		s.wantCode("remove "+bad, s.Remove(s.ctx, id, 1), mobyfs.CodeInvalid)
		_, err = s.Usage(s.ctx, id)
		s.wantCode("used bytes of "+bad, err, mobyfs.CodeInvalid)
	}
	s.wantHere(nil, nil)
}
