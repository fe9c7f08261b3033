package api

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Whoever sees a certificate refused is to think of the clocks first, and not that control does not run.
func TestAClockThatIsWrongIsToldInWords(t *testing.T) {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "control"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(3600, 0)}
	for name, tc := range map[string]struct {
		err        error
		text, hint string
	}{
		"control's certificate": {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}},
			"the certificate of control is good from 1970-01-01 00:00:00 to 1970-01-01 01:00:00 UTC, and by the clock here it is 20", pki.ClockHint},
		"another reason": {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: cert, Reason: x509.NotAuthorizedToSign}},
			"not authorized to sign", "systemctl status mobyfs-control"},
		"nobody there": {&net.OpError{Op: "dial", Err: net.ErrClosed}, "closed", "systemctl status mobyfs-control"},
	} {
		err := unreachable("ask", []string{"h1:7946"}, &url.Error{Op: "Get", URL: "https://h1:7946/", Err: tc.err})
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), "ask control at h1:7946: ") || !strings.Contains(err.Error(), tc.text) || !strings.Contains(mobyfs.HintOf(err), tc.hint) {
			t.Errorf("%s: got %v, hint %q", name, err, mobyfs.HintOf(err))
		}
	}
}
