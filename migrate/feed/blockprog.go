package feed

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// The program that notes each write to a device is put together here, for the offsets that the running kernel tells of itself (BTF).

const (
	coarse    = 12        // a byte of the second part of the map stands for 1<<coarse chunks
	maxLoop   = 1<<12 + 2 // chunks that one write marks one by one
	maxChunks = 4 << 20
)

// geometry is how a device is divided into chunks, each of which has a byte in the program's map. Behind them come those of the
// second part, for writes too long to mark each chunk, and one that says that a write lay outside of the device.
type geometry struct {
	dev    uint32 // as the kernel has it
	start  int64  // of a partition, in bytes
	shift  uint   // log2 of a chunk
	chunks int64
}

func newGeometry(major, minor uint32, start, size int64) geometry {
	g := geometry{dev: major<<20 | minor, start: start, shift: 12}
	for size>>g.shift >= maxChunks {
		g.shift++
	}
	g.chunks = size>>g.shift + 1
	return g
}

func (g geometry) longs() int64 { return g.chunks>>coarse + 1 }
func (g geometry) bytes() int64 { return (g.chunks+g.longs()+8)&^7 + 8 }
func (g geometry) odd() int64   { return g.chunks + g.longs() }

// layoutOf tells where the kernel keeps what the program reads.
type layoutOf struct{ arg, bdev, dev, opf, sector, size int16 }

// kernelLayout reads it out of the kernel's types. It fails before Linux 5.12, where a write did not name its device that way.
func kernelLayout() (l layoutOf, err error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return l, fmt.Errorf("the kernel's types: %w", err)
	}
	var trace *btf.Typedef
	var bio, iter, device *btf.Struct
	if err := errors.Join(spec.TypeByName("btf_trace_block_bio_queue", &trace), spec.TypeByName("bio", &bio),
		spec.TypeByName("bvec_iter", &iter), spec.TypeByName("block_device", &device)); err != nil {
		return l, fmt.Errorf("the kernel's types: %w", err)
	}
	for _, f := range []struct {
		in   *btf.Struct
		name string
		at   *int16
	}{{bio, "bi_bdev", &l.bdev}, {device, "bd_dev", &l.dev}, {bio, "bi_opf", &l.opf}, {bio, "bi_iter", &l.sector}, {iter, "bi_size", &l.size}} {
		if *f.at, err = offset(f.in, f.name); err != nil {
			return l, err
		}
	}
	l.size += l.sector
	inner, err := offset(iter, "bi_sector")
	l.sector += inner
	if err != nil {
		return l, err
	}
	l.arg = -1
	if p, ok := trace.Type.(*btf.Pointer); ok {
		if proto, ok := p.Target.(*btf.FuncProto); ok {
			for i, param := range proto.Params[1:] { // the first is the program's own
				if p, ok := param.Type.(*btf.Pointer); ok && p.Target == btf.Type(bio) {
					l.arg = int16(i)
				}
			}
		}
	}
	if l.arg < 0 {
		return l, errors.New("the kernel's types: block_bio_queue names no bio")
	}
	return l, nil
}

func offset(in *btf.Struct, name string) (int16, error) {
	for _, m := range in.Members {
		if m.Name == name && m.Offset.Bytes() < 1<<14 {
			return int16(m.Offset.Bytes()), nil
		}
	}
	return 0, fmt.Errorf("the kernel's types: %s has no %s", in.Name, name)
}

// blockProgram marks the chunks of each write to the device in the only value of the map.
func blockProgram(g geometry, l layoutOf, marks *ebpf.Map) asm.Instructions {
	bio, first, last, n, v := asm.R6, asm.R7, asm.R8, asm.R9, asm.R2
	return asm.Instructions{
		asm.LoadMem(bio, asm.R1, 8*l.arg, asm.DWord),
		asm.LoadMem(v, bio, l.bdev, asm.DWord),
		asm.LoadMem(v, v, l.dev, asm.Word),
		asm.JNE.Imm(v, int32(g.dev), "out"),
		// Writes have odd numbers; 3 and 5 discard what no file has.
		asm.LoadMem(v, bio, l.opf, asm.Word),
		asm.And.Imm(v, 0xff),
		asm.JEq.Imm(v, 3, "out"),
		asm.JEq.Imm(v, 5, "out"),
		asm.And.Imm(v, 1),
		asm.JEq.Imm(v, 0, "out"),
		asm.LoadMem(first, bio, l.sector, asm.DWord),
		asm.LoadMem(last, bio, l.size, asm.Word),
		asm.JEq.Imm(last, 0, "out"), // a flush
		asm.LSh.Imm(first, 9),
		asm.LoadImm(v, g.start, asm.DWord),
		asm.Sub.Reg(first, v),
		asm.Add.Reg(last, first),
		asm.Sub.Imm(last, 1),
		asm.RSh.Imm(first, int32(g.shift)),
		asm.RSh.Imm(last, int32(g.shift)),
		asm.LoadImm(v, g.chunks, asm.DWord),
		asm.JGE.Reg(last, v, "odd"),
		asm.Mov.Reg(n, last),
		asm.Sub.Reg(n, first),
		asm.JLT.Imm(n, 1<<coarse, "mark"),
		asm.RSh.Imm(first, coarse),
		asm.RSh.Imm(last, coarse),
		asm.Add.Imm(first, int32(g.chunks)),
		asm.Add.Imm(last, int32(g.chunks)),
		asm.Mov.Imm(n, 0).WithSymbol("mark"),
		asm.JGT.Reg(first, last, "out").WithSymbol("next"),
		asm.JGE.Imm(first, int32(g.odd()), "odd"),
		asm.LoadMapValue(v, marks.FD(), 0),
		asm.Add.Reg(v, first),
		asm.StoreImm(v, 0, 1, asm.Byte),
		asm.Add.Imm(first, 1),
		asm.Add.Imm(n, 1),
		asm.JLT.Imm(n, maxLoop, "next"),
		asm.LoadMapValue(v, marks.FD(), uint32(g.odd())).WithSymbol("odd"),
		asm.StoreImm(v, 0, 1, asm.Byte),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	}
}
