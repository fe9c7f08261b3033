package store

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Where the records lie. Volumes are spread over 256 shards by a hash of their ID, so that no list is ever long
// and several control processes can divide the work.
const (
	root       = "/m/"
	clusterKey = root + "cluster"
	nodeRoot   = root + "node/"
	volumeRoot = root + "vol/"
	nameRoot   = root + "name/default/" // "default" is the one tenant there is so far
	shards     = 256
)

func nodeKey(name string) string { return nodeRoot + name }

func nameKey(name string) string { return nameRoot + mobyfs.FoldName(name) }

func volumeKey(id mobyfs.VolumeID) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return fmt.Sprintf("%s%02x/%s", volumeRoot, h.Sum32()%shards, id)
}

// Ref names a record that watchers are told of. One of the two is set.
type Ref struct {
	Volume mobyfs.VolumeID
	Node   string
}

// refOf tells which record lies at a key, and whether it is one that watchers are told of.
func refOf(key string) (Ref, bool) {
	if name, ok := strings.CutPrefix(key, nodeRoot); ok {
		return Ref{Node: name}, true
	}
	if rest, ok := strings.CutPrefix(key, volumeRoot); ok {
		_, id, ok := strings.Cut(rest, "/")
		return Ref{Volume: mobyfs.VolumeID(id)}, ok
	}
	return Ref{}, false
}
