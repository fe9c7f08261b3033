package step_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/step"
)

// The script is for every POSIX shell: dash is the strictest at hand. Run on this very machine it reads only.
func TestFactsScriptRunsUnderDash(t *testing.T) {
	for _, shell := range []string{"dash", "bash --posix"} {
		args := append(strings.Fields(shell), "-s", "--", "8080", "7946")
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = strings.NewReader(step.FactsScript)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("%s: %v: %s", shell, err, stderr.String())
		}
		f, err := step.ParseFacts(out)
		if err != nil {
			t.Fatal(err)
		}
		if f.OS != "Linux" || f.Arch == "" || time.Since(f.Clock).Abs() > time.Minute || f.Hostname == "" {
			t.Errorf("%s: got %+v", shell, f)
		}
		for _, dir := range []string{step.DistDir, step.AgentRoot, step.BinDir} {
			if s := f.Space[dir]; s.FreeBytes <= 0 || s.Mount == "" || s.Options == "" {
				t.Errorf("%s: of %s it tells %+v", shell, dir, s)
			}
		}
	}
}

func TestParseFacts(t *testing.T) {
	out := `os=Linux
arch=x86_64
clock=1700000000
systemd=yes
unit:MainPID=0
unit:Id=mobyfs.socket
unit:LoadState=not-found
unit:ActiveState=inactive
unit:UnitFileState=
unit:NeedDaemonReload=no
unit:
unit:MainPID=812
unit:Id=mobyfs.service
unit:LoadState=loaded
unit:ActiveState=active
unit:UnitFileState=enabled
unit:NeedDaemonReload=yes
docker=yes
docker_version=20.10.24+dfsg1
space:/usr/lib/mobyfs/dist=1024 /usr
mount:/=rw,relatime
mount:/usr=ro,noexec
listen:8080=LISTEN 0 511 0.0.0.0:8080 0.0.0.0:* users:(("nginx",pid=77,fd=6),("nginx",pid=78,fd=6))
listen:7946=
sha:abc  /etc/mobyfs/mobyfs.env
mode:644 /etc/mobyfs/mobyfs.env
link:/usr/bin/mobyfs=/usr/lib/mobyfs/dist/abc/mobyfs
link:/usr/bin/mobyfs-control=
exists=/etc/mobyfs
wants=mobyfs.service /etc/systemd/system/docker.service.wants/mobyfs.service
installed={"cluster":"shop","node":"vol-1",
installed="control":false,"paths":["/etc/mobyfs"]}
env=# a comment=x
env=MOBYFS_NODE=vol-1
node_crt=-----BEGIN CERTIFICATE-----
node_crt=AA==
node_crt=-----END CERTIFICATE-----
node_key=yes
volumes=3
in_use=1
something_new=that this version does not know
end=mobyfs-facts
`
	got, err := step.ParseFacts([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	want := step.Facts{
		OS: "Linux", Arch: "x86_64", Clock: time.Unix(1700000000, 0).UTC(), Systemd: true,
		Units: map[string]step.Unit{
			"mobyfs.socket":  {Load: "not-found", Active: "inactive"},
			"mobyfs.service": {Load: "loaded", Active: "active", FileState: "enabled", NeedReload: true, PID: 812},
		},
		Wants: map[string]bool{"mobyfs.service": true}, Docker: true, DockerVersion: "20.10.24+dfsg1",
		Space:  map[string]step.Space{step.DistDir: {FreeBytes: 1 << 20, Mount: "/usr", Options: "ro,noexec"}},
		Listen: map[int]step.Listener{8080: {Name: "nginx", PID: 77}, 7946: {}},
		Files:  map[string]step.FileFact{"/etc/mobyfs/mobyfs.env": {SHA256: "abc", Mode: "644"}},
		Links:  map[string]string{"/usr/bin/mobyfs": "/usr/lib/mobyfs/dist/abc/mobyfs", "/usr/bin/mobyfs-control": ""},
		Exists: map[string]bool{"/etc/mobyfs": true}, Env: map[string]string{"MOBYFS_NODE": "vol-1"},
		Installed: &step.Journal{Cluster: "shop", Node: "vol-1", Paths: []string{"/etc/mobyfs"}},
		NodeKey:   true, NodeCert: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", Volumes: 3, VolumesInUse: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, cut := range []string{"", "os=Linux\n", strings.TrimSuffix(out, "end=mobyfs-facts\n"), out[:len(out)-8]} {
		if _, err := step.ParseFacts([]byte(cut)); err == nil {
			t.Errorf("facts that end with %q are taken for whole", cut[max(0, len(cut)-20):])
		}
	}
}

// What makes a certificate worth replacing.
func TestCertificateReasons(t *testing.T) {
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	cert := func(a *pki.Authority, role, name string) string {
		csr, err := pki.FilesIn(t.TempDir(), "x").NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		text, err := a.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	now := time.Now()
	good := step.Facts{Clock: now, NodeKey: true, NodeCert: cert(a, pki.RoleNode, "vol-1"), NodeCA: string(a.CertPEM)}
	desired := step.Desired{Cluster: "shop", Node: "vol-1", Authority: string(a.CertPEM)}
	for _, tc := range []struct {
		name, why string
		change    func(f *step.Facts, d *step.Desired)
	}{
		{"good", "", func(*step.Facts, *step.Desired) {}},
		{"no key", "there is none", func(f *step.Facts, _ *step.Desired) { f.NodeKey = false }},
		{"another name", "vol-2", func(f *step.Facts, _ *step.Desired) { f.NodeCert = cert(a, pki.RoleNode, "vol-2") }},
		{"another role", "operator", func(f *step.Facts, _ *step.Desired) { f.NodeCert = cert(a, pki.RoleOperator, "vol-1") }},
		{"another authority", "another authority", func(f *step.Facts, _ *step.Desired) {
			f.NodeCert, f.NodeCA = cert(other, pki.RoleNode, "vol-1"), string(other.CertPEM)
		}},
		{"the wrong authority beside it", "beside it", func(f *step.Facts, _ *step.Desired) { f.NodeCA = string(other.CertPEM) }},
		{"a new authority", "new authority", func(_ *step.Facts, d *step.Desired) { d.NewAuthority = true }},
		{"junk", "can't be read", func(f *step.Facts, _ *step.Desired) { f.NodeCert = "junk" }},
		{"an hour left", "", func(f *step.Facts, _ *step.Desired) { f.Clock = now.Add(pki.NodeLife - time.Hour) }},
		{"expired, in its grace", "", func(f *step.Facts, _ *step.Desired) { f.Clock = now.Add(pki.NodeLife + pki.Grace - time.Hour) }},
		{"expired for good", "expired on", func(f *step.Facts, _ *step.Desired) { f.Clock = now.Add(pki.NodeLife + pki.Grace + time.Hour) }},
	} {
		f, d := good, desired
		tc.change(&f, &d)
		got := ""
		for _, diff := range step.Plan(f, d) {
			if diff.Step == "certificate" {
				got = diff.Changes[0].String()
			}
		}
		if tc.why == "there is none" {
			if got == "" {
				t.Errorf("%s: no change is planned", tc.name)
			}
			continue
		}
		if (got == "") != (tc.why == "") || !strings.Contains(got, tc.why) {
			t.Errorf("%s: got %q, want %q in it", tc.name, got, tc.why)
		}
	}
}

// What makes dockerd's certificate worth replacing, or the node's where dockerd calls it.
func TestCertificateReasonsWhereDockerShowsOne(t *testing.T) {
	dir := t.TempDir()
	a, err := pki.NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	cert := func(role, name string) string {
		csr, err := pki.FilesIn(t.TempDir(), "x").NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		text, err := a.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	now := time.Now()
	good := step.Facts{Clock: now, NodeKey: true, NodeCert: cert(pki.RoleNode, "vol-1"), NodeCA: string(a.CertPEM),
		DockerKey: true, DockerCert: cert(pki.RoleDocker, "vol-1")}
	for _, tc := range []struct {
		name, why string
		change    func(f *step.Facts, d *step.Desired)
	}{
		{"good", "", func(*step.Facts, *step.Desired) {}},
		{"none for dockerd", "+ certificate of dockerd on vol-1", func(f *step.Facts, _ *step.Desired) { f.DockerCert = "" }},
		{"no key for dockerd", "~ certificate of dockerd on vol-1 (there is none)", func(f *step.Facts, _ *step.Desired) { f.DockerKey = false }},
		{"another node's dockerd", "docker/vol-2", func(f *step.Facts, _ *step.Desired) { f.DockerCert = cert(pki.RoleDocker, "vol-2") }},
		{"the node's", "node/vol-1", func(f *step.Facts, _ *step.Desired) { f.DockerCert = f.NodeCert }},
		{"dockerd's is not needed", "", func(f *step.Facts, d *step.Desired) { f.DockerCert, d.Endpoint = "", discovery.SockEndpoint }},
		{"a node that is not good for the address", "not good for 127.0.0.1", func(f *step.Facts, _ *step.Desired) {
			f.NodeCert = withoutAddress(t, dir, "vol-1")
		}},
		{"and does not matter for a socket", "", func(f *step.Facts, d *step.Desired) {
			f.NodeCert, d.Endpoint = withoutAddress(t, dir, "vol-1"), discovery.SockEndpoint
		}},
		{"years left, and no other would last longer", "", func(f *step.Facts, _ *step.Desired) {
			f.Clock = now.Add(time.Hour)
		}},
	} {
		f, d := good, step.Desired{Cluster: "shop", Node: "vol-1", Authority: string(a.CertPEM), Endpoint: discovery.JSONEndpoint}
		tc.change(&f, &d)
		got := ""
		for _, diff := range step.Plan(f, d) {
			if diff.Step == "certificate" {
				got = fmt.Sprint(diff.Changes)
			}
		}
		if (got == "") != (tc.why == "") || !strings.Contains(got, tc.why) {
			t.Errorf("%s: got %q, want %q in it", tc.name, got, tc.why)
		}
	}
}

// withoutAddress is a node's certificate as it was before Docker could call by address.
func withoutAddress(t *testing.T, authority, name string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(authority, "ca.crt"), filepath.Join(authority, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: name}
	cert := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now(), NotAfter: time.Now().Add(pki.LeafLife),
		URIs: []*url.URL{id.URI()}, DNSNames: []string{pki.ServerName(id.Role, id.Name)}}
	der, err := x509.CreateCertificate(rand.Reader, cert, pair.Leaf, &key.PublicKey, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
