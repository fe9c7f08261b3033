package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Labels tell what belongs to a fleet. Down goes by them alone.
const (
	labelFleet  = "mobyfs.sandbox"        // on containers, volumes and networks: the name of the fleet
	labelRecipe = "mobyfs.sandbox.recipe" // on images: the hash of what they were made by
)

// docker runs one Docker command and returns what it prints. The error tells what Docker said.
func docker(ctx context.Context, args ...string) ([]byte, error) {
	return dockerWith(ctx, nil, args...)
}

// dockerWith is docker with something to read.
func dockerWith(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	return stdout.Bytes(), dockerError(ctx, args, err, stderr.String())
}

func dockerError(ctx context.Context, args []string, err error, stderr string) error {
	what := "docker " + args[0]
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") && args[0] != "exec" {
		what += " " + args[1]
	}
	said := lastWords(stderr)
	switch {
	case ctx.Err() != nil:
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s: %w", what, context.Cause(ctx))
	case errors.Is(err, exec.ErrNotFound):
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "the command docker is missing").
			WithHint("install Docker Engine: apt-get install docker.io iptables (tools/prepare.sh does it)")
	case strings.Contains(stderr, "permission denied") && strings.Contains(stderr, "docker.sock"):
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s: this user may not speak to Docker", what).
			WithHint("run this as root, or join the group: sudo usermod -aG docker $USER, and log in again")
	case strings.Contains(stderr, "Cannot connect to the Docker daemon"), strings.Contains(stderr, "error during connect"):
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s: no Docker Engine answers: %s", what, said).
			WithHint("start it: systemctl start docker, or without systemd: tools/prepare.sh")
	case said == "":
		return mobyfs.Errorf(mobyfs.CodeInternal, "%s: %w", what, err)
	}
	return mobyfs.Errorf(mobyfs.CodeInternal, "%s: %s", what, said)
}

// lastWords is why a docker command failed: what the Engine answered, or else the last line that is no advice on
// how to use the command.
func lastWords(stderr string) string {
	said := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if _, answer, ok := strings.Cut(line, "Error response from daemon: "); ok {
			return answer
		}
		if line != "" && !strings.HasPrefix(line, "See 'docker") && !strings.HasPrefix(line, "Run 'docker") {
			said = line
		}
	}
	return strings.TrimPrefix(said, "docker: ")
}

// isGone reports whether Docker said that a container, volume, network or image does not exist.
func isGone(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "no such") || strings.Contains(text, "not found")
}

// lines runs a Docker command that prints one thing a line.
func lines(ctx context.Context, args ...string) ([]string, error) {
	out, err := docker(ctx, args...)
	return strings.Fields(string(out)), err
}

// container is what docker inspect tells of a container, as far as it matters here.
type container struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status string // created, running, paused, exited, dead …
	}
	Config struct {
		Labels map[string]string
	}
}

// containers tells of all containers that a filter of docker ps picks, running or not.
func containers(ctx context.Context, filter string) ([]container, error) {
	ids, err := lines(ctx, "ps", "-aq", "--no-trunc", "--filter", filter)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	out, err := docker(ctx, append([]string{"container", "inspect"}, ids...)...)
	if err != nil && !isGone(err) { // one that went away meanwhile is left out
		return nil, err
	}
	return parseContainers(out)
}

func parseContainers(inspected []byte) ([]container, error) {
	var found []container
	if err := json.Unmarshal(inspected, &found); err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeInternal, "decode docker inspect: %w", err)
	}
	for i := range found {
		found[i].Name = strings.TrimPrefix(found[i].Name, "/")
	}
	return found, nil
}
