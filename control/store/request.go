package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Request is a request that its client may repeat, under a key of its choice. It lies in the store so that each control
// process answers a repetition alike.
type Request struct {
	Who    string          `json:"who"`    // the identity in the client's certificate
	Digest string          `json:"digest"` // of what was asked
	At     time.Time       `json:"at"`     // when it came
	Answer json.RawMessage `json:"answer,omitempty"`
}

// RequestID is where the request with a key lies.
func RequestID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// RequestsBefore names the requests that came before a moment, at most so many.
func (s *Store) RequestsBefore(ctx context.Context, t time.Time, most int) ([]string, error) {
	var ids []string
	_, err := s.engine.read(ctx, Requests.root(), 0, func(key string, e entry) {
		id, ok := Requests.idOf(key)
		r, err := Requests.decode(id, e.raw, e.rev)
		if ok && len(ids) < most && (err != nil || r.At.Before(t)) {
			ids = append(ids, id)
		}
	})
	if err != nil {
		return nil, unavailable("read the requests", err)
	}
	return ids, nil
}
