package control

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

const gib = 1 << 30

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// since is the clock as one that nobody can set.
func (c *clock) since() time.Duration { return c.Now().Sub(time.Unix(0, 0)) }

// caller is all that anybody can ask of the control plane, as one identity.
type caller interface {
	mobyfs.Control
	Volumes(ctx context.Context) ([]mobyfs.Volume, error)
	MoveVolume(ctx context.Context, name, to string) (mobyfs.Volume, error)
	Move(ctx context.Context, name string, how api.MoveRequest) (mobyfs.Volume, error)
	ChangeMove(ctx context.Context, name string, patch api.MovePatch) (mobyfs.Volume, error)
	UndoMove(ctx context.Context, name string) (mobyfs.Volume, error)
	Drain(ctx context.Context, node string, how api.DrainRequest) (mobyfs.Operation, error)
	CancelMove(ctx context.Context, name string) (mobyfs.Volume, error)
	TakeOver(ctx context.Context, name, to, reason string) (mobyfs.Volume, error)
	Nodes(ctx context.Context) ([]mobyfs.Node, error)
	Node(ctx context.Context, name string) (mobyfs.Node, error)
	PatchNode(ctx context.Context, name string, patch api.NodePatch) (mobyfs.Node, error)
	CordonNode(ctx context.Context, name string, cordon bool) (mobyfs.Node, error)
	ExplainPlacement(ctx context.Context, q api.PlacementQuestion) (api.Placement, error)
	Cluster(ctx context.Context) (api.Cluster, error)
	Healthy(ctx context.Context) error
	Ready(ctx context.Context) error
	VolumePage(ctx context.Context, q api.VolumeQuery) (api.VolumePage, error)
	WaitVolume(ctx context.Context, name string, revision int64, patience time.Duration) (mobyfs.Volume, error)
	PatchVolume(ctx context.Context, name string, patch api.VolumePatch) (mobyfs.Volume, error)
	Events(ctx context.Context, since int64, each func(mobyfs.Event) error, complete func(api.Complete) error) error
	Audit(ctx context.Context, since int64, each func(mobyfs.Event) error, complete func(api.Complete) error) error
	AuditTrail(ctx context.Context) (api.AuditTrail, error)
	AuditSegment(ctx context.Context, n int64) ([]byte, error)
	Operations(ctx context.Context, q api.OperationQuery) (api.OperationPage, error)
	Operation(ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error)
	WaitOperation(ctx context.Context, id mobyfs.OperationID, generation int64, patience time.Duration) (mobyfs.Operation, error)
	CancelOperation(ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error)
	RetryOperation(ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error)
	PauseOperation(ctx context.Context, id mobyfs.OperationID, paused bool) (mobyfs.Operation, error)
	DrainNode(ctx context.Context, node, reason string) (mobyfs.Operation, error)
	EvictNode(ctx context.Context, node, reason string) (mobyfs.Operation, error)
	ForgetNode(ctx context.Context, node string, dataLost bool) error
	ResizeVolume(ctx context.Context, name string, bytes int64) (mobyfs.Operation, error)
	UpgradeNodes(ctx context.Context, version string) (mobyfs.Operation, error)
	PlanRebalance(ctx context.Context, minGain float64) ([]mobyfs.PlannedMove, error)
	Rebalance(ctx context.Context, minGain float64) (mobyfs.Operation, error)
	MakeBackup(ctx context.Context) (api.Backup, error)
	SettleVolume(ctx context.Context, name, use, drop string) (mobyfs.Volume, error)
	RemovedVolumes(ctx context.Context) ([]mobyfs.Tombstone, error)
	UndeleteVolume(ctx context.Context, name, as string) (mobyfs.Volume, error)
	Backups(ctx context.Context) ([]api.Backup, error)
	RestoreStatus(ctx context.Context) (api.Restore, error)
	Converge(ctx context.Context, without []string) (api.Restore, error)
}

var _ caller = (*api.Client)(nil)

// fleet is a control plane and those who call it, in process or over the wire.
type fleet struct {
	t         testing.TB
	authority *pki.Authority
	clock     *clock
	dir       string
	cfg       Config
	control   *Control
	server    *api.Server
	address   string               // of the server; empty: in process
	heard     map[string]time.Time // when nodes reported last, by the clock
}

// newFleet opens a control plane of the cluster shop. With wire its callers come over mutual TLS on loopback.
func newFleet(t testing.TB, wire bool) *fleet {
	t.Helper()
	dir, err := os.MkdirTemp("", "mobyfs") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	authority, err := pki.NewAuthority(filepath.Join(dir, "pki"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, authority: authority, dir: dir, clock: &clock{now: time.Now()}, heard: map[string]time.Time{}}
	f.cfg = Config{
		Cluster: "shop", Root: dir, Version: "v1.2.3", Now: f.clock.Now, Clock: f.clock.since,
		Identity: f.files(authority, pki.RoleControl, "control"),
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
		// What is free can be given away to the last byte.
		Placement: placement.Policy{Strategy: placement.Spread, Overcommit: 1},
	}
	f.open(wire)
	t.Cleanup(f.close)
	return f
}

func (f *fleet) files(a *pki.Authority, role, name string) pki.Files {
	f.t.Helper()
	files := pki.FilesIn(f.t.TempDir(), name)
	csr, err := files.NewRequest()
	if err != nil {
		f.t.Fatal(err)
	}
	cert, err := a.Sign(csr, pki.Identity{Cluster: a.Cluster, Role: role, Name: name})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := files.Install(cert, a.CertPEM); err != nil {
		f.t.Fatal(err)
	}
	return files
}

func (f *fleet) open(wire bool) {
	f.t.Helper()
	var err error
	if f.control, err = Open(f.t.Context(), f.cfg); err != nil {
		f.t.Fatal(err)
	}
	if !wire {
		return
	}
	tlsConfig, err := f.cfg.Identity.ControlTLS(f.control.Admit)
	if err != nil {
		f.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.address = l.Addr().String()
	f.server = api.NewServer(f.control, f.cfg.Log)
	server := f.server // which close takes away
	go func() {
		if err := server.Serve(l, tlsConfig); err != nil {
			f.t.Error(err)
		}
	}()
}

func (f *fleet) close() {
	if f.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := f.server.Shutdown(ctx); err != nil {
			f.t.Error(err)
		}
		f.server = nil
	}
	if err := f.control.Close(); err != nil {
		f.t.Error(err)
	}
}

// restart closes the control plane and opens it on the same directory. Callers over the wire must be made anew.
func (f *fleet) restart() {
	f.t.Helper()
	f.close()
	f.open(f.address != "")
}

func (f *fleet) caller(role, name string) caller {
	f.t.Helper()
	if f.address == "" {
		return local{f.control, pki.Identity{Cluster: "shop", Role: role, Name: name}}
	}
	return f.client(f.authority, role, name)
}

func (f *fleet) client(a *pki.Authority, role, name string) *api.Client {
	f.t.Helper()
	tlsConfig, err := f.files(a, role, name).ClientTLS(pki.RoleControl, "control")
	if err != nil {
		f.t.Fatal(err)
	}
	newClient := api.NewClient
	if role == pki.RoleNode {
		newClient = api.NewAgentClient
	}
	c := newClient([]string{f.address}, tlsConfig)
	f.t.Cleanup(c.Close)
	return c
}

func (f *fleet) operator() caller { return f.caller(pki.RoleOperator, "ana") }

// node is a caller that has joined with 100 GiB free.
func (f *fleet) node(name string) caller {
	f.t.Helper()
	n := f.caller(pki.RoleNode, name)
	f.report(n, mobyfs.Report{Address: name + ":8080"})
	return n
}

// report reports with 100 GiB free if r says nothing else.
func (f *fleet) report(n caller, r mobyfs.Report) {
	f.t.Helper()
	if r.Capacity.TotalBytes == 0 {
		r.Capacity = mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 100 * gib}
	}
	if r.Version == "" {
		r.Version = "v1"
	}
	if _, err := n.Report(f.t.Context(), r); err != nil {
		f.t.Fatal(err)
	}
	name, _, _ := strings.Cut(r.Address, ":")
	f.heard[name] = f.clock.Now()
}

// advance lets time pass, and sessions end in it as they would in the store, which has a clock of its own.
func (f *fleet) advance(d time.Duration) {
	f.t.Helper()
	until := f.clock.Now().Add(d)
	for _, name := range slices.SortedFunc(maps.Keys(f.heard), func(a, b string) int { return f.heard[a].Compare(f.heard[b]) }) {
		if ends := f.heard[name].Add(mobyfs.SessionTTL); ends.Before(until) {
			f.clock.advance(max(ends.Sub(f.clock.Now()), 0))
			f.lose(name)
		}
	}
	f.clock.advance(until.Sub(f.clock.Now()))
}

// lose ends the session of a node, and waits until control has seen it.
func (f *fleet) lose(name string) {
	f.t.Helper()
	delete(f.heard, name)
	var session store.Session
	f.control.store.View(func(v store.View) { session, _ = store.Sessions.In(v, name) })
	if err := f.control.store.Revoke(f.t.Context(), store.Lease(session.Lease)); err != nil {
		f.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); f.control.silence(name) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("control does not see that %s is silent", name)
		}
	}
}

// ready makes a volume that is ready on a node, as its agent would.
func (f *fleet) ready(name, node string) mobyfs.Volume {
	f.t.Helper()
	return f.readyWith(name, node, mobyfs.VolumeSpec{})
}

func (f *fleet) readyWith(name, node string, spec mobyfs.VolumeSpec) mobyfs.Volume {
	f.t.Helper()
	v, err := f.operator().CreateVolume(f.t.Context(), name, spec, node)
	if err != nil {
		f.t.Fatal(err)
	}
	v, err = f.caller(pki.RoleNode, node).Created(f.t.Context(), v.ID)
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// record is the volume as control has it now, in process.
func (f *fleet) record(name string) mobyfs.Volume {
	f.t.Helper()
	v, err := f.control.Volume(f.t.Context(), pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "test"}, name)
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// both runs a test in process and over the wire.
func both(t *testing.T, test func(t *testing.T, f *fleet)) {
	for name, wire := range map[string]bool{"in process": false, "over mTLS": true} {
		t.Run(name, func(t *testing.T) { test(t, newFleet(t, wire)) })
	}
}

// must fails the test on an error.
func must[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%v (%s)", err, mobyfs.CodeOf(err))
		}
		return v
	}
}

// wantCode fails the test unless err has the code and tells the way out.
func wantCode(t *testing.T, err error, want mobyfs.Code) {
	t.Helper()
	if got := mobyfs.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

var someReceipt = mobyfs.Receipt{Digest: "blake3:1", Progress: mobyfs.Progress{Files: 3, Bytes: 4096, TotalBytes: 4096}}

// local is a caller in the same process.
type local struct {
	c   *Control
	who pki.Identity
}

func (l local) CreateVolume(ctx context.Context, name string, spec mobyfs.VolumeSpec, node string) (mobyfs.Volume, error) {
	return l.c.CreateVolume(ctx, l.who, name, spec, node)
}
func (l local) Created(ctx context.Context, id mobyfs.VolumeID) (mobyfs.Volume, error) {
	return l.c.Created(ctx, l.who, id)
}
func (l local) Volume(ctx context.Context, name string) (mobyfs.Volume, error) {
	return l.c.Volume(ctx, l.who, name)
}
func (l local) RemoveVolume(ctx context.Context, name string) error {
	return l.c.RemoveVolume(ctx, l.who, name)
}
func (l local) Removed(ctx context.Context, id mobyfs.VolumeID) error {
	return l.c.Removed(ctx, l.who, id)
}
func (l local) Claim(ctx context.Context, id mobyfs.VolumeID) (mobyfs.Grant, error) {
	return l.c.Claim(ctx, l.who, id)
}
func (l local) Release(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	return l.c.Release(ctx, l.who, id, fence)
}
func (l local) Accept(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID) (mobyfs.Grant, error) {
	return l.c.Accept(ctx, l.who, id, m)
}
func (l local) Commit(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, r mobyfs.Receipt) (mobyfs.Grant, error) {
	return l.c.Commit(ctx, l.who, id, m, r)
}
func (l local) Abort(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, reason string) error {
	return l.c.Abort(ctx, l.who, id, m, reason)
}
func (l local) Freeze(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID) (mobyfs.Volume, error) {
	return l.c.Freeze(ctx, l.who, id, m)
}
func (l local) Thaw(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, freeze int, reason string) (mobyfs.Volume, error) {
	return l.c.Thaw(ctx, l.who, id, m, freeze, reason)
}
func (l local) Moved(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, r mobyfs.MoveReport) error {
	return l.c.Moved(ctx, l.who, id, m, r)
}
func (l local) Report(ctx context.Context, r mobyfs.Report) (mobyfs.Session, error) {
	return l.c.Report(ctx, l.who, r)
}
func (l local) TakeOver(ctx context.Context, name, to, reason string) (mobyfs.Volume, error) {
	return l.c.TakeOver(ctx, l.who, name, to, reason)
}
func (l local) Watch(ctx context.Context, each func(mobyfs.Change)) error {
	return api.Watch(ctx, l.c, l.who, func(c mobyfs.Change) error { each(c); return nil })
}
func (l local) Records(ctx context.Context, ids []mobyfs.VolumeID) (mobyfs.Records, error) {
	return l.c.Records(ctx, l.who, ids)
}
func (l local) Inventory(ctx context.Context, part mobyfs.Inventory) error {
	return l.c.Inventory(ctx, l.who, part)
}
func (l local) Backup(ctx context.Context, id string, w io.Writer) error {
	content, _, err := l.c.BackupContent(ctx, l.who, id)
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = io.Copy(w, content)
	return err
}
func (l local) SettleVolume(ctx context.Context, name, use, drop string) (mobyfs.Volume, error) {
	return l.c.SettleVolume(ctx, l.who, name, use, drop)
}
func (l local) RemovedVolumes(ctx context.Context) ([]mobyfs.Tombstone, error) {
	return l.c.RemovedVolumes(ctx, l.who)
}
func (l local) UndeleteVolume(ctx context.Context, name, as string) (mobyfs.Volume, error) {
	return l.c.UndeleteVolume(ctx, l.who, name, as)
}
func (l local) MakeBackup(ctx context.Context) (api.Backup, error) { return l.c.MakeBackup(ctx, l.who) }
func (l local) Backups(ctx context.Context) ([]api.Backup, error)  { return l.c.Backups(ctx, l.who) }
func (l local) RestoreStatus(ctx context.Context) (api.Restore, error) {
	return l.c.RestoreStatus(ctx, l.who)
}
func (l local) Converge(ctx context.Context, without []string) (api.Restore, error) {
	return l.c.Converge(ctx, l.who, without)
}
func (l local) Volumes(ctx context.Context) ([]mobyfs.Volume, error) { return l.c.Volumes(ctx, l.who) }
func (l local) MoveVolume(ctx context.Context, name, to string) (mobyfs.Volume, error) {
	return l.Move(ctx, name, api.MoveRequest{To: to})
}
func (l local) Move(ctx context.Context, name string, how api.MoveRequest) (mobyfs.Volume, error) {
	return l.c.MoveVolume(ctx, l.who, name, how)
}
func (l local) ChangeMove(ctx context.Context, name string, patch api.MovePatch) (mobyfs.Volume, error) {
	return l.c.ChangeMove(ctx, l.who, name, patch)
}
func (l local) UndoMove(ctx context.Context, name string) (mobyfs.Volume, error) {
	return l.c.UndoMove(ctx, l.who, name)
}
func (l local) Drain(ctx context.Context, node string, how api.DrainRequest) (mobyfs.Operation, error) {
	return l.c.DrainNode(ctx, l.who, node, how)
}
func (l local) CancelMove(ctx context.Context, name string) (mobyfs.Volume, error) {
	return l.c.CancelMove(ctx, l.who, name)
}
func (l local) Nodes(ctx context.Context) ([]mobyfs.Node, error) { return l.c.Nodes(ctx, l.who) }
func (l local) Node(ctx context.Context, name string) (mobyfs.Node, error) {
	return l.c.Node(ctx, l.who, name)
}
func (l local) PatchNode(ctx context.Context, name string, patch api.NodePatch) (mobyfs.Node, error) {
	return l.c.PatchNode(ctx, l.who, name, patch)
}
func (l local) CordonNode(ctx context.Context, name string, cordon bool) (mobyfs.Node, error) {
	return l.c.CordonNode(ctx, l.who, name, cordon)
}
func (l local) ExplainPlacement(ctx context.Context, q api.PlacementQuestion) (api.Placement, error) {
	return l.c.ExplainPlacement(ctx, l.who, q)
}
func (l local) Cluster(ctx context.Context) (api.Cluster, error) { return l.c.Cluster(ctx, l.who) }
func (l local) Healthy(ctx context.Context) error                { return l.c.Healthy(ctx) }
func (l local) Ready(ctx context.Context) error                  { return l.c.Ready(ctx) }
func (l local) VolumePage(ctx context.Context, q api.VolumeQuery) (api.VolumePage, error) {
	return l.c.VolumePage(ctx, l.who, q)
}
func (l local) WaitVolume(ctx context.Context, name string, revision int64, patience time.Duration) (mobyfs.Volume, error) {
	return l.c.WaitVolume(ctx, l.who, name, revision, patience)
}
func (l local) PatchVolume(ctx context.Context, name string, patch api.VolumePatch) (mobyfs.Volume, error) {
	return l.c.PatchVolume(ctx, l.who, name, patch)
}
func (l local) Events(ctx context.Context, since int64, each func(mobyfs.Event) error, complete func(api.Complete) error) error {
	return l.c.Events(ctx, l.who, since, oneByOne(each, complete))
}
func (l local) Audit(ctx context.Context, since int64, each func(mobyfs.Event) error, complete func(api.Complete) error) error {
	return l.c.Audit(ctx, l.who, since, oneByOne(each, complete))
}
func (l local) AuditTrail(ctx context.Context) (api.AuditTrail, error) {
	return l.c.AuditTrail(ctx, l.who)
}
func (l local) AuditSegment(ctx context.Context, n int64) ([]byte, error) {
	return l.c.AuditSegment(ctx, l.who, n)
}

func (l local) Operations(ctx context.Context, q api.OperationQuery) (api.OperationPage, error) {
	return l.c.Operations(ctx, l.who, q)
}
func (l local) Operation(ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error) {
	return l.c.Operation(ctx, l.who, id)
}
func (l local) WaitOperation(ctx context.Context, id mobyfs.OperationID, generation int64, patience time.Duration) (mobyfs.Operation, error) {
	return l.c.WaitOperation(ctx, l.who, id, generation, patience)
}
func (l local) CancelOperation(ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error) {
	return l.c.CancelOperation(ctx, l.who, id)
}
func (l local) RetryOperation(ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error) {
	return l.c.RetryOperation(ctx, l.who, id)
}
func (l local) PauseOperation(ctx context.Context, id mobyfs.OperationID, paused bool) (mobyfs.Operation, error) {
	return l.c.PauseOperation(ctx, l.who, id, paused)
}
func (l local) DrainNode(ctx context.Context, node, reason string) (mobyfs.Operation, error) {
	return l.Drain(ctx, node, api.DrainRequest{Reason: reason})
}
func (l local) EvictNode(ctx context.Context, node, reason string) (mobyfs.Operation, error) {
	return l.c.EvictNode(ctx, l.who, node, reason)
}
func (l local) ResizeVolume(ctx context.Context, name string, bytes int64) (mobyfs.Operation, error) {
	return l.c.ResizeVolume(ctx, l.who, name, bytes)
}
func (l local) UpgradeNodes(ctx context.Context, version string) (mobyfs.Operation, error) {
	return l.c.UpgradeNodes(ctx, l.who, version)
}
func (l local) PlanRebalance(ctx context.Context, minGain float64) ([]mobyfs.PlannedMove, error) {
	return l.c.PlanRebalance(ctx, l.who, minGain)
}
func (l local) Rebalance(ctx context.Context, minGain float64) (mobyfs.Operation, error) {
	return l.c.Rebalance(ctx, l.who, minGain)
}
func (l local) ForgetNode(ctx context.Context, node string, dataLost bool) error {
	return l.c.ForgetNode(ctx, l.who, node, dataLost)
}

func oneByOne(each func(mobyfs.Event) error, complete func(api.Complete) error) func([]mobyfs.Event, int64) error {
	return func(events []mobyfs.Event, upTo int64) error {
		for _, e := range events {
			if err := each(e); err != nil {
				return err
			}
		}
		return complete(api.Complete{Revision: upTo})
	}
}
