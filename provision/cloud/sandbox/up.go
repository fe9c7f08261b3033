package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mobyfs/mobyfs"
)

// atOnce is how many hosts boot at the same time.
const atOnce = 8

// raising is one call of Up. It notes what it makes, so that undo can take exactly that away again.
type raising struct {
	Options
	machine machine
	state   state
	key     publicKey

	before     Fleet // what was written down when the call began; no Name if nothing was
	madeNet    bool
	mu         sync.Mutex
	containers []string // made by this call
}

func (u *raising) run(ctx context.Context) (Fleet, error) {
	f, err := u.plan(ctx)
	if err != nil {
		return Fleet{}, err
	}
	if err := u.makeImages(ctx, f); err != nil {
		return Fleet{}, err
	}
	if u.key, err = u.state.makeKey(f.Name); err != nil {
		return Fleet{}, err
	}
	if f, err = u.makeNetwork(ctx, f); err != nil {
		return Fleet{}, err
	}
	if f, err = f.withAddresses(); err != nil {
		return Fleet{}, err
	}
	if err := u.state.save(f); err != nil {
		return Fleet{}, err
	}
	keys, err := u.raiseHosts(ctx, f)
	if err != nil {
		return Fleet{}, err
	}
	for i := range f.Hosts {
		f.Hosts[i].HostKey = keys[i].fingerprint()
	}
	if err := u.state.saveKnownHosts(f, keys); err != nil {
		return Fleet{}, err
	}
	return f, u.state.save(f)
}

// plan is the fleet as it is to be: the hosts that are written down, and the new ones. It changes nothing.
func (u *raising) plan(ctx context.Context) (Fleet, error) {
	f, err := u.state.load()
	if err == nil {
		u.before = f
	} else if mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return Fleet{}, err
	} else {
		f = u.state.newFleet()
	}
	if u.Subnet != "" && f.Subnet != "" && u.Subnet != f.Subnet {
		return Fleet{}, mobyfs.Errorf(mobyfs.CodeExists, "fleet %s is on %s, not on %s", f.Name, f.Subnet, u.Subnet).
			WithHint("take it down first: mobyctl sandbox down --name %s", f.Name)
	}
	if f.Hosts, err = u.hostsOf(f); err != nil {
		return Fleet{}, err
	}
	if err := checkInotify(ctx, f); err != nil {
		return Fleet{}, err
	}
	return f, u.checkOwners(ctx, f)
}

// hostsOf is the hosts that a fleet has, with new ones after them until there are as many as asked for.
func (u *raising) hostsOf(f Fleet) ([]Host, error) {
	want := u.Hosts
	switch {
	case want == 0 && len(f.Hosts) == 0:
		want = max(3, len(u.Distros))
	case want > 0 && want < len(f.Hosts):
		u.logf("fleet %s has %d hosts already; none is removed", f.Name, len(f.Hosts))
	}
	hosts := slices.Clone(f.Hosts)
	for i := len(hosts); i < want; i++ {
		h := Host{Name: fmt.Sprintf("h%d", i+1), Image: u.Image, Light: u.Light}
		h.Container = u.Name + "-" + h.Name
		if h.Image == "" {
			h.Distro = u.Distros[i%len(u.Distros)]
			r, err := recipeFor(h.Distro)
			if err != nil {
				return nil, err
			}
			h.Image = r.tag()
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// checkOwners refuses to touch a container that has the name of a host but is none.
func (u *raising) checkOwners(ctx context.Context, f Fleet) error {
	for _, h := range f.Hosts {
		found, err := containers(ctx, "name=^/"+h.Container+"$")
		if err != nil {
			return err
		}
		if len(found) > 0 && found[0].Config.Labels[labelFleet] != f.Name {
			return mobyfs.Errorf(mobyfs.CodeExists, "container %s exists and is no host of fleet %s", h.Container, f.Name).
				WithHint("choose another name for the fleet (--name), or remove the container")
		}
	}
	return nil
}

// raiseHosts makes and starts all hosts and waits until each is of use. It returns their host keys in order.
func (u *raising) raiseHosts(ctx context.Context, f Fleet) ([]hostKeys, error) {
	keys := make([]hostKeys, len(f.Hosts))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, h := range f.Hosts {
		g.Go(func() error {
			var err error
			began := time.Now()
			if keys[i], err = u.raiseHost(gctx, f, h); err != nil {
				return explain(err, "host %s", h.Name)
			}
			u.logf("%s is up at %s (%s, %.1f s)", h.Name, h.Address, imageWord(h), time.Since(began).Seconds())
			return nil
		})
	}
	return keys, g.Wait()
}

func (u *raising) raiseHost(ctx context.Context, f Fleet, h Host) (hostKeys, error) {
	found, err := containers(ctx, "name=^/"+h.Container+"$")
	if err != nil {
		return nil, err
	}
	status := "created"
	if len(found) > 0 {
		status = found[0].State.Status
	} else {
		u.noteContainer(h.Container)
		if err := createHost(ctx, u.machine, f, h); err != nil {
			return nil, err
		}
	}
	if status == "created" || u.key.isNew {
		if err := giveKey(ctx, h, u.key.line); err != nil {
			return nil, err
		}
	}
	if err := start(ctx, h, status); err != nil {
		return nil, err
	}
	return u.settle(ctx, f, h)
}

// settle waits until a started host is of use.
func (u *raising) settle(ctx context.Context, f Fleet, h Host) (hostKeys, error) {
	ctx, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	keys, err := waitUntilUp(ctx, f, h, u.Log)
	if err == nil && !h.Light {
		err = giveBusybox(ctx, h)
	}
	switch {
	case err == nil:
		return keys, nil
	case errors.Is(ctx.Err(), context.Canceled): // it was not this host that failed
		return nil, err
	}
	return nil, withJournal(context.WithoutCancel(ctx), h, err)
}

func (u *raising) noteContainer(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.containers = append(u.containers, name)
}

// undo removes what this call made, and returns cause, with whatever it could not remove.
func (u *raising) undo(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var left []error
	left = append(left, removeContainers(ctx, u.containers))
	if u.madeNet {
		left = append(left, removeNetwork(ctx, networkOf(u.Name)))
	}
	if u.before.Name == "" {
		left = append(left, u.state.remove())
	} else {
		left = append(left, u.state.save(u.before))
	}
	if err := errors.Join(left...); err != nil {
		return explain(cause, "some of what was made is left (%s)", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return cause
}

// explain puts what was tried before err's text and keeps its code and hint.
func explain(err error, format string, args ...any) error {
	e := mobyfs.Errorf(mobyfs.CodeOf(err), format+": %w", append(args, err)...)
	e.Hint = mobyfs.HintOf(err)
	return e
}

// imageWord tells what a host runs in a few letters.
func imageWord(h Host) string {
	word := h.Distro
	if word == "" {
		word = h.Image
	}
	if h.Light {
		word += ", light"
	}
	return word
}
