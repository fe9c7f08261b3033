package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/driver"
)

func TestC99PathsAreThoseOfTheHostOnceDockerHasPutItsOwnInFront(t *testing.T) {
	d, stop := chain(t, &mounter{})
	defer stop()
	if got := d.ask("VolumeDriver.Get", `{"Name":"pgdata"}`).Volume.Mountpoint; got != hostPath("pgdata") {
		t.Errorf("Get tells %q, which Docker takes as it stands", got)
	}
	if got := scoped(d.ask("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`).Mountpoint); got != hostPath("pgdata") {
		t.Errorf("Docker mounts %q", got)
	}
	if got := scoped(d.ask("VolumeDriver.Path", `{"Name":"pgdata"}`).Mountpoint); got != hostPath("pgdata") {
		t.Errorf("Path leads Docker to %q", got)
	}
	list := d.ask("VolumeDriver.List", `{}`).Volumes
	if len(list) != 1 || scoped(list[0].Mountpoint) != hostPath("pgdata") {
		t.Errorf("Docker lists %+v", list)
	}
}

func TestC99APathThatDockerCouldNotBearStaysOne(t *testing.T) {
	for _, path := range []string{"", "/", "var/lib"} {
		if got := lead(path); got != path {
			t.Errorf("lead(%q) = %q, so the driver does not refuse it", path, got)
		}
	}
}

func TestC99EverythingArrivesAsTheAgentSaidIt(t *testing.T) {
	m := &mounter{}
	d, stop := chain(t, m)
	defer stop()
	if got := d.ask("VolumeDriver.Create", `{"Name":"pgdata","Opts":{"size":"1GiB"}}`); got.Err != "" {
		t.Errorf("Create: %s", got.Err)
	}
	if diff := cmp.Diff(map[string]string{"size": "1GiB"}, m.opts); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	v := d.ask("VolumeDriver.Get", `{"Name":"pgdata"}`).Volume
	if v.Name != "pgdata" || !v.CreatedAt.Equal(made) || v.Status["node"] != "h1" {
		t.Errorf("Get: %+v", v)
	}
	if got := d.ask("VolumeDriver.Get", `{"Name":"other"}`).Err; got != "no such volume" {
		t.Errorf("Get of an unknown volume: %q", got)
	}
	m.err = mobyfs.Errorf(mobyfs.CodeInUse, `volume "pgdata" is in use on h1 by container web-1`).WithHint("stop it there, then try again")
	for _, call := range []string{"VolumeDriver.Remove", "VolumeDriver.Create"} {
		want := `volume "pgdata" is in use on h1 by container web-1 – stop it there, then try again`
		if got := d.ask(call, `{"Name":"pgdata"}`).Err; got != want {
			t.Errorf("%s: got %q, want %q", call, got, want)
		}
	}
	d.ask("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`)
	d.ask("VolumeDriver.Mount", `{"Name":"pgdata","ID":"y"}`)
	d.ask("VolumeDriver.Unmount", `{"Name":"pgdata","ID":"x"}`)
	if m.count("pgdata/x") != 0 || m.count("pgdata/y") != 1 {
		t.Errorf("the agent counts %v", m.uses)
	}
}

func TestC99NoCallBeginsANewLifeOfDockerd(t *testing.T) {
	m := &mounter{}
	d, stop := chain(t, m)
	defer stop()
	for _, call := range []string{"Plugin.Activate", "VolumeDriver.Capabilities", "VolumeDriver.List", "VolumeDriver.Get",
		"VolumeDriver.Path", "VolumeDriver.Create", "VolumeDriver.Mount", "VolumeDriver.Unmount", "VolumeDriver.Remove"} {
		if got := d.ask(call, `{"Name":"pgdata","ID":"x"}`); got.Err != "" {
			t.Errorf("%s: %s", call, got.Err)
		}
	}
	if m.lives != 0 {
		t.Errorf("the agent was told %d times that dockerd begins anew", m.lives)
	}
}

func TestC99RetriesWithoutABodyReachNobody(t *testing.T) {
	m := &mounter{}
	d, stop := chain(t, m)
	defer stop()
	for _, call := range []string{"VolumeDriver.Create", "VolumeDriver.Remove", "VolumeDriver.Mount", "VolumeDriver.Unmount"} {
		if got := d.ask(call, ""); got.Err == "" {
			t.Errorf("%s without a body succeeded", call)
		}
	}
	d.cut("VolumeDriver.Get", "")
	d.cut("VolumeDriver.Path", "")
	if got := m.calls(); len(got) != 0 {
		t.Errorf("the agent was asked %v", got)
	}
}

// Docker hangs up on a managed plugin after 30 s.
func TestC99SlowMountIsAnsweredWithTheReasonBeforeDockerHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mounter{mount: func(ctx context.Context) error {
			<-ctx.Done()
			return mobyfs.Errorf(mobyfs.CodeMoving, `still moving "pgdata" from h2 (40 %%)`).WithHint("run it again")
		}}
		d, stop := chain(t, m)
		defer stop()
		start := time.Now()
		got := d.ask("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`).Err
		if took := time.Since(start); took < 20*time.Second || took > 25*time.Second {
			t.Errorf("answered after %v, want 20 to 25 s", took)
		}
		if want := `still moving "pgdata" from h2 (40 %) – run it again`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if m.count("pgdata/x") != 0 {
			t.Error("a use is counted that Docker does not know of")
		}
	})
}

// deaf answers Capabilities and nothing else, like an agent that begins to hang.
func deaf(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/VolumeDriver.Capabilities" {
		_, _ = w.Write([]byte(`{"Capabilities":{"Scope":"global"},"Err":""}`))
		return
	}
	hang(w, r)
}

// hang leaves a call open until the caller hangs up, which is noticed once the body was read.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func TestC99CallsThatTheAgentLeavesOpenAreAnsweredBeforeDockerHangsUp(t *testing.T) {
	for call, want := range map[string]string{
		"Create": `volume "pgdata" is still being created – it goes on; run it again in a moment`,
		"Mount":  `volume "pgdata" is still being attached – it goes on; run it again in a moment`,
		"Remove": `volume "pgdata" is still being removed – it goes on; run it again in a moment`,
	} {
		synctest.Test(t, func(t *testing.T) {
			a, stopAgent := agentOf(http.HandlerFunc(deaf))
			d, stop := pluginOf(t, a.dial)
			defer stopAgent()
			defer stop()
			start := time.Now()
			got := d.ask("VolumeDriver."+call, `{"Name":"pgdata","ID":"x"}`).Err
			if took := time.Since(start); took > 25*time.Second {
				t.Errorf("%s was answered after %v, want less than 25 s", call, took)
			}
			if got != want {
				t.Errorf("%s: got %q, want %q", call, got, want)
			}
		})
	}
}

// within makes a call and fails unless its answer came in time.
func within(t *testing.T, limit time.Duration, what string, call func()) {
	t.Helper()
	start := time.Now()
	call()
	if took := time.Since(start); took >= limit {
		t.Errorf("%s took %v, want less than %v", what, took, limit)
	}
}

// away checks what Docker hears of an agent that does not answer.
func away(t *testing.T, d dockerd) {
	t.Helper()
	for _, call := range []string{"Create", "Remove", "Mount", "Unmount"} {
		within(t, 5*time.Second, call, func() {
			want := "the mobyfs agent of this host does not answer at its socket – look at it with: systemctl status mobyfs, then run it again"
			if got := d.ask("VolumeDriver."+call, `{"Name":"pgdata","ID":"x"}`).Err; got != want {
				t.Errorf("%s: got %q, want %q", call, got, want)
			}
		})
	}
	within(t, 5*time.Second, "Get", func() { d.cut("VolumeDriver.Get", `{"Name":"pgdata"}`) })
	within(t, 5*time.Second, "Path", func() {
		if got := d.ask("VolumeDriver.Path", `{"Name":"pgdata"}`); got.Err == "" || got.Mountpoint != "" {
			t.Errorf("Path: %+v", got)
		}
	})
	within(t, 100*time.Millisecond, "Capabilities", func() { d.ask("VolumeDriver.Capabilities", `{}`) })
	within(t, 5*time.Second, "List", func() { d.ask("VolumeDriver.List", `{}`) })
}

func TestC99AgentWithoutASocketIsSaidAtOnce(t *testing.T) {
	d, stop := pluginOf(t, dialer(filepath.Join(t.TempDir(), "mobyfs.sock")))
	defer stop()
	away(t, d)
	if got := d.ask("VolumeDriver.List", `{}`); got.Volumes == nil || len(got.Volumes) != 0 {
		t.Errorf("List: %+v, want none", got)
	}
}

func TestC99AgentThatHangsIsSaidSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stopAgent := agentOf(http.HandlerFunc(hang))
		d, stop := pluginOf(t, a.dial)
		defer stopAgent()
		defer stop()
		away(t, d)
	})
}

func TestC99ListIsTheLastOneKnownWhileTheAgentIsAway(t *testing.T) {
	a, stopAgent := agentOf(driver.New(&mounter{}, slog.New(slog.DiscardHandler)))
	d, stop := pluginOf(t, a.dial)
	defer stop()
	before := d.ask("VolumeDriver.List", `{}`)
	stopAgent()
	if diff := cmp.Diff(before, d.ask("VolumeDriver.List", `{}`)); diff != "" || len(before.Volumes) != 1 {
		t.Errorf("the list changed (-before +after):\n%s", diff)
	}
}

func TestC99GetIsCutUnlessTheAgentKnows(t *testing.T) {
	for what, answer := range map[string]http.HandlerFunc{
		"an error of the server": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"Err":"mobyfs has a bug here"}`))
		},
		"no JSON":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"nothing":   func(http.ResponseWriter, *http.Request) {},
		"no volume": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Err":""}`)) },
		"another volume": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"Volume":{"Name":"x","Mountpoint":"/x"}}`))
		},
		"a volume at no path": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Volume":{"Name":"pgdata"}}`)) },
	} {
		t.Run(what, func(t *testing.T) {
			a, stopAgent := agentOf(answer)
			d, stop := pluginOf(t, a.dial)
			defer stopAgent()
			defer stop()
			d.cut("VolumeDriver.Get", `{"Name":"pgdata"}`)
		})
	}
}

func TestC99MountIsTakenBackWhenDockerHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		m := &mounter{mount: func(ctx context.Context) error {
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}}
		d, stop := chain(t, m)
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // as docker plugin enable --timeout 10 makes it
		defer cancel()
		if _, _, err := d.post(ctx, "VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the call ended with %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the agent's work ended with %v, want it cancelled", err)
		}
		synctest.Wait()
		if m.count("pgdata/x") != 0 {
			t.Error("a use is counted that Docker does not know of")
		}
	})
}

func TestC99StoppingFinishesTheCallsThatAreBeingAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reached := make(chan struct{})
		m := &mounter{mount: func(context.Context) error {
			close(reached)
			<-time.After(3 * time.Second)
			return nil
		}}
		d, stop := chain(t, m)
		answered := make(chan reply, 1)
		go func() { answered <- d.ask("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`) }()
		<-reached
		stop()
		if got := <-answered; got.Err != "" || scoped(got.Mountpoint) != hostPath("pgdata") {
			t.Errorf("the Mount was answered with %+v", got)
		}
	})
}

func TestSettingsThatCantBeUsedAreRefusedWithTheWayOut(t *testing.T) {
	for _, tc := range []struct{ agent, level, want string }{
		{"/run/mobyfs/mobyfs.sock", "loud", "MOBYFS_LOG=info"},
		{"", "info", "MOBYFS_AGENT="},
	} {
		err := run(t.Context(), tc.agent, tc.level)
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || !strings.Contains(mobyfs.HintOf(err), tc.want) {
			t.Errorf("%+v: %v, hint %q", tc, err, mobyfs.HintOf(err))
		}
	}
}

// TestC99ConfigAsksForNothingButTheAgentsSocket reads config.json as Docker does.
func TestC99ConfigAsksForNothingButTheAgentsSocket(t *testing.T) {
	raw, err := os.ReadFile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	type mount struct {
		Name, Description, Source, Destination, Type string
		Options, Settable                            []string
	}
	type setting struct {
		Name, Description, Value string
		Settable                 []string
	}
	var config struct {
		Description, Documentation, Workdir string
		Entrypoint                          []string
		Interface                           struct {
			Types  []string
			Socket string
		}
		Mounts []mount
		Env    []setting
	}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields() // so that a capability, a device or a namespace of the host is an error here
	if err := dec.Decode(&config); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Interface.Types, []string{"docker.volumedriver/1.0"}) || config.Interface.Socket != filepath.Base(listenAt) {
		t.Errorf("Docker looks for %+v, the program listens at %s", config.Interface, listenAt)
	}
	if len(config.Mounts) != 1 || config.Mounts[0].Source != "/run/docker/plugins" || !slices.Contains(config.Mounts[0].Options, "ro") {
		t.Fatalf("the plugin has the mounts %+v", config.Mounts)
	}
	for _, e := range config.Env {
		if e.Name == "MOBYFS_AGENT" && filepath.Dir(e.Value) != config.Mounts[0].Destination {
			t.Errorf("the agent's socket is looked for at %s, but mounted at %s", e.Value, config.Mounts[0].Destination)
		}
	}
}
