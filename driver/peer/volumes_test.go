package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/volume"
	"github.com/docker/docker/volume/service"
	"github.com/docker/docker/volume/service/opts"

	"github.com/mobyfs/mobyfs"
)

// says fails unless err is one line that holds every part.
func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("succeeded; want an error with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q is missing in: %v", p, err)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r\x1b") {
		t.Errorf("this is more than a line of text: %q", err)
	}
}

// put writes a file into a volume; has reports whether it holds what was written.
func put(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path, "rows"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func has(path string) bool {
	data, err := os.ReadFile(filepath.Join(path, "rows"))
	return err == nil && string(data) == "1"
}

// mount mounts a volume as the start of a container does.
func (d *dockerd) mount(name, id string) string {
	d.t.Helper()
	path, err := d.mustGet(name).Mount(id)
	if err != nil {
		d.t.Fatalf("mount %s: %v", name, err)
	}
	return path
}

// unmount unmounts a volume as the stop of a container does.
func (d *dockerd) unmount(name, id string) {
	d.t.Helper()
	if err := d.mustGet(name).Unmount(id); err != nil {
		d.t.Fatalf("unmount %s: %v", name, err)
	}
}

// createdAt is when Docker believes that a volume was created.
func createdAt(t *testing.T, v volume.Volume) time.Time {
	t.Helper()
	at, err := v.CreatedAt()
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestC01ActivateIsAnsweredWithControlAway(t *testing.T) {
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	c.away()
	h1.restart()
	d := h1.boot()
	if d.driver().Scope() != "global" {
		t.Error("the driver was not activated")
	}
}

func TestC27CreatedVolumeIsFoundAndListedOnce(t *testing.T) {
	c := newCluster(t, "h1", "h2")
	d1, d2 := c.hosts["h1"].boot(), c.hosts["h2"].boot()
	before := time.Now()
	if err := d1.create("pgdata", map[string]string{"size": "1G"}); err != nil {
		t.Fatal(err)
	}
	if names := d1.list(); !slices.Equal(names, []string{"pgdata"}) {
		t.Errorf("h1 lists %q", names)
	}
	eventually(t, "h2 lists it", func() bool { return slices.Equal(d2.list(), []string{"pgdata"}) })
	at1, at2 := createdAt(t, d1.mustGet("pgdata")), createdAt(t, d2.mustGet("pgdata"))
	if !at1.Equal(at2) || at1.Before(before.Add(-time.Second)) || at1.After(time.Now()) {
		t.Errorf("created at %v for h1, at %v for h2; it was %v", at1, at2, before)
	}
}

func TestC28CreateOfWhatExists(t *testing.T) {
	c := newCluster(t, "h1", "h2")
	d1, d2 := c.hosts["h1"].boot(), c.hosts["h2"].boot()
	var both sync.WaitGroup
	for _, d := range []*dockerd{d1, d2} {
		both.Go(func() {
			if err := d.create("pgdata", map[string]string{"size": "1G"}); err != nil {
				t.Errorf("one of two at once: %v", err)
			}
		})
	}
	both.Wait()
	if all, err := c.operator.Volumes(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("there are %v, %v", all, err)
	}
	// Docker's store asks for no volume that it can get, so its driver is asked itself.
	if _, err := d2.driver().Create("pgdata", map[string]string{"size": "1024M"}); err != nil {
		t.Errorf("with an equal size: %v", err)
	}
	_, err := d2.driver().Create("pgdata", map[string]string{"size": "9G"})
	says(t, err, `"pgdata"`, "size=1G", "size=9G")
}

func TestC29CreateWithABadOptionLeavesNothing(t *testing.T) {
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	for option, want := range map[string][]string{"size=much": {"size", "10G"}, "szie=1G": {"szie", "did you mean size?"}, "backend=dri": {"dri", "did you mean dir?"}} {
		key, value, _ := strings.Cut(option, "=")
		says(t, d.create("pgdata", map[string]string{key: value}), want...)
	}
	if _, err := d.get("pgdata"); !service.IsNotExist(err) {
		t.Errorf("Docker finds it: %v", err)
	}
	if v := c.volume("pgdata"); v.ID != "" {
		t.Errorf("control has %+v", v)
	}
	if here, err := os.ReadDir(filepath.Join(h1.root, "volumes")); err != nil || len(here) != 0 {
		t.Errorf("on disk are %v, %v", here, err)
	}
}

func TestC30NamesAreRefusedOrUsable(t *testing.T) {
	c := newCluster(t, "h1")
	d := c.hosts["h1"].boot()
	for _, name := range []string{"x", "../../etc/passwd", "a/b", ".", "..", "-dash", "new\nline", "nul\x00", strings.Repeat("a", 129),
		strings.Repeat("b", 20000), "café", "cafe\u0301", "\xff\xfe", "a b", "<b>", `"quoted"`} {
		_, err := d.driver().Create(name, nil)
		says(t, err, "name of a volume", "such as pgdata")
		if err := d.create(name, nil); err == nil {
			t.Errorf("Docker created %.30q", name)
		}
		if _, err := d.get(name); !service.IsNotExist(err) {
			t.Errorf("Docker finds %.30q: %v", name, err)
		}
	}
	good := []string{"ab", "PGDATA", "shop_db-1.old", strings.Repeat("c", 128), strings.Repeat("0f", 32)}
	for _, name := range good {
		if err := d.create(name, nil); err != nil {
			t.Errorf("%.30q: %v", name, err)
			continue
		}
		put(t, d.mount(name, "a"))
		d.unmount(name, "a")
	}
	slices.Sort(good)
	if names := slices.Sorted(slices.Values(d.list())); !slices.Equal(names, good) {
		t.Errorf("there are %q", names)
	}
	says(t, d.create("pgdata", nil), "PGDATA") // names that differ in case only would be taken for each other
}

func TestC31UnknownNamesAreKnownNotToExist(t *testing.T) {
	p := play()
	d := boot(t, t.TempDir(), serve(t, p).socket)
	for _, name := range []string{"x", "../x", "new\nline", "café"} {
		if _, err := d.get(name); !service.IsNotExist(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if len(p.asked) != 0 {
		t.Errorf("for impossible names the agent was asked %q", p.asked)
	}
	start := time.Now()
	if _, err := d.get("nobody"); !service.IsNotExist(err) {
		t.Error(err)
	}
	t.Logf("took %v", time.Since(start))
}

func TestC32LabelsOutliveTheAbsenceOfControl(t *testing.T) {
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	if err := d.create("pgdata", nil, "backup"); err != nil {
		t.Fatal(err)
	}
	d.refer("pgdata", "web-1")
	c.away()
	eventually(t, "the agent notices", func() bool { return d.mustGet("pgdata").Status()["stale"] == true })
	d.keepsAll("pgdata", "backup")
	for range 2 { // dockerd and the agent begin anew meanwhile, in both orders
		d.kill()
		h1.restart()
		d = h1.boot()
		d.refer("pgdata", "web-1")
		d.keepsAll("pgdata", "backup")
		h1.restart()
		d.keepsAll("pgdata", "backup")
		if names := d.list(); !slices.Equal(names, []string{"pgdata"}) {
			t.Errorf("there are %q", names)
		}
	}
	c.back()
	eventually(t, "control is heard again", func() bool { return d.mustGet("pgdata").Status()["stale"] == nil })
	d.keepsAll("pgdata", "backup")
}

func TestC33UnknownNameWithControlAwayIsNoAnswer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	d.client()
	c.away()
	start := time.Now()
	_, err := d.store.Get(context.Background(), "never-seen", opts.WithGetDriver(driverName))
	if !brokeOff(err) || service.IsNotExist(err) {
		t.Errorf("Docker says %v, want an error of the connection", err)
	}
	// Docker calls five times and pauses for 15 s between them.
	if took := time.Since(start); took > 15*time.Second+5*2*time.Second {
		t.Errorf("took %v", took)
	}
}

// The worst case: control is away, the node has lost its catalogue, and dockerd begins anew and asks for all volumes.
func TestC33RestoreWithNobodyToAskForgetsNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	if err := d.create("pgdata", nil, "backup"); err != nil {
		t.Fatal(err)
	}
	d.kill()
	c.away()
	h1.end()
	if err := os.RemoveAll(filepath.Join(h1.root, "state")); err != nil {
		t.Fatal(err)
	}
	h1.start()
	h1.line.took()
	d = h1.boot()
	if calls := h1.line.took(); !slices.Contains(calls, "VolumeDriver.Get") {
		t.Fatalf("Docker asked for no volume when it began: %v", calls)
	}
	c.back()
	eventually(t, "control is heard again", func() bool { return slices.Equal(d.list(), []string{"pgdata"}) })
	if !labelled(d.mustGet("pgdata"), "backup") {
		t.Error("Docker forgot the labels")
	}
}

func TestC34NoAnswerToGetLooksLikeNoVolume(t *testing.T) {
	t.Parallel()
	undated := told("pgdata")
	undated.CreatedAt = time.Time{}
	for what, answer := range map[string]func() (mobyfs.DockerVolume, error){
		"no date":        func() (mobyfs.DockerVolume, error) { return undated, nil },
		"another name":   func() (mobyfs.DockerVolume, error) { return told("other"), nil },
		"no mountpoint":  func() (mobyfs.DockerVolume, error) { return mobyfs.DockerVolume{Name: "pgdata"}, nil },
		"nothing at all": func() (mobyfs.DockerVolume, error) { return mobyfs.DockerVolume{}, nil },
		"a broken disk": func() (mobyfs.DockerVolume, error) {
			return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeInternal, "the disk is broken")
		},
		"any error": func() (mobyfs.DockerVolume, error) { return mobyfs.DockerVolume{}, errors.New("anything") },
		"a bug":     func() (mobyfs.DockerVolume, error) { panic("a bug") },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := play()
			l := serve(t, p)
			d := boot(t, t.TempDir(), l.socket)
			if err := d.create("pgdata", nil, "backup"); err != nil {
				t.Fatal(err)
			}
			d.refer("pgdata", "web-1")
			var bad sync.Once
			p.get = func(_ context.Context, name string) (v mobyfs.DockerVolume, err error) {
				v = told(name)
				bad.Do(func() { v, err = answer() })
				return v, err
			}
			if _, err := d.get("pgdata"); service.IsNotExist(err) {
				t.Error("Docker believes that the volume does not exist")
			}
			d.keepsAll("pgdata", "backup")
		})
	}
}

func TestC35MountpointIsTheSameBeforeDuringAndAfter(t *testing.T) {
	c := newCluster(t, "h1")
	d := c.hosts["h1"].boot()
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	before := d.mustGet("pgdata").Path()
	mounted := d.mount("pgdata", "a")
	during := d.mustGet("pgdata").Path()
	d.unmount("pgdata", "a")
	after := d.mustGet("pgdata").Path()
	if !filepath.IsAbs(before) || mounted != before || during != before || after != before {
		t.Errorf("before %q, mounted at %q, during %q, after %q", before, mounted, during, after)
	}
	if s, err := os.Stat(mounted); err != nil || !s.IsDir() {
		t.Errorf("what was mounted is no directory: %v", err)
	}
}

func TestC36ListOfNoneAndOfTenThousand(t *testing.T) {
	p := play()
	d := boot(t, t.TempDir(), serve(t, p).socket)
	if names := d.list(); len(names) != 0 {
		t.Errorf("there are %q", names)
	}
	p.fill(10000)
	start := time.Now()
	all, err := d.driver().List()
	t.Logf("took %v", time.Since(start))
	if err != nil || len(all) != 10000 {
		t.Fatalf("%d volumes, %v", len(all), err)
	}
	seen := map[string]bool{}
	for _, v := range all {
		seen[v.Name()] = v.Path() != ""
	}
	if len(seen) != 10000 || seen[""] {
		t.Errorf("%d names, one of them empty: %v", len(seen), seen[""])
	}
}

func TestC37SlowMountHoldsNothingElseUp(t *testing.T) {
	p := play()
	d := boot(t, t.TempDir(), serve(t, p).socket)
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	v := d.mustGet("pgdata")
	reached, leave := make(chan struct{}), make(chan struct{})
	p.mount = func(context.Context, string, string) error {
		close(reached)
		<-leave
		return nil
	}
	done := make(chan error, 1)
	go func() { _, err := v.Mount("a"); done <- err }()
	<-reached
	start := time.Now()
	d.mustGet("pgdata")
	d.list()
	if d.driver().Scope() != "global" {
		t.Error("Capabilities were not answered")
	}
	t.Logf("Get, List and Capabilities took %v", time.Since(start))
	select {
	case err := <-done:
		t.Errorf("the Mount ended early: %v", err)
	default:
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestC38RemoveIsForAllHostsAndMayBeRepeated(t *testing.T) {
	c := newCluster(t, "h1", "h2")
	d1, d2 := c.hosts["h1"].boot(), c.hosts["h2"].boot()
	if err := d1.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	v := d1.mustGet("pgdata")
	if err := d2.remove("pgdata", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone on both", func() bool { return len(d1.list())+len(d2.list()) == 0 })
	for _, d := range []*dockerd{d1, d2} {
		if err := d.driver().Remove(v); err != nil {
			t.Errorf("again: %v", err)
		}
		if _, err := d.get("pgdata"); !service.IsNotExist(err) {
			t.Errorf("Docker finds it: %v", err)
		}
	}
}

func TestC39RemoveWhileAContainerRunsIsRefusedWhateverDockerBelieves(t *testing.T) {
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	if err := d.create("pgdata", nil, "backup"); err != nil {
		t.Fatal(err)
	}
	d.refer("pgdata", "web-1")
	path := d.mount("pgdata", "a")
	put(t, path)
	h1.kernel.set(path, 1)

	h1.agent.deny.Store(true)
	if _, err := d.get("pgdata"); !service.IsNotExist(err) {
		t.Fatalf("Docker still believes in the volume: %v", err)
	}
	h1.agent.deny.Store(false)
	if n := d.store.CountReferences(d.mustGet("pgdata")); n != 0 {
		t.Fatalf("Docker counts %d references; it should have forgotten them", n)
	}
	says(t, d.remove("pgdata", false), `"pgdata"`, "in use", "h1")
	d.unmount("pgdata", "a")
	says(t, d.remove("pgdata", false), `"pgdata"`, "in use", "h1") // Docker lost count; the container runs on
	if !has(path) {
		t.Error("the data is gone")
	}
	h1.kernel.set(path, 0)
	if err := d.remove("pgdata", false); err != nil {
		t.Error(err)
	}
}

func TestC40RemoveNamesTheOtherHostAndStaleUsesDontCount(t *testing.T) {
	c := newCluster(t, "h1", "h2")
	h1, h2 := c.hosts["h1"], c.hosts["h2"]
	d1, d2 := h1.boot(), h2.boot()
	if err := d1.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	path := d1.mount("pgdata", "a")
	h1.kernel.set(path, 1)
	says(t, d2.remove("pgdata", false), `"pgdata"`, "in use on h1")
	h1.kernel.set(path, 0) // the container died with the host; nobody says Unmount
	h1.restart()
	if err := d1.remove("pgdata", false); err != nil {
		t.Error(err)
	}
	if v := c.volume("pgdata"); v.ID != "" {
		t.Errorf("control has %+v", v)
	}
}

func TestC41ForcedRemoveThatIsRefusedLosesNothing(t *testing.T) {
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	path := d.mount("pgdata", "a")
	put(t, path)
	h1.kernel.set(path, 1)
	says(t, d.remove("pgdata", true), `"pgdata"`, "in use", "h1")
	if !has(path) {
		t.Error("the data is gone")
	}
	if names := d.list(); !slices.Equal(names, []string{"pgdata"}) {
		t.Errorf("docker volume ls shows %q", names)
	}
	if !has(d.mount("pgdata", "b")) {
		t.Error("the next container finds another volume")
	}
}

func TestC42PathOfAMountedAnUnmountedAndNoVolume(t *testing.T) {
	c := newCluster(t, "h1")
	d := c.hosts["h1"].boot()
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	client := d.client()
	unmounted, err := call(client, "Path", map[string]any{"Name": "pgdata"})
	if err != nil || unmounted["Err"] != "" {
		t.Errorf("unmounted: %v, %v", unmounted, err)
	}
	path := d.mount("pgdata", "a")
	mounted, err := call(client, "Path", map[string]any{"Name": "pgdata"})
	if err != nil || mounted["Mountpoint"] != path || unmounted["Mountpoint"] != path {
		t.Errorf("mounted at %q: unmounted %v, mounted %v, %v", path, unmounted, mounted, err)
	}
	if none, err := call(client, "Path", map[string]any{"Name": "nobody"}); err != nil || none["Err"] != "no such volume" {
		t.Errorf("no volume: %v, %v", none, err)
	}
}

func TestC43SecretsInOptionsAreShownToNobody(t *testing.T) {
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	err := d.create("pgdata", map[string]string{"password": "hunter2"})
	says(t, err, "password")
	if strings.Contains(fmt.Sprint(err), "hunter2") {
		t.Errorf("the error tells the secret: %v", err)
	}
	if logged := h1.logs.String(); !strings.Contains(logged, "VolumeDriver.Create") || strings.Contains(logged, "hunter2") {
		t.Errorf("logged: %s", logged)
	}
}

func TestC53InspectShowsStatus(t *testing.T) {
	c := newCluster(t, "h1")
	d := c.hosts["h1"].boot()
	if err := d.create("pgdata", map[string]string{"size": "1G"}); err != nil {
		t.Fatal(err)
	}
	got := d.mustGet("pgdata").Status()
	for key, want := range map[string]any{"node": "h1", "state": "ready", "size": "1.0 GiB", "backend": "dir"} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if fence, _ := got["fence"].(float64); fence < 1 {
		t.Errorf("fence is %v", got["fence"])
	}
}

func TestC54RestartOfDockerKeepsAVolumeUsable(t *testing.T) {
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	if err := d.create("pgdata", nil, "backup"); err != nil {
		t.Fatal(err)
	}
	put(t, d.mount("pgdata", "a"))
	d.unmount("pgdata", "a")
	d.kill()
	d = h1.boot()
	if !labelled(d.mustGet("pgdata"), "backup") || !has(d.mount("pgdata", "b")) {
		t.Error("the labels or the data are gone")
	}
}
