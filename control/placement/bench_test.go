//go:build bench

package placement

import (
	"testing"

	"github.com/mobyfs/mobyfs"
)

// BenchmarkChoose10kNodes is one choice among 10,000 nodes of which some are tainted, cordoned or silent.
func BenchmarkChoose10kNodes(b *testing.B) {
	f := Crowd(10_000)
	for name, spec := range map[string]mobyfs.VolumeSpec{
		"plain": {},
		"full":  {SizeBytes: 10 * gib, Zone: "z1", Apart: "g7", NodeLabels: map[string]string{"disk": "ssd"}, Tolerations: []string{"gpu"}},
	} {
		b.Run(name, func(b *testing.B) {
			q := ForNew(spec, DefaultPolicy())
			b.ReportAllocs()
			for b.Loop() {
				if Choose(f, q) == "" {
					b.Fatal("nothing fits")
				}
			}
		})
	}
}

func BenchmarkExplain10kNodes(b *testing.B) {
	f := Crowd(10_000)
	for b.Loop() {
		Explain(f, ForNew(mobyfs.VolumeSpec{}, DefaultPolicy()))
	}
}
