package test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// managedHost is a host whose Docker has mobyfs as a managed plugin, beside the driver that it always has.
type managedHost struct {
	t    *testing.T
	host string
}

const managedName = "mobyfs-managed"

// onManaged runs a test on both engines, each with the plugin as make plugin builds it, put there with docker plugin
// create and no registry. Afterwards it takes the plugin off again, which must leave nothing.
func onManaged(t *testing.T, test func(t *testing.T, m managedHost)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "plugin")
	if out, err := exec.Command("make", "-C", "..", "plugin", "PLUGIN="+dir).CombinedOutput(); err != nil {
		t.Fatalf("make plugin: %v\n%s", err, out)
	}
	for _, engine := range []struct{ version, host string }{{"20.10", "h1"}, {"26.1", "h3"}} {
		t.Run(engine.version, func(t *testing.T) {
			if got := the.Sh(t, engine.host, "docker version -f '{{.Server.Version}}'"); !strings.HasPrefix(got, engine.version) {
				t.Fatalf("%s runs Docker %s", engine.host, got)
			}
			m := managedHost{t, engine.host}
			t.Cleanup(m.remove)
			if out, err := exec.Command("docker", "cp", dir, the.Container(m.host)+":/root/plugin").CombinedOutput(); err != nil {
				t.Fatalf("docker cp: %v\n%s", err, out)
			}
			m.install()
			test(t, m)
		})
	}
}

func (m managedHost) install() {
	m.t.Helper()
	m.sh("docker plugin create " + managedName + " /root/plugin && docker plugin enable " + managedName)
}

func (m managedHost) sh(line string) string {
	m.t.Helper()
	return the.Sh(m.t, m.host, line)
}

// run starts a container that adds a line to the volume's log and then waits.
func (m managedHost) run(name, volume string, more ...string) {
	m.t.Helper()
	args := append([]string{"docker", "run", "-d", "--name", name, "-v", volume + ":/data", "--volume-driver", managedName}, more...)
	the.On(m.t, m.host, append(args, "busybox", "sh", "-c", "echo started >> /data/log; sync; exec sleep 100000")...)
	m.t.Cleanup(func() { the.TryOn(m.t, m.host, "docker", "rm", "-f", name) })
}

// started waits until the container has started n times, by the volume's log.
func (m managedHost) started(name string, n int) {
	m.t.Helper()
	fleet.Eventually(m.t, 60*time.Second, func() string { return lines(the, m.t, m.host, name, n) })
}

// free waits until no host has the volume's lease any more.
func (m managedHost) free(volume string) {
	m.t.Helper()
	fleet.Eventually(m.t, 60*time.Second, func() string {
		if v := the.Volume(m.t, volume); v.Lease != nil {
			return "the lease is still held on " + v.Lease.Node
		}
		return ""
	})
}

// up waits until the plugin runs and answers.
func (m managedHost) up() {
	m.t.Helper()
	fleet.Eventually(m.t, 60*time.Second, func() string {
		if r := the.TryOn(m.t, m.host, "sh", "-c", "pidof mobyfs-plugin && docker volume create -d "+managedName+" answers"); r.Code != 0 {
			return r.String()
		}
		return ""
	})
	m.sh("docker volume rm answers")
}

// remove takes the plugin off, by force if a test left something, and checks that nothing is left.
func (m managedHost) remove() {
	m.t.Helper()
	if r := the.TryOn(m.t, m.host, "docker", "plugin", "disable", managedName); r.Code != 0 {
		m.t.Errorf("disable: %v", r)
	}
	the.TryOn(m.t, m.host, "docker", "plugin", "rm", "-f", managedName)
	if out := m.sh("docker plugin ls -q; pidof mobyfs-plugin; ls /run/docker/plugins | grep -vx mobyfs.sock; grep -h /plugins/ /proc/[0-9]*/mountinfo 2>/dev/null; rm -r /root/plugin"); out != "" {
		m.t.Errorf("the plugin left: %s", out)
	}
}

// volume creates a volume through the plugin, which Docker forgets again at the end.
func (m managedHost) volume(name string) mobyfs.Volume {
	m.t.Helper()
	m.sh("docker volume create -d " + managedName + " --label keep=me " + name)
	m.t.Cleanup(func() {
		m.t.Helper()
		fleet.Eventually(m.t, 60*time.Second, func() string {
			if r := the.TryOn(m.t, m.host, "docker", "volume", "rm", name); r.Code != 0 {
				return r.String()
			}
			return ""
		})
		if r := the.Try(m.t, "volume", "inspect", name); r.Code == 0 {
			m.t.Errorf("the cluster still has %s", name)
		}
	})
	return the.Volume(m.t, name)
}

func TestC99ManagedPluginServesTheVolumesOfTheCluster(t *testing.T) {
	onManaged(t, func(t *testing.T, m managedHost) {
		v := m.volume("mserves")
		if got := m.sh("docker plugin ls --format '{{.Name}} {{.Enabled}}'"); got != "mobyfs-managed:latest true" {
			t.Errorf("docker plugin ls says %q", got)
		}
		m.run("mweb", "mserves")
		m.started("mweb", 1)
		d := the.Inspect(t, m.host, "mserves")
		if d.Driver != "mobyfs-managed:latest" || d.Scope != "global" || d.Mountpoint != fleet.DataDir(v) || d.Status["node"] != m.host {
			t.Errorf("docker volume inspect says %+v", d)
		}
		if got := m.sh("docker volume ls --filter driver=mobyfs-managed:latest --format '{{.Name}} {{.Mountpoint}}'"); got != "mserves "+fleet.DataDir(v) {
			t.Errorf("docker volume ls says %q", got)
		}
		if got := m.sh("cat " + d.Mountpoint + "/log"); got != "started" {
			t.Errorf("at that path is %q", got)
		}
		m.run("mnext", "mserves") // of the first container of a new volume Docker tells no source, whatever the driver
		if got := m.sh("docker inspect -f '{{(index .Mounts 0).Source}}' mnext; docker rm -f mnext >/dev/null"); got != fleet.DataDir(v) {
			t.Errorf("docker inspect says %q", got)
		}
		if got := m.sh("grep /var/lib/mobyfs /proc/$(pidof mobyfs-plugin)/mountinfo || echo none"); got != "none" {
			t.Errorf("the plugin has volumes mounted itself, so they look used for ever: %s", got)
		}
		r := the.TryOn(t, "h2", "docker", "run", "--rm", "-v", "mserves:/data", "--volume-driver=mobyfs", "busybox", "true")
		if r.Code == 0 {
			t.Error("h2 got a volume that is in use through the plugin")
		}
		fleet.Has(t, r.Stderr, "in use on "+m.host, "mweb")
		m.sh("docker rm -f mweb")
		m.free("mserves")
		if got := the.InVolume(t, "h2", "mserves", "cat /data/log; echo h2 >> /data/log"); got != "started\nstarted" {
			t.Errorf("h2 reads %q", got)
		}
		got := m.sh("docker run --rm -v mserves:/data --volume-driver " + managedName + " busybox cat /data/log")
		if got != "started\nstarted\nh2" {
			t.Errorf("back on %s it reads %q", m.host, got)
		}
	})
}

// TestC99ManagedMountThatTakesLongIsAnsweredInTime: Docker hangs up on a managed plugin after 30 s, and after its own
// restart never. The volume is on h2, whose agent is stopped.
func TestC99ManagedMountThatTakesLongIsAnsweredInTime(t *testing.T) {
	onManaged(t, func(t *testing.T, m managedHost) {
		m.volume("mslow")
		the.InVolume(t, "h2", "mslow", "echo slow > /data/x")
		m.free("mslow")
		the.Sh(t, "h2", "systemctl stop mobyfs.socket mobyfs")
		defer the.Sh(t, "h2", "systemctl start mobyfs.socket mobyfs")
		run := []string{"docker", "run", "--rm", "-v", "mslow:/data", "--volume-driver", managedName, "busybox", "cat", "/data/x"}
		start := time.Now()
		r := the.TryOn(t, m.host, run...)
		took := time.Since(start)
		t.Logf("answered after %v: %s", took.Round(100*time.Millisecond), r.Stderr)
		if r.Code == 0 || took < 15*time.Second || took > 29*time.Second {
			t.Errorf("after %v: %v", took, r)
		}
		fleet.Has(t, r.Stderr, `still moving "mslow" from h2`, "run it again")
		the.Sh(t, "h2", "systemctl start mobyfs.socket mobyfs")
		fleet.Eventually(t, 90*time.Second, func() string {
			if r := the.TryOn(t, m.host, run...); r.Stdout != "slow\n" {
				return r.String()
			}
			return ""
		})
		m.free("mslow")
	})
}

func TestC99ManagedPluginIsUpgradedUnderARunningContainer(t *testing.T) {
	onManaged(t, func(t *testing.T, m managedHost) {
		v := m.volume("mupgrade")
		m.run("mrunning", "mupgrade")
		m.started("mrunning", 1)
		if r := the.TryOn(t, m.host, "docker", "plugin", "disable", managedName); r.Code == 0 {
			t.Error("Docker disabled a plugin in use")
		}
		m.sh("docker plugin disable -f " + managedName)
		m.sh("docker plugin set " + managedName + " MOBYFS_LOG=debug && docker plugin enable " + managedName)
		m.sh("docker exec mrunning sh -c 'echo set >> /data/log'")
		m.sh("docker plugin disable -f " + managedName + " && docker plugin rm -f " + managedName)
		m.sh("docker exec mrunning sh -c 'echo removed >> /data/log'")
		m.install()
		m.sh("docker exec mrunning sh -c 'echo upgraded >> /data/log'")
		if got, want := m.sh("cat "+fleet.DataDir(v)+"/log"), "started\nset\nremoved\nupgraded"; got != want {
			t.Errorf("the volume has %q, want %q", got, want)
		}
		if got := the.Inspect(t, m.host, "mupgrade").Labels["keep"]; got != "me" {
			t.Errorf("Docker's label is %q now", got)
		}
		m.sh("docker restart -t 0 mrunning")
		m.started("mrunning", 2)
		m.sh("docker rm -f mrunning")
		m.free("mupgrade")
		if got := the.InVolume(t, "h2", "mupgrade", "grep -c . /data/log"); got != "5" {
			t.Errorf("h2 reads %s lines, want 5", got)
		}
	})
}

func TestC99ManagedPluginComesBackWithDocker(t *testing.T) {
	onManaged(t, func(t *testing.T, m managedHost) {
		m.volume("mdocker")
		m.run("malways", "mdocker", "--restart=always")
		m.started("malways", 1)
		m.sh("systemctl restart docker")
		m.started("malways", 2)
		m.sh("systemctl kill -s KILL docker")
		fleet.Eventually(t, 60*time.Second, func() string {
			if r := the.TryOn(t, m.host, "docker", "version"); r.Code != 0 {
				return r.String()
			}
			return ""
		})
		m.started("malways", 3)
		if got := the.Inspect(t, m.host, "mdocker").Labels["keep"]; got != "me" {
			t.Errorf("Docker's label is %q now", got)
		}
		m.sh("docker rm -f malways")
		m.free("mdocker")
		if got := the.InVolume(t, "h2", "mdocker", "grep -c started /data/log"); got != "3" {
			t.Errorf("h2 reads %s starts, want 3", got)
		}
	})
}

func TestC99ManagedPluginMayBeKilled(t *testing.T) {
	onManaged(t, func(t *testing.T, m managedHost) {
		m.volume("mkilled")
		m.run("mhit", "mkilled")
		m.started("mhit", 1)
		m.sh("kill -9 $(pidof mobyfs-plugin)")
		m.up()
		m.sh("docker exec mhit sh -c 'echo alive >> /data/log' && docker rm -f mhit")
		m.free("mkilled")
		if got := the.InVolume(t, "h2", "mkilled", "cat /data/log"); got != "started\nalive" {
			t.Errorf("h2 reads %q", got)
		}

		// Killed while a Mount waits for h2: nobody uses the volume then.
		m.free("mkilled")
		the.Sh(t, "h2", "systemctl stop mobyfs.socket mobyfs")
		defer the.Sh(t, "h2", "systemctl start mobyfs.socket mobyfs")
		run := the.CmdOn(m.host, "docker", "run", "--rm", "-v", "mkilled:/data", "--volume-driver", managedName, "busybox", "true")
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		fleet.Eventually(t, 60*time.Second, func() string {
			if the.Volume(t, "mkilled").Migration == nil {
				return "the Mount has not begun to wait"
			}
			return ""
		})
		m.sh("kill -9 $(pidof mobyfs-plugin)")
		if err := run.Wait(); err == nil {
			t.Error("a container started without its volume")
		}
		the.Sh(t, "h2", "systemctl start mobyfs.socket mobyfs")
		m.up()
		fleet.Eventually(t, 90*time.Second, func() string {
			if v := the.Volume(t, "mkilled"); v.Migration != nil || v.Lease != nil {
				return "the volume is not at rest: " + v.Condition()
			}
			return ""
		})
		if got := the.InVolume(t, "h2", "mkilled", "cat /data/log"); got != "started\nalive" {
			t.Errorf("h2 reads %q", got)
		}
	})
}

// TestC99ManagedPluginNeverMakesDockerForget: while the agent is away Docker hears that nobody knows.
func TestC99ManagedPluginNeverMakesDockerForget(t *testing.T) {
	onManaged(t, func(t *testing.T, m managedHost) {
		m.volume("mkept")
		m.sh("systemctl stop mobyfs.socket mobyfs")
		defer m.sh("systemctl start mobyfs.socket mobyfs")
		r := the.TryOn(t, m.host, "docker", "volume", "inspect", "mkept")
		t.Logf("%v", r)
		if strings.Contains(strings.ToLower(r.Stdout+r.Stderr), "no such volume") {
			t.Errorf("Docker was told that the volume is gone: %v", r)
		}
		m.sh("systemctl start mobyfs.socket mobyfs")
		if d := the.Inspect(t, m.host, "mkept"); d.Labels["keep"] != "me" {
			t.Errorf("Docker forgot the volume's label: %+v", d)
		}
	})
}
