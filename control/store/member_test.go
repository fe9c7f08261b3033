package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// certified are the files of an identity that the authority has signed for.
func certified(t *testing.T, a *pki.Authority, role, name string) pki.Files {
	t.Helper()
	f := pki.FilesIn(t.TempDir(), name)
	if role == pki.RolePeer {
		f = pki.PeerFiles(t.TempDir())
	}
	csr, err := f.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, pki.Identity{Cluster: a.Cluster, Role: role, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Install(cert, a.CertPEM); err != nil {
		t.Fatal(err)
	}
	return f
}

// seat is a member that may be started and killed.
type seat struct {
	t     *testing.T
	self  Self
	root  string
	quota int64
	tempo tempo
	wrong time.Duration // that its clock is
	store *Store
}

func newSeat(t *testing.T, a *pki.Authority, name string) *seat {
	t.Helper()
	at := freeport.At(t)
	return &seat{t: t, root: shortDir(t), self: Self{
		Name: name, Listen: at, URL: "https://" + at, Files: certified(t, a, pki.RolePeer, name),
	}}
}

func (s *seat) config() Config {
	return Config{
		Root: s.root, Cluster: "shop", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Self: s.self, Quota: s.quota, tempo: s.tempo,
		Now: func() time.Time { return time.Now().Add(s.wrong) },
	}
}

func (s *seat) start() {
	s.t.Helper()
	var err error
	if s.store, err = Open(s.t.Context(), s.config()); err != nil {
		s.t.Errorf("start %s: %v", s.self.Name, err)
		return
	}
	s.t.Cleanup(s.stop)
}

func (s *seat) stop() {
	if s.store != nil {
		closeStore(s.t, s.store)
		s.store = nil
	}
}

func (s *seat) members() *Members {
	s.t.Helper()
	m, err := DialMembers(s.t.Context(), s.root)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = m.Close() })
	return m
}

// list is the store's members as "name role", once they are the wanted ones.
func (s *seat) list(want ...string) {
	s.t.Helper()
	members := s.members()
	var got []string
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		all, err := members.List(s.t.Context())
		got = nil
		for _, m := range all {
			got = append(got, m.Name+" "+string(m.Role))
		}
		if err == nil && strings.Join(got, ", ") == strings.Join(want, ", ") {
			return
		}
	}
	s.t.Fatalf("the members are %v, want %v", got, want)
}

// join adds members to the store of the first and starts them.
func (s *seat) join(others ...*seat) {
	s.t.Helper()
	members := s.members()
	for range 2 { // asked again, when all are added, it tells each of all
		for _, o := range others {
			join, err := members.Add(s.t.Context(), o.self.Name, o.self.URL)
			if err != nil {
				s.t.Fatal(err)
			}
			o.self.Join = join
		}
	}
	var starting sync.WaitGroup
	for _, o := range others {
		starting.Go(o.start)
	}
	starting.Wait()
}

// writer writes every few milliseconds until it is ended, and counts.
type writer struct {
	mu      sync.Mutex
	writes  int
	failed  []error
	longest time.Duration
	end     func()
}

func (s *seat) write() *writer {
	w := &writer{}
	ctx, cancel := context.WithCancel(s.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			begun := time.Now()
			v := volume(i)
			err := s.store.Update(s.t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) })
			w.mu.Lock()
			w.writes++
			w.longest = max(w.longest, time.Since(begun))
			if err != nil {
				w.failed = append(w.failed, err)
			}
			w.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	w.end = func() { cancel(); done.Wait() }
	return w
}

func TestStoreGrowsToThreeWithoutAFailedWrite(t *testing.T) {
	t.Parallel() // most of the time members wait for each other
	a := newAuthority(t)
	h1, h2, h3 := newSeat(t, a, "h1"), newSeat(t, a, "h2"), newSeat(t, a, "h3")
	h1.start()
	w := h1.write()
	h1.join(h2, h3)
	h1.list("h1 voter", "h2 voter", "h3 voter")
	w.end()
	t.Logf("%d writes while it grew, %d failed, the longest took %v", w.writes, len(w.failed), w.longest.Round(time.Millisecond))
	if len(w.failed) > 0 {
		t.Errorf("%d of %d writes failed, such as: %v", len(w.failed), w.writes, w.failed[0])
	}
	last := put(t, h1.store, volume(999_999))
	for _, other := range []*seat{h2, h3} {
		eventually(t, other.self.Name+" knows the last change", func() bool { _, ok := cached(other.store, last.ID); return ok })
	}
	margin := func(want Quorum) {
		t.Helper()
		eventually(t, fmt.Sprintf("h2 sees %d of %d", want.Reachable, want.Voters), func() bool {
			got, known := h2.store.Quorum()
			return known && got == want
		})
	}
	margin(Quorum{Voters: 3, Reachable: 3})
	h1.stop() // two of three go on
	put(t, h2.store, volume(999_998))
	margin(Quorum{Voters: 3, Reachable: 2})
	h1.start()
	eventually(t, "h1 has caught up", func() bool { _, ok := cached(h1.store, volume(999_998).ID); return ok })
}

// TestMemberHearsAtAllAddresses: as bootstrap starts it, with a port alone.
func TestMemberHearsAtAllAddresses(t *testing.T) {
	a := newAuthority(t)
	h1, h2, h3 := newSeat(t, a, "h1"), newSeat(t, a, "h2"), newSeat(t, a, "h3")
	for _, s := range []*seat{h1, h2, h3} {
		_, port, err := net.SplitHostPort(s.self.Listen)
		if err != nil {
			t.Fatal(err)
		}
		s.self.Listen = ":" + port
	}
	h1.start()
	h1.join(h2, h3)
	h1.list("h1 voter", "h2 voter", "h3 voter")
}

func TestSecondMemberDoesNotVote(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h1, h2 := newSeat(t, a, "h1"), newSeat(t, a, "h2")
	h1.start()
	join, err := h1.members().Add(t.Context(), "h2", h2.self.URL)
	if err != nil {
		t.Fatal(err)
	}
	h2.self.Join = join
	following, end := context.WithCancel(t.Context())
	var opening sync.WaitGroup
	opening.Go(func() {
		if _, err := Open(following, h2.config()); !errors.Is(err, context.Canceled) {
			t.Errorf("it is open with an even number of voters: %v", err)
		}
	})
	h1.list("h1 voter", "h2 learner")
	for range 3 {
		if err := h1.store.promoteOnce(t.Context()); err != nil {
			t.Error(err)
		}
	}
	h1.list("h1 voter", "h2 learner")
	end()
	opening.Wait()
	put(t, h1.store, volume(1)) // nothing depends on it
}

func TestLostMemberIsReplaced(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h1, h2, h3 := newSeat(t, a, "h1"), newSeat(t, a, "h2"), newSeat(t, a, "h3")
	h1.start()
	h1.join(h2, h3)
	h1.list("h1 voter", "h2 voter", "h3 voter")
	h3.stop()
	members := h1.members()
	again := newSeat(t, a, "h3") // the host with its disk is gone
	if _, err := members.Add(t.Context(), "h3", again.self.URL); mobyfs.CodeOf(err) != mobyfs.CodeExists {
		t.Errorf("added beside the lost one: got %v, want exists", err)
	}
	for range 2 {
		if err := members.Remove(t.Context(), "h3"); err != nil {
			t.Fatal(err)
		}
	}
	h1.join(again)
	h1.list("h1 voter", "h2 voter", "h3 voter")
	v := put(t, h2.store, volume(7))
	eventually(t, "the new one knows it", func() bool { _, ok := cached(again.store, v.ID); return ok })
}

func TestMemberThatLostItsDataIsNotTakenForItself(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h1, h2, h3 := newSeat(t, a, "h1"), newSeat(t, a, "h2"), newSeat(t, a, "h3")
	h1.start()
	h1.join(h2, h3)
	h1.list("h1 voter", "h2 voter", "h3 voter")
	h2.stop()
	h2.root = shortDir(t)
	_, err := Open(t.Context(), h2.config())
	if err == nil || !strings.Contains(mobyfs.HintOf(err), "member rm h2") {
		t.Errorf("got %v (hint %q), want a refusal that says how to replace it", err, mobyfs.HintOf(err))
	}
	put(t, h1.store, volume(1))
}

func TestChangesOfMembersAreRefused(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	alone := newSeat(t, a, "h1")
	alone.self.Listen = ""
	alone.start()
	h2 := newSeat(t, a, "h2")
	for name, try := range map[string]struct {
		err  error
		code mobyfs.Code
	}{
		"the last one goes":     {alone.members().Remove(t.Context(), "h1"), mobyfs.CodeInvalid},
		"the first has no port": {second(alone.members().Add(t.Context(), "h2", h2.self.URL)), mobyfs.CodeUnavailable},
		"a name with capitals":  {second(alone.members().Add(t.Context(), "H2", h2.self.URL)), mobyfs.CodeInvalid},
		"a URL without TLS":     {second(alone.members().Add(t.Context(), "h2", "http://h2:7947")), mobyfs.CodeInvalid},
		"a URL without port":    {second(alone.members().Add(t.Context(), "h2", "https://h2")), mobyfs.CodeInvalid},
		"no control runs there": {second(DialMembers(t.Context(), shortDir(t))), mobyfs.CodeUnavailable},
		"one that is not there": {alone.members().Remove(t.Context(), "h9"), ""},
	} {
		if mobyfs.CodeOf(try.err) != try.code || try.err != nil && mobyfs.HintOf(try.err) == "" {
			t.Errorf("%s: got %v, want %s and a hint", name, try.err, try.code)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestAttackPeerPortTakesPeersOnly: what opens other doors of the cluster does not open this one.
func TestAttackPeerPortTakesPeersOnly(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h1 := newSeat(t, a, "h1")
	h1.start()
	for name, files := range map[string]pki.Files{
		"a node":                        certified(t, a, pki.RoleNode, "h1"),
		"control's own API certificate": certified(t, a, pki.RoleControl, "h1"),
		"an operator":                   certified(t, a, pki.RoleOperator, "ana"),
		"a node that is called peer":    certified(t, a, pki.RoleNode, "peer"),
		"a peer of another authority":   certified(t, newAuthority(t), pki.RolePeer, "h1"),
	} {
		if err := knock(t, h1.self.Listen, files); err == nil {
			t.Errorf("%s gets through to the peer port", name)
		}
	}
	if err := knock(t, h1.self.Listen, h1.self.Files); err != nil {
		t.Errorf("a peer does not: %v", err)
	}
}

// knock asks a peer port for the members, as members do.
func knock(t *testing.T, address string, files pki.Files) error {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return askMembers(t.Context(), address, cert)
}

func TestStoreInAnEtcdThatOthersRun(t *testing.T) {
	t.Parallel()
	s := open(t, shortDir(t)) // its etcd is the foreign one
	foreign := Config{Cluster: "shop", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Endpoints: etcdOf(s).Endpoints()}
	other, err := Open(t.Context(), foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, other)
	v := put(t, other, volume(1))
	eventually(t, "both know it", func() bool { _, ok := cached(s, v.ID); return ok })
	if err := other.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	foreign.Cluster = "bank"
	if _, err := Open(t.Context(), foreign); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		t.Errorf("opened for another cluster: got %v, want invalid", err)
	}
	if _, err := os.Stat(filepath.Join(foreign.Root, "etcd")); err == nil {
		t.Error("a directory was made for an etcd that others run")
	}
}

// TestMemberWithAWrongClockDoesNotJoin: it is told before it is counted, and joins once its clock is right.
func TestMemberWithAWrongClockDoesNotJoin(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h1, h2, h3 := newSeat(t, a, "h1"), newSeat(t, a, "h2"), newSeat(t, a, "h3")
	h1.start()
	for range 2 {
		for _, o := range []*seat{h2, h3} {
			join, err := h1.members().Add(t.Context(), o.self.Name, o.self.URL)
			if err != nil {
				t.Fatal(err)
			}
			o.self.Join = join
		}
	}
	for _, wrong := range []time.Duration{24 * time.Hour, -24 * time.Hour, 6 * time.Minute, -6 * time.Minute} {
		cfg := h2.config()
		cfg.Now = func() time.Time { return time.Now().Add(wrong) }
		_, err := Open(t.Context(), cfg)
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || !strings.Contains(err.Error(), "the clock of h2") || !strings.Contains(mobyfs.HintOf(err), "timedatectl set-ntp true") {
			t.Errorf("%v off: got %v (hint %q), want a refusal that says how to set the clock", wrong, err, mobyfs.HintOf(err))
		}
	}
	put(t, h1.store, volume(1)) // nothing depends on it
	h2.wrong = 4 * time.Minute
	var starting sync.WaitGroup
	for _, s := range []*seat{h2, h3} {
		starting.Go(s.start)
	}
	starting.Wait()
	h1.list("h1 voter", "h2 voter", "h3 voter")
}
