package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// sizePromises are about backends that bound how much a volume can hold.
var sizePromises = []promise{
	{"WritingBeyondTheSizeIsRefusedAndHurtsNobody", func(s *subject) {
		s.volume(volB, 1, "other")
		s.create(volA)
		s.fill(s.attach(volA, 1), s.spec.SizeBytes)
		s.wantContent(volB, 1, "other")
		s.write(s.attach(volB, 1), "still writable")
		s.wantContent(volB, 1, "still writable")
	}},
	{"SizeLastsAndIsTold", func(s *subject) {
		s.create(volA)
		s.stage(volB, mig1, "moved", true)
		s.must(s.Adopt(s.ctx, volB, mig1, 2))
		s.wantSizes(s.spec.SizeBytes, s.spec.SizeBytes)
		s.must(s.Grow(s.ctx, volA, 2*s.spec.SizeBytes))
		s.wantContent(volB, 3, "moved")
		s.wantSizes(2*s.spec.SizeBytes, s.spec.SizeBytes)
		s.reopen()
		s.attach(volA, 7)
		s.wantSizes(2*s.spec.SizeBytes, s.spec.SizeBytes)
	}},
	{"GrowKeepsTheDataAndGivesTheRoom", func(s *subject) {
		s.create(volA)
		path := s.attach(volA, 1)
		s.write(path, "kept")
		open, err := os.OpenFile(filepath.Join(path, "open"), os.O_RDWR|os.O_CREATE, 0o600) // as a container has it
		s.must(err)
		defer open.Close()
		if err := s.Grow(s.ctx, volA, 2*s.spec.SizeBytes); mobyfs.CodeOf(err) == mobyfs.CodeDenied {
			open = s.growUnused(open, err)
		} else {
			s.must(err)
		}
		s.must(s.Grow(s.ctx, volA, 2*s.spec.SizeBytes))
		_, err = open.Write(slices.Repeat([]byte("x"), int(s.spec.SizeBytes*3/2)))
		s.must(err)
		s.must(open.Close())
		s.wantContent(volA, 1, "kept")
		s.must(s.Detach(s.ctx, volA))
		s.must(s.Grow(s.ctx, volA, 3*s.spec.SizeBytes)) // also while nobody uses it
		s.wantContent(volA, 2, "kept")
		s.must(os.Remove(filepath.Join(path, "open")))
		s.must(os.WriteFile(filepath.Join(path, "more"), make([]byte, s.spec.SizeBytes*5/2), 0o600))
	}},
	{"NoVolumeShrinks", func(s *subject) {
		s.volume(volA, 1, "kept")
		s.wantCode("shrink", s.Grow(s.ctx, volA, s.spec.SizeBytes/2), mobyfs.CodeInvalid)
		s.wantSizes(s.spec.SizeBytes)
		s.wantContent(volA, 1, "kept")
		s.wantCode("grow what is not here", s.Grow(s.ctx, volB, 1<<30), mobyfs.CodeNotFound)
	}},
	{"StagedBytesAreBoundedToo", func(s *subject) {
		dir, err := s.Stage(s.ctx, volA, mig1, s.spec)
		s.must(err)
		s.fill(dir, s.spec.SizeBytes)
	}},
	{"ExportIsReadWhileDetached", func(s *subject) {
		s.volume(volA, 1, "data")
		dir, release, err := s.Export(s.ctx, volA, 2)
		s.must(err)
		s.must(s.Detach(s.ctx, volA))
		got, err := os.ReadFile(filepath.Join(dir, "file"))
		if err != nil || string(got) != "data" {
			s.Errorf("got %q, %v", got, err)
		}
		release()
		s.wantContent(volA, 3, "data")
	}},
}

// fill writes into a directory until no more fits, and checks that it was about as much as the size and is all there.
func (s *subject) fill(dir string, size int64) {
	s.Helper()
	const piece = 1 << 20
	one := bytes.Repeat([]byte("mobyfs!\n"), piece/8)
	f, err := os.Create(filepath.Join(dir, "fill"))
	s.must(err)
	var fits int64
	for ; fits < 2*size; fits += piece {
		if _, err = f.Write(one); err != nil {
			break
		}
		if err = unix.Fdatasync(int(f.Fd())); err != nil {
			break
		}
	}
	s.must(f.Close())
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		s.Errorf("after %d MiB: got %v, want that no more fits", fits/piece, err)
	}
	if fits < size/2 || fits > size {
		s.Errorf("%d MiB fit into a volume of %d", fits/piece, size/piece)
	}
	got, err := os.ReadFile(filepath.Join(dir, "fill"))
	s.must(err)
	if int64(len(got)) < fits || !bytes.Equal(got[:fits], bytes.Repeat(one, int(fits/piece))) {
		s.Errorf("what was written is not there: %d of %d bytes", len(got), fits)
	}
}

func (s *subject) wantSizes(want ...int64) {
	s.Helper()
	held, _, err := s.List(s.ctx)
	s.must(err)
	slices.SortFunc(held, func(a, b backend.Held) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	var got []int64
	for _, h := range held {
		got = append(got, h.SizeBytes)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Errorf("the volumes have %d bytes, want %d", got, want)
	}
}

// growUnused checks that a volume of which a file is open may not be grown for want of a capability alone, which changed
// nothing, and that it grows once the file is closed. It opens the file again.
func (s *subject) growUnused(open *os.File, refused error) *os.File {
	s.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	s.must(unix.Capget(&header, &sets[0]))
	if sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 || mobyfs.HintOf(refused) == "" {
		s.Fatal(refused)
	}
	s.wantSizes(s.spec.SizeBytes)
	s.wantContent(volA, 1, "kept")
	s.must(open.Close())
	s.must(s.Grow(s.ctx, volA, 2*s.spec.SizeBytes))
	open, err := os.OpenFile(open.Name(), os.O_RDWR, 0)
	s.must(err)
	return open
}
