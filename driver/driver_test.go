package driver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

// Names of tests begin with the number of the promise in the conformance checklist that they keep (C11 = item 11).

// fake is a Mounter that notes what it is asked and answers what a test wants.
type fake struct {
	mu        sync.Mutex
	asked     []string
	names     []string       // of the volumes asked for
	uses      map[string]int // volume/id → count
	lives     int
	create    func(ctx context.Context, name string, opts map[string]string) error
	mount     func(ctx context.Context, name, id string) (string, error)
	get       func(ctx context.Context, name string) (mobyfs.DockerVolume, error)
	removeErr error
	volumes   []mobyfs.DockerVolume
}

func (f *fake) note(call, name string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, name)
	f.asked = append(f.asked, fmt.Sprint(append([]any{call + " " + name + " "}, args...)...))
}

func (f *fake) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.asked...)
}

func (f *fake) count(name, id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.uses[name+"/"+id]
}

// set changes what the fake answers.
func (f *fake) set(change func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) add(name, id string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.uses == nil {
		f.uses = map[string]int{}
	}
	f.uses[name+"/"+id] += n
}

func (f *fake) Create(ctx context.Context, name string, opts map[string]string) error {
	f.note("Create", name, opts)
	f.mu.Lock()
	create := f.create
	f.mu.Unlock()
	if create != nil {
		return create(ctx, name, opts)
	}
	return nil
}

func (f *fake) Remove(_ context.Context, name string) error {
	f.note("Remove", name)
	return f.removeErr
}

func (f *fake) Mount(ctx context.Context, name, id string) (string, error) {
	f.note("Mount", name, id)
	f.mu.Lock()
	mount := f.mount
	f.mu.Unlock()
	if mount != nil {
		return mount(ctx, name, id)
	}
	f.add(name, id, 1)
	return "/vol/" + name, nil
}

func (f *fake) Unmount(_ context.Context, name, id string) error {
	f.note("Unmount", name, id)
	f.add(name, id, -1)
	return nil
}

func (f *fake) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	f.note("Get", name)
	f.mu.Lock()
	get := f.get
	f.mu.Unlock()
	if get != nil {
		return get(ctx, name)
	}
	return mobyfs.DockerVolume{Name: name, Mountpoint: "/vol/" + name, CreatedAt: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}, nil
}

func (f *fake) List() []mobyfs.DockerVolume {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.volumes
}

func (f *fake) Activated() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lives++
}

// serve answers on a real unix socket and returns its path.
func serve(t testing.TB, m mobyfs.Mounter) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mobyfs.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := Server(New(m, slog.New(slog.DiscardHandler)))
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return path
}

const dockerAccept = "Accept: application/vnd.docker.plugins.v1.2+json\r\n"

// asDocker is a call byte for byte as Docker writes it.
func asDocker(call, body string) string {
	return fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n%sContent-Length: %d\r\n\r\n%s",
		call, dockerAccept, len(body), body)
}

// asPodman is a call as Podman writes it.
func asPodman(call, body string) string {
	return fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: plugin\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\nContent-Length: %d\r\n\r\n%s",
		call, len(body), body)
}

// say writes raw bytes to the socket and reads everything up to the end of the connection.
func say(t testing.TB, socket, raw string) []byte {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("read the answer to %.80q: %v", raw, err)
	}
	return all
}

// ask makes a call and decodes its answer, which must be whole and end the connection.
func ask(t testing.TB, socket, raw string) (status int, ans map[string]any) {
	t.Helper()
	all := say(t, socket, raw)
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(all)), nil)
	if err != nil {
		t.Fatalf("%.80q was answered with %q: %v", raw, all, err)
	}
	defer r.Body.Close()
	if !r.Close {
		t.Errorf("%.80q: the answer leaves the connection open", raw)
	}
	if err := json.NewDecoder(r.Body).Decode(&ans); err != nil {
		t.Fatalf("%.80q was answered with %q: %v", raw, all, err)
	}
	if _, ok := ans["Err"].(string); !ok {
		t.Errorf("%.80q: the answer %v has no Err", raw, ans)
	}
	return r.StatusCode, ans
}

func mustBe(t *testing.T, status int, ans map[string]any, wantStatus int, want map[string]any) {
	t.Helper()
	if status != wantStatus {
		t.Errorf("got status %d, want %d", status, wantStatus)
	}
	if d := cmp.Diff(want, ans); d != "" {
		t.Errorf("the answer differs (-want +got):\n%s", d)
	}
}

func TestC01ActivateAnswersAnEmptyBody(t *testing.T) {
	f := &fake{}
	status, ans := ask(t, serve(t, f), asDocker("Plugin.Activate", ""))
	mustBe(t, status, ans, 200, map[string]any{"Implements": []any{"VolumeDriver"}, "Err": ""})
}

func TestC02EveryClientsHeadersAreAccepted(t *testing.T) {
	socket := serve(t, &fake{})
	for _, call := range []string{"Plugin.Activate", "VolumeDriver.Capabilities", "VolumeDriver.List", "VolumeDriver.Get",
		"VolumeDriver.Path", "VolumeDriver.Create", "VolumeDriver.Mount", "VolumeDriver.Unmount", "VolumeDriver.Remove"} {
		for _, headers := range []string{
			"Host: \r\n" + dockerAccept,
			"Host: plugin.moby.localhost\r\n" + dockerAccept,
			"Host: plugin\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\n",
			"Host: x\r\nAccept: application/vnd.docker.plugins.v1+json\r\n",
			"Host: x\r\nAccept: application/vnd.docker.plugins.v1.1+json\r\nContent-Type: text/html\r\n",
		} {
			body := `{"Name":"pgdata","ID":"x"}` + "\n"
			raw := fmt.Sprintf("POST /%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", call, headers, len(body), body)
			if status, ans := ask(t, socket, raw); status != 200 || ans["Err"] != "" {
				t.Errorf("%s with %q: got %d %v", call, headers, status, ans)
			}
		}
	}
}

func TestC03ErrorsToDockerAreStatus200(t *testing.T) {
	f := &fake{removeErr: mobyfs.Errorf(mobyfs.CodeInUse, `volume "pgdata" is in use on h1 by container web-1`).WithHint("stop it there, then try again")}
	status, ans := ask(t, serve(t, f), asDocker("VolumeDriver.Remove", `{"Name":"pgdata"}`))
	mustBe(t, status, ans, 200, map[string]any{"Err": `volume "pgdata" is in use on h1 by container web-1 – stop it there, then try again`})
}

func TestC04ErrorsToPodmanAreStatus500(t *testing.T) {
	f := &fake{removeErr: mobyfs.Errorf(mobyfs.CodeInUse, "in use")}
	socket := serve(t, f)
	status, ans := ask(t, socket, asPodman("VolumeDriver.Remove", `{"Name":"pgdata"}`))
	mustBe(t, status, ans, 500, map[string]any{"Err": "in use"})
	status, ans = ask(t, socket, asPodman("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
	mustBe(t, status, ans, 200, map[string]any{"Err": "", "Mountpoint": "/vol/pgdata"})
}

func TestC05OtherMethodsAndPathsChangeNothing(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	for raw, want := range map[string]int{
		"GET /VolumeDriver.Remove HTTP/1.1\r\nHost: x\r\n\r\n":                                        405,
		"PUT /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"Name\":\"ab\"}": 405,
		asDocker("VolumeDriver.Destroy", `{"Name":"pgdata"}`):                                         404,
		asDocker("VolumeDriver.Remove/", `{"Name":"pgdata"}`):                                         404,
		asDocker("", ""): 404,
	} {
		if status, ans := ask(t, socket, raw); status != want || ans["Err"] == "" {
			t.Errorf("%.40q: got %d %v, want %d and an Err", raw, status, ans, want)
		}
	}
	if got := f.calls(); len(got) != 0 {
		t.Errorf("the mounter was asked %v", got)
	}
}

func TestC06OptsNullEmptyAndMissingAreEqual(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	for _, body := range []string{`{"Name":"pgdata","Opts":null}`, `{"Name":"pgdata","Opts":{}}`, `{"Name":"pgdata"}`,
		`{"name":"pgdata","OPTS":{},"Unknown":[1,{"a":2}]}`} {
		if _, ans := ask(t, socket, asDocker("VolumeDriver.Create", body)); ans["Err"] != "" {
			t.Errorf("%s: %v", body, ans)
		}
	}
	want := []string{"Create pgdata map[]", "Create pgdata map[]", "Create pgdata map[]", "Create pgdata map[]"}
	if d := cmp.Diff(want, f.calls()); d != "" {
		t.Error(d)
	}
}

func TestC07BodiesTooLargeOrMalformedChangeNothing(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	big := `{"Name":"pgdata","Opts":{"x":"` + strings.Repeat("a", maxBody) + `"}}`
	for _, body := range []string{big, `{`, `[]`, `"pgdata"`, `{"Name":7}`, `{"Name":"pgdata","Opts":{"size":7}}`, `{"Name":"pgdata","Opts":[]}`, "\x00"} {
		for _, call := range []string{"Create", "Mount", "Unmount", "Remove"} {
			if status, ans := ask(t, socket, asDocker("VolumeDriver."+call, body)); status != 200 || ans["Err"] == "" {
				t.Errorf("%s %.40q: got %d %v, want an Err", call, body, status, ans)
			}
		}
	}
	if got := f.calls(); len(got) != 0 {
		t.Errorf("the mounter was asked %v", got)
	}
}

func TestC08ChunkedBodiesAndWhatFollowsThemAreFine(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	body := `{"Name":"pgdata","ID":"x"}`
	chunked := fmt.Sprintf("POST /VolumeDriver.Mount HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", dockerAccept, len(body), body)
	for _, raw := range []string{chunked, asDocker("VolumeDriver.Mount", body+"\n"), asDocker("VolumeDriver.Mount", body+"\n} trailing")} {
		if _, ans := ask(t, socket, raw); ans["Mountpoint"] != "/vol/pgdata" {
			t.Errorf("%q: got %v", raw, ans)
		}
	}
}

func TestC09PanicIsAnAnswerAndTheProcessLives(t *testing.T) {
	f := &fake{mount: func(context.Context, string, string) (string, error) { panic("a bug") }}
	socket := serve(t, f)
	for range 3 {
		status, ans := ask(t, socket, asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
		if status != 500 || ans["Err"] == "" {
			t.Fatalf("got %d %v, want 500 and an Err", status, ans)
		}
	}
	if _, ans := ask(t, socket, asDocker("VolumeDriver.List", "{}")); ans["Err"] != "" {
		t.Errorf("after the panics List answers %v", ans)
	}
}

func TestC09PanicInGetIsNoAnswer(t *testing.T) {
	f := &fake{get: func(context.Context, string) (mobyfs.DockerVolume, error) { panic("a bug") }}
	if got := say(t, serve(t, f), asDocker("VolumeDriver.Get", `{"Name":"pgdata"}`)); len(got) != 0 {
		t.Errorf("Docker would forget the volume: it read %q", got)
	}
}

func TestC10SuccessHasABody(t *testing.T) {
	socket := serve(t, &fake{})
	for _, call := range []string{"Create", "Remove", "Unmount"} {
		status, ans := ask(t, socket, asDocker("VolumeDriver."+call, `{"Name":"pgdata","ID":"x"}`))
		mustBe(t, status, ans, 200, map[string]any{"Err": ""})
	}
}

func TestC11EmptyBodyIsRefused(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	for _, call := range []string{"Create", "Mount", "Unmount", "Remove"} {
		for _, body := range []string{"", "\n"} {
			status, ans := ask(t, socket, asDocker("VolumeDriver."+call, body))
			mustBe(t, status, ans, 200, map[string]any{"Err": "Docker lost the body of the call on the way – please repeat the command"})
		}
		cut := strings.Replace(asDocker("VolumeDriver."+call, `{"Name":"pgdata"}`), "Content-Length: 17", "Content-Length: 40", 1)
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, cut)
		_ = c.(*net.UnixConn).CloseWrite()
		_, _ = io.ReadAll(c)
		c.Close()
	}
	if got := f.calls(); len(got) != 0 {
		t.Errorf("the mounter was asked %v", got)
	}
}

func TestC12EmptyBodyOnGetAndPathIsCut(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	for _, call := range []string{"Get", "Path"} {
		for _, raw := range []string{asDocker("VolumeDriver."+call, ""), asDocker("VolumeDriver."+call, "\n"), asPodman("VolumeDriver."+call, "")} {
			if got := say(t, socket, raw); len(got) != 0 {
				t.Errorf("%s without a body was answered with %q", call, got)
			}
		}
	}
	if got := f.calls(); len(got) != 0 {
		t.Errorf("the mounter was asked %v", got)
	}
}

func TestC14MountWhoseAnswerIsLostIsTakenBack(t *testing.T) {
	reached, leave := make(chan struct{}), make(chan struct{})
	f := &fake{}
	f.mount = func(_ context.Context, name, id string) (string, error) {
		f.add(name, id, 1)
		close(reached)
		<-leave // the work is done; meanwhile Docker goes
		return "/vol/" + name, nil
	}
	c, err := net.Dial("unix", serve(t, f))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
	<-reached
	c.Close()
	time.AfterFunc(50*time.Millisecond, func() { close(leave) })
	eventually(t, "the use is taken back", func() bool {
		return cmp.Equal(f.calls(), []string{"Mount pgdata x", "Unmount pgdata x"}) && f.count("pgdata", "x") == 0
	})
}

func TestC14MountWhoseAnswerArrivedStays(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	for i := range 200 {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, asDocker("VolumeDriver.Mount", fmt.Sprintf(`{"Name":"pgdata","ID":"id-%d"}`, i)))
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			err = json.NewDecoder(r.Body).Decode(&struct{}{})
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Close() // Docker hangs up the moment it has the answer
	}
	for i := range 200 {
		if n := f.count("pgdata", fmt.Sprint("id-", i)); n != 1 {
			t.Fatalf("mount %d is counted %d times", i, n)
		}
	}
}

func TestC86GivingUpEndsTheMountersContext(t *testing.T) {
	reached, ended := make(chan struct{}), make(chan error, 1)
	f := &fake{mount: func(ctx context.Context, _, _ string) (string, error) {
		close(reached)
		<-ctx.Done()
		ended <- ctx.Err()
		return "", ctx.Err()
	}}
	c, err := net.Dial("unix", serve(t, f))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
	<-reached
	c.Close()
	select {
	case err := <-ended:
		if err != context.Canceled {
			t.Errorf("the context ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the Mount still waits 5 s after Docker went away")
	}
	if got := f.calls(); len(got) != 1 {
		t.Errorf("a Mount that failed needs no Unmount; asked %v", got)
	}
}

func TestC15NoCallOfAKeptConnectionArrivesEmpty(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	const n = 1000
	for i := range n {
		body := bytes.NewBufferString(fmt.Sprintf(`{"Name":"v-%d"}`, i))
		req, _ := http.NewRequest(http.MethodPost, "http://plugin.moby.localhost/VolumeDriver.Create", body)
		req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(text) != `{"Err":""}`+"\n" {
			t.Fatalf("call %d was answered with %s", i, text)
		}
	}
	if got := len(f.calls()); got != n {
		t.Errorf("%d calls arrived, want %d", got, n)
	}
}

func TestC24OnlyDockersActivateIsANewLife(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	ask(t, socket, asPodman("Plugin.Activate", ""))
	ask(t, socket, asDocker("Plugin.Activate", ""))
	ask(t, socket, asPodman("Plugin.Activate", ""))
	f.set(func(f *fake) {
		if f.lives != 1 {
			t.Errorf("got %d lives, want 1", f.lives)
		}
	})
}

func TestC26CapabilitiesAreGlobalAndQuick(t *testing.T) {
	socket := serve(t, &fake{})
	start := time.Now()
	var wg sync.WaitGroup
	var wrong atomic.Int32
	slots := make(chan struct{}, 50)
	for range 1000 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			status, ans := ask(t, socket, asDocker("VolumeDriver.Capabilities", "{}"))
			if status != 200 || !cmp.Equal(ans, map[string]any{"Err": "", "Capabilities": map[string]any{"Scope": "global"}}) {
				wrong.Add(1)
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d answers are wrong", n)
	}
	t.Logf("1000 calls took %v", time.Since(start))
}

func TestC30ImpossibleNamesAreRefusedInCreateAndUnknownInGet(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	for _, name := range []string{"", "x", "../../etc/passwd", "a/b", ".", "..", "-dash", "new\nline", "nul\x00", strings.Repeat("a", 129),
		strings.Repeat("b", 20000), "café", "cafe\u0301", "\xff\xfe", "a b", "<b>", `"quoted"`} {
		body, _ := json.Marshal(map[string]any{"Name": name, "ID": "x"})
		for _, call := range []string{"Create", "Mount"} {
			_, ans := ask(t, socket, asDocker("VolumeDriver."+call, string(body)))
			text, _ := ans["Err"].(string)
			if text == "" || strings.ContainsAny(text, "\n\r\x00") || len(text) > 400 {
				t.Errorf("%s %.30q: got %q, want one clear line", call, name, text)
			}
		}
		for _, call := range []string{"Get", "Path"} {
			_, ans := ask(t, socket, asDocker("VolumeDriver."+call, string(body)))
			if d := cmp.Diff(map[string]any{"Err": "no such volume"}, ans); d != "" {
				t.Errorf("%s %.30q: %s", call, name, d)
			}
		}
		for _, call := range []string{"Remove", "Unmount"} {
			if _, ans := ask(t, socket, asDocker("VolumeDriver."+call, string(body))); ans["Err"] != "" {
				t.Errorf("%s %.30q: got %v, want success: there is no such volume", call, name, ans)
			}
		}
	}
	if got := f.calls(); len(got) != 0 {
		t.Errorf("the mounter was asked %v", got)
	}
}

func TestC33GetThatCantBeAnsweredIsCut(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	for _, err := range []error{mobyfs.Errorf(mobyfs.CodeUnavailable, "control can't be reached"), context.DeadlineExceeded,
		mobyfs.Errorf(mobyfs.CodeInternal, "the disk is broken"), fmt.Errorf("anything")} {
		f.set(func(f *fake) {
			f.get = func(context.Context, string) (mobyfs.DockerVolume, error) { return mobyfs.DockerVolume{}, err }
		})
		if got := say(t, socket, asDocker("VolumeDriver.Get", `{"Name":"pgdata"}`)); len(got) != 0 {
			t.Errorf("%v: Docker would forget the volume: it read %q", err, got)
		}
		if status, ans := ask(t, socket, asPodman("VolumeDriver.Get", `{"Name":"pgdata"}`)); status != 500 || ans["Err"] == "" {
			t.Errorf("%v: Podman got %d %v", err, status, ans)
		}
	}
}

func TestC34GetAnswersNothingThatDockerTakesForNoVolume(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	good := mobyfs.DockerVolume{Name: "pgdata", Mountpoint: "/vol/pgdata", CreatedAt: time.Date(2026, 11, 22, 10, 0, 0, 0, time.FixedZone("", 3600)),
		Status: map[string]any{"node": "h1", "fence": 7}}
	want := map[string]any{"Err": "", "Volume": map[string]any{"Name": "pgdata", "Mountpoint": "/vol/pgdata", "CreatedAt": "2026-11-22T09:00:00Z",
		"Status": map[string]any{"node": "h1", "fence": 7.0}}}
	f.set(func(f *fake) { f.get = func(context.Context, string) (mobyfs.DockerVolume, error) { return good, nil } })
	status, ans := ask(t, socket, asDocker("VolumeDriver.Get", `{"Name":"pgdata"}`))
	mustBe(t, status, ans, 200, want)

	undated := good
	undated.CreatedAt = time.Time{}
	f.set(func(f *fake) {
		f.get = func(context.Context, string) (mobyfs.DockerVolume, error) { return undated, nil }
	})
	_, ans = ask(t, socket, asDocker("VolumeDriver.Get", `{"Name":"pgdata"}`))
	if _, there := ans["Volume"].(map[string]any)["CreatedAt"]; there {
		t.Errorf("a volume without a date is told with %v", ans)
	}

	for _, bad := range []mobyfs.DockerVolume{{Name: "other", Mountpoint: "/vol/other"}, {Name: "pgdata"}, {Name: "pgdata", Mountpoint: "rel"}, {Name: "pgdata", Mountpoint: "/"}} {
		f.set(func(f *fake) { f.get = func(context.Context, string) (mobyfs.DockerVolume, error) { return bad, nil } })
		if got := say(t, socket, asDocker("VolumeDriver.Get", `{"Name":"pgdata"}`)); len(got) != 0 {
			t.Errorf("%+v was told: %q", bad, got)
		}
	}

	f.set(func(f *fake) {
		f.get = func(context.Context, string) (mobyfs.DockerVolume, error) {
			return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume pgdata")
		}
	})
	status, ans = ask(t, socket, asDocker("VolumeDriver.Get", `{"Name":"pgdata"}`))
	mustBe(t, status, ans, 200, map[string]any{"Err": "no such volume"})
}

func TestC35MountNeverGivesAnUnusablePath(t *testing.T) {
	for _, path := range []string{"", "rel/path", "/"} {
		f := &fake{}
		f.mount = func(_ context.Context, name, id string) (string, error) { f.add(name, id, 1); return path, nil }
		_, ans := ask(t, serve(t, f), asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
		if _, there := ans["Mountpoint"]; there || ans["Err"] == "" {
			t.Errorf("%q was told to Docker: %v", path, ans)
		}
		if f.count("pgdata", "x") != 0 {
			t.Errorf("%q: the use is still counted", path)
		}
	}
}

func TestC36ListHasNoNullEmptyOrDoubleEntries(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	_, ans := ask(t, socket, asDocker("VolumeDriver.List", "{}"))
	if d := cmp.Diff(map[string]any{"Err": "", "Volumes": []any{}}, ans); d != "" {
		t.Errorf("no volumes: %s", d)
	}
	f.set(func(f *fake) {
		f.volumes = []mobyfs.DockerVolume{{Name: "aa", Mountpoint: "/vol/aa"}, {Name: "", Mountpoint: "/vol/x"}, {Name: "aa", Mountpoint: "/vol/aa"}, {Name: "bb"}, {Name: "cc", Mountpoint: "/vol/cc"}}
	})
	_, ans = ask(t, socket, asDocker("VolumeDriver.List", "{}"))
	want := map[string]any{"Err": "", "Volumes": []any{
		map[string]any{"Name": "aa", "Mountpoint": "/vol/aa"}, map[string]any{"Name": "cc", "Mountpoint": "/vol/cc"}}}
	if d := cmp.Diff(want, ans); d != "" {
		t.Error(d)
	}
}

func TestC36ListOf10000VolumesIsQuick(t *testing.T) {
	f := &fake{}
	for i := range 10000 {
		name := fmt.Sprintf("volume-%05d", i)
		f.volumes = append(f.volumes, mobyfs.DockerVolume{Name: name, Mountpoint: "/var/lib/mobyfs/volumes/" + name + "/data"})
	}
	socket := serve(t, f)
	start := time.Now()
	_, ans := ask(t, socket, asDocker("VolumeDriver.List", "{}"))
	if n := len(ans["Volumes"].([]any)); n != 10000 {
		t.Errorf("got %d volumes", n)
	}
	t.Logf("took %v", time.Since(start))
}

func TestC37SlowMountHoldsNobodyUp(t *testing.T) {
	reached, leave := make(chan struct{}), make(chan struct{})
	f := &fake{mount: func(context.Context, string, string) (string, error) {
		close(reached)
		<-leave
		return "/vol/pgdata", nil
	}}
	socket := serve(t, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask(t, socket, asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
	}()
	<-reached
	for _, call := range []string{"List", "Get", "Capabilities", "Path", "Unmount"} {
		if _, ans := ask(t, socket, asDocker("VolumeDriver."+call, `{"Name":"pgdata","ID":"y"}`)); ans["Err"] != "" {
			t.Errorf("%s: %v", call, ans)
		}
	}
	close(leave)
	<-done
}

func TestC42PathOfAKnownAndAnUnknownVolume(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	_, ans := ask(t, socket, asDocker("VolumeDriver.Path", `{"Name":"pgdata"}`))
	if d := cmp.Diff(map[string]any{"Err": "", "Mountpoint": "/vol/pgdata"}, ans); d != "" {
		t.Error(d)
	}
	f.set(func(f *fake) {
		f.get = func(context.Context, string) (mobyfs.DockerVolume, error) {
			return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is none")
		}
	})
	if _, ans = ask(t, socket, asDocker("VolumeDriver.Path", `{"Name":"pgdata"}`)); ans["Err"] != "no such volume" {
		t.Errorf("got %v", ans)
	}
}

func TestC43SecretsInOptionsAreNeverLogged(t *testing.T) {
	var out bytes.Buffer
	f := &fake{create: func(context.Context, string, map[string]string) error {
		return mobyfs.Errorf(mobyfs.CodeInvalid, `there is no option "password"`)
	}}
	h := New(f, slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := Server(h)
	go func() { _ = s.Serve(l) }()
	_, ans := ask(t, path, asDocker("VolumeDriver.Create", `{"Name":"pgdata","Opts":{"password":"hunter2"}}`))
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "pgdata") || strings.Contains(out.String(), "hunter2") || strings.Contains(fmt.Sprint(ans), "hunter2") {
		t.Errorf("logged: %s\nanswered: %v", &out, ans)
	}
}

func TestC44ErrorTextsAreOneLineWithTheWayOut(t *testing.T) {
	f := &fake{removeErr: fmt.Errorf("remove: %w", mobyfs.Errorf(mobyfs.CodeInternal, "line one\nline <two> \"é\" \x1b[31m").WithHint("look\nat it"))}
	_, ans := ask(t, serve(t, f), asDocker("VolumeDriver.Remove", `{"Name":"pgdata"}`))
	want := "remove: line one line <two> \"é\"  [31m – look at it"
	if ans["Err"] != want {
		t.Errorf("got %q, want %q", ans["Err"], want)
	}
}

func TestC71MountWithoutAnIDIsPassedOn(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	ask(t, socket, asDocker("VolumeDriver.Mount", `{"Name":"pgdata"}`))
	ask(t, socket, asDocker("VolumeDriver.Unmount", `{"Name":"pgdata"}`))
	if d := cmp.Diff([]string{"Mount pgdata ", "Unmount pgdata "}, f.calls()); d != "" {
		t.Error(d)
	}
	long := strings.Repeat("f", maxID+1)
	if _, ans := ask(t, socket, asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"`+long+`"}`)); ans["Err"] == "" {
		t.Error("an ID without end was taken")
	}
}

func TestC88TheTimeOfACallIsThatOfItsClient(t *testing.T) {
	given := make(chan time.Duration, 1)
	f := &fake{mount: func(ctx context.Context, _, _ string) (string, error) {
		until, _ := ctx.Deadline()
		given <- time.Until(until)
		return "/vol/pgdata", nil
	}}
	socket := serve(t, f)
	ask(t, socket, asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
	if left := <-given; left > 110*time.Second || left < 105*time.Second {
		t.Errorf("Docker's Mount has %v, want 110 s", left)
	}
	ask(t, socket, asPodman("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`))
	if left := <-given; left > 4500*time.Millisecond || left < 3*time.Second {
		t.Errorf("Podman's Mount has %v, want 4.5 s", left)
	}
}

func TestClientSaysForHowLongItWaits(t *testing.T) {
	given := make(chan time.Duration, 1)
	f := &fake{mount: func(ctx context.Context, _, _ string) (string, error) {
		until, _ := ctx.Deadline()
		given <- time.Until(until)
		return "/vol/pgdata", nil
	}}
	socket := serve(t, f)
	for prefer, want := range map[string]time.Duration{
		"wait=22":                   22 * time.Second,
		"respond-async, wait=22":    22 * time.Second,
		"wait=9000":                 110 * time.Second, // longer than Docker itself waits
		"wait=0":                    110 * time.Second,
		"wait=-1, wait=x, weight=3": 110 * time.Second,
	} {
		raw := strings.Replace(asDocker("VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`), dockerAccept, dockerAccept+"Prefer: "+prefer+"\r\n", 1)
		ask(t, socket, raw)
		if left := <-given; left > want || left < want-5*time.Second {
			t.Errorf("with Prefer: %s the Mount has %v, want %v", prefer, left, want)
		}
	}
}

// eventually polls until ok, for at most a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
