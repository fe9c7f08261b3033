// Package placement chooses the node for a volume and says of every node why it was chosen or not. It is pure: the
// same question gets the same answer.
package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
)

// Candidate is a node and what it owes already.
type Candidate struct {
	Node          mobyfs.Node
	PromisedBytes int64 // to volumes that are there or on their way, and not yet used by them
}

// room is what the node can promise to more volumes, in bytes; negative if it has promised too much.
func (c Candidate) room() int64 { return c.Node.Capacity.FreeBytes - c.PromisedBytes }

// Verdict says of one node whether it can take the volume, and why, in words.
type Verdict struct {
	Node   string
	Fits   bool
	Reason string
}

// Judge says whether a node can take a volume that needs so many bytes. It must be ready, and have that room
// beside what it has promised.
func Judge(c Candidate, needBytes int64) Verdict {
	v := Verdict{Node: c.Node.Name}
	switch room := c.room(); {
	case c.Node.Use() != mobyfs.NodeActive:
		v.Reason = string(c.Node.Use())
	case !c.Node.Ready:
		v.Reason = "not ready"
	case c.Node.Capacity.TotalBytes <= 0:
		v.Reason = "has not told its capacity"
	case room < needBytes || room <= 0:
		v.Reason = fmt.Sprintf("%s free for new volumes, %s needed", bytes(max(room, 0)), bytes(needBytes))
	default:
		v.Fits = true
		v.Reason = fmt.Sprintf("%s free for new volumes", bytes(room))
	}
	return v
}

// Choose picks the node that has most room among those that fit; of equal ones that with fewer volumes, then the
// first by name. The node is empty if none fits. The verdicts are in the order of preference.
func Choose(candidates []Candidate, needBytes int64) (node string, verdicts []Verdict) {
	ranked := slices.SortedFunc(slices.Values(candidates), func(a, b Candidate) int {
		return cmp.Or(
			cmp.Compare(b.room(), a.room()),
			cmp.Compare(a.Node.Volumes, b.Node.Volumes),
			strings.Compare(a.Node.Name, b.Node.Name))
	})
	for _, c := range ranked {
		v := Judge(c, needBytes)
		if v.Fits && node == "" {
			node = v.Node
		}
		verdicts = append(verdicts, v)
	}
	return node, verdicts
}

// Explain puts verdicts into one line.
func Explain(verdicts []Verdict) string {
	if len(verdicts) == 0 {
		return "no node has joined the cluster"
	}
	parts := make([]string, len(verdicts))
	for i, v := range verdicts {
		parts[i] = v.Node + ": " + v.Reason
	}
	return strings.Join(parts, "; ")
}

// Owes tells what a volume makes nodes owe: its home the part of the promised size that it does not use yet, and the node
// to which it moves all of it, for it uses nothing there yet.
func Owes(v mobyfs.Volume, each func(node string, bytes int64)) {
	if v.State != mobyfs.VolumeRemoving {
		each(v.Node, max(v.Spec.SizeBytes-v.UsedBytes, 0))
	}
	if v.Migration != nil {
		each(v.Migration.To, Need(v))
	}
}

// Promised adds up what each node owes.
func Promised(volumes []mobyfs.Volume) map[string]int64 {
	owed := map[string]int64{}
	for _, v := range volumes {
		Owes(v, func(node string, bytes int64) { owed[node] += bytes })
	}
	return owed
}

// Need is the room that a volume takes on a node to which it moves, in bytes.
func Need(v mobyfs.Volume) int64 { return max(v.Spec.SizeBytes, v.UsedBytes) }

func bytes(n int64) string { return humanize.IBytes(uint64(n)) }
