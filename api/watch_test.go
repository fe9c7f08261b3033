package api

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamsSayThatTheyAreThereOnlyWhileTheySayNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		lines := &lineWriter{w: w, rc: http.NewResponseController(w), kind: streamType}
		said := func() string {
			lines.mu.Lock()
			defer lines.mu.Unlock()
			return w.Body.String()
		}
		if err := lines.write([]byte("a")); err != nil {
			t.Fatal(err)
		}
		lines.keepAlive(func() { t.Error("it is broken") })
		time.Sleep(keepAlive / 2)
		if err := lines.write([]byte("b")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(keepAlive - time.Second)
		synctest.Wait()
		if got := said(); got != "a\nb\n" {
			t.Errorf("it said %q while it had just said something", got)
		}
		time.Sleep(2*time.Second + keepAlive)
		synctest.Wait()
		if got := said(); got != "a\nb\n\n\n" {
			t.Errorf("it said %q, want an empty line each %v", got, keepAlive)
		}
		lines.end()
		time.Sleep(3 * keepAlive)
		synctest.Wait()
		if got := said(); got != "a\nb\n\n\n" {
			t.Errorf("it said %q after its end", got)
		}
	})
}

func TestStreamsThatCantBeWrittenToAreEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := brokenWriter{httptest.NewRecorder()}
		lines := &lineWriter{w: w, rc: http.NewResponseController(w), kind: streamType}
		ended := 0
		lines.keepAlive(func() { ended++ })
		time.Sleep(3 * keepAlive)
		if lines.end(); ended != 1 {
			t.Errorf("it was ended %d times", ended)
		}
	})
}

// brokenWriter is that of a client that is gone.
type brokenWriter struct{ *httptest.ResponseRecorder }

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
