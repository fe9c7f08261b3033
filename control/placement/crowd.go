//go:build bench

package placement

import (
	"fmt"

	"github.com/mobyfs/mobyfs"
)

// Crowd is a field of n nodes for measurements: of five zones and two kinds of disks, one of ten tainted, of twenty
// cordoned, of thirty silent, each with a hundred volumes, of which one belongs to a group.
func Crowd(n int) *Field {
	f := NewField()
	for i := range n {
		node := mobyfs.Node{
			Name: fmt.Sprintf("n%05d", i), Ready: i%30 != 0, Zone: fmt.Sprintf("z%d", i%5), Version: "v1.0.0",
			Capacity: mobyfs.Capacity{TotalBytes: 10 << 40, FreeBytes: int64(4+i%5) << 40},
			Labels:   map[string]string{"disk": [...]string{"ssd", "hdd"}[i%2]},
		}
		if i%10 == 0 {
			node.Taints = []mobyfs.Taint{{Key: "gpu", Effect: mobyfs.TaintNoPlace}}
		}
		if i%20 == 7 {
			node.Availability = mobyfs.NodeCordoned
		}
		f.Set(node)
		for j := range 100 {
			v := mobyfs.Volume{Node: node.Name, State: mobyfs.VolumeReady, Spec: mobyfs.VolumeSpec{SizeBytes: 10 << 30}, UsedBytes: int64(i*j%7) << 30}
			if j == 0 {
				v.Spec.Apart = fmt.Sprintf("g%d", i%1000)
			}
			f.Add(v)
		}
	}
	return f
}
