package mobyfs

import (
	"encoding/json"
	"testing"
)

func TestNextFenceIsAlwaysHigher(t *testing.T) {
	top := Fence(1<<fenceCounter - 1)
	for _, test := range []struct {
		from  Fence
		epoch uint32
		want  Fence
		text  string
	}{
		{0, 0, 1, "1"}, {16, 0, 17, "17"},
		{16, 3, 3<<fenceCounter + 1, "3.1"},
		{3<<fenceCounter + 16, 3, 3<<fenceCounter + 17, "3.17"},
		{3<<fenceCounter + 16, 2, 3<<fenceCounter + 17, "3.17"}, // whoever still has the old epoch raises it all the same
		{top, 0, 1 << fenceCounter, "1.0"},                      // a counter that is full goes on in the next epoch
		{top, 1, 1<<fenceCounter + 1, "1.1"},
	} {
		got := test.from.Next(test.epoch)
		if got != test.want || got <= test.from || got.String() != test.text {
			t.Errorf("%v.Next(%d): got %v (%d), want %v (%d)", test.from, test.epoch, got, got, test.text, test.want)
		}
	}
}

func TestFenceOfEveryEpochIsExactInJSON(t *testing.T) {
	f := Fence(MaxEpoch)<<fenceCounter + 1<<fenceCounter - 1
	var number float64 // what readers without 64-bit integers make of it
	raw, err := json.Marshal(f)
	if err == nil {
		err = json.Unmarshal(raw, &number)
	}
	if err != nil || Fence(number) != f {
		t.Errorf("%s is read as %.0f, %v", raw, number, err)
	}
}
