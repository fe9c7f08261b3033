package store

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Quorum is how many of the store's voters there are, as this process sees them.
type Quorum struct {
	Voters    int
	Reachable int // this process among them
}

// Margin is how many voters may yet be lost before nothing can be decided; below 0 nothing can be.
func (q Quorum) Margin() int { return q.Reachable - (q.Voters/2 + 1) }

// activePeers is what etcd counts of its connections to other members: a series for each, 1 while there is one. etcd tells
// it nowhere else.
const activePeers = "etcd_network_active_peers"

// Quorum counts the voters. known is false if this process is no member of the store.
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
	for _, m := range s.etcd.Server.Cluster().Members() {
		if m.IsLearner {
			continue
		}
		q.Voters++
		if id := m.ID.String(); id == self || active[id] {
			q.Reachable++
		}
	}
	return q, true
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
