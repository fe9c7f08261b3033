package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/docker/docker/pkg/plugingetter"
	"github.com/docker/docker/pkg/plugins"
	"github.com/docker/docker/volume"
	"github.com/docker/docker/volume/drivers"
	"github.com/docker/docker/volume/service"
	"github.com/docker/docker/volume/service/opts"
)

// dockerd is one life of what dockerd has of volumes. Its metadata.db outlives it.
type dockerd struct {
	t      testing.TB
	store  *service.VolumeStore
	getter *getter
}

// boot begins a life of dockerd on its data directory: the store asks the driver for each volume that it knows.
func boot(t testing.TB, data, socket string) *dockerd {
	t.Helper()
	g := &getter{socket: socket}
	store, err := service.NewStore(data, drivers.NewStore(g))
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerd{t: t, store: store, getter: g}
	t.Cleanup(d.kill)
	return d
}

// kill ends the life. It may be called twice.
func (d *dockerd) kill() { _ = d.store.Shutdown() }

// client is the client with which the store calls the driver.
func (d *dockerd) client() *plugins.Client {
	d.t.Helper()
	p, err := d.getter.activated()
	if err != nil {
		d.t.Fatal(err)
	}
	return p.client
}

// driver is the driver as the store sees it.
func (d *dockerd) driver() volume.Driver {
	d.t.Helper()
	vd, err := drivers.NewStore(d.getter).GetDriver(driverName)
	if err != nil {
		d.t.Fatal(err)
	}
	return vd
}

// create is docker volume create -d mobyfs.
func (d *dockerd) create(name string, options map[string]string, labels ...string) error {
	of := map[string]string{}
	for _, l := range labels {
		of[l] = "yes"
	}
	_, err := d.store.Create(context.Background(), name, driverName, opts.WithCreateOptions(options), opts.WithCreateLabels(of))
	return err
}

// get is what docker volume inspect and each start of a container begin with.
func (d *dockerd) get(name string) (volume.Volume, error) {
	return d.store.Get(context.Background(), name)
}

// mustGet is get of a volume that Docker has to find.
func (d *dockerd) mustGet(name string) volume.Volume {
	d.t.Helper()
	v, err := d.get(name)
	if err != nil {
		d.t.Fatalf("Docker does not find %q: %v", name, err)
	}
	return v
}

// refer is what docker create does with a volume of the new container.
func (d *dockerd) refer(name, container string) {
	d.t.Helper()
	if _, err := d.store.Get(context.Background(), name, opts.WithGetReference(container)); err != nil {
		d.t.Fatal(err)
	}
}

// remove is docker volume rm, with force -f.
func (d *dockerd) remove(name string, force bool) error {
	v, err := d.get(name)
	if err != nil {
		return err
	}
	return d.store.Remove(context.Background(), v, opts.WithPurgeOnError(force))
}

// list is docker volume ls.
func (d *dockerd) list() []string {
	d.t.Helper()
	found, warnings, err := d.store.Find(context.Background(), service.ByDriver(driverName))
	if err != nil || len(warnings) > 0 {
		d.t.Fatalf("docker volume ls: %v, %v", err, warnings)
	}
	names := []string{}
	for _, v := range found {
		names = append(names, v.Name())
	}
	return names
}

// labelled tells whether Docker still knows the label that the volume was created with.
func labelled(v volume.Volume, label string) bool {
	detailed, ok := v.(volume.DetailedVolume)
	return ok && detailed.Labels()[label] == "yes"
}

const driverName = "mobyfs"

// getter finds the plugin by its socket, as dockerd's does by the name of the file, and activates it once.
type getter struct {
	socket string
	mu     sync.Mutex
	found  *plugin
}

var _ plugingetter.PluginGetter = (*getter)(nil)

func (g *getter) activated() (*plugin, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.found != nil {
		return g.found, nil
	}
	client, err := plugins.NewClient("unix://"+g.socket, nil)
	if err != nil {
		return nil, err
	}
	var says plugins.Manifest
	if err := client.Call("Plugin.Activate", nil, &says); err != nil {
		return nil, err
	}
	if len(says.Implements) != 1 || says.Implements[0] != "VolumeDriver" {
		return nil, fmt.Errorf("the plugin implements %v", says.Implements)
	}
	g.found = &plugin{client}
	return g.found, nil
}

func (g *getter) Get(name, _ string, _ int) (plugingetter.CompatPlugin, error) {
	if name != driverName {
		return nil, errors.New("plugin not found")
	}
	p, err := g.activated()
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (g *getter) GetAllByCap(string) ([]plugingetter.CompatPlugin, error) {
	p, err := g.activated()
	if err != nil {
		return nil, err
	}
	return []plugingetter.CompatPlugin{p}, nil
}

func (g *getter) GetAllManagedPluginsByCap(string) []plugingetter.CompatPlugin { return nil }

func (g *getter) Handle(string, func(string, *plugins.Client)) {}

// plugin is mobyfs to Docker: one with a socket, not a managed one.
type plugin struct{ client *plugins.Client }

func (p *plugin) Name() string                  { return driverName }
func (p *plugin) ScopedPath(path string) string { return path }
func (p *plugin) IsV1() bool                    { return true }
func (p *plugin) Client() *plugins.Client       { return p.client }
