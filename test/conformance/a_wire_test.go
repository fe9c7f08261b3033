package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestC01ActivateIsAnsweredWithoutControl: quickly, and by an agent that has never heard of control in its life.
func TestC01ActivateIsAnsweredWithoutControl(t *testing.T) {
	withoutControl(t)
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		on.sh(t, "systemctl restart mobyfs")
		answers := on.wire(t, 1, slices.Repeat([]request{on.asDocker("Plugin.Activate", "")}, 9)...)
		for _, s := range answers {
			if a := s.answer(t); s.Status != 200 || fmt.Sprint(a.Implements) != "[VolumeDriver]" {
				t.Errorf("got %+v", s)
			}
		}
		if took := usual(answers); took >= 100 {
			t.Errorf("it took %d ms", took)
		}
	})
}

// calls are all methods, with arguments of a volume that nobody made.
func everyCall(volume string) map[string]string {
	return map[string]string{
		"Plugin.Activate":           "",
		"VolumeDriver.Capabilities": "{}\n",
		"VolumeDriver.List":         "{}\n",
		"VolumeDriver.Get":          args("Name", volume),
		"VolumeDriver.Path":         args("Name", volume),
		"VolumeDriver.Create":       args("Name", volume, "Opts", nil),
		"VolumeDriver.Mount":        args("Name", volume, "ID", "one"),
		"VolumeDriver.Unmount":      args("Name", volume, "ID", "one"),
		"VolumeDriver.Remove":       args("Name", volume),
	}
}

// life is an order in which all methods succeed.
var life = []string{"Plugin.Activate", "VolumeDriver.Capabilities", "VolumeDriver.Create", "VolumeDriver.Get", "VolumeDriver.List", "VolumeDriver.Path",
	"VolumeDriver.Mount", "VolumeDriver.Unmount", "VolumeDriver.Remove"}

func TestC02EveryClientsHeadersAreAccepted(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c02")
		var requests []request
		var told []string
		for _, headers := range [][]string{
			{"Host: ", "Accept: application/vnd.docker.plugins.v1+json"},
			{"Host: plugin.moby.localhost", "Accept: application/vnd.docker.plugins.v1.1+json"},
			{"Host: plugin", "Accept: application/vnd.docker.plugins.v1.2+json", "Content-Type: application/json"},
			{"Host: plugin", "Content-Type: application/vnd.docker.plugins.v1.1+json"},
			{"Host: x", "Content-Type: text/plain", "Accept: */*", "User-Agent: curl"},
			{"Host: x"},
		} {
			for _, call := range life {
				requests = append(requests, post(call, everyCall(volume)[call], headers...))
				told = append(told, fmt.Sprint(call, " with ", headers))
			}
		}
		for i, s := range on.wire(t, 1, requests...) {
			if a := s.answer(t); s.Status != 200 || *a.Err != "" {
				t.Errorf("%s: got %+v", told[i], s)
			}
		}
	})
}

// wrong are calls that can't succeed.
func wrong(on *host, volume string) []request {
	return []request{
		on.asDocker("VolumeDriver.Get", args("Name", volume)),
		on.asDocker("VolumeDriver.Path", args("Name", volume)),
		on.asDocker("VolumeDriver.Mount", args("Name", volume, "ID", "x")),
		on.asDocker("VolumeDriver.Create", args("Name", volume, "Opts", map[string]string{"sise": "1G"})),
		on.asDocker("VolumeDriver.Create", args("Name", "../"+volume)),
		on.asDocker("VolumeDriver.Create", "not JSON"),
	}
}

func TestC03AnswersToDockerAreStatus200AndEndTheConnection(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c03")
		var requests []request
		for _, call := range life {
			requests = append(requests, on.asDocker(call, everyCall(volume)[call]))
		}
		for i, s := range on.wire(t, 1, append(requests, wrong(on, volume)...)...) {
			a := s.answer(t)
			if s.Status != 200 || s.Open || !s.Closes || (*a.Err != "") != (i >= len(life)) {
				t.Errorf("call %d: got %+v", i, s)
			}
		}
	})
}

func TestC04ErrorsToPodmanAreStatus500(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c04")
		for _, r := range wrong(on, volume) {
			r.Send = strings.Replace(r.Send, "Accept: application/vnd.docker.plugins", "X-Was: ", 1)
			if s := on.wire(t, 1, r)[0]; s.Status != 500 || *s.answer(t).Err == "" {
				t.Errorf("%q: got %+v", r.Send, s)
			}
		}
		for _, call := range life {
			on.wire(t, 1, asPodman(call, everyCall(volume)[call]))[0].succeeded(t)
		}
	})
}

func TestC05OtherMethodsAndPathsChangeNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c05")
		with := func(method, path string) request {
			r := on.asDocker(path, args("Name", volume, "ID", "x"))
			r.Send = strings.Replace(r.Send, "POST", method, 1)
			return r
		}
		for i, s := range on.wire(t, 1, with("GET", "VolumeDriver.Create"), with("PUT", "VolumeDriver.Create"), with("DELETE", "VolumeDriver.Mount"),
			with("POST", "VolumeDriver.Destroy"), with("POST", "VolumeDriver.Create/"), with("POST", "")) {
			want := 405
			if i >= 3 {
				want = 404
			}
			if s.Status != want || *s.answer(t).Err == "" {
				t.Errorf("request %d: got %+v, want %d", i, s, want)
			}
		}
		if exists(t, volume) {
			t.Error("a volume was made")
		}
	})
}

func TestC06OptsNullEmptyAndMissingAreEqual(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c06")
		for _, body := range []string{`{"Name":"NAME","Opts":null}`, `{"Name":"NAME","Opts":{}}`, `{"Name":"NAME"}`, `{"name":"NAME","OPTS":{},"More":[{"a":1}]}`} {
			on.wire(t, 1, on.asDocker("VolumeDriver.Create", strings.ReplaceAll(body, "NAME", volume)))[0].succeeded(t)
		}
		if n := strings.Count(list(t), `"`+volume+`"`); n != 1 {
			t.Errorf("there are %d volumes, want 1", n)
		}
	})
}

func TestC07BodiesTooLargeOrMalformedChangeNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c07")
		var requests []request
		for _, body := range []string{
			args("Name", volume, "Opts", map[string]string{"size": strings.Repeat("1", 1<<20)}), `{"Name":"` + volume, `["` + volume + `"]`,
			`{"Name":7}`, args("Name", volume, "Opts", map[string]int{"size": 7}), args("Name", volume, "Opts", []string{"size=1"}), "\x00",
		} {
			requests = append(requests, on.asDocker("VolumeDriver.Create", body), on.asDocker("VolumeDriver.Mount", body))
		}
		for i, s := range on.wire(t, 1, requests...) {
			if s.Status != 200 || *s.answer(t).Err == "" {
				t.Errorf("%.60q: got %+v", requests[i].Send, s)
			}
		}
		if exists(t, volume) {
			t.Error("a volume was made")
		}
		on.hasUses(t, volume, 0)
	})
}

func TestC08ChunkedBodiesAndWhatFollowsThemAreFine(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c08")
		body := args("Name", volume)
		chunked := request{Send: fmt.Sprintf("POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n"+
			"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)}
		for _, r := range []request{chunked, on.asDocker("VolumeDriver.Get", body+"\n\n"), on.asDocker("VolumeDriver.Get", body+"} and more")} {
			on.wire(t, 1, r)[0].succeeded(t)
		}
	})
}

func TestC10SuccessHasABody(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c10")
		for _, call := range []string{"Create", "Unmount", "Remove"} {
			s := on.wire(t, 1, on.asDocker("VolumeDriver."+call, args("Name", volume, "ID", "x")))[0]
			if s.Status != 200 || s.Body != `{"Err":""}`+"\n" {
				t.Errorf("%s: got %+v", call, s)
			}
		}
	})
}
