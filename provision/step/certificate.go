package step

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mobyfs/mobyfs/internal/pki"
)

// certificate gives the node its identity, and dockerd one of its own where it shows one to the driver. Keys are made
// on the host and never leave it: the host asks with a request, and whoever runs the step has it signed.
type certificate struct{}

func (certificate) Name() string { return "certificate" }

func (certificate) Check(f Facts, d Desired) []Change {
	var changes []Change
	for _, c := range certified(f, d) {
		why := c.trouble(f, d)
		switch {
		case why == "":
		case c.cert == "":
			changes = append(changes, Change{Add, c.what, ""})
		default:
			changes = append(changes, Change{Modify, c.what, why})
		}
	}
	return changes
}

// credential is one certificate that a host has or shall have.
type credential struct {
	role  string
	what  string // for people
	file  string // its name in PKIDir, without the ending
	key   bool   // there is one
	cert  string // PEM; empty if there is none
	renew func(cert, authority *x509.Certificate, now time.Time) string
}

// certified lists the certificates that the host shall have.
func certified(f Facts, d Desired) []credential {
	tls := d.endpoint().TLS()
	all := []credential{{pki.RoleNode, "certificate of node " + d.Node, "node", f.NodeKey, f.NodeCert,
		func(cert, _ *x509.Certificate, now time.Time) string {
			if tls && cert.VerifyHostname(pki.Loopback) != nil {
				return "it is not good for " + pki.Loopback + ", where Docker calls"
			}
			if cert.NotAfter.Add(pki.Grace).Before(now) { // until then the agent has it renewed
				return "it expired on " + cert.NotAfter.UTC().Format(time.DateOnly)
			}
			return ""
		}}}
	if tls {
		all = append(all, credential{pki.RoleDocker, "certificate of dockerd on " + d.Node, "docker", f.DockerKey, f.DockerCert,
			func(cert, authority *x509.Certificate, now time.Time) string {
				if !cert.NotAfter.Before(authority.NotAfter) && cert.NotAfter.After(now) {
					return "" // no other would last longer
				}
				return ending(cert, now, pki.RenewDockerBefore)
			}})
	}
	return all
}

// trouble tells why a new certificate is needed, or "".
func (c credential) trouble(f Facts, d Desired) string {
	if !c.key || c.cert == "" || f.NodeCA == "" {
		return "there is none"
	}
	cert, err := parseCert(c.cert)
	if err != nil {
		return err.Error()
	}
	who, err := pki.IdentityOf(cert)
	if err != nil {
		return err.Error()
	}
	if want := (pki.Identity{Cluster: d.Cluster, Role: c.role, Name: d.Node}); who != want {
		return fmt.Sprintf("it is that of %s in cluster %s", who, who.Cluster)
	}
	if d.NewAuthority {
		return "the cluster gets a new authority"
	}
	authority, err := parseCert(d.Authority)
	if err != nil || !pki.ChainsTo([]byte(d.Authority), []byte(c.cert)) {
		return "another authority signed it"
	}
	if !pki.ChainsTo([]byte(f.NodeCA), []byte(c.cert)) {
		return "it does not belong to the authority beside it"
	}
	return c.renew(cert, authority, f.Clock)
}

// expiring tells that a certificate ends soon or can't be read, or "".
func expiring(certPEM string, now time.Time) string {
	cert, err := parseCert(certPEM)
	if err != nil {
		return err.Error()
	}
	return ending(cert, now, pki.RenewBefore)
}

// ending tells that a certificate ends within a time, or "".
func ending(cert *x509.Certificate, now time.Time, within time.Duration) string {
	switch {
	case cert.NotAfter.Before(now):
		return "it expired on " + cert.NotAfter.UTC().Format(time.DateOnly)
	case cert.NotAfter.Before(now.Add(within)):
		return "it expires on " + cert.NotAfter.UTC().Format(time.DateOnly)
	default:
		return ""
	}
}

func parseCert(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it can't be read")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errors.New("it can't be read")
	}
	return cert, nil
}

func (certificate) Apply(ctx context.Context, r *Run) error {
	if err := r.mkdirAll(PKIDir, 0o700); err != nil {
		return err
	}
	for _, c := range certified(r.Facts, r.Desired) {
		if c.trouble(r.Facts, r.Desired) == "" {
			continue
		}
		if err := r.certify(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) certify(ctx context.Context, c credential) error {
	f := pki.FilesIn(r.path(PKIDir), c.file)
	csr, err := f.NewRequest()
	if err != nil {
		return fmt.Errorf("make a certificate request: %w", err)
	}
	answer, err := r.Sign(ctx, c.role, csr)
	if err != nil {
		return fmt.Errorf("have the %s signed: %w", c.what, err)
	}
	if err := f.Install([]byte(answer.Cert), []byte(answer.CA)); err != nil {
		return err
	}
	r.Desired.Authority, r.Desired.NewAuthority = answer.CA, false // from now on this is the one
	return r.readCertificate(c.role, f)
}

// readCertificate takes a certificate of the host into the facts.
func (r *Run) readCertificate(role string, f pki.Files) error {
	if _, _, err := f.Identity(); err != nil {
		return err
	}
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return err
	}
	r.Facts.NodeCA = string(ca)
	if role == pki.RoleDocker {
		r.Facts.DockerKey, r.Facts.DockerCert = true, string(cert)
	} else {
		r.Facts.NodeKey, r.Facts.NodeCert = true, string(cert)
	}
	return nil
}
