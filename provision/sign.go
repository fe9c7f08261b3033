package provision

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// sign has the authority on the control host sign a certificate request. No secret travels: the key stays where the
// request was made.
func (p *Plan) sign(ctx context.Context, role, name string, csr []byte) (cert, ca []byte, err error) {
	var out bytes.Buffer
	command := host.Command(path.Join(step.BinDir, step.Control), "sign", "--role", role, "--name", name)
	if err := p.control.conn.Root(ctx, command, bytes.NewReader(csr), &out); err != nil {
		return nil, nil, fmt.Errorf("sign on %s: %w", p.control.Name, err)
	}
	block, rest := pem.Decode(out.Bytes())
	authority, _ := pem.Decode(rest)
	if block == nil || authority == nil || block.Type != "CERTIFICATE" || authority.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("sign on %s: it answered without a certificate and its authority", p.control.Name)
	}
	return pem.EncodeToMemory(block), pem.EncodeToMemory(authority), nil
}

// enrolOperator gives mobyctl its own certificate.
func (p *Plan) enrolOperator(ctx context.Context) error {
	csr, err := p.in.Operator.NewRequest()
	if err != nil {
		return err
	}
	cert, ca, err := p.sign(ctx, pki.RoleOperator, p.in.OperatorName, csr)
	if err != nil {
		return err
	}
	return p.in.Operator.Install(cert, ca)
}

// sameAuthority reports whether the file holds the certificate.
func sameAuthority(file, caPEM string) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	a, _ := pem.Decode(text)
	b, _ := pem.Decode([]byte(caPEM))
	return a != nil && b != nil && bytes.Equal(a.Bytes, b.Bytes)
}

var errNoAnswer = errors.New("the host ended without saying how it went")
