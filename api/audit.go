package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/audit"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls about who did what.
var (
	followAudit = call{http.MethodGet, "/v1/audit", "follow-audit", "Every change and every refusal with who asked for it, those of before and then those to come"}
	getTrail    = call{http.MethodGet, "/v1/audit/segments", "list-audit-segments", "Which sealed segments of the audit trail this control has on its disk"}
	getSegment  = call{http.MethodGet, "/v1/audit/segments/{number}", "get-audit-segment", "A sealed segment of the audit trail, as it lies on the disk"}
)

const segmentType = "application/x-ndjson"

// AuditTrail is what a control has of the audit trail.
type AuditTrail struct {
	Segments []int64       `json:"segments"` // on its disk, in order
	Head     audit.Segment `json:"head"`     // the segment that was sealed last, as the store says; number 0 if none was
}

func (s *Server) serveAudit() {
	s.serveStream(followAudit, func(ctx context.Context, who pki.Identity, since int64, each func([]mobyfs.Event, int64) error) error {
		return s.service.Audit(ctx, who, since, each)
	})
	handle(s, getTrail, func(ctx context.Context, who pki.Identity, _ *none) (*reply[AuditTrail], error) {
		trail, err := s.service.AuditTrail(ctx, who)
		return &reply[AuditTrail]{trail}, err
	})
	s.mux.HandleFunc(getSegment.method+" "+getSegment.path, s.segment)
	s.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: getSegment.id, Method: getSegment.method, Path: getSegment.path, Summary: getSegment.summary,
		Description: "Lines of JSON: the segment, with the digest of the one before it, and its events.",
		Parameters:  []*huma.Param{{Name: "number", In: "path", Required: true, Schema: &huma.Schema{Type: "integer", Format: "int64"}}},
		Responses: map[string]*huma.Response{
			"200":     {Description: "OK", Content: map[string]*huma.MediaType{segmentType: {Schema: s.schema(reflect.TypeFor[audit.Segment]())}}},
			"default": s.problemResponse(),
		},
	})
}

func (s *Server) segment(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil || n < 1 {
		s.refuse(r.Context(), w, getSegment, mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q is not the number of a segment", r.PathValue("number")).WithHint(seeSpec))
		return
	}
	text, err := s.service.AuditSegment(r.Context(), caller(r.Context()), n)
	if err != nil {
		s.refuse(r.Context(), w, getSegment, err)
		return
	}
	w.Header().Set("Content-Type", segmentType)
	_, _ = w.Write(text) // who is gone asks again
}

// Audit is Events with refusals too, for whoever may know who did what.
func (c *Client) Audit(ctx context.Context, since int64, each func(mobyfs.Event) error, complete func(Complete) error) error {
	return c.follow(ctx, followAudit, since, each, complete)
}

// AuditTrail tells what the control that answers has of the audit trail.
func (c *Client) AuditTrail(ctx context.Context) (trail AuditTrail, err error) {
	err = c.ask(ctx, getTrail, "", nil, &trail)
	return trail, err
}

// AuditSegment reads a sealed segment of the audit trail.
func (c *Client) AuditSegment(ctx context.Context, n int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, endpoint, err := c.send(ctx, request{what: getSegment, path: strings.Replace(getSegment.path, "{number}", fmt.Sprint(n), 1)})
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, unreachable("ask", []string{endpoint}, err)
	}
	return text, nil
}
