package driver

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mobyfs/mobyfs"
)

// stuck is a Mounter that answers only when its time is up, and then says how things stand.
func stuck() *fake {
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		return mobyfs.Errorf(mobyfs.CodeUnavailable, `still moving "pgdata" from h2 (41 %%)`).WithHint("run it again")
	}
	return &fake{
		create: func(ctx context.Context, _ string, _ map[string]string) error { return wait(ctx) },
		mount:  func(ctx context.Context, _, _ string) (string, error) { return "", wait(ctx) },
	}
}

// patient makes a call whose client gives up after a while, and returns the answer and when it came.
func patient(t *testing.T, m mobyfs.Mounter, method, accept string, patience time.Duration) (text string, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := httptest.NewRequest(http.MethodPost, "/VolumeDriver."+method, strings.NewReader(`{"Name":"pgdata","ID":"x"}`)).WithContext(ctx)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	start := time.Now()
	New(m, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
	var ans struct{ Err string }
	if err := json.Unmarshal(w.Body.Bytes(), &ans); err != nil {
		t.Fatalf("%s was answered with %q: %v", method, w.Body, err)
	}
	return ans.Err, time.Since(start)
}

func TestC85MountThatNeverEndsIsAnsweredBeforeDockerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, method := range []string{"Mount", "Create"} {
			text, took := patient(t, stuck(), method, contentType, 120*time.Second)
			if took != 110*time.Second || text != `still moving "pgdata" from h2 (41 %) – run it again` {
				t.Errorf("%s: after %v it was answered with %q", method, took, text)
			}
		}
	})
}

func TestC88PodmanIsAnsweredBeforeItGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, method := range []string{"Mount", "Create"} {
			text, took := patient(t, stuck(), method, "", 5*time.Second)
			if took != 4500*time.Millisecond || text != `still moving "pgdata" from h2 (41 %) – run it again` {
				t.Errorf("%s: after %v it was answered with %q", method, took, text)
			}
		}
	})
}
