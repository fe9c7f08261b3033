package shared

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// fencePrefix begins the names of the files that are fences.
const fencePrefix = "fence."

// pass raises the fence beside the bytes of a volume, or refuses one that is lower than the highest.
func (b *Backend) pass(id mobyfs.VolumeID, fence mobyfs.Fence, doing string) (*dir.Backend, error) {
	if err := dir.CheckVolume(id); err != nil {
		return nil, err
	}
	in, err := b.open()
	if err != nil {
		return nil, err
	}
	if err := b.checkFence(id, fence, doing); err != nil {
		return nil, err
	}
	return in, b.raise(id, fence, doing)
}

// raise makes the fence durable beside the bytes, with this node's mark in it, and then looks whether it is the highest.
// Killed between the two, it is one that was seen.
func (b *Backend) raise(id mobyfs.VolumeID, fence mobyfs.Fence, doing string) error {
	name := filepath.Join(b.volume(id), fencePrefix+fmt.Sprintf("%020d", uint64(fence)))
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		mark, err := b.mark()
		if err == nil {
			err = durable.WriteFile("shared.fence", name, mark, 0o600)
		}
		if err != nil {
			return fmt.Errorf("%s volume %s: write its fence: %w", doing, id, err)
		}
	}
	if err := b.checkFence(id, fence, doing); err != nil {
		return err
	}
	b.forgetBelow(id, fence)
	return nil
}

// checkFence is CodeStaleFence if a higher fence lies beside the bytes, CodeNotFound if there are no bytes.
func (b *Backend) checkFence(id mobyfs.VolumeID, fence mobyfs.Fence, doing string) error {
	highest, err := b.highest(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return mobyfs.Errorf(mobyfs.CodeNotFound, "%s volume %s: it is not in the shared directory", doing, id)
	case err != nil:
		return fmt.Errorf("%s volume %s: %w", doing, id, err)
	case fence < highest && !failpoint.Without("fence"):
		return mobyfs.Errorf(mobyfs.CodeStaleFence, "%s volume %s: fence %d is older than %d, which some node has seen", doing, id, fence, highest)
	}
	return nil
}

// highest is the highest fence that lies beside the bytes as a file, 0 if none does.
func (b *Backend) highest(id mobyfs.VolumeID) (mobyfs.Fence, error) {
	fences, err := b.fences(id)
	return top(fences), err
}

// top is the highest of some fences, 0 if there is none.
func top(fences map[mobyfs.Fence]string) (highest mobyfs.Fence) {
	for f := range fences {
		highest = max(highest, f)
	}
	return highest
}

// fences are the fences that lie beside the bytes, with the names of their files.
func (b *Backend) fences(id mobyfs.VolumeID) (map[mobyfs.Fence]string, error) {
	entries, err := os.ReadDir(b.volume(id))
	if err != nil {
		return nil, err
	}
	fences := map[mobyfs.Fence]string{}
	for _, e := range entries {
		if number, ok := strings.CutPrefix(e.Name(), fencePrefix); ok {
			if f, err := strconv.ParseUint(number, 10, 64); err == nil {
				fences[mobyfs.Fence(f)] = e.Name()
			}
		}
	}
	return fences, nil
}

// forgetBelow removes the files of lower fences. One that stays says nothing that the highest does not.
func (b *Backend) forgetBelow(id mobyfs.VolumeID, fence mobyfs.Fence) {
	fences, _ := b.fences(id)
	for f, name := range fences {
		if f < fence {
			_ = os.Remove(filepath.Join(b.volume(id), name))
		}
	}
}

// mark is what this node writes into its fences, so that it can tell them from those of others. It is made up when it is
// first needed.
func (b *Backend) mark() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := filepath.Join(b.local, ".mark")
	mark, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		mark = []byte(rand.Text())
		err = durable.WriteFile("shared.mark", path, mark, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("read or make the mark of this node: %w", err)
	}
	return mark, nil
}

// raisedLast reports whether the highest fence beside the bytes may be this node's: it bears its mark or none, or there is
// no fence.
func (b *Backend) raisedLast(id mobyfs.VolumeID, mark []byte) (bool, error) {
	fences, err := b.fences(id)
	if err != nil || len(fences) == 0 {
		return true, err
	}
	found, err := os.ReadFile(filepath.Join(b.volume(id), fences[top(fences)]))
	return len(found) == 0 || bytes.Equal(found, mark), err
}

func (b *Backend) volume(id mobyfs.VolumeID) string {
	return filepath.Join(b.root, "volumes", string(id))
}
