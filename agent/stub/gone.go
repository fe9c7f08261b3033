package stub

import (
	"context"

	"github.com/mobyfs/mobyfs"
)

// Gone answers a dockerd whose host has left its cluster: it has activated the driver, so it asks for the driver until
// it ends, 15 s each time nobody answers. No volume exists, nothing is mounted, and nothing can be made. Gone implements
// mobyfs.Mounter.
type Gone struct{}

var _ mobyfs.Mounter = Gone{}

// Get knows that there is no volume: Docker forgets the one that it asks for.
func (Gone) Get(_ context.Context, name string) (mobyfs.DockerVolume, error) {
	return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q on this host: mobyfs was taken off it", name)
}

// List is empty.
func (Gone) List() []mobyfs.DockerVolume { return []mobyfs.DockerVolume{} }

// Create refuses.
func (Gone) Create(_ context.Context, name string, _ map[string]string) error {
	return takenOff("create", name)
}

// Remove refuses: the cluster may have the volume, and nobody here can ask it.
func (Gone) Remove(_ context.Context, name string) error { return takenOff("remove", name) }

// Mount refuses.
func (Gone) Mount(_ context.Context, name, _ string) (string, error) {
	return "", takenOff("mount", name)
}

// Unmount is success: mobyfs leaves no host on which a container uses a volume.
func (Gone) Unmount(context.Context, string, string) error { return nil }

// Activated does nothing.
func (Gone) Activated() {}

func takenOff(verb, name string) error {
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s %q: mobyfs was taken off this host", verb, name).
		WithHint("mobyctl bootstrap puts it back; until Docker is restarted it still lists the driver")
}
