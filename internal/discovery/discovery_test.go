package discovery

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func TestC22WhatDockerWouldNotVerifyIsRefused(t *testing.T) {
	for _, tc := range []struct {
		way      Way
		endpoint Endpoint
		want     string // "" is fine
	}{
		{Sock, SockEndpoint, ""},
		{Sock, "unix:///run/mobyfs.sock", "nowhere else"},
		{Spec, SpecEndpoint, ""},
		{Spec, "tcp://127.0.0.1:8081", ""},
		{Spec, "https://127.0.0.1:8081", "never verifies"},
		{Spec, "tcp://0.0.0.0:8081", "own host only"},
		{Spec, "tcp://[::1]:8081", "own host only"},
		{Spec, "tcp://127.0.0.1:0", "no port"},
		{Spec, "tcp://127.0.0.1:99999", "no port"},
		{Spec, "http://127.0.0.1:8081", "not to http://"},
		{Spec, "unix:///run/docker/plugins/mobyfs.sock", "behind a .spec"},
		{JSON, JSONEndpoint, ""},
		{JSON, "https://127.0.0.1:9", ""},
		{JSON, "https://h1:8081", "own host only"},
		{JSON, "https://user@127.0.0.1:8081", "more than host and port"},
		{JSON, "unix:///run/mobyfs/driver.sock", "certificates"},
		{JSON, "", "no URL"},
	} {
		err := tc.way.Check(tc.endpoint)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s %s: %v", tc.way, tc.endpoint, err)
		case tc.want != "" && (mobyfs.CodeOf(err) != mobyfs.CodeInvalid || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s %s: got %v, want one that says %q", tc.way, tc.endpoint, err, tc.want)
		}
	}
}

// host is a machine's root in a directory.
type host struct {
	t    *testing.T
	root string
}

func newHost(t *testing.T) host {
	dir, err := os.MkdirTemp("", "host") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return host{t, dir}
}

func (h host) write(path, text string, mode os.FileMode) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.root+path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.root+path, []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(h.root+path, mode); err != nil {
		h.t.Fatal(err)
	}
}

// serve answers at a socket with what the handler says.
func (h host) serve(path string, handler http.HandlerFunc) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.root+path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("unix", h.root+path)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(h.root+path, 0o600); err != nil {
		h.t.Fatal(err)
	}
	s := &http.Server{Handler: handler}
	go func() { _ = s.Serve(l) }()
	h.t.Cleanup(func() { _ = s.Close() })
}

// dead leaves a socket behind that nobody listens at.
func (h host) dead(path string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.root+path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.root + path, Net: "unix"})
	if err != nil {
		h.t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

// driver answers as one does that has an agent behind it, and fails the test if it is told of a new life.
func (h host) driver(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Accept") == "" && r.URL.Path == "/VolumeDriver.Capabilities":
		_, _ = w.Write([]byte(`{"Err":"","Capabilities":{"Scope":"global"}}`))
	case r.Header.Get("Accept") == "" && r.URL.Path == "/VolumeDriver.Unmount":
		_, _ = w.Write([]byte(`{"Err":""}`))
	default:
		h.t.Errorf("the driver was asked %s with Accept %q", r.URL.Path, r.Header.Get("Accept"))
	}
}

func (h host) docker(activated bool, plugins string) {
	h.write("/run/docker.pid", strconv.Itoa(os.Getpid())+"\n", 0o644)
	h.serve("/docker.sock", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/info":
			volume := []string{"local"}
			if activated {
				volume = append(volume, Name)
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"ServerVersion": "26.1.5", "Plugins": map[string]any{"Volume": volume}})
		case "/plugins":
			_, _ = w.Write([]byte(plugins))
		default:
			http.NotFound(w, r)
		}
	})
}

func (h host) look(told Endpoint, kept ...Endpoint) Report {
	return Look(context.Background(), h.root, h.root+"/docker.sock", told, kept)
}

// rows is what a report says of each registration, and then of the host.
func rows(r Report) (all []string) {
	for _, x := range r.Registrations {
		row := x.Kind + " " + string(x.Endpoint)
		if x.Wins {
			row += " wins"
		}
		if x.Answers {
			row += " answers"
		}
		all = append(all, strings.Join(append([]string{row}, x.Trouble...), "; "))
	}
	return append(all, r.Trouble...)
}

func TestOrderInWhichDockerLooks(t *testing.T) {
	h := newHost(t)
	h.docker(true, `[]`)
	for _, p := range files() {
		h.write(p, "tcp://127.0.0.1:1", 0o644)
	}
	want, got := append(sockets(), files()...), []string(nil)
	for _, p := range sockets() {
		h.serve(p, h.driver)
	}
	for i, r := range Find(h.root) {
		got = append(got, r.Place)
		if r.Wins != (i == 0) {
			t.Errorf("%s wins: %v", r.Place, r.Wins)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got[2] != "/etc/docker/plugins/mobyfs.spec" || got[len(got)-1] != "/usr/lib/docker/plugins/mobyfs/mobyfs.json" {
		t.Errorf("the order is %v", got)
	}
}

func TestReports(t *testing.T) {
	fine := func(h host) { h.serve(SockPath, h.driver) }
	for _, tc := range []struct {
		name    string
		told    Endpoint
		kept    []Endpoint
		plugins string
		make    func(h host)
		want    []string
	}{
		{name: "as it should be", told: SockEndpoint, make: fine,
			want: []string{"sock unix:///run/docker/plugins/mobyfs.sock wins answers"}},
		{name: "nothing", told: SockEndpoint, make: func(host) {},
			want: []string{"nothing tells Docker of the driver: run mobyctl bootstrap"}},
		{name: "dead socket", told: SockEndpoint, make: func(h host) { h.dead(SockPath); chmod(h, SockPath, 0o600) },
			want: []string{"sock unix:///run/docker/plugins/mobyfs.sock wins; no driver answers there: each use waits for 15 s; on the host: systemctl status mobyfs.socket mobyfs"}},
		{name: "open to all", told: SockEndpoint, make: func(h host) { fine(h); chmod(h, SockPath, 0o666) },
			want: []string{"sock unix:///run/docker/plugins/mobyfs.sock wins answers; the socket's mode is 0666: users other than root could use and remove volumes; mobyfs.socket gives it 0600"}},
		{name: "no socket at all", told: SpecEndpoint, make: func(h host) {
			h.write(SockPath, "", 0o600)
			h.serve(DriverSock, h.driver)
			h.write(SpecPath, string(SpecEndpoint)+"\n", 0o644)
		}, want: []string{
			"sock unix:///run/docker/plugins/mobyfs.sock; it is no socket, so Docker passes it over",
			"spec unix:///run/mobyfs/driver.sock wins answers",
			"/run/docker/plugins/mobyfs.sock is of no use and comes into play if /etc/docker/plugins/mobyfs.spec goes: remove it"}},
		{name: "the old socket while dockerd lives", told: SpecEndpoint, kept: []Endpoint{SockEndpoint}, make: func(h host) {
			fine(h)
			h.serve(DriverSock, h.driver)
			h.write(SpecPath, string(SpecEndpoint), 0o644)
		}, want: []string{
			"sock unix:///run/docker/plugins/mobyfs.sock wins answers",
			"spec unix:///run/mobyfs/driver.sock answers",
			"Docker calls unix:///run/docker/plugins/mobyfs.sock until dockerd is restarted; it takes unix:///run/mobyfs/driver.sock then"}},
		{name: "something else comes before", told: SpecEndpoint, make: func(h host) {
			fine(h)
			h.serve(DriverSock, h.driver)
			h.write(SpecPath, string(SpecEndpoint), 0o644)
		}, want: []string{
			"sock unix:///run/docker/plugins/mobyfs.sock wins answers",
			"spec unix:///run/mobyfs/driver.sock answers",
			"/run/docker/plugins/mobyfs.sock comes before what leads to unix:///run/mobyfs/driver.sock: remove it, then restart dockerd"}},
		{name: "https in a .spec", told: SockEndpoint, make: func(h host) { h.write(SpecPath, "https://127.0.0.1:1", 0o644) },
			want: []string{
				"spec https://127.0.0.1:1 wins; Docker never verifies https in a .spec: whoever answers there is believed; no driver answers there: each use waits for 15 s; on the host: systemctl status mobyfs.socket mobyfs",
				"/etc/docker/plugins/mobyfs.spec comes before what leads to unix:///run/docker/plugins/mobyfs.sock: remove it, then restart dockerd"}},
		{name: "no CAFile", told: SockEndpoint, make: func(h host) {
			fine(h)
			h.write(JSONPath, `{"Addr":"https://127.0.0.1:1","TLSConfig":{"CertFile":"/x","KeyFile":"/y"}}`, 0o644)
		}, want: []string{
			"sock unix:///run/docker/plugins/mobyfs.sock wins answers",
			"json https://127.0.0.1:1; Docker does not verify who answers: CAFile must be set and InsecureSkipVerify false",
			"/etc/docker/plugins/mobyfs.json is of no use and comes into play if /run/docker/plugins/mobyfs.sock goes: remove it"}},
		{name: "junk that everybody may write", told: SockEndpoint, make: func(h host) {
			fine(h)
			h.write(JSONPath, "{", 0o666)
		}, want: []string{
			"sock unix:///run/docker/plugins/mobyfs.sock wins answers",
			"json ; its mode is 0666: users other than root could lead Docker elsewhere; it is no JSON, so every use of the driver is an error: unexpected end of JSON input",
			"/etc/docker/plugins/mobyfs.json is of no use and comes into play if /run/docker/plugins/mobyfs.sock goes: remove it"}},
		{name: "a managed plugin that is disabled", told: SockEndpoint, plugins: `[{"Id":"ab","Name":"mobyfs:latest","Enabled":false},{"Id":"cd","Name":"other:latest","Enabled":true}]`,
			make: fine, want: []string{
				"managed  wins; it is disabled, and still comes before everything else: docker plugin rm mobyfs:latest",
				"sock unix:///run/docker/plugins/mobyfs.sock answers",
				"docker plugin mobyfs:latest comes before what leads to unix:///run/docker/plugins/mobyfs.sock: remove it, then restart dockerd"}},
		{name: "not installed", make: fine, want: []string{
			"sock unix:///run/docker/plugins/mobyfs.sock wins answers",
			"mobyfs is not installed, yet /run/docker/plugins/mobyfs.sock leads Docker to a driver of its name"}},
	} {
		h := newHost(t)
		if tc.plugins == "" {
			tc.plugins = "[]"
		}
		h.docker(true, tc.plugins)
		tc.make(h)
		r := h.look(tc.told, tc.kept...)
		if diff := cmp.Diff(tc.want, rows(r), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if fine := tc.name == "as it should be"; r.Fine() != fine || !r.Docker.Activated {
			t.Errorf("%s: fine is %v, Docker is %+v", tc.name, r.Fine(), r.Docker)
		}
	}
}

func chmod(h host, path string, mode os.FileMode) {
	h.t.Helper()
	if err := os.Chmod(h.root+path, mode); err != nil {
		h.t.Fatal(err)
	}
}

func TestSilentDockerdIsSaid(t *testing.T) {
	h := newHost(t)
	h.write("/run/docker.pid", strconv.Itoa(os.Getpid()), 0o644)
	h.serve(SockPath, h.driver)
	r := h.look(SockEndpoint)
	if r.Fine() || r.Docker.Error == "" || len(r.Registrations) != 1 || !r.Registrations[0].Answers {
		t.Errorf("got %+v", r)
	}
}

// Whoever calls at the socket of a dockerd that was stopped starts it.
func TestStoppedDockerdIsLeftAlone(t *testing.T) {
	h := newHost(t)
	h.serve(SockPath, h.driver)
	h.serve("/docker.sock", func(http.ResponseWriter, *http.Request) { t.Error("dockerd was asked") })
	if r := h.look(SockEndpoint); r.Docker.Error != "it does not run" {
		t.Errorf("got %+v", r)
	}
}

// What bootstrap writes for TLS is without trouble, asked by what it says.
func TestJSONWithCertificatesOfTheCluster(t *testing.T) {
	h := newHost(t)
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{pki.RoleNode, pki.RoleDocker} {
		f := pki.FilesIn(h.root+"/pki", role)
		csr, err := f.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := a.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: "h1"})
		if err == nil {
			err = f.Install(cert, a.CertPEM)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	config, err := pki.FilesIn(h.root+"/pki", pki.RoleNode).DockerTLS(pki.Identity{Cluster: "shop", Role: pki.RoleDocker, Name: "h1"}, pki.FilesIn(h.root+"/pki", pki.RoleDocker))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(h.driver), TLSConfig: config}
	go func() { _ = s.ServeTLS(l, "", "") }()
	defer s.Close()
	h.docker(false, "[]")
	at := Endpoint("https://" + l.Addr().String())
	h.write(JSONPath, `{"Name":"mobyfs","Addr":"`+string(at)+`","TLSConfig":{"InsecureSkipVerify":false,"CAFile":"/pki/ca.crt","CertFile":"/pki/docker.crt","KeyFile":"/pki/docker.key"}}`, 0o644)
	r := h.look(at)
	if diff := cmp.Diff([]string{"json " + string(at) + " wins answers"}, rows(r)); diff != "" || r.Docker.Activated {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := AskRegistered(t.Context(), h.root, at); err != nil {
		t.Errorf("asked as Docker would: %v", err)
	}
	h.write(JSONPath, `{"Addr":"`+string(at)+`","TLSConfig":{"CAFile":"/pki/ca.crt","CertFile":"/pki/node.crt","KeyFile":"/pki/node.key"}}`, 0o644)
	if err := AskRegistered(t.Context(), h.root, at); !Refused(err) {
		t.Errorf("with the node's own certificate: %v", err)
	}
}

// Bootstrap must not take a stub for an agent that works.
func TestStubIsADriverButNoAgent(t *testing.T) {
	h := newHost(t)
	h.serve(SockPath, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/VolumeDriver.Capabilities" {
			_, _ = w.Write([]byte(`{"Err":"","Capabilities":{"Scope":"global"}}`))
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"Err":"mobyfs on this host is not working: this node has no certificate"}`))
	})
	at := Endpoint("unix://" + h.root + SockPath)
	if err := Ask(t.Context(), at, nil); err != nil {
		t.Errorf("the stub counts as no driver: %v", err)
	}
	if err := askAgent(t.Context(), at, nil); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("the stub counts as an agent (%v)", err)
	}
}
