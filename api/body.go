package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"time"
	"unicode/utf8"

	"github.com/mobyfs/mobyfs"
)

// maxDepth is how deep a request's body may be nested. None that is described nests deeper than six.
const maxDepth = 16

// refusal is a request that no handler sees, with the status that HTTP has for it.
type refusal struct {
	status int
	err    *mobyfs.Error
}

func refuse(status int, format string, args ...any) error {
	return &refusal{status, mobyfs.Errorf(mobyfs.CodeInvalid, format, args...).WithHint(seeSpec)}
}

func (r *refusal) Error() string { return r.err.Error() }

func (r *refusal) Unwrap() error { return r.err }

func refusalOf(err error) *problem {
	p := problemOf(err)
	var r *refusal
	if errors.As(err, &r) {
		p.Status, p.Title = r.status, http.StatusText(r.status)
	}
	return p
}

// readBody reads the whole body, within bounds of size and time, and puts it back for the handler. It must be JSON in
// UTF-8 that says nothing twice: two readers of one request must not understand two things.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > maxBody {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body has %d bytes, %d are the most", r.ContentLength, maxBody)
	}
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err == nil {
		err = rc.SetReadDeadline(time.Time{})
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, "the body has not come within %v", bodyTimeout)
	case err != nil && !errors.Is(err, http.ErrNotSupported):
		return nil, refuse(http.StatusBadRequest, "the body can't be read")
	case len(body) > maxBody:
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", maxBody)
	case len(body) == 0:
		r.Body = http.NoBody
		return nil, nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" && (kind != patchType || r.Method != http.MethodPatch) {
		return nil, refuse(http.StatusUnsupportedMediaType, "the body is not declared as application/json")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, checkJSON(body)
}

// checkJSON refuses what is not one JSON value in UTF-8, what is nested too deep, and objects that have a name twice.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return refuse(http.StatusBadRequest, "the body is not UTF-8")
	}
	if isPlain(body) {
		return nil
	}
	return checkClosely(body)
}

// checkClosely is checkJSON for a body of which more must be known, such as why it is refused.
func checkClosely(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		var r *refusal
		if errors.As(err, &r) {
			return err
		}
		return refuse(http.StatusBadRequest, "the body is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "the body holds more than one JSON value")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	if n, is := token.(json.Number); is {
		if _, err := n.Float64(); err != nil { // infinite to one reader, an error to another
			return refuse(http.StatusBadRequest, "the body holds the number %.40s, which is out of all range", n)
		}
	}
	open, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	if depth == maxDepth {
		return refuse(http.StatusBadRequest, "the body is nested deeper than %d", maxDepth)
	}
	names := map[string]bool{}
	for d.More() {
		if open == '{' {
			if err := checkName(d, names); err != nil {
				return err
			}
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func checkName(d *json.Decoder, before map[string]bool) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	name := fmt.Sprint(token)
	if before[name] {
		return refuse(http.StatusBadRequest, "the body holds %.40q twice in one object", name)
	}
	before[name] = true
	return nil
}
