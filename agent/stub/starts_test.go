package stub_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/agent/stub"
)

func begin(t *testing.T, s stub.Starts) (crashes int) {
	t.Helper()
	crashes, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	return crashes
}

func TestC91LivesThatCrashSoonLeaveDockerToTheStubForLonger(t *testing.T) {
	s := stub.Starts{Path: filepath.Join(t.TempDir(), "mobyfs", "starts.json")}
	var holds []time.Duration
	for range 10 {
		hold, why := stub.Hold(begin(t, s))
		if (hold > 0) != (why != nil) {
			t.Errorf("hold %v because of %v", hold, why)
		}
		holds = append(holds, hold)
	}
	second := time.Second
	if d := cmp.Diff([]time.Duration{0, 0, 0, second, 2 * second, 4 * second, 8 * second, 16 * second, 30 * second, 30 * second}, holds); d != "" {
		t.Error(d)
	}
}

// Restarts and upgrades are no crashes, and neither is the end of a life that has lasted.
func TestLifeThatIsTakenBackIsNoCrash(t *testing.T) {
	s := stub.Starts{Path: filepath.Join(t.TempDir(), "starts.json")}
	for range 5 {
		begin(t, s)
	}
	for range 2 {
		if err := s.Clear(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.Path); !os.IsNotExist(err) {
		t.Errorf("the record is still there: %v", err)
	}
	if n := begin(t, s); n != 0 {
		t.Errorf("%d crashes, want none", n)
	}
}

func TestRecordThatCannotBeReadCountsNoCrash(t *testing.T) {
	s := stub.Starts{Path: filepath.Join(t.TempDir(), "starts.json")}
	for _, text := range []string{"", "{", `{"crashes":-3}`, `{"crashes":"x"}`, "[]"} {
		if err := os.WriteFile(s.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := begin(t, s); n != 0 {
			t.Errorf("%q was read as %d crashes", text, n)
		}
		if n := begin(t, s); n != 1 {
			t.Errorf("after %q a crash counts as %d", text, n)
		}
	}
}
