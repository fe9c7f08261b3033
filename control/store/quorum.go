package store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
)

// Quorum is how many of the store's voters there are, as this process sees them.
type Quorum struct {
	Voters    int
	Reachable int // this process among them
}

// Margin is how many voters may yet be lost before nothing can be decided; below 0 nothing can be.
func (q Quorum) Margin() int { return q.Reachable - (q.Voters/2 + 1) }

// answerTimeout is how long a member that is asked whether it is there may take.
const answerTimeout = time.Second

// Quorum counts the voters, by asking each of them; it takes up to a second while one can't be reached. known is false if this
// process is no member of the store. What etcd counts of its connections (etcd_network_active_peers) is no answer: it is 0 after
// a single message on the side has failed, until a connection is made anew; and in a member that joined it may stay 1 when the
// other is gone, for what it sent before it knew the other as a member is counted apart and never taken back.
func (s *Store) Quorum() (q Quorum, known bool) {
	if s.etcd == nil {
		return q, false
	}
	self := s.etcd.Server.MemberID()
	var others []*membership.Member
	for _, m := range s.etcd.Server.Cluster().Members() {
		if m.IsLearner {
			continue
		}
		q.Voters++
		if m.ID == self {
			q.Reachable++
		} else {
			others = append(others, m)
		}
	}
	q.Reachable += s.answering(others)
	return q, true
}

// answering counts who of some members answers as the member that it should be.
func (s *Store) answering(members []*membership.Member) int {
	if len(members) == 0 {
		return 0
	}
	client, err := s.self.peerClient(answerTimeout)
	if err != nil {
		s.log.Debug("ask the members whether they are there", "err", err)
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
