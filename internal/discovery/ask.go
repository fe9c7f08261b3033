package discovery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// askTime bounds the wait for a driver's answer. Docker would wait 15 s for one that is not there, and for ever for
// one that does not answer.
const askTime = 3 * time.Second

// Ask calls the driver at an endpoint as Docker would, with a question that changes nothing. Docker's Accept header
// is not sent, so that the driver takes it for nobody's new life. config is for https alone.
func Ask(ctx context.Context, e Endpoint, config *tls.Config) error {
	return call(ctx, e, config, "Capabilities", "{}", `"Scope"`)
}

// askAgent is Ask of the agent behind the driver: a use that nobody has is taken back, which is fine with any agent and
// changes nothing, but no stub takes it.
func askAgent(ctx context.Context, e Endpoint, config *tls.Config) error {
	return call(ctx, e, config, "Unmount", `{"Name":"mobyfs-probe","ID":"probe"}`, `"Err":""`)
}

// call makes a call whose answer must hold some text.
func call(ctx context.Context, e Endpoint, config *tls.Config, method, arguments, want string) error {
	network, address := e.Listen()
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   config,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	url := "http://mobyfs/VolumeDriver." + method
	if e.TLS() {
		url = "https://" + address + "/VolumeDriver." + method
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(arguments))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("ask the volume driver at %s: %w", e, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
		return fmt.Errorf("ask the volume driver at %s: it answers %s %q", e, resp.Status, body)
	}
	return nil
}

// Refused reports whether an error of Ask tells that the ends do not believe each other's certificates. Then somebody
// does answer.
func Refused(err error) bool {
	var unverified *tls.CertificateVerificationError
	var alert *net.OpError // crypto/tls wraps what the other end says in one with this Op
	return errors.As(err, &unverified) || errors.As(err, &alert) && alert.Op == "remote error"
}

// ask fills in whether a driver answers where a registration leads. Docker's verification is not weakened here: a
// driver that Docker would take unverified is asked without.
func (r *Registration) ask(ctx context.Context, root string) {
	if r.Endpoint == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	config, err := r.clientTLS(root)
	if err == nil {
		endpoint := r.Endpoint
		if p := endpoint.Path(); p != "" {
			endpoint = Endpoint("unix://" + root + p)
		}
		err = Ask(ctx, endpoint, config)
	}
	if r.Answers = err == nil; r.Answers {
		return
	}
	r.Answer = err.Error()
	if r.Wins {
		r.wrong("no driver answers there: each use waits for 15 s; on the host: systemctl status mobyfs.socket mobyfs")
	}
}

// clientTLS is how Docker would connect by a .json.
func (r *Registration) clientTLS(root string) (*tls.Config, error) {
	if r.tls == nil {
		return &tls.Config{InsecureSkipVerify: r.Kind == "spec"}, nil
	}
	config := &tls.Config{InsecureSkipVerify: r.tls.InsecureSkipVerify || r.tls.CAFile == ""}
	if r.tls.CAFile != "" {
		ca, err := os.ReadFile(root + r.tls.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(ca)
	}
	if r.tls.CertFile == "" {
		return config, nil
	}
	pair, err := tls.LoadX509KeyPair(root+r.tls.CertFile, root+r.tls.KeyFile)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// AskRegistered calls the driver at an endpoint in the way that its registration on this host tells Docker, and makes
// sure that there is an agent behind it.
func AskRegistered(ctx context.Context, root string, want Endpoint) error {
	for _, r := range Find(root) {
		if r.Endpoint != want {
			continue
		}
		config, err := r.clientTLS(root)
		if err != nil {
			return fmt.Errorf("call the volume driver as %s tells: %w", r.Place, err)
		}
		return askAgent(ctx, want, config)
	}
	return fmt.Errorf("nothing tells Docker of a volume driver at %s", want)
}
