package provision

import (
	"bytes"
	"context"
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
	if cert, ca, err = pki.SplitAnswer(out.Bytes()); err != nil {
		return nil, nil, fmt.Errorf("sign on %s: %w", p.control.Name, err)
	}
	return cert, ca, nil
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

// sameAuthority reports whether the authority whose roots are given signed a certificate, and is the one that its
// holder trusts.
func sameAuthority(f pki.Files, rootsPEM string) bool {
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return false
	}
	mine, err := os.ReadFile(f.CA)
	return err == nil && pki.ChainsTo([]byte(rootsPEM), cert) && pki.ChainsTo(mine, cert)
}

var errNoAnswer = errors.New("the host ended without saying how it went")
