package store

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"

	"github.com/mobyfs/mobyfs"
)

// maxClockDifference is how far apart the clocks of members may be: certificates and tickets are dated by them.
const maxClockDifference = 5 * time.Minute

// joinTimeout bounds the questions that a member asks before it joins.
const joinTimeout = 10 * time.Second

// told is a member as the others tell of it.
type told struct {
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
}

// mayJoin is nil if a member without data may begin: the others expect it, and it never was one of them before. Raft
// believes that a member remembers what it has acknowledged; one that lost its data and came back would be counted
// for changes that it does not have.
func mayJoin(ctx context.Context, dir string, self Self, now time.Time) error {
	if _, err := os.Stat(filepath.Join(dir, "data", "member")); !errors.Is(err, fs.ErrNotExist) {
		return err // it has data, and Join means nothing
	}
	members, at, err := askPeers(ctx, self)
	if err != nil {
		return err
	}
	if off := now.Sub(at); off.Abs() > maxClockDifference {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "join the store: the clock of %s is %s off that of the other members", self.name(), off.Round(time.Second)).
			WithHint("set it by NTP, such as: timedatectl set-ntp true")
	}
	i := slices.IndexFunc(members, func(m told) bool { return slices.Contains(m.PeerURLs, self.URL) })
	switch {
	case i < 0:
		return mobyfs.Errorf(mobyfs.CodeDenied, "join the store: it expects no member at %s", self.URL).
			WithHint("on one of its members: mobyfs-control member add %s %s", self.name(), self.URL)
	case members[i].Name != "":
		return mobyfs.Errorf(mobyfs.CodeInvalid, "join the store: %s was a member before, and its data is not here", self.name()).
			WithHint("on another member: mobyfs-control member rm %s, then add it again", self.name())
	}
	return nil
}

// askPeers asks the others, one after the other, who is a member, and what time it is.
func askPeers(ctx context.Context, self Self) (members []told, at time.Time, err error) {
	client, err := self.peerClient(joinTimeout)
	if err != nil {
		return nil, at, fmt.Errorf("join the store: %w", err)
	}
	err = errors.New("no other member is named")
	for part := range strings.SplitSeq(self.Join, ",") {
		if _, u, ok := strings.Cut(part, "="); ok && u != self.URL {
			if members, at, err = askPeer(ctx, client, u); err == nil {
				return members, at, nil
			}
		}
	}
	return nil, at, mobyfs.Errorf(mobyfs.CodeUnavailable, "join the store: none of its members answers: %w", err).
		WithHint("look whether mobyfs-control runs there, and whether its port for members is open to this host")
}

// peerClient is who asks other members, one question a connection.
func (m Self) peerClient(within time.Duration) (*http.Client, error) {
	config, err := m.Files.PeerTLS()
	if err != nil {
		return nil, err
	}
	return &http.Client{Timeout: within, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}, nil
}

func askPeer(ctx context.Context, client *http.Client, peer string) ([]told, time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, peer+"/members", nil)
	if err != nil {
		return nil, time.Time{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return nil, at, err
	}
	var members []told
	return members, at, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&members)
}

// peerTLS is how members speak with each other. A certificate of a peer is all that it takes for one: those of nodes,
// operators and of control itself come from other authorities than the one that is trusted here.
func peerTLS(self Self) transport.TLSInfo {
	return transport.TLSInfo{
		CertFile: self.Files.Cert, KeyFile: self.Files.Key, TrustedCAFile: self.Files.CA, ClientCertAuth: true,
		ServerName: anyPeer, AllowedHostnames: []string{anyPeer}, SkipClientSANVerify: true,
		MinVersion: tls.VersionTLS13,
	}
}
