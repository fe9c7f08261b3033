package agent

import (
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestC97DockerdIsMadeToKnowTheDriverInEachOfItsLives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		docker := newRig(t, "h1").nodes["h1"].docker
		pass(time.Minute)
		if did := docker.took(); did != nil {
			t.Errorf("a dockerd that is down was asked to %v", did)
		}
		for range 2 {
			docker.begin()
			pass(10 * time.Second)
			if diff := cmp.Diff([]string{"list volumes"}, docker.took()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			docker.end()
			pass(time.Minute)
		}
	})
}

func TestC93ContainerThatLackedItsVolumeAtDockerdsStartIsStartedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		docker := r.nodes["h1"].docker
		docker.stranded = []Container{{"c1", "db"}}
		docker.refuse = errors.New("control is away")
		pass(10 * time.Second) // control has answered for the first time
		docker.begin()
		pass(10 * time.Second)
		if diff := cmp.Diff([]string{"list volumes", "start c1"}, docker.took()); diff != "" {
			t.Errorf("while its volume can't be had (-want +got):\n%s", diff)
		}
		r.cluster.setDown(true)
		pass(time.Minute)
		docker.mu.Lock()
		docker.refuse = nil
		docker.stranded = append(docker.stranded, Container{"c2", "started in vain by its user meanwhile"})
		docker.mu.Unlock()
		r.cluster.setDown(false)
		pass(time.Minute)
		if diff := cmp.Diff([]string{"start c1"}, docker.took()); diff != "" {
			t.Errorf("once control is back (-want +got):\n%s", diff)
		}
		for range 2 { // it has been stopped since, and control comes and goes
			docker.mu.Lock()
			docker.stranded = []Container{{"c1", "db"}}
			docker.mu.Unlock()
			r.cluster.setDown(true)
			pass(time.Minute)
			r.cluster.setDown(false)
			pass(time.Minute)
		}
		if did := docker.took(); did != nil {
			t.Errorf("later dockerd was asked to %v", did)
		}
		docker.end()
	})
}

func TestContainersEndMakesTheAgentLookAtTheKernel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.docker.begin()
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.kernel.set(path, 1, 0)
		h1.unmount("pgdata", "a") // the kernel still shows the container
		pass(5 * time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease == nil {
			t.Fatal("the lease left while the kernel showed a user")
		}
		h1.kernel.set(path, 0, 0)
		h1.docker.mu.Lock()
		ended := h1.docker.ended
		h1.docker.mu.Unlock()
		ended()
		pass(time.Second)
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("a second after its end the lease is %+v", v.Lease)
		}
		h1.docker.end()
	})
}

// A use whose end nobody told, in one life of dockerd and agent: neither the kernel nor dockerd knows it any more.
func TestUseThatNobodyShowsGoesInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		steps := []struct {
			who  string
			show func()
			kept bool
		}{
			{"the kernel", func() { h1.kernel.set(path, 1, 0) }, true},
			{"dockerd", func() { h1.kernel.set(path, 0, 0); h1.docker.set("pgdata", "web-1") }, true},
			{"nobody", func() { h1.docker.set("pgdata") }, false},
		}
		for _, s := range steps {
			s.show()
			pass(3 * unseenAfter)
			if kept := r.cluster.volume("pgdata").Lease != nil; kept != s.kept {
				t.Fatalf("shown by %s: the lease is held: %v, want %v", s.who, kept, s.kept)
			}
		}
	})
}

// dockerd is a server with Docker's API, as far as an Engine uses it.
type dockerd struct {
	mu     sync.Mutex
	asked  []string
	events chan string
}

func (d *dockerd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asked = append(d.asked, r.Method+" "+r.URL.Path)
	d.mu.Unlock()
	ours := []map[string]string{{"Type": "volume", "Name": "pgdata", "Driver": "mobyfs", "Source": "/vol/v1/data"}}
	inspected := func(policy, failure string) map[string]any {
		return map[string]any{"State": map[string]any{"Error": failure}, "Mounts": ours,
			"HostConfig": map[string]any{"RestartPolicy": map[string]string{"Name": policy}}}
	}
	byID := map[string]map[string]any{
		"lacked":    inspected("always", "error while mounting volume '/vol/v1/data': control is away"),
		"missing":   inspected("unless-stopped", `error looking up volume plugin mobyfs: plugin "mobyfs" not found`),
		"once":      inspected("no", "error while mounting volume '/vol/v1/data': control is away"),
		"stopped":   inspected("always", ""),
		"otherwise": inspected("always", "OCI runtime create failed: no such file"),
	}
	switch id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/containers/"), "/json"); {
	case r.URL.Path == "/events":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for e := range d.events {
			_, _ = w.Write([]byte(e))
			_ = http.NewResponseController(w).Flush()
		}
	case r.URL.Path == "/containers/json":
		list := []any{map[string]any{"Id": "foreign", "Names": []string{"/foreign"}, "State": "exited",
			"Mounts": []map[string]string{{"Type": "volume", "Name": "x", "Driver": "local"}}}}
		for id := range byID {
			list = append(list, map[string]any{"Id": id, "Names": []string{"/" + id}, "State": "exited", "Mounts": ours})
		}
		_ = json.NewEncoder(w).Encode(list)
	case byID[id] != nil:
		_ = json.NewEncoder(w).Encode(byID[id])
	case r.URL.Path == "/volumes":
		_, _ = w.Write([]byte(`{"Volumes":[]}`))
	case r.URL.Path == "/containers/lacked/start":
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/containers/runs/start":
		w.WriteHeader(http.StatusNotModified)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"No such container"}`))
	}
}

// serveDockerd listens as dockerd does.
func serveDockerd(t *testing.T) (*dockerd, *Docker) {
	t.Helper()
	d := &dockerd{events: make(chan string)}
	return d, playing(t, d)
}

func TestStrandedContainersAreThoseThatFailedOnOurVolumesAndShallRun(t *testing.T) {
	_, docker := serveDockerd(t)
	got, err := docker.Stranded(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range got {
		names[c.Name] = true
	}
	if diff := cmp.Diff(map[string]bool{"lacked": true, "missing": true}, names); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDockerdIsAskedInItsOwnWords(t *testing.T) {
	d, docker := serveDockerd(t)
	if err := docker.ListVolumes(t.Context()); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"lacked", "runs"} {
		if err := docker.Start(t.Context(), id); err != nil {
			t.Errorf("start %s: %v", id, err)
		}
	}
	if err := docker.Start(t.Context(), "gone"); err == nil || !strings.Contains(err.Error(), "No such container") {
		t.Errorf("start of one that is gone: %v", err)
	}
	want := []string{"GET /volumes", "POST /containers/lacked/start", "POST /containers/runs/start", "POST /containers/gone/start"}
	if diff := cmp.Diff(want, d.asked); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFollowTellsOfEachEndUntilDockerdEnds(t *testing.T) {
	d, docker := serveDockerd(t)
	began, ended := make(chan struct{}), make(chan struct{}, 10)
	result := make(chan error)
	go func() {
		result <- docker.Follow(t.Context(), func() { close(began) }, func() { ended <- struct{}{} })
	}()
	<-began
	for range 2 {
		d.events <- `{"Type":"container","Action":"die"}` + "\n"
		<-ended
	}
	close(d.events)
	if err := <-result; err == nil {
		t.Error("that dockerd ended is no error")
	}
	if err := NewDocker(filepath.Join(t.TempDir(), "none.sock"), nil).Follow(t.Context(), func() { t.Error("it began") }, nil); err == nil {
		t.Error("a dockerd that is not there can be followed")
	}
}
