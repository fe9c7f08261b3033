package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Identity is who holds a certificate.
type Identity struct {
	Cluster string
	Role    string
	Name    string
}

func (id Identity) String() string { return id.Role + "/" + id.Name }

// URI is the identity as it stands in the certificate.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.Cluster, Path: "/" + id.Role + "/" + id.Name}
}

// ServerName is the DNS name under which a TLS client checks that a server has the role and name.
func ServerName(role, name string) string { return name + "." + role + ".mobyfs" }

// dnsNames are the names under which the identity is found. Any control and any peer is also found under a name that
// is the same for all, so that a client need not know which one answers.
func (id Identity) dnsNames() []string {
	names := []string{ServerName(id.Role, id.Name)}
	if any := ServerName(id.Role, id.Role); (id.Role == RoleControl || id.Role == RolePeer) && any != names[0] {
		names = append(names, any)
	}
	return names
}

// IdentityOf reads the identity out of a certificate that TLS has verified. The DNS name must say the same as the URI:
// it is what the intermediates are confined by.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" {
		return Identity{}, errors.New("the certificate holds no identity of a cluster")
	}
	role, name, ok := strings.Cut(strings.TrimPrefix(cert.URIs[0].Path, "/"), "/")
	if !ok || name == "" {
		return Identity{}, fmt.Errorf("the certificate's identity %q has no role and name", cert.URIs[0])
	}
	if !slices.Contains(cert.DNSNames, ServerName(role, name)) {
		return Identity{}, fmt.Errorf("the certificate says it is %q, and its DNS names do not", cert.URIs[0])
	}
	return Identity{Cluster: cert.URIs[0].Host, Role: role, Name: name}, nil
}

// PeerIdentity is the identity of the other end of a connection.
func PeerIdentity(state *tls.ConnectionState) (Identity, error) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return Identity{}, errors.New("the connection carries no verified certificate")
	}
	return IdentityOf(state.VerifiedChains[0][0])
}
