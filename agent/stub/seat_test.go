package stub_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent/stub"
)

// fakeAgent has one volume, and mounts it when it is let go.
type fakeAgent struct {
	mobyfs.Mounter
	activated int
}

func (a *fakeAgent) Get(context.Context, string) (mobyfs.DockerVolume, error) {
	return mobyfs.DockerVolume{Name: "pgdata", Mountpoint: "/vol/pgdata"}, nil
}

func (a *fakeAgent) Activated() { a.activated++ }

// opener opens an agent after a number of errors, each of which takes time.
type opener struct {
	errors int
	takes  time.Duration
	agent  *fakeAgent
	began  []time.Duration // of each try, since the opener was made
	since  time.Time
}

func (o *opener) open() (mobyfs.Mounter, error) {
	o.began = append(o.began, time.Since(o.since))
	time.Sleep(o.takes)
	if len(o.began) <= o.errors {
		return nil, errors.New("no space left on device")
	}
	return o.agent, nil
}

func goOn(error) bool { return true }

// isStub tells whether the seat answers as a stub.
func isStub(t *testing.T, s *stub.Seat) bool {
	t.Helper()
	_, err := s.Get(t.Context(), "pgdata")
	return mobyfs.CodeOf(err) == mobyfs.CodeUnavailable
}

func TestNobodyMeetsTheStubOfAnAgentThatOpensSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := stub.NewSeat("/nowhere"), &opener{takes: time.Second, agent: &fakeAgent{}, since: time.Now()}
		go s.Fill(t.Context(), 0, nil, o.open, goOn)
		<-s.Ready()
		if isStub(t, s) || time.Since(o.since) != time.Second {
			t.Errorf("after %v the stub answers", time.Since(o.since))
		}
	})
}

// The stub answers while the agent is opened slowly or in vain, and the agent takes over by itself.
func TestAgentTakesTheSeatWhenItCanBeOpened(t *testing.T) {
	for name, tc := range map[string]struct {
		opener
		hold  time.Duration
		ready time.Duration
		tries []time.Duration
	}{
		"it is slow":   {opener{takes: time.Minute}, 0, 2 * time.Second, []time.Duration{0}},
		"it fails":     {opener{errors: 6}, 0, 0, []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 30 * time.Second, 45 * time.Second}},
		"it crashes":   {opener{}, 8 * time.Second, 0, []time.Duration{8 * time.Second}},
		"both at once": {opener{errors: 1}, 8 * time.Second, 0, []time.Duration{8 * time.Second, 9 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, o := stub.NewSeat("/nowhere"), tc.opener
				o.agent, o.since = &fakeAgent{}, time.Now()
				filled := make(chan struct{})
				go func() {
					s.Fill(t.Context(), tc.hold, errors.New("it crashed"), o.open, goOn)
					close(filled)
				}()
				<-s.Ready()
				if took := time.Since(o.since); took != tc.ready {
					t.Errorf("Docker is let in after %v, want %v", took, tc.ready)
				}
				if !isStub(t, s) {
					t.Error("nobody opened an agent, but it answers")
				}
				<-filled
				if isStub(t, s) {
					t.Error("the agent is open, but the stub answers")
				}
				if len(o.began) != len(tc.tries) {
					t.Fatalf("tries at %v, want %v", o.began, tc.tries)
				}
				for i := range o.began {
					if o.began[i] != tc.tries[i] {
						t.Errorf("tries at %v, want %v", o.began, tc.tries)
						break
					}
				}
			})
		})
	}
}

func TestAgentHearsOfALifeOfDockerThatBeganWithTheStub(t *testing.T) {
	s, a := stub.NewSeat("/nowhere"), &fakeAgent{}
	s.Activated()
	s.Activated()
	s.Take(a)
	if a.activated != 1 {
		t.Errorf("it heard of %d lives, want 1", a.activated)
	}
	s.Activated()
	if a.activated != 2 {
		t.Errorf("it heard of %d lives, want 2", a.activated)
	}
	next := &fakeAgent{}
	s.Take(next)
	if next.activated != 0 {
		t.Error("an agent was told of a life that another one had heard of")
	}
}

func TestFillEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := stub.NewSeat("/nowhere"), &opener{errors: 1000, since: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s.Fill(ctx, 0, nil, o.open, goOn)
		if took := time.Since(o.since); took != 10*time.Second {
			t.Errorf("it ended after %v", took)
		}
	})
}
