package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestWaitReturnsWhenTheProcessEnds(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	life, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err := Parse(life.String()); err != nil || parsed != life {
		t.Errorf("%v reads back as %v, %v", life, parsed, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := life.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it lives: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- life.Wait(t.Context()) }()
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after its end: %v", err)
	}
	if err := life.Wait(t.Context()); err != nil {
		t.Errorf("asked after its end: %v", err)
	}
}

// The test's own process has the ID but began at another time.
func TestWaitTakesNoOtherProcessForIt(t *testing.T) {
	life, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	life.Began++
	if err := life.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestParseRefusesWhatIsNoLife(t *testing.T) {
	for _, text := range []string{"", "812", "@5", "812@", "0@5", "-1@5", "812@-5", "x@y"} {
		if l, err := Parse(text); err == nil {
			t.Errorf("%q was read as %v", text, l)
		}
	}
}
