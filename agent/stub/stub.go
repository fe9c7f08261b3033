// Package stub answers Docker in the agent's place while there is no agent, so that dockerd is never kept waiting and
// never told that a volume does not exist which it knows.
//
// A Stub takes no call that changes anything. What it says of volumes it reads from the agent's catalogue, if that
// can be read: a name that stands there exists, and of any other nobody knows, for the catalogue may be old. Only
// where mobyfs was taken off the host for good, which is Gone, is every name known not to exist.
package stub

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend/dir"
)

// readPatience is how long a call waits for the catalogue. A disk that hangs must not make Docker hang.
const readPatience = time.Second

// Stub implements mobyfs.Mounter.
type Stub struct {
	root string

	mu      sync.Mutex
	why     error
	volumes map[string]mobyfs.Volume // by name
	reading chan struct{}            // closed when the read under way has ended; nil if there is none
}

var _ mobyfs.Mounter = (*Stub)(nil)

// New returns the Stub of the agent whose private directory is root. It knows nothing before Because is called.
func New(root string) *Stub { return &Stub{root: root} }

// Because says why there is no agent, and begins to read the catalogue anew. What was read before stays if it can't be
// read any more.
func (s *Stub) Because(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = why
	if s.reading != nil {
		return // the disk hangs; one reader is enough to notice when it does not any more
	}
	ended := make(chan struct{})
	s.reading = ended
	go func() {
		found := readCatalogue(s.root)
		s.mu.Lock()
		defer s.mu.Unlock()
		if found != nil {
			s.volumes = found
		}
		s.reading = nil
		close(ended)
	}()
}

// known returns what was read, after waiting a moment for a read that is under way.
func (s *Stub) known(ctx context.Context) (volumes map[string]mobyfs.Volume, why error) {
	s.mu.Lock()
	reading := s.reading
	s.mu.Unlock()
	if reading != nil {
		ctx, cancel := context.WithTimeout(ctx, readPatience)
		defer cancel()
		select {
		case <-reading:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes, s.why
}

// Get tells of a volume that is in the catalogue. Any other is CodeUnavailable: it may exist.
func (s *Stub) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	volumes, why := s.known(ctx)
	v, ok := volumes[name]
	if !ok {
		return mobyfs.DockerVolume{}, refuse("tell of", name, why)
	}
	return s.describe(v, why), nil
}

// List tells of the volumes in the catalogue.
func (s *Stub) List() []mobyfs.DockerVolume {
	volumes, why := s.known(context.Background())
	list := make([]mobyfs.DockerVolume, 0, len(volumes))
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		list = append(list, s.describe(volumes[name], why))
	}
	return list
}

// describe says what was known when the catalogue was written.
func (s *Stub) describe(v mobyfs.Volume, why error) mobyfs.DockerVolume {
	status := map[string]any{"node": v.Node, "state": v.Condition(), "fence": uint64(v.Fence), "stale": true}
	if v.Spec.Class != "" {
		status["class"] = v.Spec.Class
	}
	if v.Spec.SizeBytes > 0 {
		status["size"] = humanize.IBytes(uint64(v.Spec.SizeBytes))
	}
	if why != nil {
		status["problem"] = notWorking + why.Error()
	}
	return mobyfs.DockerVolume{Name: v.Name, Mountpoint: dir.PathBelow(mobyfs.BackendRoot(s.root, v.Spec.Backend), v.ID), CreatedAt: v.CreatedAt, Status: status}
}

// Create refuses.
func (s *Stub) Create(_ context.Context, name string, _ map[string]string) error {
	return s.refuse("create", name)
}

// Remove refuses: nobody can say whether the volume is in use.
func (s *Stub) Remove(_ context.Context, name string) error { return s.refuse("remove", name) }

// Mount refuses, also where the bytes are here: nobody can say whose they are now.
func (s *Stub) Mount(_ context.Context, name, _ string) (string, error) {
	return "", s.refuse("mount", name)
}

// Unmount refuses. The container ends all the same; the use stays counted until the agent, when it is back, has
// compared it with the kernel.
func (s *Stub) Unmount(_ context.Context, name, _ string) error { return s.refuse("unmount", name) }

// Activated does nothing; a Seat remembers it for the agent.
func (s *Stub) Activated() {}

func (s *Stub) refuse(verb, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return refuse(verb, name, s.why)
}

const notWorking = "mobyfs on this host is not working: "

// refuse is the error of a call that only an agent could answer.
func refuse(verb, name string, why error) error {
	if why == nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s %q: mobyfs on this host is starting", verb, name).WithHint("run it again")
	}
	err := mobyfs.Errorf(mobyfs.CodeUnavailable, "%s %q: %s%w", verb, name, notWorking, why)
	if mobyfs.HintOf(why) == "" {
		err = err.WithHint("journalctl -u mobyfs tells more")
	}
	return err
}
