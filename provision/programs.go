package provision

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision/step"
)

// Programs is where the programs that hosts get lie on this machine: in Dir, or for an architecture other than
// that of the ones there in Dir/linux-<architecture>, such as linux-arm64.
type Programs struct {
	Dir string

	mu    sync.Mutex
	found map[string]program // by path
}

// program is one on this machine.
type program struct {
	step.Program
	path    string
	machine elf.Machine
}

// machines are the architectures that hosts may have, as uname -m says them.
var machines = map[string]struct {
	machine elf.Machine
	goarch  string
}{
	"x86_64":  {elf.EM_X86_64, "amd64"},
	"aarch64": {elf.EM_AARCH64, "arm64"},
	"armv7l":  {elf.EM_ARM, "arm"},
	"riscv64": {elf.EM_RISCV, "riscv64"},
	"ppc64le": {elf.EM_PPC64, "ppc64le"},
	"s390x":   {elf.EM_S390, "s390x"},
}

// errArch says that there is no program for an architecture.
var errArch = errors.New("there is no program for the architecture")

// find returns the named program for an architecture. errArch if there is only one for another.
func (p *Programs) find(name, arch string) (program, error) {
	m, ok := machines[arch]
	if !ok {
		return program{}, fmt.Errorf("%w %s", errArch, arch)
	}
	native := filepath.Join(p.Dir, name)
	prog, err := p.open(name, native)
	if err == nil && prog.machine == m.machine {
		return prog, nil
	}
	if other, otherErr := p.open(name, filepath.Join(p.Dir, "linux-"+m.goarch, name)); otherErr == nil && other.machine == m.machine {
		return other, nil
	}
	if err != nil {
		return program{}, err
	}
	return program{}, fmt.Errorf("%w %s: %s is for %s", errArch, arch, native, archOf(prog.machine))
}

func archOf(m elf.Machine) string {
	for name, a := range machines {
		if a.machine == m {
			return name
		}
	}
	return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
}

// open reads a program once.
func (p *Programs) open(name, path string) (program, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if prog, ok := p.found[path]; ok {
		return prog, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return program{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the program %s that hosts get is not at %s", name, path).
			WithHint("build it with make build, or name its directory with --binaries")
	}
	if err != nil {
		return program{}, err
	}
	defer f.Close()
	image, err := elf.NewFile(f)
	if err != nil {
		return program{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%s is no Linux program: %w", path, err)
	}
	h := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return program{}, err
	}
	size, err := io.Copy(h, f)
	if err != nil {
		return program{}, err
	}
	prog := program{
		Program: step.Program{Name: name, SHA256: hex.EncodeToString(h.Sum(nil)), Size: size},
		path:    path, machine: image.Machine,
	}
	if p.found == nil {
		p.found = map[string]program{}
	}
	p.found[path] = prog
	return prog, nil
}
