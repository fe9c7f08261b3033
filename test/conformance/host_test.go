package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// host is one with an engine to try.
type host struct {
	name, engine string

	mu        sync.Mutex
	recording bool
}

// sh runs a shell line on the host, which must succeed, and returns its trimmed stdout.
func (h *host) sh(t *testing.T, line string, args ...any) string {
	t.Helper()
	if len(args) > 0 {
		line = fmt.Sprintf(line, args...)
	}
	return the.Sh(t, h.name, line)
}

// try runs a shell line.
func (h *host) try(t *testing.T, line string, args ...any) fleet.Result {
	t.Helper()
	return the.TryOn(t, h.name, "sh", "-c", fmt.Sprintf(line, args...))
}

// docker runs a docker command that must succeed.
func (h *host) docker(t *testing.T, args ...string) string {
	t.Helper()
	return the.On(t, h.name, append([]string{"docker"}, args...)...)
}

func (h *host) tryDocker(t *testing.T, args ...string) fleet.Result {
	t.Helper()
	return the.TryOn(t, h.name, append([]string{"docker"}, args...)...)
}

// volume is a name that no other test has. The volume, if one is made, and its containers on all hosts go with the test.
func (h *host) volume(t *testing.T, prefix string) string {
	t.Helper()
	name := prefix + "-" + h.name
	t.Cleanup(func() { h.remove(t, name) })
	return name
}

// remove takes a volume away, and its containers from this host.
func (h *host) remove(t *testing.T, name string) {
	t.Helper()
	h.sh(t, "docker ps -aq --filter volume=%[1]s | xargs -r docker rm -f; docker volume rm -f %[1]s || true", name)
	fleet.Eventually(t, 60*time.Second, func() string {
		if s := h.wire(t, 1, h.asDocker("VolumeDriver.Remove", args("Name", name)))[0]; s.Body != `{"Err":""}`+"\n" {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
}

// start runs a container that stays, with a volume at /data.
func (h *host) start(t *testing.T, container, volume string, more ...string) {
	t.Helper()
	t.Cleanup(func() { h.tryDocker(t, "rm", "-fv", container) })
	args := append([]string{"run", "-d", "--name", container, "-v", volume + ":/data", "--volume-driver=mobyfs"}, more...)
	h.docker(t, append(args, "busybox", "sh", "-c", "echo started >> /data/log; trap 'exit 0' TERM; while :; do sleep 0.2; done")...)
	fleet.Eventually(t, 60*time.Second, func() string { return h.started(t, container, 1) })
}

// started says what is missing until a container has started n times on the same data.
func (h *host) started(t *testing.T, container string, n int) string {
	t.Helper()
	r := h.tryDocker(t, "exec", container, "cat", "/data/log")
	if got := strings.Count(r.Stdout, "started"); got != n {
		return fmt.Sprintf("%s has started %d times, want %d: %v", container, got, n, r)
	}
	return ""
}

// uses reads how often a volume is counted as used, by the ID of the mount, from what the agent has on disk.
func (h *host) uses(t *testing.T, volume string) map[string]int {
	t.Helper()
	var entries map[string]struct {
		Name string         `json:"name"`
		Uses map[string]int `json:"uses"`
	}
	text := h.sh(t, "cat /var/lib/mobyfs/state/mounts.json 2>/dev/null || echo {}")
	if err := json.Unmarshal([]byte(text), &entries); err != nil {
		t.Fatalf("%s: %v in %s", h.name, err, text)
	}
	for _, e := range entries {
		if e.Name == volume {
			return e.Uses
		}
	}
	return nil
}

// hasUses fails unless the volume is counted as used so often, by so many IDs at once.
func (h *host) hasUses(t *testing.T, volume string, want int) {
	t.Helper()
	if got := h.uses(t, volume); len(got) != want {
		t.Errorf("%s on %s is counted as used by %v, want %d", volume, h.name, got, want)
	}
}

// noUses waits until nothing is counted any more, as promised within a minute, and the lease has been given back.
func (h *host) noUses(t *testing.T, volume string) {
	t.Helper()
	fleet.Eventually(t, 60*time.Second, func() string {
		if uses := h.uses(t, volume); len(uses) > 0 {
			return fmt.Sprintf("%s on %s is counted as used by %v", volume, h.name, uses)
		}
		return ""
	})
	free(t, volume)
}

// free waits until nobody has the lease of a volume, or the volume is gone.
func free(t *testing.T, volume string) {
	t.Helper()
	fleet.Eventually(t, 60*time.Second, func() string {
		r := the.Try(t, "volume", "inspect", volume, "-o", "json")
		if r.Code == 0 && strings.Contains(r.Stdout, `"lease"`) {
			return "the lease is still held: " + r.Stdout
		}
		return ""
	})
}

// exists tells whether the cluster has a volume of that name.
func exists(t *testing.T, volume string) bool {
	t.Helper()
	return the.Try(t, "volume", "inspect", volume).Code == 0
}

// socket is where dockerd finds the driver, behind where the driver listens while a recorder stands in front.
const (
	socket = "/run/docker/plugins/mobyfs.sock"
	behind = "/run/mobyfs-behind.sock"
	logged = "/run/recorder.log"
)

// direct makes sure that the driver itself answers at the socket.
func (h *host) direct(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.recording {
		return
	}
	h.sh(t, `systemctl stop recorder; rm -r /etc/systemd/system/mobyfs.socket.d
		systemctl stop mobyfs mobyfs.socket; systemctl daemon-reload; systemctl start mobyfs.socket mobyfs`)
	h.recording = false
}

// record makes sure that all that dockerd asks the driver is written down.
func (h *host) record(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recording {
		return
	}
	h.sh(t, `mkdir -p /etc/systemd/system/mobyfs.socket.d
		printf '[Socket]\nListenStream=\nListenStream=%s\n' > /etc/systemd/system/mobyfs.socket.d/behind.conf
		systemctl stop mobyfs mobyfs.socket; systemctl daemon-reload; systemctl start mobyfs.socket mobyfs`, behind)
	h.startRecorder(t)
	h.recording = true
}

func (h *host) startRecorder(t *testing.T) {
	t.Helper()
	h.sh(t, `systemctl reset-failed recorder 2>/dev/null
		systemd-run -q --unit=recorder -p Before=docker.service hosttool record %s %s %s
		for i in $(seq 50); do [ "$(systemctl is-active recorder)" = active ] && [ -S %[1]s ] && exit 0; sleep 0.1; done; exit 1`, socket, behind, logged)
}

// call is what dockerd asked, and what it was told.
type call struct {
	Call, Name, ID string
	Opts           map[string]string
	Err            string
	Status         int
	Began          time.Time
	Took           int // ms
}

// recorded lists all that dockerd asked.
func (h *host) recorded(t *testing.T) []call {
	t.Helper()
	var calls []call
	for line := range strings.Lines(h.sh(t, "cat %s", logged)) {
		var c call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("the recorder wrote %q: %v", line, err)
		}
		calls = append(calls, c)
	}
	return calls
}

// calls lists what dockerd asked about a volume, or about none: "".
func (h *host) calls(t *testing.T, volume string) []call {
	t.Helper()
	return slices.DeleteFunc(h.recorded(t), func(c call) bool { return c.Name != volume })
}

// changes are the calls about a volume that change something, in order and without IDs: "Create Mount Unmount".
func (h *host) changes(t *testing.T, volume string) string {
	t.Helper()
	var names []string
	for _, c := range h.calls(t, volume) {
		if c.Call != "Get" {
			names = append(names, c.Call)
		}
	}
	return strings.Join(names, " ")
}

// deny makes the recorder tell Docker that there is no such volume, until the function that it returns is called.
func (h *host) deny(t *testing.T, volume string) (admit func()) {
	t.Helper()
	h.sh(t, "echo %s >> %s.deny", volume, logged)
	return func() { h.sh(t, "sed -i '/^%s$/d' %s.deny", volume, logged) }
}

// mustBe compares what was asked for with what came.
func mustBe(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// list is all volumes of the cluster, as mobyctl tells them.
func list(t *testing.T) string {
	t.Helper()
	return the.Ctl(t, "volume", "ls", "-o", "json")
}

// names of the volumes that Docker on the host lists as the driver's.
func (h *host) names(t *testing.T) []string {
	t.Helper()
	names := strings.Fields(h.docker(t, "volume", "ls", "-q", "--filter", "driver=mobyfs"))
	slices.Sort(names)
	return names
}
