package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// revised is an answer with a record, whose revision is its ETag.
type revised[T any] struct {
	ETag string `header:"ETag" doc:"of the record as it is answered; for If-Match"`
	Body T
}

func ofVolumeRecord(v mobyfs.Volume, err error) (*revised[mobyfs.Volume], error) {
	return &revised[mobyfs.Volume]{etag(v.Revision), v}, err
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// withMatch carries what If-Match demands to where the decision is made. "*" demands nothing that is not checked anyway.
func withMatch(r *http.Request) (*http.Request, error) {
	values := r.Header.Values("If-Match")
	if len(values) == 0 || len(values) == 1 && values[0] == "*" {
		return r, nil
	}
	text := strings.TrimSuffix(strings.TrimPrefix(values[0], `"`), `"`)
	revision, err := strconv.ParseInt(text, 10, 64)
	if len(values) > 1 || err != nil || revision < 1 || etag(revision) != values[0] {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "If-Match is not one ETag of a record").WithHint("give the ETag that came with the record")
	}
	return r.WithContext(mobyfs.WithMatch(r.Context(), revision)), nil
}

// matches reports whether a call changes one record, which the path names, and so takes If-Match.
func (c call) matches() bool {
	return c.method != http.MethodGet && (strings.Contains(c.path, "{name}") || strings.Contains(c.path, "{node}"))
}

// checkMatch refuses a condition that the call would not look at.
func (c call) checkMatch(ctx context.Context) error {
	if _, asked := mobyfs.MatchOf(ctx); asked && !c.matches() {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s changes no record that If-Match could speak of", c.id).WithHint("leave If-Match out")
	}
	return nil
}
