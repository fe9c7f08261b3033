package feed

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// shifts notes that content of files was moved without being written: within a file (collapse and insert of ranges) or between
// files (shared extents). What is moved and then moved back lies where it lay, but whoever read it between saw something else. That is
// rare: once it happens anywhere, big files count as changed as a whole the next time.
type shifts struct {
	marks    *ebpf.Map
	memory   []byte
	programs []*ebpf.Program
	links    []link.Link
	times    uint64
}

// shifting are the kernel's tracepoints at which that happens.
var shifting = map[string][]string{
	"ext4": {"ext4_collapse_range", "ext4_insert_range"},
	"xfs":  {"xfs_collapse_file_space", "xfs_insert_file_space", cloning},
}

const cloning = "xfs_reflink_remap_range"

// exchanging are more of them, that not every kernel has.
var exchanging = map[string][]string{"xfs": {"xfs_swap_extent_before", "xfs_exchrange_mappings"}}

// known are those of the tracepoints that the running kernel has.
func known(tracepoints []string) (there []string, err error) {
	if len(tracepoints) == 0 {
		return nil, nil
	}
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("the kernel's types: %w", err)
	}
	for _, at := range tracepoints {
		switch _, err := spec.AnyTypesByName("btf_trace_" + at); {
		case err == nil:
			there = append(there, at)
		case !errors.Is(err, btf.ErrNotFound):
			return nil, err
		}
	}
	return there, nil
}

func watchShifts(kind string) (_ *shifts, err error) {
	s := &shifts{}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("note when content is moved within files: %w", err)
		}
	}()
	if s.marks, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "mobyfs_shifts", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	}); err != nil {
		return nil, err
	}
	if s.memory, err = unix.Mmap(s.marks.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	more, err := known(exchanging[kind])
	if err != nil {
		return nil, err
	}
	for _, at := range slices.Concat(shifting[kind], more) {
		self := 0
		if at == cloning {
			self = os.Getpid() // the clones that this process makes are of no interest
		}
		if err := s.attach(at, asm.Instructions{
			asm.FnGetCurrentPidTgid.Call(),
			asm.RSh.Imm(asm.R0, 32),
			asm.JEq.Imm(asm.R0, int32(self), "out"),
		}); err != nil {
			return nil, err
		}
	}
	if kind == "btrfs" {
		err = s.watchCalls()
	}
	return s, err
}

// watchCalls notes each call by which a process shares extents of files, for btrfs has no tracepoint there: when it begins, and once it has
// ended. What the kernel does by itself, as a server of NFS, is not noted.
func (s *shifts) watchCalls() error {
	const (
		ioctl, copyRange                = 16, 326 // numbers of calls
		ioctl32, copyRange32            = 54, 377 // of programs of 32 bits
		clone, cloneRange, dedupe       = 0x40049409, 0x4020940d, 0xc0189436
		second, second32, number  int16 = 104, 88, 120 // argument, and number of the call, in pt_regs: rsi, rcx, orig_rax
	)
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("it is not known how calls are made on %s", runtime.GOARCH)
	}
	request := func(register int16) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R4, asm.R2, register, asm.DWord),
			asm.JEq.Imm32(asm.R4, clone, "mark"),
			asm.JEq.Imm32(asm.R4, cloneRange, "mark"),
			asm.JEq.Imm32(asm.R4, int32(dedupe-1<<32), "mark"),
			asm.Ja.Label("out"),
		}
	}
	ofProgram32 := request(second32)
	ofProgram32[0] = ofProgram32[0].WithSymbol("ioctl32")
	is := slices.Concat(asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
		asm.LoadMem(asm.R3, asm.R2, number, asm.DWord),
		asm.JEq.Imm(asm.R3, copyRange, "mark"),
		asm.JEq.Imm(asm.R3, copyRange32, "mark"),
		asm.JEq.Imm(asm.R3, ioctl32, "ioctl32"),
		asm.JNE.Imm(asm.R3, ioctl, "out"),
	}, request(second), ofProgram32)
	for _, at := range []string{"sys_enter", "sys_exit"} {
		if err := s.attach(at, is); err != nil {
			return err
		}
	}
	return nil
}

// attach has a program note that the kernel came to a tracepoint, unless what it begins with jumps to "out".
func (s *shifts) attach(tracepoint string, begin asm.Instructions) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "mobyfs_shifts", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: tracepoint, License: "GPL",
		Instructions: slices.Concat(begin, asm.Instructions{
			asm.LoadMapValue(asm.R1, s.marks.FD(), 0).WithSymbol("mark"),
			asm.StoreImm(asm.R1, 0, 1, asm.Byte),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		}),
	})
	if err != nil {
		return err
	}
	s.programs = append(s.programs, p)
	l, err := link.AttachTracing(link.TracingOptions{Program: p, AttachType: ebpf.AttachTraceRawTp})
	if err == nil {
		s.links = append(s.links, l)
	}
	return err
}

// now counts how often it was asked and something had happened since.
func (s *shifts) now() uint64 {
	if atomic.SwapUint64((*uint64)(unsafe.Pointer(&s.memory[0])), 0) != 0 {
		s.times++
	}
	return s.times
}

func (s *shifts) close() {
	for _, l := range s.links {
		_ = l.Close()
	}
	for _, p := range s.programs {
		_ = p.Close()
	}
	if s.memory != nil {
		_ = unix.Munmap(s.memory)
	}
	if s.marks != nil {
		_ = s.marks.Close()
	}
}
