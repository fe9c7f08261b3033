package stub

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Lasting is how long an agent must have been there for its life to count as a good one.
const Lasting = 10 * time.Second

// Starts is a record, in a file that does not outlive the machine's boot, of how many lives in a row ended in a crash
// soon after they began. A life is counted when it begins and taken back when it has lasted or ends in order.
type Starts struct{ Path string }

// startsFile is starts.json.
type startsFile struct {
	Crashes int `json:"crashes"` // as long as the last life counted has not lasted, it counts as one
}

// Begin counts a life and tells how many crashed before it. A record that can't be read counts none.
func (s Starts) Begin() (crashes int, err error) {
	var f startsFile
	if err := durable.ReadJSON(s.Path, &f); err != nil || f.Crashes < 0 {
		f.Crashes = 0
	}
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return f.Crashes, err
	}
	return f.Crashes, durable.WriteJSON("stub.starts", s.Path, startsFile{f.Crashes + 1}, 0o600)
}

// Clear forgets all crashes. It leaves no file behind.
func (s Starts) Clear() error {
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Hold tells how long a life should leave Docker to the stub after so many crashes in a row, and why. Two are
// forgiven: the calls that wait in the socket meanwhile wait for a fraction of a second.
func Hold(crashes int) (time.Duration, error) {
	const forgiven, most = 2, 30 * time.Second
	if crashes <= forgiven {
		return 0, nil
	}
	hold := most
	if doubled := crashes - forgiven - 1; doubled < 5 {
		hold = time.Second << doubled
	}
	return hold, mobyfs.Errorf(mobyfs.CodeUnavailable, "it crashed %d times soon after its start and is tried again in %v", crashes, hold).
		WithHint("journalctl -u mobyfs tells why")
}
