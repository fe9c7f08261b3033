package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// dockerTLS is what a dockerd shows and believes that has the identity.
func (s *shop) dockerTLS(role, name string) *tls.Config {
	s.t.Helper()
	config, err := s.certify(pki.FilesIn(s.t.TempDir(), "docker"), role, name).AddressTLS()
	if err != nil {
		s.t.Fatal(err)
	}
	return config
}

func TestC23DriverWithCertificatesAnswersItsOwnDockerdAlone(t *testing.T) {
	s := newShop(t)
	set := s.settingsOf("h1")
	set.endpoint = discovery.Endpoint("https://" + freeport.At(t))
	s.certify(set.dockerFiles(), pki.RoleDocker, "h1")
	if err := set.check(); err != nil {
		t.Fatal(err)
	}
	s.run(set)
	own := s.dockerTLS(pki.RoleDocker, "h1")
	ask := func(config *tls.Config) error {
		_, err := callWith(set, config, "VolumeDriver.List", map[string]any{})
		return err
	}
	if err := ask(own); err != nil {
		t.Errorf("its own dockerd: %v", err)
	}
	stranger := newShop(t).dockerTLS(pki.RoleDocker, "h1")
	stranger.RootCAs = own.RootCAs
	for who, config := range map[string]*tls.Config{
		"another node's dockerd": s.dockerTLS(pki.RoleDocker, "h2"),
		"the node":               s.dockerTLS(pki.RoleNode, "h1"),
		"an operator":            s.dockerTLS(pki.RoleOperator, "ana"),
		"another cluster":        stranger,
		"nobody":                 {RootCAs: own.RootCAs},
	} {
		if err := ask(config); !discovery.Refused(err) {
			t.Errorf("%s: got %v, want a handshake that is refused", who, err)
		}
	}
	plain := set
	plain.endpoint = discovery.Endpoint("tcp" + string(set.endpoint[len("https"):]))
	if ans, err := callWith(plain, nil, "VolumeDriver.List", nil); err == nil {
		t.Errorf("without TLS: %v", ans)
	}

	s.certify(set.files(), pki.RoleNode, "h1") // the same authority, another certificate
	if err := ask(own); err != nil {
		t.Errorf("with the driver's new certificate: %v", err)
	}
}

// Killed and started again, a driver whose dockerd has lost its certificate on disk still answers dockerd, which has
// it in memory.
func TestLostCertificateOfDockerdEndsNoAgent(t *testing.T) {
	s := newShop(t)
	set := s.settingsOf("h1")
	set.endpoint = discovery.Endpoint("https://" + freeport.At(t))
	s.run(set)
	if _, err := callWith(set, s.dockerTLS(pki.RoleDocker, "h1"), "VolumeDriver.List", map[string]any{}); err != nil {
		t.Error(err)
	}
}

func TestUnknownSocketsAreNotGuessed(t *testing.T) {
	s := newShop(t)
	set := s.settingsOf("h1")
	set.kept = filepath.Join(t.TempDir(), "kept")
	l, err := listen(discovery.Endpoint("tcp://" + freeport.At(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := l.Addr().String()
	for _, tc := range []struct {
		name, kept string
		want       discovery.Endpoint // "" is an error
	}{
		{"tcp", "", discovery.Endpoint("tcp://" + address)},
		{"https", "", discovery.Endpoint("https://" + address)},
		{"mobyfs.socket", "", ""},
		{"kept", "", ""},
		{"kept", "unix:///x\ntcp://" + address + "\n", discovery.Endpoint("tcp://" + address)},
		{"kept", "https://" + address, discovery.Endpoint("https://" + address)},
	} {
		if err := os.WriteFile(set.kept, []byte(tc.kept), 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := doorFor(tc.name, l, set)
		if (err == nil) != (tc.want != "") || d.endpoint != tc.want {
			t.Errorf("%s %q: got %s, %v", tc.name, tc.kept, d.endpoint, err)
		}
		if err == nil && tc.want.TLS() == (d.Listener == l) {
			t.Errorf("%s %q: it takes TLS: %v", tc.name, tc.kept, d.Listener != l)
		}
	}
}
