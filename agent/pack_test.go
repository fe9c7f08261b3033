package agent

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

const someID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// inspectOf is what dockerd tells of a container, with some of its parts replaced.
func inspectOf(replace ...string) string {
	return strings.NewReplacer(replace...).Replace(`{
	"Id": "` + someID + `", "Name": "/db", "Image": "sha256:aa", "State": {"Status": "paused", "Running": true, "Paused": true, "Pid": 4711},
	"Config": {"Image": "postgres:16", "Hostname": "0123456789ab", "Env": ["PGDATA=/d"], "Labels": {"a": "b"}, "StopTimeout": 90, "MacAddress": "02:42:ac:11:00:02"},
	"HostConfig": {"Binds": ["pgdata:/d", "/etc/localtime:/etc/localtime:ro"], "NetworkMode": "shop", "Memory": 9007199254740993,
		"RestartPolicy": {"Name": "always"}, "Mounts": [{"Type": "volume", "Source": "pgdata", "Target": "/e"}], "ContainerIDFile": "/x"},
	"Mounts": [{"Type": "volume", "Name": "pgdata", "Source": "/v", "Destination": "/d", "Driver": "mobyfs"},
		{"Type": "bind", "Source": "/etc/localtime", "Destination": "/etc/localtime"}],
	"NetworkSettings": {"Networks": {"shop": {"IPAMConfig": {"IPv4Address": "10.1.2.3"}, "Aliases": ["db", "0123456789ab"], "IPAddress": "10.1.2.3"}}}}`)
}

func TestPackKeepsHowAContainerWasMade(t *testing.T) {
	p, err := pack([]byte(inspectOf()), "pgdata")
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(p.Body, &got); err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal([]byte(`{"Image": "postgres:16", "Env": ["PGDATA=/d"], "Labels": {"a": "b"}, "StopTimeout": 90,
		"HostConfig": {"Binds": ["pgdata:/d:nocopy", "/etc/localtime:/etc/localtime:ro"], "NetworkMode": "shop", "Memory": 9007199254740993,
			"RestartPolicy": {"Name": "always"}, "Mounts": [{"Type": "volume", "Source": "pgdata", "Target": "/e", "VolumeOptions": {"NoCopy": true}}]},
		"NetworkingConfig": {"EndpointsConfig": {"shop": {"IPAMConfig": {"IPv4Address": "10.1.2.3"}, "Aliases": ["db"]}}}}`), &want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if !strings.Contains(string(p.Body), "9007199254740993") {
		t.Error("a number was rounded")
	}
	if p.Name != "db" || len(p.Cannot)+len(p.Others) != 0 || !slices.Equal(p.Binds, []string{"/etc/localtime"}) || !slices.Equal(p.Network, []string{"shop"}) {
		t.Errorf("got %+v", p)
	}
}

func TestPackSaysWhatWouldStayBehind(t *testing.T) {
	for _, c := range []struct{ old, new, cannot, others, runner string }{
		{old: `"Driver": "mobyfs"}`, new: `"Driver": "mobyfs"}, {"Type": "volume", "Name": "wal", "Driver": "mobyfs"}`, others: "wal"},
		{old: `"Driver": "mobyfs"}`, new: `"Driver": "mobyfs"}, {"Type": "volume", "Name": "scratch", "Driver": "local"}`, cannot: "scratch"},
		{old: `"NetworkMode": "shop"`, new: `"NetworkMode": "container:abc"`, cannot: "network of another"},
		{old: `"NetworkMode": "shop"`, new: `"NetworkMode": "shop", "Links": ["/x:/db/x"]`, cannot: "linked"},
		{old: `"a": "b"`, new: `"com.docker.swarm.task.id": "b"`, runner: "Swarm"},
		{old: `"a": "b"`, new: `"com.docker.compose.project": "b"`, runner: "Compose"},
	} {
		p, err := pack([]byte(inspectOf(c.old, c.new)), "pgdata")
		if err != nil {
			t.Fatal(err)
		}
		cannot, others := strings.Join(p.Cannot, ";"), strings.Join(p.Others, ";")
		if !strings.Contains(cannot, c.cannot) || (cannot == "") != (c.cannot == "") || others != c.others || p.Runner != c.runner {
			t.Errorf("%s: got %q, %q, %q", c.new, cannot, others, p.Runner)
		}
	}
}

// answering is a dockerd that answers as the calls of a test want it, and notes them.
func answering(t *testing.T, answer func(call string) (int, string)) (*Docker, *[]string) {
	var calls []string
	return playing(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := r.Method + " " + r.URL.Path
		calls = append(calls, call)
		status, body := answer(call)
		w.WriteHeader(status)
		if status != http.StatusNoContent && status != http.StatusNotModified {
			fmt.Fprint(w, body)
		}
	})), &calls
}

// playing is a dockerd that answers as the test says.
func playing(t *testing.T, serve http.Handler) *Docker {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: serve}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return NewDocker(socket, nil)
}

func TestDockerKillKeepsAContainerFromComingBack(t *testing.T) {
	d, calls := answering(t, func(call string) (int, string) {
		switch {
		case strings.HasSuffix(call, "/kill"):
			return 409, `{"message": "it is not running"}` // it was ended by a kill before
		case strings.HasSuffix(call, "/json"):
			return 200, inspectOf(`"Running": true`, `"Running": false`)
		}
		return 200, "{}"
	})
	policy, err := d.Kill(t.Context(), "db")
	if err != nil || policy != "always" {
		t.Errorf("got %q, %v", policy, err)
	}
	want := []string{"POST /containers/db/kill", "GET /containers/db/json", "POST /containers/db/update"}
	if diff := cmp.Diff(want, *calls); diff != "" {
		t.Error(diff)
	}
	running, _ := answering(t, func(call string) (int, string) { return 200, inspectOf() })
	if _, err := running.Kill(t.Context(), "db"); err == nil {
		t.Error("a container that runs on was called killed")
	}
	gone, _ := answering(t, func(call string) (int, string) { return 404, `{"message": "No such container"}` })
	if _, err := gone.Kill(t.Context(), "db"); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestDockerUnpauseOfWhatIsNotPausedIsFine(t *testing.T) {
	for _, paused := range []bool{false, true} {
		d, _ := answering(t, func(call string) (int, string) {
			if strings.HasSuffix(call, "/json") {
				return 200, inspectOf(`"Paused": true`, fmt.Sprintf(`"Paused": %v`, paused))
			}
			return 500, `{"message": "Container is not paused"}`
		})
		if err := d.Unpause(t.Context(), "db"); (err != nil) != paused {
			t.Errorf("paused %v: got %v", paused, err)
		}
	}
}

func TestDockerMakesAContainerOnce(t *testing.T) {
	p := Packed{Name: "db", Volume: "pgdata", Body: json.RawMessage(`{"Image": "x"}`)}
	for _, c := range []struct {
		what, inspect string
		made          bool
		code          mobyfs.Code
	}{
		{"none there", "", true, ""},
		{"made by an earlier life", inspectOf(`"a": "b"`, `"io.mobyfs.migration": "m1"`, `"paused"`, `"created"`), false, ""},
		{"made for a migration that came to nothing", inspectOf(`"a": "b"`, `"io.mobyfs.migration": "m0"`, `"paused"`, `"created"`), true, ""},
		{"somebody's own", inspectOf(), false, mobyfs.CodeExists},
		{"came with a migration before, and runs", inspectOf(`"a": "b"`, `"io.mobyfs.migration": "m0"`), false, mobyfs.CodeExists},
	} {
		made := false
		d, _ := answering(t, func(call string) (int, string) {
			switch {
			case strings.HasSuffix(call, "/create"):
				made = true
				return 201, `{"Id": "new"}`
			case strings.HasSuffix(call, "/json") && c.inspect == "":
				return 404, `{"message": "No such container"}`
			case strings.HasSuffix(call, "/json"):
				return 200, c.inspect
			}
			return 204, ""
		})
		if _, err := d.Make(t.Context(), p, "m1"); mobyfs.CodeOf(err) != c.code || made != c.made {
			t.Errorf("%s: made %v, %v", c.what, made, err)
		}
	}
}

func TestDockerChecksBeforeAnythingIsMade(t *testing.T) {
	p := Packed{Name: "db", Network: []string{"shop"}, Image: Image{Name: "postgres:16", ID: "sha256:aa"}}
	for _, c := range []struct {
		what, missing string
		change        func(p *Packed)
		want          string
	}{
		{"all there", "/containers/", nil, ""},
		{"no network", "/networks/", nil, "docker network create shop"},
		{"a container of that name", "none", nil, "rename or remove it"},
		{"another volume", "/containers/", func(p *Packed) { p.Others = []string{"wal"} }, "wal"},
		{"a path that is not here", "/containers/", func(p *Packed) { p.Binds = []string{"/no/such/path"} }, "/no/such/path"},
		{"another image", "/containers/", func(p *Packed) { p.Image.ID = "sha256:bb" }, "another image"},
		{"another image, and no registry", "/containers/", func(p *Packed) { p.Image = Image{Name: "gone:16", ID: "sha256:bb"} }, "another image here than at the source, and the source's is not to be had"},
	} {
		q := p
		if c.change != nil {
			c.change(&q)
		}
		d, calls := answering(t, func(call string) (int, string) {
			switch {
			case strings.Contains(call, c.missing):
				return 404, `{"message": "none"}`
			case strings.Contains(call, "/containers/"):
				return 200, inspectOf()
			case strings.Contains(call, "/images/create") && q.Image.Name == "gone:16":
				return 500, `{"message": "no such host"}`
			case strings.Contains(call, "/images/create"):
				return 200, `{"status": "Image is up to date"}`
			}
			return 200, `{"Id": "sha256:aa"}`
		})
		err := d.Check(t.Context(), q)
		if text := fmt.Sprint(err, mobyfs.HintOf(err)); (err == nil) != (c.want == "") || !strings.Contains(text, c.want) {
			t.Errorf("%s: got %s", c.what, text)
		}
		if slices.Contains(*calls, "POST /containers/create") {
			t.Errorf("%s: something was made", c.what)
		}
	}
}
