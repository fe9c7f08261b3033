package stub_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent/stub"
	"github.com/mobyfs/mobyfs/driver"
)

var errCertificate = mobyfs.Errorf(mobyfs.CodeInvalid, "this node has no certificate").WithHint("mobyctl bootstrap gives it one")

// catalogue writes what an agent would have left, and returns its root.
func catalogue(t *testing.T, text string) (root string) {
	t.Helper()
	root = t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "state", "catalogue.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

const pgdata = `{"id":"01jd3q8zv5w1y2x3k4m5n6p7q8","name":"pgdata","state":"ready","node":"h2","fence":7,"created_at":"2026-11-22T20:24:00Z"}`

// askDocker makes a call as Docker does. cut tells that the connection was cut instead of an answer.
func askDocker(t *testing.T, m mobyfs.Mounter, method, body string) (answer string, cut bool) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body))
	r.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	w := httptest.NewRecorder()
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			answer, cut = "", true
		} else if p != nil {
			panic(p)
		}
	}()
	driver.New(m, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("%s: status %d", method, w.Code)
	}
	return strings.TrimSpace(w.Body.String()), false
}

func TestStubAnswersFromTheCatalogueAndTakesNothing(t *testing.T) {
	root := catalogue(t, `{"volumes":[`+pgdata+`]}`)
	s := stub.New(root)
	s.Because(errCertificate)
	path := root + "/volumes/01jd3q8zv5w1y2x3k4m5n6p7q8/data"
	refusal := func(verb string) string {
		return `{"Err":"` + verb + ` \"pgdata\": mobyfs on this host is not working: this node has no certificate – mobyctl bootstrap gives it one"}`
	}
	for _, tc := range []struct{ method, body, want string }{
		{"Plugin.Activate", "", `{"Err":"","Implements":["VolumeDriver"]}`},
		{"VolumeDriver.Capabilities", "{}", `{"Err":"","Capabilities":{"Scope":"global"}}`},
		{"VolumeDriver.List", "{}", `{"Err":"","Volumes":[{"Name":"pgdata","Mountpoint":"` + path + `"}]}`},
		{"VolumeDriver.Path", `{"Name":"pgdata"}`, `{"Err":"","Mountpoint":"` + path + `"}`},
		{"VolumeDriver.Get", `{"Name":"pgdata"}`, `{"Err":"","Volume":{"Name":"pgdata","Mountpoint":"` + path + `","CreatedAt":"2026-11-22T20:24:00Z",` +
			`"Status":{"fence":7,"node":"h2","problem":"mobyfs on this host is not working: this node has no certificate","stale":true,"state":"ready"}}}`},
		{"VolumeDriver.Get", `{"Name":"../pgdata"}`, `{"Err":"no such volume"}`},
		{"VolumeDriver.Create", `{"Name":"pgdata"}`, refusal("create")},
		{"VolumeDriver.Remove", `{"Name":"pgdata"}`, refusal("remove")},
		{"VolumeDriver.Mount", `{"Name":"pgdata","ID":"x"}`, refusal("mount")},
		{"VolumeDriver.Unmount", `{"Name":"pgdata","ID":"x"}`, refusal("unmount")},
	} {
		if got, cut := askDocker(t, s, tc.method, tc.body); cut || got != tc.want {
			t.Errorf("%s %s:\n got %s (cut: %v)\nwant %s", tc.method, tc.body, got, cut, tc.want)
		}
	}
	if got, cut := askDocker(t, s, "VolumeDriver.Get", `{"Name":"another"}`); !cut {
		t.Errorf("a name that is not in the catalogue was answered: %s", got)
	}
}

// Docker must not lose what it knows of a volume because we can't read our own files.
func TestC96WhatCannotBeReadIsNeverSaidToNotExist(t *testing.T) {
	fifo := func(t *testing.T) string { // a disk that hangs: whoever opens it waits
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "state"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(filepath.Join(root, "state", "catalogue.json"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // let the reader go
			if w, err := os.OpenFile(filepath.Join(root, "state", "catalogue.json"), os.O_RDWR, 0); err == nil {
				w.Close()
			}
		})
		return root
	}
	for name, root := range map[string]func(*testing.T) string{
		"no root":          func(*testing.T) string { return "/nowhere/at/all" },
		"no catalogue":     func(t *testing.T) string { return t.TempDir() },
		"no JSON":          func(t *testing.T) string { return catalogue(t, "\x00\x00\x00") },
		"cut short":        func(t *testing.T) string { return catalogue(t, `{"volumes":[`+pgdata) },
		"not ours":         func(t *testing.T) string { return catalogue(t, `{"volumes":{"pgdata":1}}`) },
		"record is broken": func(t *testing.T) string { return catalogue(t, `{"volumes":[{"id":5,"name":"pgdata"}]}`) },
		"being removed": func(t *testing.T) string {
			return catalogue(t, `{"volumes":[`+strings.Replace(pgdata, "ready", "removing", 1)+`]}`)
		},
		"ID is a path": func(t *testing.T) string {
			return catalogue(t, `{"volumes":[`+strings.Replace(pgdata, "01jd", "../", 1)+`]}`)
		},
		"disk hangs": fifo,
	} {
		t.Run(name, func(t *testing.T) {
			s := stub.New(root(t))
			s.Because(errCertificate)
			began := time.Now()
			if got, cut := askDocker(t, s, "VolumeDriver.Get", `{"Name":"pgdata"}`); !cut {
				t.Errorf("got %s", got)
			}
			if got, _ := askDocker(t, s, "VolumeDriver.List", `{}`); got != `{"Err":"","Volumes":[]}` {
				t.Errorf("got %s", got)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestOneBrokenRecordHidesNoOther(t *testing.T) {
	s := stub.New(catalogue(t, `{"volumes":[{"id":5},null,`+pgdata+`,"x"]}`))
	s.Because(errCertificate)
	if v, err := s.Get(t.Context(), "pgdata"); err != nil || v.Name != "pgdata" {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestWhatWasReadStaysKnown(t *testing.T) {
	root := catalogue(t, `{"volumes":[`+pgdata+`]}`)
	s := stub.New(root)
	s.Because(errCertificate)
	if _, err := s.Get(t.Context(), "pgdata"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	s.Because(errors.New("the disk is gone"))
	v, err := s.Get(t.Context(), "pgdata")
	if err != nil || !strings.Contains(v.Status["problem"].(string), "the disk is gone") {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestC25GoneKnowsNoVolume(t *testing.T) {
	for _, tc := range []struct{ method, body, want string }{
		{"Plugin.Activate", "", `{"Err":"","Implements":["VolumeDriver"]}`},
		{"VolumeDriver.List", "{}", `{"Err":"","Volumes":[]}`},
		{"VolumeDriver.Get", `{"Name":"pgdata"}`, `{"Err":"no such volume"}`},
		{"VolumeDriver.Unmount", `{"Name":"pgdata","ID":"x"}`, `{"Err":""}`},
	} {
		got, cut := askDocker(t, stub.Gone{}, tc.method, tc.body)
		if d := cmp.Diff(tc.want, got); cut || d != "" {
			t.Errorf("%s: cut: %v, %s", tc.method, cut, d)
		}
	}
	for _, method := range []string{"Create", "Remove", "Mount"} {
		got, cut := askDocker(t, stub.Gone{}, "VolumeDriver."+method, `{"Name":"pgdata","ID":"x"}`)
		if cut || !strings.Contains(got, "taken off this host") || !strings.Contains(got, "mobyctl bootstrap") {
			t.Errorf("%s: %s", method, got)
		}
	}
}
