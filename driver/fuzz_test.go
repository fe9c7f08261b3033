package driver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
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

// FuzzArguments: whatever name, ID and option a call carries, the mounter is given exactly these, or it is not asked
// and the answer says why in one line. A secret in an option is never in the answer or the log.
func FuzzArguments(f *testing.F) {
	for _, name := range []string{"pgdata", "x", "", "../etc", "caf\u00e9", "a\x00b", "\xff", "new\nline", strings.Repeat("n", 129)} {
		f.Add(name, "4f1c", "size", "1G", true)
		f.Add(name, strings.Repeat("f", maxID+1), "password", "hunter2-hunter2", false)
	}
	f.Fuzz(func(t *testing.T, name, id, key, value string, docker bool) {
		body, err := json.Marshal(map[string]any{"Name": name, "ID": id, "Opts": map[string]string{key: value}})
		if err != nil {
			t.Skip("no JSON can carry it")
		}
		// What is no UTF-8 does not survive JSON, at Docker's end already.
		var carried request
		if err := json.Unmarshal(body, &carried); err != nil {
			t.Fatal(err)
		}
		name, id = carried.Name, carried.ID
		for k, v := range carried.Opts {
			key, value = k, v
		}
		for _, method := range []string{"Create", "Mount", "Unmount", "Remove", "Get", "Path"} {
			var logged bytes.Buffer
			m := &fake{}
			r := httptest.NewRequest(http.MethodPost, "/VolumeDriver."+method, bytes.NewReader(body))
			if docker {
				r.Header.Set("Accept", contentType)
			}
			w := httptest.NewRecorder()
			if serveOrCut(t, New(m, slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))), w, r) {
				t.Fatalf("%s: a call with a body was cut", method)
			}
			checkArguments(t, method, m, w.Body.String(), name, id, key, value)
			told := strings.Contains(name+id+key, strings.Trim(value, `"`)) // the log puts names into quotes
			if secret := len(value) > 12 && !told; secret && strings.Contains(logged.String()+w.Body.String(), value) {
				t.Fatalf("%s tells the option's value: %s %s", method, w.Body, &logged)
			}
		}
	})
}

// checkArguments checks what a call asked of the mounter against what its body carried.
func checkArguments(t *testing.T, method string, m *fake, answered, name, id, key, value string) {
	t.Helper()
	possible := mobyfs.CheckVolumeName(name) == nil
	ofMount := method == "Mount" || method == "Unmount"
	if ofMount && len(id) > maxID {
		possible = false
	}
	var want []string
	if possible {
		asked := map[string]string{"Create": fmt.Sprint("Create ", name, " ", map[string]string{key: value}), "Mount": "Mount " + name + " " + id,
			"Unmount": "Unmount " + name + " " + id, "Remove": "Remove " + name + " ", "Get": "Get " + name + " ", "Path": "Get " + name + " "}
		want = []string{asked[method]}
	}
	if got := m.calls(); !slices.Equal(got, want) {
		t.Fatalf("%s asked %q, want %q", method, got, want)
	}
	var ans struct{ Err string }
	if err := json.Unmarshal([]byte(answered), &ans); err != nil {
		t.Fatalf("%s answered %q: %v", method, answered, err)
	}
	if refused := ans.Err != ""; refused == possible && method != "Remove" && method != "Unmount" {
		t.Fatalf("%s answered %q", method, ans.Err)
	}
	if strings.ContainsAny(ans.Err, "\n\r\x00") || len(ans.Err) > 1000 {
		t.Fatalf("%s answered %q, which is not one readable line", method, ans.Err)
	}
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
