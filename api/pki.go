package api

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Gatekeeper is the part of Service that says who belongs to the cluster.
type Gatekeeper interface {
	// Admit is nil if who has a certificate, which is otherwise good, was not evicted. It is asked at each handshake and
	// for each request, and must be quick.
	Admit(cert *x509.Certificate) error
	// OnEviction calls again after each change of what Admit says, until ctx ends.
	OnEviction(ctx context.Context, again func())

	// Bundle tells whom to trust. Anybody may ask.
	Bundle(ctx context.Context) (Bundle, error)
	// Enroll lets somebody in who has a token. Repeated with the same key it answers the same.
	Enroll(ctx context.Context, r EnrollRequest) (Certificate, error)
	// Renew gives a certificate for another key in place of one that ends, or has ended not long ago.
	Renew(ctx context.Context, r pki.Renewal) (Certificate, error)

	// CreateToken makes a token to join with. This answer alone tells it.
	CreateToken(ctx context.Context, who pki.Identity, r TokenRequest) (NewToken, error)
	// Tokens lists those that are kept, the newest first.
	Tokens(ctx context.Context, who pki.Identity) ([]mobyfs.JoinToken, error)
	// RemoveToken makes a token worthless. That there is none is success.
	RemoveToken(ctx context.Context, who pki.Identity, id string) error

	// Rotation tells how the authority is.
	Rotation(ctx context.Context, who pki.Identity) (mobyfs.Rotation, error)
	// Rotate begins to replace the authority's root. While that is under way, it names who shall not be waited for.
	Rotate(ctx context.Context, who pki.Identity, force []string) (mobyfs.Rotation, error)
	// People lists who uses the cluster, sorted by name: those who were let in and not shut out since.
	People(ctx context.Context, who pki.Identity) ([]mobyfs.Person, error)
	// Evict shuts out who has the role and name, at once. Repeated, it shuts out who was let in since.
	Evict(ctx context.Context, who pki.Identity, role, name, cause string) error
}

// Bundle tells whom to trust.
type Bundle struct {
	Cluster string    `json:"cluster"`
	Roots   string    `json:"roots" doc:"PEM. Who has no reason yet to believe this answer compares a fingerprint first"`
	Issuing string    `json:"issuing" doc:"fingerprint of the root below which certificates are made now"`
	Now     time.Time `json:"now" doc:"by the clock of control"`
}

// EnrollRequest is how somebody asks to be let in.
type EnrollRequest struct {
	Token   string    `json:"token" maxLength:"512"`
	Name    string    `json:"name" maxLength:"63" doc:"of the node, or of the person"`
	Request string    `json:"request" maxLength:"16384" doc:"certificate request in PEM, of which only the key counts"`
	Clock   time.Time `json:"clock" doc:"by the clock of who asks"`
}

// Certificate is who somebody is from now on, and whom to trust.
type Certificate struct {
	Cluster string `json:"cluster"`
	Chain   string `json:"chain" doc:"the certificate and its intermediates, PEM"`
	Roots   string `json:"roots" doc:"PEM"`
}

// TokenRequest says whom a token lets in.
type TokenRequest struct {
	Role    string            `json:"role" enum:"node,operator,admin,viewer,auditor"`
	Name    string            `json:"name,omitempty" maxLength:"63"`
	Network string            `json:"network,omitempty" maxLength:"64" doc:"CIDR"`
	Labels  map[string]string `json:"labels,omitempty"`
	Replace bool              `json:"replace,omitempty" doc:"who joins takes the place of the node of that name"`
	Seconds int               `json:"seconds,omitempty" minimum:"0" maximum:"86400" doc:"for which it is good; 0 is 15 minutes"`
}

// NewToken is a token with its secret.
type NewToken struct {
	mobyfs.JoinToken
	Token string `json:"token"`
}

// Calls about who belongs to the cluster. The first three need no certificate.
var (
	getBundle   = call{http.MethodGet, "/v1/pki/bundle", "get-bundle", "Tell whom to trust"}
	enroll      = call{http.MethodPost, "/v1/pki/enroll", "enroll", "Join the cluster with a token"}
	renew       = call{http.MethodPost, "/v1/pki/renew", "renew", "Get a certificate in place of one that ends"}
	createToken = call{http.MethodPost, "/v1/pki/tokens", "create-token", "Make a token to join with"}
	listTokens  = call{http.MethodGet, "/v1/pki/tokens", "list-tokens", "List the tokens to join with"}
	removeToken = call{http.MethodDelete, "/v1/pki/tokens/{name}", "remove-token", "Make a token worthless"}
	getRotation = call{http.MethodGet, "/v1/pki/authority", "get-authority", "Tell how the authority is, and how far its rotation"}
	rotate      = call{http.MethodPost, "/v1/pki/authority/rotation", "rotate-authority", "Replace the authority's root, or go on without some members"}
	listPeople  = call{http.MethodGet, "/v1/pki/people", "list-people", "List the people who use the cluster"}
	evictMember = call{http.MethodPost, "/v1/pki/evictions", "evict", "Shut somebody out at once"}
)

// atTheDoor are the calls that need no certificate.
func atTheDoor(r *http.Request) bool {
	for _, c := range []call{getBundle, enroll, renew} {
		if r.Method == c.method && r.URL.Path == c.path {
			return true
		}
	}
	return false
}

type rotateRequest struct {
	Force []string `json:"force,omitempty" maxItems:"1000" doc:"members, such as node/h1, that are not waited for"`
}

type evictRequest struct {
	Role  string `json:"role" enum:"node,operator,admin,viewer,auditor"`
	Name  string `json:"name" maxLength:"63"`
	Cause string `json:"cause,omitempty" maxLength:"500"`
}

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

func (s *Server) servePKI() {
	handle(s, getBundle, func(ctx context.Context, _ pki.Identity, _ *none) (*reply[Bundle], error) {
		b, err := s.service.Bundle(ctx)
		return &reply[Bundle]{b}, err
	})
	handle(s, enroll, func(ctx context.Context, _ pki.Identity, in *reply[EnrollRequest]) (*reply[Certificate], error) {
		c, err := s.service.Enroll(ctx, in.Body)
		return &reply[Certificate]{c}, err
	})
	handle(s, renew, func(ctx context.Context, _ pki.Identity, in *reply[pki.Renewal]) (*reply[Certificate], error) {
		c, err := s.service.Renew(ctx, in.Body)
		return &reply[Certificate]{c}, err
	})
	handle(s, createToken, func(ctx context.Context, who pki.Identity, in *reply[TokenRequest]) (*reply[NewToken], error) {
		t, err := s.service.CreateToken(ctx, who, in.Body)
		return &reply[NewToken]{t}, err
	})
	handle(s, listTokens, func(ctx context.Context, who pki.Identity, _ *none) (*reply[[]mobyfs.JoinToken], error) {
		all, err := s.service.Tokens(ctx, who)
		return &reply[[]mobyfs.JoinToken]{all}, err
	})
	handle(s, removeToken, func(ctx context.Context, who pki.Identity, in *byName) (*none, error) {
		return nil, s.service.RemoveToken(ctx, who, in.Name)
	})
	handle(s, getRotation, func(ctx context.Context, who pki.Identity, _ *none) (*reply[mobyfs.Rotation], error) {
		r, err := s.service.Rotation(ctx, who)
		return &reply[mobyfs.Rotation]{r}, err
	})
	handle(s, rotate, func(ctx context.Context, who pki.Identity, in *reply[rotateRequest]) (*reply[mobyfs.Rotation], error) {
		r, err := s.service.Rotate(ctx, who, in.Body.Force)
		return &reply[mobyfs.Rotation]{r}, err
	})
	handle(s, listPeople, func(ctx context.Context, who pki.Identity, _ *none) (*reply[[]mobyfs.Person], error) {
		all, err := s.service.People(ctx, who)
		return &reply[[]mobyfs.Person]{all}, err
	})
	handle(s, evictMember, func(ctx context.Context, who pki.Identity, in *reply[evictRequest]) (*none, error) {
		return nil, s.service.Evict(ctx, who, in.Body.Role, in.Body.Name, in.Body.Cause)
	})
}

// Bundle asks control whom to trust.
func (c *Client) Bundle(ctx context.Context) (b Bundle, err error) {
	err = c.ask(ctx, getBundle, "", nil, &b)
	return b, err
}

// Enroll joins the cluster with a token. Use Join, which checks the cluster first.
func (c *Client) Enroll(ctx context.Context, r EnrollRequest) (cert Certificate, err error) {
	err = c.ask(ctx, enroll, "", r, &cert)
	return cert, err
}

// Renew asks for a certificate in place of one that ends.
func (c *Client) Renew(ctx context.Context, r pki.Renewal) (cert Certificate, err error) {
	err = c.ask(ctx, renew, "", r, &cert)
	return cert, err
}

// CreateToken makes a token to join with.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (t NewToken, err error) {
	err = c.ask(ctx, createToken, "", r, &t)
	return t, err
}

// Tokens lists the tokens, the newest first.
func (c *Client) Tokens(ctx context.Context) (all []mobyfs.JoinToken, err error) {
	err = c.ask(ctx, listTokens, "", nil, &all)
	return all, err
}

// RemoveToken makes a token worthless.
func (c *Client) RemoveToken(ctx context.Context, id string) error {
	return c.ask(ctx, removeToken, id, nil, nil)
}

// Rotation tells how the authority is.
func (c *Client) Rotation(ctx context.Context) (r mobyfs.Rotation, err error) {
	err = c.ask(ctx, getRotation, "", nil, &r)
	return r, err
}

// Rotate begins to replace the authority's root, or goes on without some members.
func (c *Client) Rotate(ctx context.Context, force []string) (r mobyfs.Rotation, err error) {
	err = c.ask(ctx, rotate, "", rotateRequest{force}, &r)
	return r, err
}

// People lists who uses the cluster.
func (c *Client) People(ctx context.Context) (all []mobyfs.Person, err error) {
	err = c.ask(ctx, listPeople, "", nil, &all)
	return all, err
}

// Evict shuts somebody out at once.
func (c *Client) Evict(ctx context.Context, role, name, cause string) error {
	return c.ask(ctx, evictMember, "", evictRequest{role, name, cause}, nil)
}
