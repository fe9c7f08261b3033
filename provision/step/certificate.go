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

// certificate gives the node its identity. The key is made on the host and never leaves it: the host asks with a
// request, and whoever runs the step has it signed.
type certificate struct{}

func (certificate) Name() string { return "certificate" }

func (certificate) Check(f Facts, d Desired) []Change {
	switch why := certificateTrouble(f, d); {
	case why == "":
		return nil
	case f.NodeCert == "":
		return []Change{{Add, "certificate of node " + d.Node, ""}}
	default:
		return []Change{{Modify, "certificate of node " + d.Node, why}}
	}
}

// certificateTrouble tells why the node needs a certificate, or "".
func certificateTrouble(f Facts, d Desired) string {
	if !f.NodeKey || f.NodeCert == "" || f.NodeCA == "" {
		return "there is none"
	}
	cert, err := parseCert(f.NodeCert)
	if err != nil {
		return err.Error()
	}
	who, err := pki.IdentityOf(cert)
	if err != nil {
		return err.Error()
	}
	if want := (pki.Identity{Cluster: d.Cluster, Role: pki.RoleNode, Name: d.Node}); who != want {
		return fmt.Sprintf("it is that of %s in cluster %s", who, who.Cluster)
	}
	if d.NewAuthority {
		return "the cluster gets a new authority"
	}
	if authority, err := parseCert(d.Authority); err != nil || cert.CheckSignatureFrom(authority) != nil {
		return "another authority signed it"
	}
	if mine, err := parseCert(f.NodeCA); err != nil || cert.CheckSignatureFrom(mine) != nil {
		return "it does not belong to the authority beside it"
	}
	return expiring(f.NodeCert, f.Clock)
}

// expiring tells that a certificate ends soon or can't be read, or "".
func expiring(certPEM string, now time.Time) string {
	cert, err := parseCert(certPEM)
	switch {
	case err != nil:
		return err.Error()
	case cert.NotAfter.Before(now):
		return "it expired on " + cert.NotAfter.UTC().Format(time.DateOnly)
	case cert.NotAfter.Before(now.Add(pki.RenewBefore)):
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
	if err := r.mkdirAll(AgentRoot+"/pki", 0o700); err != nil {
		return err
	}
	f := pki.FilesIn(r.path(AgentRoot+"/pki"), "node")
	csr, err := f.NewRequest()
	if err != nil {
		return fmt.Errorf("make a certificate request: %w", err)
	}
	cert, ca, err := r.Sign(ctx, csr)
	if err != nil {
		return fmt.Errorf("have the certificate of node %s signed: %w", r.Desired.Node, err)
	}
	if err := f.Install(cert, ca); err != nil {
		return err
	}
	r.Desired.Authority, r.Desired.NewAuthority = string(ca), false // from now on this is the one
	return r.readCertificate()
}

// readCertificate takes the node's certificate into the facts.
func (r *Run) readCertificate() error {
	f := pki.FilesIn(r.path(AgentRoot+"/pki"), "node")
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
	r.Facts.NodeKey, r.Facts.NodeCert, r.Facts.NodeCA = true, string(cert), string(ca)
	return nil
}
