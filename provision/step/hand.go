package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mobyfs/mobyfs/internal/discovery"
)

// Hand is the installer's end on the host: it reads what is desired as a line of JSON, prints events as lines of
// JSON, and reads an Answer for each event that asks.
type Hand struct {
	Root    string // stands in front of every path; "" but in tests
	Systemd Systemd
	Command func(ctx context.Context, name string, args ...string) error
	Probe   func(ctx context.Context, e discovery.Endpoint) error
}

// ErrAlone ends the work when nobody hears of it any more.
var ErrAlone = errors.New("whoever asked for this is gone")

// ReadDesired reads one Desired, and refuses what this version does not understand.
func ReadDesired(in *json.Decoder) (Desired, error) {
	var d Desired
	in.DisallowUnknownFields()
	if err := in.Decode(&d); err != nil {
		return d, fmt.Errorf("read what is desired: %w", err)
	}
	return d, nil
}

// Apply makes the host what is desired. It holds the host's lock meanwhile, and stops after the step under way when
// stdin ends: then whoever asked is gone, and runs it again some day.
func (h Hand) Apply(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	events := json.NewEncoder(stdout)
	say := func(e Event) { _ = events.Encode(e) } // who does not hear us has closed our stdin too
	in := json.NewDecoder(stdin)
	desired, err := ReadDesired(in)
	if err != nil {
		return err
	}
	lock, err := h.lock(ctx, desired.By)
	if locked := (*LockedError)(nil); errors.As(err, &locked) {
		say(Event{Step: "lock", State: StateFailed, Error: &Failure{Code: CodeLocked, Text: err.Error()}})
		return err
	}
	if err != nil {
		return err
	}
	err = h.applyLocked(ctx, desired, in, say)
	return errors.Join(err, lock.Release())
}

// lockWait is how long the lock is waited for: an earlier run whose caller was killed needs a moment to notice.
const lockWait = 3 * time.Second

func (h Hand) lock(ctx context.Context, by string) (*Lock, error) {
	until := time.Now().Add(lockWait)
	for {
		lock, err := TakeLock(h.Root, by)
		if locked := (*LockedError)(nil); !errors.As(err, &locked) || time.Now().After(until) {
			return lock, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (h Hand) applyLocked(ctx context.Context, desired Desired, in *json.Decoder, say func(Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answers := make(chan Answer)
	go func() {
		for {
			var a Answer
			if err := in.Decode(&a); err != nil {
				cancel(ErrAlone)
				return
			}
			select {
			case answers <- a:
			case <-ctx.Done():
				return
			}
		}
	}()
	facts, err := Gather(ctx, h.Root, desired.Ports...)
	if err != nil {
		return err
	}
	run := &Run{
		Desired: desired, Facts: facts, Root: h.Root, Systemd: h.Systemd, Say: say, Command: h.Command, Probe: h.Probe,
		Sign: func(ctx context.Context, role string, csr []byte) (Answer, error) {
			say(Event{Step: "certificate", State: StateAsks, Role: role, CSR: string(csr)})
			select {
			case a := <-answers:
				if a.Error != "" {
					return a, errors.New(a.Error)
				}
				return a, nil
			case <-ctx.Done():
				return Answer{}, context.Cause(ctx)
			}
		},
	}
	return run.Apply(ctx)
}
