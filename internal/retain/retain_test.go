package retain

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

func idAt(at time.Time, n uint64) string {
	var e [16]byte
	e[15] = byte(n)
	u := ulid.MustNew(ulid.Timestamp(at), nil)
	u[15] = byte(n)
	return strings.ToLower(u.String())
}

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func TestHourlyForAYearLeavesADayOfHoursAndAWeekOfDays(t *testing.T) {
	var kept []string
	for i := range 365 * 24 {
		kept = append(kept, idAt(noon.Add(time.Duration(i)*time.Hour), 0))
		gone := Surplus(kept)
		kept = slices.DeleteFunc(kept, func(id string) bool { return slices.Contains(gone, id) })
	}
	if len(kept) < hours+days-2 || len(kept) > Most {
		t.Fatalf("%d are kept", len(kept))
	}
	newest, _ := MadeAt(kept[len(kept)-1])
	oldest, _ := MadeAt(kept[0])
	if age := newest.Sub(oldest); age < 5*24*time.Hour || age > 8*24*time.Hour {
		t.Errorf("the oldest is %v older than the newest", age)
	}
}

func TestTheNewestStaysHoweverManyThereAre(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var ids []string
		for n := range r.IntN(300) + 1 {
			ids = append(ids, idAt(noon.Add(time.Duration(r.IntN(1<<20))*time.Second), uint64(n)))
		}
		gone := Surplus(ids)
		if slices.Contains(gone, slices.Max(ids)) {
			t.Fatalf("of %d the newest goes", len(ids))
		}
		if left := len(ids) - len(gone); left > Most {
			t.Fatalf("%d are kept", left)
		}
	}
}

func TestWhatIsNoBackupIsLeftAlone(t *testing.T) {
	for _, id := range []string{"", "..", "01JEXA3TQ2000000000000000A", "notes", "../../01jexa3tq2000000000000000a"} {
		if _, ok := MadeAt(id); ok || len(Surplus([]string{id})) > 0 {
			t.Errorf("%q passes for the ID of a backup", id)
		}
	}
}
