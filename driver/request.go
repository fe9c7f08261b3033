package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/mobyfs/mobyfs"
)

// request is the body of any call; a call uses the fields that it has.
type request struct {
	Name string
	ID   string
	Opts map[string]string // may hold secrets: never logged

	docker bool
}

// errNoBody is the call that Docker repeats after a broken connection.
var errNoBody = mobyfs.Errorf(mobyfs.CodeInvalid, "Docker lost the body of the call on the way").
	WithHint("please repeat the command")

// readRequest reads the whole body, so that from here on the end of the connection ends the request's context.
// What follows the first JSON value is ignored. A body that does not come within bodyWait is worth as much as none.
func readRequest(w http.ResponseWriter, r *http.Request, c call) (request, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyWait)) // what has no deadlines is no connection
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{}) // else nothing more is read
	}
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return request{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the call is larger than 1 MiB")
	case err != nil: // cut short: worth as much as none
		return request{}, errNoBody
	case c.noBody:
		return request{}, nil
	case len(bytes.TrimSpace(body)) == 0:
		return request{}, errNoBody
	}
	var req request
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&req); err != nil {
		return request{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the call's body can't be read: %s", oneLine(err.Error()))
	}
	return req, nil
}
