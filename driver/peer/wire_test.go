package peer

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/pkg/plugins"
	"github.com/docker/docker/volume/service"
	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

// Names of tests begin with the number of the promise in the conformance checklist that they keep (C11 = item 11).

// Tests in which Docker repeats calls wait for its pauses of up to 15 s, and do so at the same time.

// call makes one call with Docker's client and returns what it decoded.
func call(c *plugins.Client, method string, args map[string]any) (map[string]any, error) {
	var answer map[string]any
	err := c.Call("VolumeDriver."+method, args, &answer)
	return answer, err
}

func TestC03DockerReadsErrorsAsTheyAreSaidAndConnectionsEnd(t *testing.T) {
	p := play()
	p.remove = func(string) error {
		return mobyfs.Errorf(mobyfs.CodeInUse, `volume "pgdata" is in use on h1 by container web-1`).WithHint("stop it there, then try again")
	}
	l := serve(t, p)
	d := boot(t, t.TempDir(), l.socket)
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	v := d.mustGet("pgdata")
	want := `volume "pgdata" is in use on h1 by container web-1 – stop it there, then try again`
	if err := d.driver().Remove(v); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := d.remove("pgdata", false); err == nil || err.Error() != "remove pgdata: "+want {
		t.Errorf("docker volume rm says %v", err)
	}
	resp, err := post(l.socket, "VolumeDriver.Remove", `{"Name":"pgdata"}`)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("status %d, the connection ends: %v", resp.StatusCode, resp.Close)
	}
}

func TestC06OptionsNullAndEmptyAreOneToTheDriver(t *testing.T) {
	p := play()
	d := boot(t, t.TempDir(), serve(t, p).socket)
	for name, options := range map[string]map[string]string{"from-run": nil, "from-create": {}} {
		if err := d.create(name, options); err != nil {
			t.Fatal(err)
		}
		if got := p.volumes[name]; len(got) != 0 {
			t.Errorf("%s: the driver was given %v", name, got)
		}
	}
}

func TestC10DockerTakesEverySuccessForOne(t *testing.T) {
	d := boot(t, t.TempDir(), serve(t, play()).socket)
	for _, method := range []string{"Create", "Unmount", "Remove"} {
		answer, err := call(d.client(), method, map[string]any{"Name": "pgdata", "ID": "x"})
		if d := cmp.Diff(map[string]any{"Err": ""}, answer); err != nil || d != "" {
			t.Errorf("%s: %v %s", method, err, d)
		}
	}
}

func TestC11CallThatDockerRepeatsWithoutItsBodyDoesNothing(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Create", "Mount", "Unmount", "Remove"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			p := play()
			l := serve(t, p)
			d := boot(t, t.TempDir(), l.socket)
			c := d.client()
			l.put("VolumeDriver."+method, requestLost)
			answer, err := call(c, method, map[string]any{"Name": "pgdata", "ID": "x"})
			want := map[string]any{"Err": "Docker lost the body of the call on the way – please repeat the command"}
			if diff := cmp.Diff(want, answer); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
			if got := l.empties(); !slices.Equal(got, []string{"VolumeDriver." + method}) {
				t.Errorf("without a body came %v; this is not the repetition that the test is about", got)
			}
			if asked := p.took(); len(asked) != 0 || len(p.volumes) != 0 {
				t.Errorf("the driver did %v", asked)
			}
		})
	}
}

func TestC11LostCreateIsSaidAndTheNextOneWorks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	h1.line.put("VolumeDriver.Create", requestLost)
	if err := d.create("pgdata", nil); err == nil {
		t.Error("a Create that never arrived succeeded")
	}
	if _, err := d.get("pgdata"); !service.IsNotExist(err) {
		t.Errorf("Docker finds what was not created: %v", err)
	}
	if names := d.list(); len(names) != 0 {
		t.Errorf("there are volumes %q", names)
	}
	if err := d.create("pgdata", nil); err != nil {
		t.Error(err)
	}
	if names := d.list(); !slices.Equal(names, []string{"pgdata"}) {
		t.Errorf("there are volumes %q", names)
	}
}

// The worst that a broken connection can do: Docker asks again without a body, reads any error as "there is no such
// volume" and forgets labels and references.
func TestC12GetThatBreaksCostsNoMetadata(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{"request lost": requestLost, "answer broken": answerBroken, "answer lost": answerLost} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := serve(t, play())
			d := boot(t, t.TempDir(), l.socket)
			if err := d.create("pgdata", nil, "backup"); err != nil {
				t.Fatal(err)
			}
			d.refer("pgdata", "web-1")
			l.put("VolumeDriver.Get", f)
			_, err := d.get("pgdata")
			if !brokeOff(err) {
				t.Errorf("Docker says %v, want an error of the connection", err)
			}
			if len(l.empties()) == 0 {
				t.Error("no call came without its body; this is not the repetition that the test is about")
			}
			d.keepsAll("pgdata", "backup")
		})
	}
}

// brokeOff tells whether Docker takes err for an error of the connection, and not for an answer.
func brokeOff(err error) bool {
	for err != nil {
		if _, ok := err.(net.Error); ok {
			return true
		}
		if caused, ok := err.(interface{ Cause() error }); ok { // as errors of Docker 20.10 are wrapped
			err = caused.Cause()
			continue
		}
		err = errors.Unwrap(err)
	}
	return false
}

// keepsAll fails unless Docker still knows a volume's label and that a container refers to it.
func (d *dockerd) keepsAll(name, label string) {
	d.t.Helper()
	v := d.mustGet(name)
	if !labelled(v, label) {
		d.t.Errorf("Docker forgot the labels of %q", name)
	}
	if n := d.store.CountReferences(v); n != 1 {
		d.t.Errorf("Docker counts %d references to %q, want 1", n, name)
	}
	if err := d.remove(name, false); !service.IsInUse(err) {
		d.t.Errorf("docker volume rm of a volume with a container says %v", err)
	}
}

func TestC13CreateWhoseAnswerWasLostIsOneVolumeInTheEnd(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{"answer broken": answerBroken, "answer lost": answerLost} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, "h1")
			h1 := c.hosts["h1"]
			d := h1.boot()
			h1.line.put("VolumeDriver.Create", f)
			if err := d.create("pgdata", map[string]string{"size": "1G"}, "backup"); err == nil {
				t.Error("Docker had an answer after all")
			}
			id := c.volume("pgdata").ID
			if err := d.create("pgdata", map[string]string{"size": "1G"}, "backup"); err != nil {
				t.Fatal(err)
			}
			if now := c.volume("pgdata").ID; id == "" || now != id {
				t.Errorf("the first Create made %q, the second %q", id, now)
			}
			if names := d.list(); !slices.Equal(names, []string{"pgdata"}) {
				t.Errorf("there are volumes %q", names)
			}
		})
	}
}

func TestC14MountWhoseAnswerCouldNotBeWrittenIsTakenBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "h1")
	h1 := c.hosts["h1"]
	d := h1.boot()
	if err := d.create("pgdata", nil); err != nil {
		t.Fatal(err)
	}
	h1.line.put("VolumeDriver.Mount", answerBroken)
	if _, err := d.mustGet("pgdata").Mount("a"); err == nil {
		t.Error("Docker had an answer after all")
	}
	eventually(t, "the lease goes back", func() bool { return !c.leased("pgdata") })
	if err := d.remove("pgdata", false); err != nil {
		t.Error(err)
	}
}

// Docker's client keeps connections and would write on one that the server is about to close; then the call comes
// again without its body. Calls at any pace must not meet that.
func TestC15TenThousandPacedCallsOverOneClientAllArriveWhole(t *testing.T) {
	const clients, each = 20, 500
	p := play()
	l := serve(t, p)
	c := boot(t, t.TempDir(), l.socket).client()
	var callers sync.WaitGroup
	for i := range clients {
		callers.Go(func() {
			pace := time.NewTimer(0)
			defer pace.Stop()
			for range each {
				<-pace.C
				answer, err := call(c, "Create", map[string]any{"Name": "pgdata"})
				if err != nil || answer["Err"] != "" {
					t.Errorf("answered %v, %v", answer, err)
					return
				}
				pace.Reset(time.Duration(rand.Int64N(int64(i+1) * int64(time.Millisecond))))
			}
		})
	}
	callers.Wait()
	if empty := l.empties(); len(empty) != 0 {
		t.Errorf("%d calls came without their body", len(empty))
	}
	if n := len(p.took()); n != clients*each {
		t.Errorf("%d calls arrived, want %d", n, clients*each)
	}
}

func TestC18EveryMethodGoesThroughDockersClientAndBack(t *testing.T) {
	p := play()
	l := serve(t, p)
	vd := boot(t, t.TempDir(), l.socket).driver()
	if vd.Name() != driverName || vd.Scope() != "global" {
		t.Errorf("Docker sees %s with scope %s", vd.Name(), vd.Scope())
	}
	v, err := vd.Create("pgdata", map[string]string{"size": "1G <&> é"})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.volumes["pgdata"]["size"]; got != "1G <&> é" {
		t.Errorf("the option arrived as %q", got)
	}
	if path := v.Path(); path != "/vol/pgdata" { // Docker knows none from Create, so this is Path
		t.Errorf("Path: %q", path)
	}
	if path, err := v.Mount("a"); err != nil || path != "/vol/pgdata" || p.count("pgdata", "a") != 1 {
		t.Errorf("Mount: %q, %v, counted %d", path, err, p.count("pgdata", "a"))
	}
	if err := v.Unmount("a"); err != nil || p.count("pgdata", "a") != 0 {
		t.Errorf("Unmount: %v, counted %d", err, p.count("pgdata", "a"))
	}
	got, err := vd.Get("pgdata")
	if err != nil {
		t.Fatal(err)
	}
	if at, _ := got.CreatedAt(); got.Name() != "pgdata" || got.Path() != "/vol/pgdata" || !at.Equal(created) || got.Status()["node"] != "h1" {
		t.Errorf("Get: %q at %q of %v, %v", got.Name(), got.Path(), at, got.Status())
	}
	list, err := vd.List()
	if err != nil || len(list) != 1 || list[0].Name() != "pgdata" || list[0].Path() != "/vol/pgdata" {
		t.Errorf("List: %v, %v", list, err)
	}
	if err := vd.Remove(v); err != nil || len(p.volumes) != 0 {
		t.Errorf("Remove: %v, left are %v", err, p.volumes)
	}
	want := []string{"Plugin.Activate", "VolumeDriver.Capabilities", "VolumeDriver.Create", "VolumeDriver.Path", "VolumeDriver.Mount",
		"VolumeDriver.Unmount", "VolumeDriver.Get", "VolumeDriver.List", "VolumeDriver.Remove"}
	if d := cmp.Diff(want, l.took()); d != "" {
		t.Errorf("the calls differ (-want +got):\n%s", d)
	}
}

func TestC24EachLifeOfDockerIsOneActivate(t *testing.T) {
	p := play()
	l, data := serve(t, p), t.TempDir()
	for life := range 3 {
		d := boot(t, data, l.socket)
		if err := d.create("pgdata", nil); err != nil {
			t.Fatal(err)
		}
		d.list()
		d.kill()
		if p.lives != life+1 {
			t.Errorf("in its life %d the driver had noticed %d", life+1, p.lives)
		}
	}
}

func TestC26ThousandCapabilitiesAtOnce(t *testing.T) {
	c := boot(t, t.TempDir(), serve(t, play()).socket).client()
	start := time.Now()
	var callers sync.WaitGroup
	for range 1000 {
		callers.Go(func() {
			answer, err := call(c, "Capabilities", map[string]any{})
			want := map[string]any{"Err": "", "Capabilities": map[string]any{"Scope": "global"}}
			if err != nil || !cmp.Equal(want, answer) {
				t.Errorf("answered %v, %v", answer, err)
			}
		})
	}
	callers.Wait()
	t.Logf("1000 calls took %v", time.Since(start))
}

func TestC52ListIsOneCallAndNoPath(t *testing.T) {
	p := play()
	p.fill(100)
	l := serve(t, p)
	d := boot(t, t.TempDir(), l.socket)
	d.client()
	l.took()
	if n := len(d.list()); n != 100 {
		t.Errorf("docker volume ls shows %d volumes", n)
	}
	got := slices.Sorted(slices.Values(l.took()))
	if !slices.Equal(got, []string{"VolumeDriver.Capabilities", "VolumeDriver.List"}) {
		t.Errorf("docker volume ls made the calls %v", got)
	}
}

func TestC55NoVolumeIsAnErrorAndNeverNull(t *testing.T) {
	d := boot(t, t.TempDir(), serve(t, play()).socket)
	answer, err := call(d.client(), "Get", map[string]any{"Name": "nobody"})
	if diff := cmp.Diff(map[string]any{"Err": "no such volume"}, answer); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if v, err := d.driver().Get("nobody"); v != nil || err == nil {
		t.Errorf("Docker's driver got %v, %v", v, err)
	}
	if _, err := d.get("nobody"); !service.IsNotExist(err) {
		t.Errorf("Docker's store says %v", err)
	}
}

func TestC56CapabilitiesAreAskedOncePerLife(t *testing.T) {
	l, data := serve(t, play()), t.TempDir()
	for life := range 2 {
		d := boot(t, data, l.socket)
		if err := d.create("pgdata", nil); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			d.mustGet("pgdata")
			d.list()
		}
		d.kill()
		asked := 0
		for _, c := range l.took() {
			if c == "VolumeDriver.Capabilities" {
				asked++
			}
		}
		if asked != 1 {
			t.Errorf("in its life %d Docker asked %d times", life+1, asked)
		}
	}
}
