package feed

import (
	"encoding/binary"
	"reflect"
	"testing"
)

func TestCompareTellsWhatLiesElsewhere(t *testing.T) {
	const k = 4096
	for name, tc := range map[string]struct {
		old, now []extent
		want     []Range
	}{
		"nothing":              {nil, nil, nil},
		"the same":             {[]extent{{0, 4 * k, 9 * k, 0}}, []extent{{0, 2 * k, 9 * k, 0}, {2 * k, 2 * k, 11 * k, extentLast}}, nil},
		"the middle":           {[]extent{{0, 4 * k, 9 * k, 0}}, []extent{{0, k, 9 * k, 0}, {k, k, 50 * k, 0}, {2 * k, 2 * k, 11 * k, 0}}, []Range{{k, k}}},
		"a hole more":          {[]extent{{0, 4 * k, 9 * k, 0}}, []extent{{0, k, 9 * k, 0}, {3 * k, k, 12 * k, 0}}, []Range{{k, 2 * k}}},
		"a hole less":          {[]extent{{2 * k, k, 9 * k, 0}}, []extent{{0, k, 1 * k, 0}, {2 * k, k, 9 * k, 0}}, []Range{{0, k}}},
		"longer":               {[]extent{{0, k, 9 * k, 0}}, []extent{{0, 2 * k, 9 * k, 0}}, []Range{{k, k}}},
		"shorter":              {[]extent{{0, 2 * k, 9 * k, 0}}, []extent{{0, k, 9 * k, 0}}, []Range{{k, k}}},
		"written at last":      {[]extent{{0, k, 9 * k, extentUnwritten}}, []extent{{0, k, 9 * k, 0}}, []Range{{0, k}}},
		"still unwritten":      {[]extent{{0, k, 9 * k, extentUnwritten}}, []extent{{0, k, 9 * k, extentUnwritten}}, nil},
		"within the metadata":  {[]extent{{0, k, 0, 0x200}}, []extent{{0, k, 0, 0x200}}, []Range{{0, k}}},
		"moved within itself":  {[]extent{{0, k, 9 * k, 0}, {k, k, 10 * k, 0}}, []extent{{0, k, 10 * k, 0}, {k, k, 9 * k, 0}}, []Range{{0, 2 * k}}},
		"from nothing to data": {nil, []extent{{k, k, 10 * k, 0}}, []Range{{k, k}}},
	} {
		var got []Range
		compare(tc.old, tc.now, func(off, end, _ int64) { got = addRange(got, off, end) }, func(int64, int64, int64) {})
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// FuzzExtents reads any bytes as a map of extents: what is taken is in order, and a map does not differ from itself but where it is vague.
func FuzzExtents(f *testing.F) {
	b := make([]byte, fiemapHead+2*fiemapExtent)
	binary.NativeEndian.PutUint32(b[20:], 2)
	for i := range uint64(2) {
		e := b[fiemapHead+i*fiemapExtent:]
		binary.NativeEndian.PutUint64(e, i*8192)
		binary.NativeEndian.PutUint64(e[8:], i*65536)
		binary.NativeEndian.PutUint64(e[16:], 4096)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _, err := extents(b, 0)
		if err != nil {
			return
		}
		at := int64(0)
		for _, e := range list {
			if e.off < at || e.end() <= e.off {
				t.Fatalf("got %v", list)
			}
			at = e.end()
		}
		compare(list, list, func(off, end, _ int64) {
			for _, e := range list {
				if e.off <= off && end <= e.end() && e.flags&extentVague != 0 {
					return
				}
			}
			t.Errorf("%d to %d differs from itself in %v", off, end, list)
		}, func(int64, int64, int64) {})
	})
}
