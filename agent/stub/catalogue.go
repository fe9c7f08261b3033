package stub

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/mobyfs/mobyfs"
)

// volumeID is what the ID of a volume must look like to become part of a path.
var volumeID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// readCatalogue reads what the agent of the root knew of its cluster's volumes, by name, and changes nothing. Records
// that can't be read are left out; nil means that none could. Volumes that are being removed are left out too: their
// names may belong to others by now.
func readCatalogue(root string) map[string]mobyfs.Volume {
	data, err := os.ReadFile(filepath.Join(root, "state", "catalogue.json"))
	if err != nil {
		return nil
	}
	var file struct {
		Volumes []json.RawMessage `json:"volumes"`
	}
	if json.Unmarshal(data, &file) != nil {
		return nil
	}
	volumes := make(map[string]mobyfs.Volume, len(file.Volumes))
	for _, record := range file.Volumes {
		var v mobyfs.Volume
		if json.Unmarshal(record, &v) != nil || v.State == mobyfs.VolumeRemoving ||
			mobyfs.CheckVolumeName(v.Name) != nil || !volumeID.MatchString(string(v.ID)) {
			continue
		}
		volumes[v.Name] = v
	}
	return volumes
}

// Names lists the volumes that the agent of the root knew, as far as that can be read; none if root is empty.
func Names(root string) []string {
	if root == "" {
		return nil
	}
	return slices.Sorted(maps.Keys(readCatalogue(root)))
}
