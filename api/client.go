package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// Bounds of how long a client waits.
const (
	dialTimeout   = 5 * time.Second
	nextTimeout   = 1500 * time.Millisecond // to dial where there are other endpoints: a host without power answers nothing at all
	headTimeout   = 20 * time.Second        // more than the server takes at most
	callTimeout   = 30 * time.Second        // for a whole call, other endpoints included; ctx may set less
	pingAfter     = 10 * time.Second        // of silence on a connection that is in use
	pingTimeout   = 5 * time.Second
	tcpKeepAlive  = 15 * time.Second
	idleConnLimit = 4
	busyPause     = 250 * time.Millisecond // before a request is repeated that is being answered
)

// Client is the other end: it speaks to the control plane as whoever its certificate names. It implements
// mobyfs.Control and the calls of operators. Connections are kept; all methods may be called at once.
//
// Every call may be repeated, so one that breaks is tried again once on each endpoint before it fails; so is one that an
// endpoint can't serve, such as a control that is cut off from the others.
type Client struct {
	way   atomic.Pointer[way]
	links bool // it is an agent's
}

// way is how control is reached. It does not change; a Client gets another one.
type way struct {
	endpoints []string
	http      *http.Client
	last      atomic.Int32 // index of the endpoint that calls begin with: the one that answered last
}

var _ mobyfs.Control = (*Client)(nil)

// NewClient makes a client of the control plane that answers at any of the endpoints (host:port). tlsConfig says
// who the client is and whom it takes for control. Nothing is sent until the first call.
func NewClient(endpoints []string, tlsConfig *tls.Config) *Client {
	c := &Client{}
	c.way.Store(c.newWay(endpoints, tlsConfig))
	return c
}

// NewAgentClient is NewClient for an agent. Its calls and its watch go over one light connection (internal/link) if
// control speaks so, which it does with nodes alone.
func NewAgentClient(endpoints []string, tlsConfig *tls.Config) *Client {
	c := &Client{links: true}
	c.way.Store(c.newWay(endpoints, tlsConfig))
	return c
}

// Redirect makes calls from now on as a client that was made with these would. Calls under way end where they began.
func (c *Client) Redirect(endpoints []string, tlsConfig *tls.Config) {
	c.way.Swap(c.newWay(endpoints, tlsConfig)).http.CloseIdleConnections()
}

func (c *Client) newWay(endpoints []string, tlsConfig *tls.Config) *way {
	dialing := dialTimeout
	if len(endpoints) > 1 {
		dialing = nextTimeout
	}
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialing, KeepAlive: tcpKeepAlive}).DialContext,
		TLSClientConfig:       tlsConfig.Clone(),
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   idleConnLimit,
		IdleConnTimeout:       idleTimeout - 10*time.Second, // before the server hangs up
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression:    true,
	}
	var carries http.RoundTripper = transport
	if c.links {
		carries = newCarrier(transport)
	}
	return &way{
		endpoints: endpoints,
		http: &http.Client{
			Transport:     carries,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Endpoints are those at which control is called.
func (c *Client) Endpoints() []string { return c.way.Load().endpoints }

// Close drops the connections that are not in use.
func (c *Client) Close() { c.way.Load().http.CloseIdleConnections() }

// ask makes a call and decodes the answer into out, if that is not nil. name fills the path's {name}, {node} or {id}.
func (c *Client) ask(ctx context.Context, what call, name string, in, out any) error {
	_, err := c.askFor(ctx, what, name, in, out)
	return err
}

// askFor is ask for an answer whose header counts too.
func (c *Client) askFor(ctx context.Context, what call, name string, in, out any) (_ http.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx, span := tracing.Call(ctx, what.id)
	defer func() { tracing.End(span, err) }()
	path, err := what.pathOf(name)
	if err != nil {
		return nil, err
	}
	r := request{what: what, path: path, whole: true}
	if in != nil {
		if r.body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
	}
	resp, endpoint, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(body, out)
	}
	if err != nil {
		return nil, unreachable("ask", []string{endpoint}, err)
	}
	return resp.Header, nil
}

// subjects are what the path of a call can name. What could not be such a name is not sent: it could lead to another path.
var subjects = []struct {
	holder string
	check  func(name string) error
}{{"{name}", mobyfs.CheckVolumeName}, {"{node}", mobyfs.CheckNodeName}, {"{id}", mobyfs.CheckOperationID}}

// pathOf is the path of the call with what it is about.
func (c call) pathOf(name string) (string, error) {
	for _, s := range subjects {
		if strings.Contains(c.path, s.holder) {
			return strings.Replace(c.path, s.holder, url.PathEscape(name), 1), s.check(name)
		}
	}
	return c.path, nil
}

// request is a call as it is sent, however often.
type request struct {
	what  call
	path  string
	key   string // "" if it has none
	body  []byte // nil if it has none
	whole bool   // the answer counts once it has come to its end; else it is a stream
}

// send makes the request and returns the first answer of success with the endpoint that gave it. An answer of any
// other kind is an error.
func (c *Client) send(ctx context.Context, r request) (*http.Response, string, error) {
	if r.what.keyed() && !strings.HasPrefix(r.path, agentPath) {
		r.key = newKey() // agents' calls name the decision that they speak of
	}
	w := c.way.Load()
	if len(w.endpoints) == 0 {
		return nil, "", mobyfs.Errorf(mobyfs.CodeInvalid, "no address of the control plane is known")
	}
	first := int(w.last.Load())
	var err error
	for try := range len(w.endpoints) + 1 { // one more: a kept connection may have died unnoticed
		i := (first + try) % len(w.endpoints)
		var resp *http.Response
		resp, err = w.sendOnce(ctx, w.endpoints[i], r)
		if err != nil && ctx.Err() == nil {
			continue
		}
		if err != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				w.passBy(w.endpoints[i])
			}
			break
		}
		if resp.StatusCode == http.StatusServiceUnavailable && try < len(w.endpoints)-1 {
			resp.Body.Close() // its store may have no quorum while those of the others have
			continue
		}
		w.last.Store(int32(i))
		if resp.StatusCode/100 != 2 {
			defer resp.Body.Close()
			return nil, "", errorFrom(resp, w.endpoints[i])
		}
		return resp, w.endpoints[i], nil
	}
	return nil, "", unreachable("ask", w.endpoints, err)
}

// passBy has the next call begin with the endpoint after this one, which let a caller's time run out. It may stand still, and a
// caller who never has the time to try another one would be told for ever that there was no answer in time.
func (w *way) passBy(endpoint string) {
	if i := slices.Index(w.endpoints, endpoint); i >= 0 {
		w.last.CompareAndSwap(int32(i), int32((i+1)%len(w.endpoints)))
	}
}

// sendOnce is sendTo for a request with a key. A try before it, whose connection broke, may be answered still: then it
// waits for that answer.
func (w *way) sendOnce(ctx context.Context, endpoint string, r request) (*http.Response, error) {
	for {
		resp, err := w.sendTo(ctx, endpoint, r)
		if err != nil || r.key == "" || resp.StatusCode != http.StatusTooManyRequests {
			return resp, err
		}
		resp.Body.Close()
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (w *way) sendTo(ctx context.Context, endpoint string, r request) (*http.Response, error) {
	var content io.Reader
	if r.body != nil {
		content = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.what.method, "https://"+endpoint+r.path, content)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set(keyHeader, r.key)
	}
	if parent := tracing.Parent(ctx); parent != "" {
		req.Header.Set(traceHeader, parent)
	}
	if revision, ok := mobyfs.MatchOf(ctx); ok {
		req.Header.Set("If-Match", etag(revision))
	}
	resp, err := w.http.Do(req)
	if err != nil || !r.whole {
		return resp, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	return resp, nil
}

// unreachable says that nobody answered. Of the error only what lies under the request's own words is told.
func unreachable(verb string, endpoints []string, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	why := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		why = "no answer in time"
	}
	hint := "check that mobyfs-control runs there: systemctl status mobyfs-control"
	if late := pki.OutOfTime(err); late != "" {
		why, hint = late, pki.ClockHint
	}
	e := mobyfs.Errorf(mobyfs.CodeUnavailable, "%s control at %s: %s", verb, strings.Join(endpoints, ", "), why)
	e.Err = err
	return e.WithHint("%s", hint)
}
