//go:build bench

package movebench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"testing"
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
		return r, fmt.Errorf("%s", r.Error)
	}
	return r, nil
}

var dockerd = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", "/var/run/docker.sock")
}}}

// engine asks Docker's Engine for something that has no answer.
func engine(ctx context.Context, method, path string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := dockerd.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

const image = "movebench-empty"

// emptyImage makes an image without files; what runs in it is mounted there.
func emptyImage(t *testing.T) {
	t.Helper()
	must(t, command("sh", "-c", "tar -cf - --files-from /dev/null | docker import - "+image+" >/dev/null"))
	t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", "-f", image).Run() })
}
