package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// ClockHint is the way out where OutOfTime has something to say.
const ClockHint = "timedatectl on both hosts shows whose clock is wrong, timedatectl set-ntp true sets it; if none is, mobyctl bootstrap makes certificates anew"

// OutOfTime says in words that a connection failed because of the time of a certificate: this end refused the other
// one's, or the other end this one's. It is "" for any other error. A clock that is wrong looks no different from
// a certificate that nobody has renewed, so both are told.
func OutOfTime(err error) string {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		c := invalid.Cert
		whose := c.Subject.CommonName
		if who, err := IdentityOf(c); err == nil {
			whose = who.String()
		}
		return fmt.Sprintf("the certificate of %s is good from %s to %s UTC, and by the clock here it is %s", whose,
			c.NotBefore.UTC().Format(time.DateTime), c.NotAfter.UTC().Format(time.DateTime), failpoint.Now().UTC().Format(time.DateTime))
	}
	var alert *net.OpError // crypto/tls wraps what the other end says in one with this Op
	if errors.As(err, &alert) && alert.Op == "remote error" && strings.Contains(alert.Err.Error(), "expired certificate") {
		return "by the clock there the certificate of this host has ended, or is not good yet"
	}
	return ""
}
