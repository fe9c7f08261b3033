package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/mountns"
)

// Kernel tells who uses a directory, whatever anybody counted. See package mountns.
type Kernel interface {
	// Users lists the mounts of dir in other mount namespaces.
	Users(dir string) ([]mountns.User, error)
	// Open lists the other processes that have something in dir open.
	Open(dir string) ([]mountns.User, error)
	// Strangers lists the processes outside of some containers, named by their IDs, that have dir mounted; with files also
	// those that have something in it open.
	Strangers(dir string, containers []string, files bool) ([]mountns.User, error)
	// End kills all processes of a frozen or ended container but its first one. They run no instruction more.
	End(container Container, first int) error
	// Sync returns once all that was written to the file system of dir is on the disk.
	Sync(dir string) error
}

type realKernel struct{}

func (realKernel) Users(dir string) ([]mountns.User, error) { return mountns.Users(dir) }
func (realKernel) Open(dir string) ([]mountns.User, error)  { return mountns.Open(dir) }

func (realKernel) Strangers(dir string, containers []string, files bool) ([]mountns.User, error) {
	all, err := mountns.Members(dir)
	if err == nil && files {
		var open []mountns.User
		open, err = mountns.Open(dir)
		all = append(all, open...)
	}
	if err != nil {
		return nil, err
	}
	var strangers []mountns.User
	for _, u := range all {
		known := false
		for _, id := range containers {
			in, err := mountns.InGroup(u.PID, id)
			if err != nil {
				return nil, fmt.Errorf("ask for the control group of process %d: %w", u.PID, err)
			}
			known = known || in
		}
		if !known && u.Command != mountns.Ended {
			strangers = append(strangers, u)
		}
	}
	return strangers, nil
}

func (realKernel) End(c Container, first int) error { return mountns.EndGroup(c.ID, first) }

func (realKernel) Sync(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	return os.NewSyscallError("syncfs", unix.Syncfs(fd))
}

// users asks the kernel for mounts of the volume. Bytes that are not here have none.
func (w *worker) users(r *mobyfs.Volume) ([]mountns.User, error) {
	return w.agent.users(w.path(r))
}

// users asks the kernel for mounts of a directory. One that is not here has none.
func (a *Agent) users(dir string) ([]mountns.User, error) {
	users, err := a.Kernel.Users(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the kernel who uses %s: %w", dir, err)
	}
	return users, nil
}

// checkUnused is CodeInUse if the kernel shows a mount of the volume in a container.
func (w *worker) checkUnused(r *mobyfs.Volume) error {
	users, err := w.users(r)
	if err != nil || len(users) == 0 {
		return err
	}
	return w.inUse(r, users[0].String())
}

// checkUnusedForGood is checkUnused before the bytes go: a file that is open is a use as well.
func (w *worker) checkUnusedForGood(r *mobyfs.Volume) error {
	if err := w.checkUnused(r); err != nil {
		return err
	}
	users, err := w.agent.Kernel.Open(w.path(r))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("ask the kernel who has files of %s open: %w", w.path(r), err)
	case len(users) > 0: // no container has it mounted, or checkUnused would have said so
		return w.held(r, users[0].String(), "end it, then try again")
	}
	return nil
}

// inUse names the users of a volume on this node: its containers if they are known, else what the kernel tells.
func (w *worker) inUse(r *mobyfs.Volume, otherwise string) error {
	switch names := w.agent.roster.names(w.id); len(names) {
	case 0:
		return w.held(r, otherwise, "stop the container, then try again")
	case 1:
		return w.held(r, "container "+names[0], "stop it, then try again")
	default:
		return w.held(r, "containers "+strings.Join(names, ", "), "stop them, then try again")
	}
}

func (w *worker) held(r *mobyfs.Volume, by, out string) error {
	return mobyfs.Errorf(mobyfs.CodeInUse, "volume %q is in use on %s by %s", w.name(r), w.agent.Node, by).WithHint("%s", out)
}

// Activated is told that a new life of dockerd begins. What dockerd counted before is believed until the containers
// that go on have had time to show.
func (a *Agent) Activated() {
	a.ledger.newLife(time.Now().Add(settleAfter))
	if err := a.ledger.flush(); err != nil {
		a.Log.Warn("write down that dockerd began anew", "err", err)
	}
	a.goDo(func() {
		select {
		case <-time.After(settleAfter + time.Second):
			a.settle(a.work)
		case <-a.work.Done():
		}
	})
}

// settle compares the uses in doubt with the kernel and forgets those that it does not confirm; then their lease
// goes back. Uses that were counted in this life of dockerd and of the agent are not in doubt for a long time: a
// container that is just starting has no mount yet.
func (a *Agent) settle(ctx context.Context) {
	now := time.Now()
	for _, id := range a.ledger.doubtful(now) {
		w := a.worker(id)
		record, _ := a.catalogue.record(id)
		if err := w.checkUnused(record); err != nil {
			w.log.Debug("uses stay counted", "err", err)
			continue
		}
		w.forgetUses(record, func() int { return a.ledger.dropDoubtful(id, now) })
	}
	since := now.Add(-unseenAfter)
	for _, id := range a.ledger.unseen(since) {
		w := a.worker(id)
		record, _ := a.catalogue.record(id)
		if w.shown(ctx, record) {
			a.ledger.see(id, now)
			continue
		}
		w.forgetUses(record, func() int { return a.ledger.dropUnseen(id, since) })
	}
	if err := a.ledger.flush(); err != nil {
		a.Log.Warn("write down which uses ended", "err", err)
	}
}

// shown reports whether the kernel or dockerd shows a user of the volume. Who can't be asked is taken to show one,
// except a dockerd that is away: what it ran, the kernel knows.
func (w *worker) shown(ctx context.Context, r *mobyfs.Volume) bool {
	if w.checkUnusedForGood(r) != nil {
		return true
	}
	if w.agent.Docker == nil {
		return false
	}
	names, err := w.agent.Docker.Running(ctx, w.name(r))
	return err == nil && len(names) > 0
}

// forgetUses drops uses that ended unnoticed. The worker sees to what follows.
func (w *worker) forgetUses(r *mobyfs.Volume, drop func() int) {
	w.mu.Lock()
	n := drop()
	w.start()
	w.mu.Unlock()
	if n > 0 {
		w.log.Info("forgot uses that ended unnoticed", "volume", w.name(r), "uses", n)
	}
}
