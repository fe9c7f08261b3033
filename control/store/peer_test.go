package store

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// signed gives new files their certificate.
func signed(t *testing.T, a *pki.Authority, f pki.Files, role, name string) pki.Files {
	t.Helper()
	csr, err := f.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, pki.Identity{Cluster: a.Cluster, Role: role, Name: name})
	if err == nil {
		err = f.Install(cert, a.CertPEM)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A real etcd with a real port for peers lets in peers, and nobody else of its own cluster.
func TestAttackOnlyPeersOpenThePeerPort(t *testing.T) {
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	member := signed(t, a, pki.PeerFiles(t.TempDir()), pki.RolePeer, "h1")
	address := peerPort(t, member)
	for _, who := range []struct {
		role, name string
		in         bool
	}{
		{pki.RolePeer, "h2", true},
		{pki.RoleNode, "h1", false}, {pki.RoleControl, "h1", false}, {pki.RoleDocker, "h1", false},
		{pki.RoleOperator, "ana", false}, {pki.RoleAdmin, "ana", false},
	} {
		f := signed(t, a, pki.FilesIn(t.TempDir(), "x"), who.role, who.name)
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		err = askMembers(t.Context(), address, cert)
		if (err == nil) != who.in {
			t.Errorf("%s/%s at the peer port: %v", who.role, who.name, err)
		}
	}
	if err := askMembers(t.Context(), address, tls.Certificate{}); err == nil {
		t.Error("somebody without a certificate was let in")
	}
}

// peerPort starts an etcd that trusts what the peer's files say, and gives the address of its port for peers.
func peerPort(t *testing.T, f pki.Files) string {
	t.Helper()
	peer := url.URL{Scheme: "https", Host: freeport.At(t)}
	dir := t.TempDir()
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "h1", filepath.Join(dir, "data")
	client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "s")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = "h1=" + peer.String()
	cfg.PeerTLSInfo = transport.TLSInfo{
		CertFile: f.Cert, KeyFile: f.Key, TrustedCAFile: f.CA, ClientCertAuth: true, SkipClientSANVerify: true,
		ServerName: pki.ServerName(pki.RolePeer, pki.RolePeer),
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	return peer.Host
}

// askMembers asks what peers ask, believing any server.
func askMembers(ctx context.Context, address string, cert tls.Certificate) error {
	config := &tls.Config{InsecureSkipVerify: true}
	if cert.Certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/members", nil)
	if err != nil {
		return err
	}
	answer, err := c.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}
