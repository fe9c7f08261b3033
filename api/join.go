package api

import (
	"context"
	"os"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// MaxClockDifference is by how much the clock of who joins may differ from control's. Certificates would seem not yet
// good, or over, with more.
const MaxClockDifference = 5 * time.Minute

// Join lets this machine or person into the cluster that answers at the endpoints, under the name, with a token, and
// installs the identity in files. Before the secret is said, it makes sure that the cluster which answers is the one
// that the token names. It tells how far the clocks are apart (control's less ours). It may be repeated, also after it
// was killed: with the same key and token the answer is the same.
func Join(ctx context.Context, endpoints []string, token, name string, files pki.Files, now func() time.Time) (time.Duration, error) {
	invitation, err := pki.ParseInvitation(token)
	if err != nil {
		return 0, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", err).WithHint("mobyctl token create makes another")
	}
	root, apart, err := meet(ctx, endpoints, invitation, now)
	if err != nil {
		return apart, err
	}
	door, err := pki.DoorTLS(root)
	if err != nil {
		return apart, err
	}
	csr, err := files.NewRequest()
	if err != nil {
		return apart, err
	}
	c := NewClient(endpoints, door)
	defer c.Close()
	cert, err := c.Enroll(ctx, EnrollRequest{Token: invitation.String(), Name: name, Request: string(csr), Clock: now()})
	if err != nil {
		return apart, err
	}
	return apart, files.Install([]byte(cert.Chain), []byte(cert.Roots))
}

// meet asks whoever answers for the roots and the time. Only the root that the token names is believed, and the time
// only in so far as it makes us give up.
func meet(ctx context.Context, endpoints []string, i pki.Invitation, now func() time.Time) (root []byte, apart time.Duration, err error) {
	c := NewClient(endpoints, pki.PeekTLS())
	defer c.Close()
	before := now()
	bundle, err := c.Bundle(ctx)
	if err != nil {
		return nil, 0, err
	}
	after := now()
	if root, err = i.Pinned([]byte(bundle.Roots)); err != nil {
		return nil, 0, mobyfs.Errorf(mobyfs.CodeDenied, "join the cluster at %v: %w", endpoints, err).
			WithHint("check the address; the token was not sent")
	}
	apart = bundle.Now.Sub(before.Add(after.Sub(before) / 2))
	return root, apart, CheckClock(apart)
}

// CheckClock refuses clocks that are too far apart. apart is control's time less that of who joins.
func CheckClock(apart time.Duration) error {
	way := "behind"
	if apart < 0 {
		way = "ahead of"
	}
	if apart.Abs() <= MaxClockDifference {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "the clock here is %v %s that of control, %v are allowed", apart.Abs().Round(time.Second), way, MaxClockDifference).
		WithHint("set the clocks of both by NTP: timedatectl set-ntp true; timedatectl shows how they are")
}

// RenewFiles has the certificate in files renewed, with a fresh key, by whichever control answers at the endpoints. It
// needs no connection that shows the old one, so it works when that has expired.
func RenewFiles(ctx context.Context, endpoints []string, files pki.Files) error {
	roots, err := os.ReadFile(files.CA)
	if err != nil {
		return err
	}
	door, err := pki.DoorTLS(roots)
	if err != nil {
		return err
	}
	r, err := files.Renew()
	if err != nil {
		return err
	}
	c := NewClient(endpoints, door)
	defer c.Close()
	cert, err := c.Renew(ctx, r.Renewal)
	if err == nil {
		err = pki.GoodAt([]byte(cert.Chain), failpoint.Now())
	}
	if err != nil {
		return err
	}
	return r.Install([]byte(cert.Chain), []byte(cert.Roots))
}
