package peer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// played is a Mounter of which a test says what it answers. It knows every volume that was created.
type played struct {
	mu      sync.Mutex
	volumes map[string]map[string]string // name → options
	uses    map[string]int               // name/id → count
	lives   int
	asked   []string

	get    func(ctx context.Context, name string) (mobyfs.DockerVolume, error)
	mount  func(ctx context.Context, name, id string) error // before the use is counted
	remove func(name string) error
}

var created = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func play() *played {
	return &played{volumes: map[string]map[string]string{}, uses: map[string]int{}}
}

func (p *played) note(call, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, call+" "+name)
}

// took returns what was asked since the last time, Get left out.
func (p *played) took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := slices.DeleteFunc(p.asked, func(s string) bool { return strings.HasPrefix(s, "Get ") })
	p.asked = nil
	return asked
}

func (p *played) count(name, id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.uses[name+"/"+id]
}

func (p *played) Create(_ context.Context, name string, opts map[string]string) error {
	p.note("Create", name)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volumes[name] = opts
	return nil
}

func (p *played) Remove(_ context.Context, name string) error {
	p.note("Remove", name)
	if p.remove != nil {
		return p.remove(name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.volumes, name)
	return nil
}

func (p *played) Mount(ctx context.Context, name, id string) (string, error) {
	p.note("Mount", name)
	if p.mount != nil {
		if err := p.mount(ctx, name, id); err != nil {
			return "", err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uses[name+"/"+id]++
	return "/vol/" + name, nil
}

func (p *played) Unmount(_ context.Context, name, id string) error {
	p.note("Unmount", name)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uses[name+"/"+id]--
	return nil
}

func (p *played) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	p.note("Get", name)
	if p.get != nil {
		return p.get(ctx, name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.volumes[name]; !there {
		return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name)
	}
	return told(name), nil
}

func told(name string) mobyfs.DockerVolume {
	return mobyfs.DockerVolume{Name: name, Mountpoint: "/vol/" + name, CreatedAt: created, Status: map[string]any{"node": "h1"}}
}

func (p *played) List() []mobyfs.DockerVolume {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]mobyfs.DockerVolume, 0, len(p.volumes))
	for name := range p.volumes {
		list = append(list, told(name))
	}
	slices.SortFunc(list, func(a, b mobyfs.DockerVolume) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (p *played) Activated() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lives++
}

// fill makes n volumes.
func (p *played) fill(n int) {
	for i := range n {
		p.volumes[fmt.Sprintf("volume-%05d", i)] = nil
	}
}
