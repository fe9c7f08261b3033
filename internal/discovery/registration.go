package discovery

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Registration is one thing that Docker could find under the driver's name.
type Registration struct {
	Place    string   `json:"place"`              // a path, or "docker plugin" for a managed one
	Kind     string   `json:"kind"`               // managed | sock | spec | json
	Endpoint Endpoint `json:"endpoint,omitempty"` // that it leads to
	Mode     string   `json:"mode,omitempty"`     // of the file or socket, octal
	Owner    string   `json:"owner,omitempty"`
	Wins     bool     `json:"wins"`             // Docker takes this one
	Answers  bool     `json:"answers"`          // a driver answers there
	Answer   string   `json:"answer,omitempty"` // why not
	Trouble  []string `json:"trouble"`          // what should be mended

	tls *tlsFiles
}

// tlsFiles is TLSConfig of a .json.
type tlsFiles struct {
	InsecureSkipVerify        bool
	CAFile, CertFile, KeyFile string
}

func (r *Registration) wrong(format string, args ...any) {
	r.Trouble = append(r.Trouble, fmt.Sprintf(format, args...))
}

// Find lists what is registered in files and sockets below root ("" but in tests), in the order in which Docker looks.
// Docker takes the first one that it does not pass over.
func Find(root string) []Registration {
	found := []Registration{}
	won := false
	for _, p := range append(sockets(), files()...) {
		info, err := os.Stat(root + p)
		if err != nil {
			continue
		}
		r := Registration{Place: p, Kind: strings.TrimPrefix(path.Ext(p), "."), Trouble: []string{}}
		r.owned(info)
		passed := false
		switch r.Kind {
		case "sock":
			passed = r.sock(info)
		case "spec":
			r.spec(root)
		default:
			r.json(root)
		}
		if !passed && !won {
			r.Wins, won = true, true
		}
		found = append(found, r)
	}
	return found
}

func (r *Registration) owned(info fs.FileInfo) {
	r.Mode = fmt.Sprintf("%04o", info.Mode().Perm())
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	r.Owner = strconv.Itoa(int(stat.Uid))
	if u, err := user.LookupId(r.Owner); err == nil {
		r.Owner = u.Username
	}
	if stat.Uid != 0 {
		r.wrong("it belongs to %s, who could put something else there", r.Owner)
	}
	if info.Mode()&fs.ModeSocket == 0 && info.Mode().Perm()&0o022 != 0 {
		r.wrong("its mode is %s: users other than root could lead Docker elsewhere", r.Mode)
	}
}

// sock takes a socket in RunDir, and reports whether Docker passes it over.
func (r *Registration) sock(info fs.FileInfo) (passed bool) {
	r.Endpoint = Endpoint("unix://" + r.Place)
	if info.Mode()&fs.ModeSocket == 0 {
		r.wrong("it is no socket, so Docker passes it over")
		return true
	}
	r.private(info)
	return false
}

// private demands that only root can call at a socket.
func (r *Registration) private(info fs.FileInfo) {
	if perm := info.Mode().Perm(); perm != 0o600 && perm != 0o660 {
		r.wrong("the socket's mode is %04o: users other than root could use and remove volumes; mobyfs.socket gives it 0600", perm)
	}
}

func (r *Registration) spec(root string) {
	text, err := os.ReadFile(root + r.Place)
	if err != nil {
		r.wrong("it can't be read: %v", err)
		return
	}
	r.Endpoint = Endpoint(strings.TrimSpace(string(text)))
	u, err := url.Parse(string(r.Endpoint))
	switch {
	case err != nil || u.Scheme == "":
		r.wrong("it holds no URL, so every use of the driver is an error")
	case u.Scheme == "https":
		r.wrong("Docker never verifies https in a .spec: whoever answers there is believed")
	case u.Scheme == "unix":
		r.socketAt(root, u.Path)
	case u.Scheme != "tcp":
		r.wrong("Docker can't connect to %s://", u.Scheme)
	default:
		r.loopback(u)
	}
}

func (r *Registration) json(root string) {
	text, err := os.ReadFile(root + r.Place)
	if err != nil {
		r.wrong("it can't be read: %v", err)
		return
	}
	var file struct {
		Addr      string
		TLSConfig *tlsFiles
	}
	if err := json.Unmarshal(text, &file); err != nil {
		r.wrong("it is no JSON, so every use of the driver is an error: %v", err)
		return
	}
	r.Endpoint, r.tls = Endpoint(file.Addr), file.TLSConfig
	u, err := url.Parse(file.Addr)
	switch {
	case err != nil || u.Scheme == "":
		r.wrong("Addr is no URL, so every use of the driver is an error")
		return
	case u.Scheme == "unix":
		r.socketAt(root, u.Path)
		return
	case u.Scheme != "https":
		r.loopback(u)
		return
	case r.tls == nil:
		r.wrong("TLSConfig is missing: Docker believes the authorities of the system, and shows no certificate")
	case r.tls.InsecureSkipVerify || r.tls.CAFile == "":
		r.wrong("Docker does not verify who answers: CAFile must be set and InsecureSkipVerify false")
	case r.tls.CertFile == "" || r.tls.KeyFile == "":
		r.wrong("Docker shows no certificate: CertFile and KeyFile must be set")
	default:
		r.certificate(root)
	}
	r.loopback(u)
}

// certificate looks at what Docker would show.
func (r *Registration) certificate(root string) {
	pair, err := tls.LoadX509KeyPair(root+r.tls.CertFile, root+r.tls.KeyFile)
	if err != nil {
		r.wrong("Docker's certificate can't be read: %v", err)
		return
	}
	if until := pair.Leaf.NotAfter; time.Until(until) < year {
		r.wrong("Docker's certificate ends on %s; dockerd reads it once in its life: run mobyctl bootstrap, then restart dockerd", until.Format(time.DateOnly))
	}
	ca, err := os.ReadFile(root + r.tls.CAFile)
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(ca) {
		r.wrong("%s holds no certificate", r.tls.CAFile)
	}
}

const year = 365 * 24 * time.Hour

// socketAt looks at the socket that a file leads to.
func (r *Registration) socketAt(root, p string) {
	info, err := os.Stat(root + p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.wrong("there is nothing at %s", p)
	case err != nil:
		r.wrong("the socket can't be looked at: %v", err)
	case info.Mode()&fs.ModeSocket == 0:
		r.wrong("%s is no socket", p)
	default:
		r.private(info)
	}
}

func (r *Registration) loopback(u *url.URL) {
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
		r.wrong("%s is not 127.0.0.1: other machines may be at the other end, or in between", u.Hostname())
	}
}
