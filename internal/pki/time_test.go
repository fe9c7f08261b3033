package pki

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Each end has a certificate as another clock would have had it made.
func TestACertificateOutOfTimeIsToldInWordsAtTheEndThatSpeaks(t *testing.T) {
	a, err := NewAuthority(t.TempDir()+"/pki", "shop")
	if err != nil {
		t.Fatal(err)
	}
	made := func(role, name string, at time.Time) Files {
		t.Helper()
		f := FilesIn(t.TempDir(), name)
		csr, err := f.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		i := a.Issuer(IssuerOf(role))
		cert, err := i.SignFor(24*time.Hour, csr, Identity{Cluster: "shop", Role: role, Name: name}, at, at)
		if err == nil {
			err = f.Install(cert, a.CertPEM)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	now, past, future := time.Now(), time.Now().Add(-30*time.Hour), time.Now().Add(24*time.Hour)
	for name, tc := range map[string]struct {
		control, node time.Time
		want          string
	}{
		"in time":                  {now, now, ""},
		"control's has ended":      {past, now, "the certificate of control/control is good from"},
		"control's is not yet":     {future, now, "the certificate of control/control is good from"},
		"the node's has ended":     {now, past, "by the clock there"},
		"the node's is not yet so": {now, future, "by the clock there"},
	} {
		said := OutOfTime(dial(t, made(RoleControl, "control", tc.control), made(RoleNode, "h1", tc.node)))
		if !strings.HasPrefix(said, tc.want) || (said == "") != (tc.want == "") {
			t.Errorf("%s: got %q, want %q", name, said, tc.want)
		}
	}
	if said := OutOfTime(errors.New("connection refused")); said != "" {
		t.Errorf("another error: %q", said)
	}
}

// dial connects a node to control, sends and reads one byte, and returns what the node hears.
func dial(t *testing.T, control, node Files) error {
	t.Helper()
	serving, err := control.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", serving)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.CopyN(conn, conn, 1) // the handshake, whose end the other side tells
		_ = conn.Close()
	}()
	defer func() { _ = l.Close(); <-ended }()
	asking, err := node.ClientTLS(RoleControl, "control")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", l.Addr().String(), asking)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("x"))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return err
}
