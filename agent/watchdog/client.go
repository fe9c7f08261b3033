package watchdog

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"github.com/mobyfs/mobyfs"
)

// patience is how long a message may take. A watchdog that fences answers once it is done.
const patience = 10 * time.Second

// Message is what the agent tells.
type Message struct {
	Deadline time.Duration     `json:"deadline"`          // of the session, on CLOCK_BOOTTIME; one that is lower than before is not taken
	Guard    *Volume           `json:"guard,omitempty"`   // from now on; if it is fenced, that ends
	Lost     []mobyfs.VolumeID `json:"lost,omitempty"`    // another node has these: their writing ends at once
	Release  []mobyfs.VolumeID `json:"release,omitempty"` // these are detached: nobody here can write to them
}

// Volume is one to guard.
type Volume struct {
	ID    mobyfs.VolumeID `json:"id"`
	Name  string          `json:"name"`
	Bytes string          `json:"bytes"` // the directory of which everything mounted is
}

// Answer is what the watchdog tells.
type Answer struct {
	Guarded []mobyfs.VolumeID `json:"guarded,omitempty"`
	Fenced  []mobyfs.VolumeID `json:"fenced,omitempty"` // of those, the ones that nobody here can write to any more
	Refused string            `json:"refused,omitempty"`
	Code    mobyfs.Code       `json:"code,omitempty"`
	Hint    string            `json:"hint,omitempty"`
}

// Client is the agent's end.
type Client struct{ Socket string }

// Tell gives the watchdog a message. Without an error it holds from then on.
func (c Client) Tell(ctx context.Context, m Message) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	away := func(err error) (Answer, error) {
		return Answer{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "ask the watchdog of this node: %w", err).
			WithHint("start mobyfs-watchdog.service")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return away(err)
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(end)
	}
	var a Answer
	if err := json.NewEncoder(conn).Encode(m); err != nil {
		return away(err)
	}
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return away(err)
	}
	if a.Refused != "" {
		return a, mobyfs.Errorf(a.Code, "%s", a.Refused).WithHint("%s", a.Hint)
	}
	return a, nil
}
