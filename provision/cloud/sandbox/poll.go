package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// poll tries until it succeeds, fails for good (final) or ctx ends; then the error tells what the last try said.
func poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := try()
		var f *finalError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &f):
			return f.error
		case last == nil || ctx.Err() == nil: // what a try says that ctx cut short is of no interest
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// final makes poll give up with reason. With a nil reason it is again, which makes poll go on.
func final(reason, again error) error {
	if reason == nil {
		return again
	}
	return &finalError{reason}
}

type finalError struct{ error }
