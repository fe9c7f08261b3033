//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func TestFailDoesWhatTheFileAsksFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "at")
	t.Setenv("MOBYFS_KILL_AT", path)
	ask := func(line string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	there := func() bool { _, err := os.Stat(path); return err == nil }

	if err := Fail("a.b"); err != nil {
		t.Errorf("nothing is asked for: %v", err)
	}
	ask("a.b error\n")
	if err := Fail("a.c"); err != nil || !there() {
		t.Errorf("another moment: %v", err)
	}
	if err := Fail("a.b"); !errors.Is(err, syscall.EIO) || there() {
		t.Errorf("an error is asked for: %v, still asked for: %v", err, there())
	}
	ask("a.* error always")
	if Fail("a.b") == nil || Fail("a.c") == nil || Fail("b.a") != nil || !there() {
		t.Error("a family is to fail each time, and no other")
	}
	ask("a.b stall 20ms")
	begin := time.Now()
	if err := Fail("a.b"); err != nil || time.Since(begin) < 20*time.Millisecond || there() {
		t.Errorf("a stall: %v after %v", err, time.Since(begin))
	}
	ask("a.* note always")
	if Fail("a.b") != nil || Fail("b.a") != nil || Fail("a.c") != nil || !there() {
		t.Error("notes let nothing fail, and are taken until the file is removed")
	}
	if noted, err := os.ReadFile(path + ".noted"); err != nil || string(noted) != "a.b\na.c\n" {
		t.Errorf("noted is %q (%v), want a.b and a.c", noted, err)
	}
	for _, nonsense := range []string{"", "a.b note", "a.b stall", "a.b stall soon", "a.b explode", "a.b hold 3s", "a.b hold always"} {
		ask(nonsense)
		if err := Fail("a.b"); err != nil || !there() {
			t.Errorf("%q: %v", nonsense, err)
		}
	}
}

func TestHoldTellsThatItWasReachedAndWaitsUntilLetGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "at")
	t.Setenv("MOBYFS_KILL_AT", path)
	if err := os.WriteFile(path, []byte("a.b hold"), 0o600); err != nil {
		t.Fatal(err)
	}
	passed := make(chan error, 1)
	go func() { passed <- Fail("a.b") }()
	for os.Remove(path+".held") != nil { // until it is held; then it is let go
		select {
		case err := <-passed:
			t.Fatalf("it was not held: %v", err)
		default:
			runtime.Gosched()
		}
	}
	if err := <-passed; err != nil {
		t.Errorf("it was let go: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still asked for")
	}
	if err := Fail("a.b"); err != nil {
		t.Errorf("the second time: %v", err)
	}
}

func TestWithoutNamesGuards(t *testing.T) {
	t.Setenv("MOBYFS_WITHOUT", "fence,lock-delay")
	if !Without("fence") || !Without("lock-delay") || Without("lock") {
		t.Error("the guards are fence and lock-delay")
	}
}

func TestNowIsWrongByWhatTheFileSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	t.Setenv("MOBYFS_CLOCK", path)
	for text, want := range map[string]time.Duration{"-24h\n": -24 * time.Hour, "1m": time.Minute, "soon": 0} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if off := time.Until(Now()); off < want-time.Minute/2 || off > want+time.Minute/2 {
			t.Errorf("%q: the clock is off by %v", text, off)
		}
	}
}
