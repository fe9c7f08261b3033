package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Check refuses the other end of a connection whose certificate has been verified, by an error. It is asked at each
// handshake.
type Check func(cert *x509.Certificate) error

// ServerTLS serves with the identity and demands a certificate of the same authority that the checks let pass. Files
// are read again at each handshake, so a renewed certificate needs no restart. No session is resumed: each connection
// shows its certificate, so none outlives what the checks say.
func (f Files) ServerTLS(checks ...Check) (*tls.Config, error) {
	return f.serverTLS(func(loaded) *tls.Config {
		return &tls.Config{
			MinVersion:       tls.VersionTLS13,
			NextProtos:       []string{"h2", "http/1.1"},
			VerifyConnection: func(state tls.ConnectionState) error { return pass(state.PeerCertificates[0], checks) },
		}
	})
}

// Door is the name to ask control for, in TLS, by who has no certificate yet or only one that has expired. Behind it is
// nothing but what lets somebody in.
const Door = "door.control.mobyfs"

// LinkProtocol is the name, in TLS, of what agents speak with control if both can: see internal/link.
const LinkProtocol = "mobyfs-link/1"

// ControlTLS is ServerTLS, and lets anybody in through the Door, without a certificate. Who has one may ask for a link.
func (f Files) ControlTLS(checks ...Check) (*tls.Config, error) {
	c, err := f.ServerTLS(checks...)
	if err != nil {
		return nil, err
	}
	inner := c.GetConfigForClient
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := inner(hello)
		switch {
		case err != nil:
		case hello.ServerName == Door:
			c.ClientAuth, c.VerifyConnection = tls.NoClientCert, nil
		default:
			c.NextProtos = append([]string{LinkProtocol}, c.NextProtos...)
		}
		return c, err
	}
	return c, nil
}

// DoorTLS connects to the Door of a control of the authority whose roots are given, and of no other.
func DoorTLS(rootsPEM []byte) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(rootsPEM) {
		return nil, errors.New("there is no root in PEM")
	}
	c := PeekTLS()
	c.VerifyConnection = func(state tls.ConnectionState) error {
		return verify(state.PeerCertificates, roots, x509.VerifyOptions{
			DNSName: ServerName(RoleControl, RoleControl), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
	}
	return c, nil
}

// PeekTLS connects to the Door of whoever answers. Nothing that is said there is secret, and nothing that is heard there
// is believed before it was checked otherwise.
func PeekTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: Door, InsecureSkipVerify: true}
}

func pass(cert *x509.Certificate, checks []Check) error {
	for _, check := range checks {
		if err := check(cert); err != nil {
			return err
		}
	}
	return nil
}

// DockerTLS is ServerTLS for the one client that only is. Anybody else's handshake is refused, whoever signed for
// them. It takes TLS 1.2 as well, which is what Docker promises to speak, and HTTP/1.1 alone.
//
// dockerd shows for all its life the certificate that it began with, so the one in installed is believed also when the
// root above it was replaced since.
func (f Files) DockerTLS(only Identity, installed Files) (*tls.Config, error) {
	return f.serverTLS(func(id loaded) *tls.Config {
		own, _ := installed.Chain() // there may be none
		return &tls.Config{
			MinVersion:       tls.VersionTLS12,
			NextProtos:       []string{"http/1.1"},
			ClientAuth:       tls.RequireAnyClientCert, // isDockerd verifies it
			VerifyConnection: func(state tls.ConnectionState) error { return isDockerd(state.PeerCertificates, only, id, own) },
		}
	})
}

func isDockerd(chain []*x509.Certificate, only Identity, id loaded, own []*x509.Certificate) error {
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if err := verify(chain, id.roots, x509.VerifyOptions{KeyUsages: uses}); err != nil {
		now := failpoint.Now()
		if len(chain) == 0 || len(own) == 0 || !chain[0].Equal(own[0]) || now.After(own[0].NotAfter) || now.Before(own[0].NotBefore) {
			return err
		}
	}
	who, err := IdentityOf(chain[0])
	if err == nil && who != only {
		err = fmt.Errorf("%s of cluster %s is not %s of cluster %s", who, who.Cluster, only, only.Cluster)
	}
	return err
}

// PeerTLS serves and calls other members of the store with the identity of a peer. Only peers get through, in either
// direction: a certificate of any other intermediate is not even believed.
func (f Files) PeerTLS() (*tls.Config, error) {
	id, err := f.load()
	if err != nil {
		return nil, err
	}
	c, err := f.serverTLS(func(loaded) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, VerifyConnection: onlyFor(isPeer, "a peer")}
	})
	if err != nil {
		return nil, err
	}
	c.RootCAs, c.ServerName = id.roots, ServerName(RolePeer, RolePeer)
	c.GetClientCertificate = f.clientCertificate
	return c, nil
}

func isPeer(who Identity) bool { return who.Role == RolePeer }

// onlyFor refuses everybody but those whom is names.
func onlyFor(is func(Identity) bool, whom string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		who, err := PeerIdentity(&state)
		if err == nil && !is(who) {
			err = fmt.Errorf("%s of cluster %s is not %s", who, who.Cluster, whom)
		}
		return err
	}
}

// serverTLS fills in the identity and what it demands of clients, anew for each connection.
func (f Files) serverTLS(config func(id loaded) *tls.Config) (*tls.Config, error) {
	if _, err := f.load(); err != nil {
		return nil, err
	}
	files := &held{files: f}
	return &tls.Config{
		MinVersion:             config(loaded{}).MinVersion,
		SessionTicketsDisabled: true,
		Time:                   failpoint.Now,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			id, err := files.load()
			if err != nil {
				return nil, err
			}
			c := config(id)
			c.SessionTicketsDisabled, c.Time = true, failpoint.Now
			c.Certificates = []tls.Certificate{id.cert}
			c.ClientCAs = id.roots
			if c.ClientAuth == tls.NoClientCert {
				c.ClientAuth = tls.RequireAndVerifyClientCert
			}
			return c, nil
		},
	}, nil
}

// ClientTLS connects with the identity to a server of the given role and name. Files are read again at each handshake,
// so neither a renewed certificate nor another authority needs a new configuration.
func (f Files) ClientTLS(role, name string) (*tls.Config, error) {
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		ServerName:           ServerName(role, name),
		GetClientCertificate: f.clientCertificate,
		InsecureSkipVerify:   true, // for verifyServer does it, with the roots of the moment
		VerifyConnection:     func(state tls.ConnectionState) error { return f.verifyServer(state) },
	}, nil
}

func (f Files) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	id, err := f.load()
	if err != nil {
		return nil, err
	}
	return &id.cert, nil
}

// verifyServer is TLS's own check of a server.
func (f Files) verifyServer(state tls.ConnectionState) error {
	id, err := f.load()
	if err != nil {
		return err
	}
	err = verify(state.PeerCertificates, id.roots, x509.VerifyOptions{
		DNSName: state.ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil { // as crypto/tls says it, so that callers tell it from a connection that broke
		err = &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return err
}

// verify checks a chain, leaf first, against roots: for now if opts name no time.
func verify(chain []*x509.Certificate, roots *x509.CertPool, opts x509.VerifyOptions) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate")
	}
	opts.Roots, opts.Intermediates = roots, x509.NewCertPool()
	if opts.CurrentTime.IsZero() {
		opts.CurrentTime = failpoint.Now()
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Errorf("verify the certificate: %w", err)
	}
	return nil
}

// AddressTLS connects with the identity as dockerd does: it believes a server of the authority that is certified for
// the address it calls.
func (f Files) AddressTLS() (*tls.Config, error) {
	id, err := f.load()
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: id.roots, Certificates: []tls.Certificate{id.cert}, Time: failpoint.Now}, nil
}
