package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mobyfs/mobyfs"
)

const problemType = "application/problem+json"

// problem is an error on the wire (RFC 9457).
type problem struct {
	Type   string      `json:"type" doc:"urn:mobyfs: and the code"`
	Title  string      `json:"title" doc:"what the HTTP status says"`
	Status int         `json:"status"`
	Detail string      `json:"detail" doc:"one line: what was asked, of which object, and why it can't be"`
	Code   mobyfs.Code `json:"code" doc:"the kind of the error, for programs"`
	Next   string      `json:"next,omitempty" doc:"the way out, a sentence or a command"`
	Cause  string      `json:"cause,omitempty" doc:"what lay under it"`
	Retry  int         `json:"retry_after,omitempty" doc:"seconds after which the same request may succeed; also in Retry-After"`
}

func (p *problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *problem) GetHeaders() http.Header {
	if p.Retry == 0 {
		return nil
	}
	return http.Header{"Retry-After": {strconv.Itoa(p.Retry)}}
}

// ContentType implements huma.ContentTypeFilter.
func (p *problem) ContentType(string) string { return problemType }

// problemOf puts an error into the form of the wire.
func problemOf(err error) *problem {
	code := mobyfs.CodeOf(err)
	p := newProblem(statusOf(code), code, err.Error(), mobyfs.HintOf(err))
	var e *mobyfs.Error
	if errors.As(err, &e) && e.Err != nil {
		p.Cause = rootOf(e.Err).Error()
	}
	return p
}

func newProblem(status int, code mobyfs.Code, detail, next string) *problem {
	return &problem{
		Type: "urn:mobyfs:" + string(code), Title: http.StatusText(status), Status: status,
		Detail: detail, Code: code, Next: next, Retry: retryAfter(code),
	}
}

// retryAfter tells after how many seconds a refused request may succeed as it stands; 0 if somebody has to do something
// first.
func retryAfter(code mobyfs.Code) int {
	switch code {
	case mobyfs.CodeBusy, mobyfs.CodeUnavailable:
		return 1
	case mobyfs.CodeMoving:
		return 5
	default:
		return 0
	}
}

// rootOf is the error at the bottom of a chain.
func rootOf(err error) error {
	for {
		under := errors.Unwrap(err)
		if under == nil {
			return err
		}
		err = under
	}
}

func statusOf(code mobyfs.Code) int {
	switch code {
	case mobyfs.CodeInvalid:
		return http.StatusBadRequest
	case mobyfs.CodeNotFound:
		return http.StatusNotFound
	case mobyfs.CodeExists, mobyfs.CodeInUse, mobyfs.CodeMoving, mobyfs.CodeStaleFence:
		return http.StatusConflict
	case mobyfs.CodeChanged:
		return http.StatusPreconditionFailed
	case mobyfs.CodeReused:
		return http.StatusUnprocessableEntity
	case mobyfs.CodeBusy:
		return http.StatusTooManyRequests
	case mobyfs.CodeDenied:
		return http.StatusForbidden
	case mobyfs.CodeUnavailable:
		return http.StatusServiceUnavailable
	case mobyfs.CodeNoSpace:
		return http.StatusInsufficientStorage
	default:
		return http.StatusInternalServerError
	}
}

const seeSpec = "GET /openapi.json describes every call"

// plainProblem replaces huma's own errors, of requests that no handler saw, by a problem in our form. Values of
// the request are not repeated in it.
func plainProblem(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := mobyfs.CodeInvalid
	if e.Status >= http.StatusInternalServerError {
		code = mobyfs.CodeInternal
	}
	var parts []string
	for _, d := range e.Errors {
		parts = append(parts, strings.TrimPrefix(d.Location+": "+d.Message, ": "))
	}
	detail := e.Detail
	if len(parts) > 0 {
		detail = strings.Join(parts, "; ")
	}
	return newProblem(e.Status, code, "the request is not valid: "+detail, seeSpec), nil
}

func writeProblem(w http.ResponseWriter, p *problem) {
	if o, ok := w.(*outcome); ok {
		o.why = p
	}
	maps.Copy(w.Header(), p.GetHeaders())
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // if the client is gone nobody needs to know
}

// errorFrom reads the error out of a response whose status is none of success.
func errorFrom(resp *http.Response, endpoint string) error {
	var p problem
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, &p)
	}
	if err != nil || p.Code == "" {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control at %s: it answers %s, which is no answer of mobyfs-control", endpoint, resp.Status).
			WithHint("check that the address is that of mobyfs-control")
	}
	e := &mobyfs.Error{Code: p.Code, Text: p.Detail, Hint: p.Next}
	if p.Cause != "" {
		e.Err = fmt.Errorf("%s", p.Cause)
	}
	return e
}
