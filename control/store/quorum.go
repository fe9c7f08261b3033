package store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
)

// Quorum is how many of the store's voters there are, as this process sees them.
type Quorum struct {
	Voters    int
	Reachable int // this process among them
}

// Margin is how many voters may yet be lost before nothing can be decided; below 0 nothing can be.
func (q Quorum) Margin() int { return q.Reachable - (q.Voters/2 + 1) }

// activePeers is what etcd counts of its connections to other members: a series for each, 1 while there is one. etcd tells
// it nowhere else. It also counts 0 after a single message on the side has failed, such as while a member began, and until a
// connection is made anew; so one that counts 0 is asked itself.
const activePeers = "etcd_network_active_peers"

// answerTimeout is how long a member that is asked whether it is there may take.
const answerTimeout = time.Second

// Quorum counts the voters; it takes up to a second while one can't be reached. known is false if this process is no member of
// the store.
func (s *Store) Quorum() (q Quorum, known bool) {
	if s.etcd == nil {
		return q, false
	}
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		s.log.Debug("count the members that can be reached", "err", err)
		return q, false
	}
	self := s.etcd.Server.MemberID().String()
	active := activeFrom(families, self)
	var silent []*membership.Member
	for _, m := range s.etcd.Server.Cluster().Members() {
		if m.IsLearner {
			continue
		}
		q.Voters++
		if id := m.ID.String(); id == self || active[id] {
			q.Reachable++
		} else {
			silent = append(silent, m)
		}
	}
	q.Reachable += s.answering(silent)
	return q, true
}

// answering counts who of some members answers as the member that it should be.
func (s *Store) answering(members []*membership.Member) int {
	if len(members) == 0 {
		return 0
	}
	client, err := s.self.peerClient(answerTimeout)
	if err != nil {
		s.log.Debug("ask the members that can't be reached", "err", err)
		return 0
	}
	var n atomic.Int64
	var asking sync.WaitGroup
	for _, m := range members {
		asking.Go(func() {
			answers := func(url string) bool {
				all, _, err := askPeer(context.Background(), client, url)
				return err == nil && slices.ContainsFunc(all, func(t told) bool { return slices.Contains(t.PeerURLs, url) })
			}
			if slices.ContainsFunc(m.PeerURLs, answers) {
				n.Add(1)
			}
		})
	}
	asking.Wait()
	return int(n.Load())
}

// Members names those who keep the store and have started. known is false if this process is no member of it.
func (s *Store) Members() (names []string, known bool) {
	if s.etcd == nil {
		return nil, false
	}
	for _, m := range s.etcd.Server.Cluster().Members() {
		if m.Name != "" {
			names = append(names, m.Name)
		}
	}
	return names, true
}

// activeFrom are the members to which one has a connection.
func activeFrom(families []*dto.MetricFamily, self string) map[string]bool {
	active := map[string]bool{}
	for _, f := range families {
		if f.GetName() != activePeers {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["Local"] == self {
				active[labels["Remote"]] = m.GetGauge().GetValue() > 0
			}
		}
	}
	return active
}
