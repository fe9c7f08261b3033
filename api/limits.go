package api

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Bounds of what one client has going on at once, over all its connections.
const (
	maxCalls   = 128
	maxStreams = 32  // watches, events, audit
	h2Streams  = 200 // on one connection, calls and streams together
	maxLinks   = 8   // of one agent: it has one, and another for each certificate that it had before
)

// clients counts what each client has going on.
type clients struct {
	mu    sync.Mutex
	calls map[clientKind]int
}

type clientKind struct {
	who    pki.Identity
	stream bool
}

// enter counts a request until leave is called. CodeBusy if the client has too many under way.
func (c *clients) enter(who pki.Identity, stream bool) (leave func(), err error) {
	most, what := maxCalls, "calls"
	if stream {
		most, what = maxStreams, "streams"
	}
	k := clientKind{who, stream}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[clientKind]int{}
	}
	if c.calls[k] >= most {
		return nil, mobyfs.Errorf(mobyfs.CodeBusy, "%s has %d %s under way, more are not served at once", who, most, what).
			WithHint("end some, or wait until they have been answered")
	}
	c.calls[k]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.calls[k]--; c.calls[k] == 0 {
			delete(c.calls, k)
		}
	}, nil
}

// isStream reports whether a request asks for what goes on until one side ends it.
func isStream(r *http.Request) bool {
	return r.Method == http.MethodGet && (r.URL.Path == watch.path || r.URL.Path == followEvents.path || r.URL.Path == followAudit.path)
}

// checkBrowser refuses what the page of another site made a browser ask, with the certificate of whoever looks at it. A
// browser says where its request comes from. The name by which it asks must be one that is control's, so that no foreign
// name that leads to control's address (DNS rebinding) makes the two look alike.
func checkBrowser(r *http.Request) error {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	if origin == "" && site == "" {
		return nil // no browser
	}
	u, err := url.Parse(origin)
	foreign := origin != "" && (err != nil || u.Scheme != "https" || u.Host != r.Host)
	if foreign || site != "" && site != "same-origin" && site != "none" || !ownName(r.Host) {
		e := mobyfs.Errorf(mobyfs.CodeDenied, "a page of another site asks, by the name %.100q", r.Host).
			WithHint("open control by its address, or as %s", pki.ServerName(pki.RoleControl, pki.RoleControl))
		return e
	}
	return nil
}

// ownName reports whether a host, with or without a port, is an address or a name that nobody but control has.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	return net.ParseIP(host) != nil || host == "localhost" || strings.HasSuffix(host, "."+pki.RoleControl+".mobyfs")
}
