package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Self says which member of the store this process is. The zero value is a store of one member that opens no port and
// that no other can join.
type Self struct {
	Name   string    // that of its host; "control" if empty
	Listen string    // host:port at which it hears the other members
	URL    string    // https://host:port at which they reach it
	Join   string    // members of the store that it joins, as AddMember tells; read only while it has no data of its own
	Files  pki.Files // its certificate as a peer; Files.CA is the one authority whose peers it hears
	token  string    // from which a new store gets its identity; the same for all of them if empty
}

// alone reports whether no other member can reach this one.
func (m Self) alone() bool { return m.Listen == "" }

func (m Self) name() string { return cmp.Or(m.Name, "control") }

// check tells what is wrong with the settings of a member, or nil.
func (m Self) check() error {
	if m.alone() {
		if m.Join != "" {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "a member that joins a store needs an address for the others").
				WithHint("set the address at which it hears them, and its URL")
		}
		return nil
	}
	return checkPeerURL(m.URL)
}

func checkPeerURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" || u.Path != "" || u.User != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is not where a member of the store is reached", text).
			WithHint("give https://HOST:PORT, such as https://h1:7947")
	}
	return nil
}

// Role says what a member does for the store.
type Role string

const (
	// RoleVoter: the store needs more than half of these.
	RoleVoter Role = "voter"
	// RoleLearner: it follows, and becomes a voter once that makes an odd number of them.
	RoleLearner Role = "learner"
)

// Member is one of the processes that keep the store.
type Member struct {
	Name   string // empty until it has started for the first time
	URL    string
	Role   Role
	Leader bool
	Cause  string // why it does not answer, or empty
}

// Members look after who keeps the store. They are changed by whoever has the directory of one of them, such as the
// installer: no port takes such a call.
type Members struct {
	client *clientv3.Client
}

// DialMembers reaches the store that a running control keeps in root.
func DialMembers(ctx context.Context, root string) (*Members, error) {
	socket := socketIn(filepath.Join(root, "etcd"))
	probe, err := (&net.Dialer{Timeout: memberTimeout}).DialContext(ctx, "unix", socket) // one left behind refuses
	if err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "reach the store in %s: no mobyfs-control runs on it", root).
			WithHint("systemctl start mobyfs-control")
	}
	_ = probe.Close()
	client, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: []string{"unix://" + socket}, DialTimeout: memberTimeout, Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("reach the store in %s: %w", root, err)
	}
	return &Members{client}, nil
}

// Close ends the connection. It does nothing to the store.
func (m *Members) Close() error { return m.client.Close() }

// List tells of all members, by name, and asks each how it is. It needs a quorum.
func (m *Members) List(ctx context.Context) ([]Member, error) {
	resp, err := m.client.MemberList(ctx)
	if err != nil {
		return nil, unavailable("list the members of the store", err)
	}
	leader, err := m.leader(ctx)
	if err != nil {
		return nil, unavailable("find the store's leader", err)
	}
	all := make([]Member, 0, len(resp.Members))
	for _, x := range resp.Members {
		member := Member{Name: x.Name, URL: strings.Join(x.PeerURLs, ","), Role: RoleVoter, Leader: x.ID == leader}
		if x.IsLearner {
			member.Role = RoleLearner
		}
		if x.Name == "" {
			member.Cause = "it has never started"
		}
		all = append(all, member)
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.URL, b.URL)) })
	return all, nil
}

func (m *Members) leader(ctx context.Context) (uint64, error) {
	status, err := m.client.Status(ctx, m.client.Endpoints()[0])
	if err != nil {
		return 0, err
	}
	return status.Leader, nil
}

// Add lets a member join that is to be reached at a URL, and tells what to start it with (Self.Join). It follows as a
// learner at first: the store loses nothing if it never starts. Asked again it answers again; where several are added,
// ask again when all are, for each must be told of all.
func (m *Members) Add(ctx context.Context, name, peerURL string) (join string, err error) {
	if err := mobyfs.CheckNodeName(name); err != nil {
		return "", err
	}
	if err := checkPeerURL(peerURL); err != nil {
		return "", err
	}
	resp, err := m.client.MemberList(ctx)
	if err != nil {
		return "", unavailable("list the members of the store", err)
	}
	members := resp.Members
	known := slices.IndexFunc(members, func(x *etcdserverpb.Member) bool { return slices.Contains(x.PeerURLs, peerURL) })
	if i := slices.IndexFunc(members, func(x *etcdserverpb.Member) bool { return x.Name == name }); i >= 0 && i != known {
		return "", mobyfs.Errorf(mobyfs.CodeExists, "the store has a member %s already, at %s", name, strings.Join(members[i].PeerURLs, ",")).
			WithHint("mobyfs-control member rm %s, if it is lost", name)
	}
	if i := slices.IndexFunc(members, unreachable); i >= 0 {
		return "", mobyfs.Errorf(mobyfs.CodeUnavailable, "the store's first member %s can't be reached by others", members[i].Name).
			WithHint("start its mobyfs-control with --peer-listen and --peer-url")
	}
	if known < 0 {
		if members, err = m.addLearner(ctx, peerURL); err != nil {
			return "", refusedMember("add "+name+" to the store", err)
		}
	}
	return joined(members, name, peerURL), nil
}

// addLearner waits for a while for a quorum that has just changed: etcd counts a member once it has been connected for
// some seconds.
func (m *Members) addLearner(ctx context.Context, peerURL string) ([]*etcdserverpb.Member, error) {
	for deadline := time.Now().Add(quorumPatience); ; {
		added, err := m.client.MemberAddAsLearner(ctx, []string{peerURL})
		if err == nil {
			return added.Members, nil
		}
		if !errors.Is(err, rpctypes.ErrUnhealthy) || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(promoteEvery):
		}
	}
}

// unreachable reports whether a member began alone and has no address for others.
func unreachable(x *etcdserverpb.Member) bool { return slices.Contains(x.PeerURLs, aloneURL.String()) }

// joined names all members as Self.Join takes them.
func joined(members []*etcdserverpb.Member, name, peerURL string) string {
	urls := map[string]string{}
	for _, x := range members {
		for _, u := range x.PeerURLs {
			switch {
			case u == peerURL:
				urls[name] = u
			case x.Name == "": // it has not started yet and told its name to nobody
				urls[fmt.Sprintf("member-%x", x.ID)] = u
			default:
				urls[x.Name] = u
			}
		}
	}
	var parts []string
	for _, n := range slices.Sorted(maps.Keys(urls)) {
		parts = append(parts, n+"="+urls[n])
	}
	return strings.Join(parts, ",")
}

// Remove takes a member out of the store, for good: its data is worth nothing afterwards. One that is not there is
// success. The last one, and one without which the others have no quorum, are kept.
func (m *Members) Remove(ctx context.Context, name string) error {
	resp, err := m.client.MemberList(ctx)
	if err != nil {
		return unavailable("list the members of the store", err)
	}
	i := slices.IndexFunc(resp.Members, func(x *etcdserverpb.Member) bool {
		return x.Name == name || x.Name == "" && slices.Contains(x.PeerURLs, name)
	})
	switch {
	case i < 0:
		return nil
	case len(resp.Members) == 1:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s is the store's only member", name).
			WithHint("add the others first")
	}
	if _, err := m.client.MemberRemove(ctx, resp.Members[i].ID); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return refusedMember("take "+name+" out of the store", err)
	}
	return nil
}

// refusedMember puts into words why etcd does not change its members.
func refusedMember(what string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted), errors.Is(err, rpctypes.ErrUnhealthy):
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s: too few of the other members answer to keep a quorum", what).
			WithHint("mobyfs-control member ls tells which; start those first")
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s: %d members follow already and do not vote yet", what, maxLearners).
			WithHint("start those first; mobyfs-control member ls tells which")
	default:
		return unavailable(what, err)
	}
}

// How members are looked after.
const (
	maxLearners    = 4 // as many as 1 needs to become 5
	promoteEvery   = time.Second
	memberTimeout  = 10 * time.Second
	quorumPatience = 15 * time.Second
)

// promote makes learners voters as soon as that makes an odd number of voters, until ctx ends: two voters are worse
// than one, for both must answer. Every member tries, and the leader alone can.
func (s *Store) promote(ctx context.Context) {
	tick := time.NewTicker(promoteEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.promoteOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("a member can't vote yet", "err", err)
		}
	}
}

func (s *Store) promoteOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	if s.etcd.Server.Leader() != s.etcd.Server.MemberID() {
		return nil
	}
	client := s.client
	resp, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, id := range due(resp.Members) {
		if _, err := client.MemberPromote(ctx, id); err != nil {
			return err
		}
		s.log.Info("a member votes from now on", "member", id)
	}
	return nil
}

// due tells which learners may vote: as many of those that have started as make the number of voters odd.
func due(members []*etcdserverpb.Member) []uint64 {
	voters := 0
	var ready []uint64
	for _, x := range members {
		switch {
		case !x.IsLearner:
			voters++
		case x.Name != "":
			ready = append(ready, x.ID)
		}
	}
	n := len(ready)
	if (voters+n)%2 == 0 {
		n--
	}
	return ready[:max(n, 0)]
}

// awaitVote waits until this member is a voter: a learner answers nobody.
func (s *Store) awaitVote(ctx context.Context) error {
	if !s.etcd.Server.IsLearner() {
		return nil
	}
	s.log.Info("this member follows the store; it decides once it may vote")
	tick := time.NewTicker(promoteEvery / 10)
	defer tick.Stop()
	for s.etcd.Server.IsLearner() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for this member's vote: %w", ctx.Err())
		case <-s.done:
			return s.Err()
		}
	}
	return nil
}

// settle makes the store know the address of this member, which was another one when it began.
func (s *Store) settle(ctx context.Context, self Self) error {
	if self.alone() {
		return nil
	}
	client := s.client
	resp, err := client.MemberList(ctx)
	if err != nil {
		return unavailable("list the members of the store", err)
	}
	id := uint64(s.etcd.Server.MemberID())
	for _, x := range resp.Members {
		if x.ID == id && !slices.Equal(x.PeerURLs, []string{self.URL}) {
			if _, err := client.MemberUpdate(ctx, id, []string{self.URL}); err != nil {
				return unavailable("tell the store where its member "+self.name()+" is", err)
			}
		}
	}
	return nil
}
