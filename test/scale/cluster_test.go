//go:build bench

package scale

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// cluster is a control plane in a process of its own, and what its callers need.
type cluster struct {
	t         *testing.T
	root      string
	authority *pki.Authority
	key       *ecdsa.PrivateKey // of all callers: keys are not what is measured
	server    *tls.Config       // how callers recognise control
	address   string
	process   *exec.Cmd
}

// newCluster makes one that does not run yet.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	root, err := os.MkdirTemp("", "mobyfs") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, root: root}
	t.Cleanup(func() {
		c.stop()
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	if out, err := c.control("init").CombinedOutput(); err != nil {
		t.Fatalf("mobyfs-control init: %v\n%s", err, out)
	}
	if c.authority, err = pki.OpenAuthority(filepath.Join(root, "pki")); err != nil {
		t.Fatal(err)
	}
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if c.server, err = pki.FilesIn(filepath.Join(root, "pki"), "control").ClientTLS(pki.RoleControl, "control"); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) control(args ...string) *exec.Cmd {
	cmd := exec.Command(*controlProgram, args...)
	cmd.Env = append(os.Environ(), "MOBYFS_CLUSTER=bench", "MOBYFS_CONTROL_ROOT="+c.root, "MOBYFS_CLASSES="+filepath.Join(c.root, "none"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start starts control and returns how long it took until it answered.
func (c *cluster) start() time.Duration {
	c.t.Helper()
	c.address = freeport.At(c.t)
	journal, err := os.Create(filepath.Join(c.root, "journal"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer journal.Close()
	begun := time.Now()
	c.process = c.control("start", "--listen", c.address)
	c.process.Stdout, c.process.Stderr = journal, journal
	if err := c.process.Start(); err != nil {
		c.t.Fatal(err)
	}
	operator := c.client(pki.RoleOperator, "ana")
	defer operator.Close()
	for time.Since(begun) < 5*time.Minute {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		err = operator.Healthy(ctx)
		cancel()
		if err == nil {
			return time.Since(begun)
		}
		time.Sleep(20 * time.Millisecond)
	}
	said, _ := os.ReadFile(journal.Name())
	c.t.Fatalf("control does not answer: %v\n%s", err, said)
	return 0
}

func (c *cluster) stop() {
	if c.process == nil {
		return
	}
	_ = c.process.Process.Signal(syscall.SIGTERM)
	_ = c.process.Wait()
	c.process = nil
}

// client is a caller with a certificate and connections of its own.
func (c *cluster) client(role, name string) *api.Client {
	c.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	chain, err := c.authority.Sign(csr, pki.Identity{Cluster: "bench", Role: role, Name: name})
	if err != nil {
		c.t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: c.key}
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	tlsConfig := c.server.Clone()
	tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	if role == pki.RoleNode {
		return api.NewAgentClient([]string{c.address}, tlsConfig)
	}
	return api.NewClient([]string{c.address}, tlsConfig)
}

// usage is what a process has taken so far.
type usage struct {
	at       time.Time
	cpu      time.Duration
	rss, own int64 // bytes; own is without pages of files, such as those of the database that are mapped
}

func (c *cluster) usage() usage {
	c.t.Helper()
	return usageOf(c.t, c.process.Process.Pid)
}

func usageOf(t *testing.T, pid int) usage {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		t.Fatal(err)
	}
	u := usage{at: time.Now()}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, ticks := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		u.cpu += time.Duration(n) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			u.rss = kib << 10
		}
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kib); n == 1 {
			u.own = kib << 10
		}
	}
	return u
}

// core is the share of one core that was taken since then.
func (u usage) core(since usage) float64 {
	return (u.cpu - since.cpu).Seconds() / u.at.Sub(since.at).Seconds()
}
