package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// TestFollowingGoesOnWhereControlWasLost: an event that comes twice is told once.
func TestFollowingGoesOnWhereControlWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []mobyfs.Event{{ID: "a", Revision: 5}, {ID: "b", Revision: 7}, {ID: "c", Revision: 7}, {ID: "d", Revision: 9}}
		cuts := []int{2, 3, 4} // how many have come when the connection breaks
		var asked []int64
		from := func(_ context.Context, since int64, each func(mobyfs.Event) error, _ func(api.Complete) error) error {
			asked = append(asked, since)
			if len(cuts) == 0 {
				return errors.New("no more")
			}
			for _, e := range all[:cuts[0]] {
				if e.Revision >= since {
					if err := each(e); err != nil {
						return err
					}
				}
			}
			cuts = cuts[1:]
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "the connection broke")
		}
		var told []string
		err := tellEvents(t.Context(), from, 0, true, func(e mobyfs.Event) error { told = append(told, e.ID); return nil })
		if err == nil || err.Error() != "no more" {
			t.Errorf("it ended with %v", err)
		}
		if want := []string{"a", "b", "c", "d"}; !slices.Equal(told, want) {
			t.Errorf("told are %v, want %v", told, want)
		}
		if want := []int64{0, 7, 7, 9}; !slices.Equal(asked, want) {
			t.Errorf("it asked from %v on, want %v", asked, want)
		}
	})
}
