package store

import "testing"

func TestMarginIsHowManyVotersMayYetBeLost(t *testing.T) {
	for _, tc := range []struct{ voters, reachable, want int }{{1, 1, 0}, {3, 3, 1}, {3, 2, 0}, {3, 1, -1}, {5, 5, 2}, {5, 2, -1}} {
		if got := (Quorum{tc.voters, tc.reachable}).Margin(); got != tc.want {
			t.Errorf("%d of %d: got %d, want %d", tc.reachable, tc.voters, got, tc.want)
		}
	}
}
