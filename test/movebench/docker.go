//go:build bench

package movebench

import (
	"encoding/json"
	"errors"
	"os/exec"
	"testing"

	"github.com/mobyfs/mobyfs/agent"
)

// childCmd is a process that plays a role and says a result at its end.
type childCmd struct{ *exec.Cmd }

// result runs the child to its end.
func (c *childCmd) result() (result, error) {
	var r result
	out, err := c.Output()
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// dockerd is asked by the agent's own client, so that a pause takes what it takes there.
var dockerd = agent.NewDocker(agent.DockerSocket, nil)

const image = "movebench-empty"

// emptyImage makes an image without files; what runs in it is mounted there.
func emptyImage(t *testing.T) {
	t.Helper()
	must(t, command("sh", "-c", "tar -cf - --files-from /dev/null | docker import - "+image+" >/dev/null"))
	t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", "-f", image).Run() })
}
