package driver

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// FuzzCall: whatever a body holds, a call is answered with one JSON object or cut, no name or ID reaches the mounter
// that a volume or mount can't have, and nothing panics.
func FuzzCall(f *testing.F) {
	paths := []string{"/Plugin.Activate", "/VolumeDriver.Capabilities", "/VolumeDriver.List", "/VolumeDriver.Get", "/VolumeDriver.Path",
		"/VolumeDriver.Create", "/VolumeDriver.Remove", "/VolumeDriver.Mount", "/VolumeDriver.Unmount"}
	for i := range paths {
		for _, body := range []string{"", "\n", "{}", "null", `{"Name":"pgdata","ID":"x","Opts":{"size":"1G"}}`, `{"Name":"../x"}`, `{"Name":"\u0000"}`, `[`, `{"Opts":{"":null}}`} {
			f.Add(uint8(i), body, i%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body string, docker bool) {
		m := &fake{}
		h := New(m, slog.New(slog.DiscardHandler))
		r := httptest.NewRequest(http.MethodPost, paths[int(which)%len(paths)], strings.NewReader(body))
		if docker {
			r.Header.Set("Accept", contentType)
		}
		w := httptest.NewRecorder()
		cut := serveOrCut(t, h, w, r)
		for _, name := range m.names {
			if mobyfs.CheckVolumeName(name) != nil {
				t.Fatalf("the mounter was asked for %q", name)
			}
		}
		if cut {
			return
		}
		var ans map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &ans); err != nil {
			t.Fatalf("answered %q: %v", w.Body, err)
		}
		text, ok := ans["Err"].(string)
		if !ok || strings.ContainsAny(text, "\n\r") {
			t.Fatalf("the answer %v has no Err of one line", ans)
		}
		if want := map[bool]int{true: 200, false: 500}[docker || text == ""]; w.Code != want {
			t.Fatalf("status %d with Err %q (docker: %v)", w.Code, text, docker)
		}
	})
}

// serveOrCut reports whether the handler cut the connection; any other panic is a bug.
func serveOrCut(t *testing.T, h http.Handler, w http.ResponseWriter, r *http.Request) (cut bool) {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			cut = true
		} else if p != nil {
			t.Fatalf("panic: %v", p)
		}
	}()
	h.ServeHTTP(w, r)
	return false
}
