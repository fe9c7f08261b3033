package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// run is docker run --rm with a volume at /data, of a shell line.
func (h *host) run(t *testing.T, volume, line string, more ...string) string {
	t.Helper()
	args := append([]string{"run", "--rm", "-v", volume + ":/data", "--volume-driver=mobyfs"}, more...)
	return h.docker(t, append(args, "busybox", "sh", "-c", line)...)
}

func TestC45NamedVolumeIsKeptUntilItIsRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c45")
		mustBe(t, "the container", on.run(t, volume, "echo hello > /data/x; cat /data/x"), "hello")
		mustBe(t, "its calls", on.changes(t, volume), "Create Mount Unmount")
		on.docker(t, "volume", "rm", volume)
		mustBe(t, "with the removal", on.changes(t, volume), "Create Mount Unmount Remove")
	})
}

func TestC46UnnamedVolumeGoesWithItsContainer(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		// The container tells its volume's name before it and the volume go.
		on.docker(t, "create", "--rm", "--name", "c46", "-v", "/data", "--volume-driver=mobyfs", "busybox", "true")
		volume := on.docker(t, "inspect", "c46", "--format", "{{(index .Mounts 0).Name}}")
		on.docker(t, "start", "-a", "c46")
		fleet.Eventually(t, 60*time.Second, func() string {
			if got := on.changes(t, volume); got != "Create Mount Unmount Remove" {
				return "its calls are " + got
			}
			return ""
		})
		if exists(t, volume) {
			t.Error("the volume is still there")
		}
	})
}

func TestC47VolumesFromMountsWithAnIDOfItsOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c47")
		on.start(t, volume, volume)
		on.docker(t, "run", "--rm", "--volumes-from", volume, "busybox", "touch", "/data/from-the-second")
		on.docker(t, "exec", volume, "test", "-e", "/data/from-the-second")
		on.docker(t, "rm", "-f", volume)
		mustBe(t, "its calls", on.changes(t, volume), "Create Mount Mount Unmount Unmount")
		ids := map[string]int{}
		for _, c := range on.calls(t, volume) {
			if c.ID != "" {
				ids[c.ID]++
			}
		}
		if len(ids) != 2 {
			t.Errorf("the IDs are %v, want two, twice each", ids)
		}
		on.noUses(t, volume)
	})
}

func TestC48ForcedRemoveOfARunningContainer(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		named := on.volume(t, "c48")
		on.docker(t, "run", "-d", "--name", "c48", "-v", named+":/named", "-v", "/unnamed", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
		unnamed := on.docker(t, "inspect", "c48", "--format", `{{range .Mounts}}{{if eq .Destination "/unnamed"}}{{.Name}}{{end}}{{end}}`)
		on.docker(t, "rm", "-fv", "c48")
		mustBe(t, "calls for the named one", on.changes(t, named), "Create Mount Unmount")
		mustBe(t, "calls for the unnamed one", on.changes(t, unnamed), "Create Mount Unmount Remove")
		on.noUses(t, named)
	})
}

// TestC49CreateBeforeTheDriverIsThere and C50: one call waits for the driver, and holds up nobody else meanwhile.
func TestC49CreateBeforeTheDriverIsThere(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c49")
		on.sh(t, "systemctl stop recorder; rm %s", socket)
		created := make(chan fleet.Result, 1)
		go func() { created <- on.tryDocker(t, "volume", "create", "-d", "mobyfs", volume) }()
		on.sh(t, "sleep 3")
		on.startRecorder(t)
		if r := <-created; r.Code != 0 || !exists(t, volume) {
			t.Errorf("docker volume create says %v", r)
		}
	})
}

func TestC50DriverThatIsDownHoldsUpNobodyElse(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c50")
		on.sh(t, "systemctl stop recorder; rm %s", socket)
		created := make(chan fleet.Result, 1)
		go func() { created <- on.tryDocker(t, "volume", "create", "-d", "mobyfs", volume) }()
		took := on.sh(t, `sleep 1; start=$(date +%s%N)
			docker volume create c50-local >/dev/null && docker run --rm -v c50-local:/data busybox true
			echo $(( ($(date +%s%N) - start) / 1000000 )); docker volume rm c50-local >/dev/null`)
		if len(took) > 4 {
			t.Errorf("a local volume took %s ms", took)
		}
		on.startRecorder(t)
		<-created
	})
}

func TestC51InspectOfAContainerShowsDriverAndSource(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c51")
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		on.docker(t, "volume", "inspect", volume) // what Docker knows of the path it has from Get
		on.docker(t, "run", "-d", "--name", volume, "-v", volume+":/data", "busybox", "sleep", "100000")
		var mounts []struct{ Type, Name, Source, Driver string }
		text := on.docker(t, "inspect", volume, "--format", "{{json .Mounts}}")
		if err := json.Unmarshal([]byte(text), &mounts); err != nil || len(mounts) != 1 {
			t.Fatalf("%v in %s", err, text)
		}
		if m := mounts[0]; m.Driver != "mobyfs" || m.Name != volume || m.Source != the.Inspect(t, on.name, volume).Mountpoint {
			t.Errorf("got %+v", m)
		}
	})
}

// count is how often dockerd has made a call that names no volume.
func (h *host) count(t *testing.T, name string) int {
	t.Helper()
	n := 0
	for _, c := range h.calls(t, "") {
		if c.Call == name {
			n++
		}
	}
	return n
}

func TestC52ListCostsOneCall(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c52")
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		lists := on.count(t, "List")
		on.docker(t, "volume", "ls")
		if got := on.count(t, "List") - lists; got != 1 {
			t.Errorf("docker volume ls made %d calls of List", got)
		}
		if calls := on.changes(t, volume); strings.Contains(calls, "Path") {
			t.Errorf("it asked for the path: %s", calls)
		}
	})
}

func TestC53InspectShowsTheStatus(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c53")
		on.docker(t, "volume", "create", "-d", "mobyfs", "-o", "size=5MiB", volume)
		v := the.Inspect(t, on.name, volume)
		if v.Scope != "global" || v.Status["node"] != on.name || v.Status["size"] != "5.0 MiB" || v.Status["state"] != "ready" || v.Status["fence"] == nil || v.Status["backend"] != "dir" {
			t.Errorf("got %+v", v)
		}
	})
}

func TestC54VolumeIsUsableAfterARestartOfDockerd(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c54")
		on.run(t, volume, "echo before > /data/x")
		on.restartDockerd(t)
		mustBe(t, "the volume", on.run(t, volume, "cat /data/x"), "before")
	})
}

// TestC55GetNeverAnswersANullVolume: Docker would end with it.
func TestC55GetNeverAnswersANullVolume(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c55")
		get := on.asDocker("VolumeDriver.Get", args("Name", volume))
		answers := on.wire(t, 1, get, on.asDocker("VolumeDriver.Create", args("Name", volume)), get, on.asDocker("VolumeDriver.Remove", args("Name", volume)), get)
		for i, want := range map[int]bool{0: false, 2: true, 4: false} {
			a := answers[i].answer(t)
			if strings.Contains(answers[i].Body, "null") || (a.Volume != nil) != want || (*a.Err == "") != want {
				t.Errorf("Get %d: got %s", i, answers[i].Body)
			}
		}
	})
}

func TestC56CapabilitiesAreAskedForOnceInDockerdsLife(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c56")
		on.run(t, volume, "true")
		lives, before := on.count(t, "Activate"), on.count(t, "Capabilities")
		on.restartDockerd(t)
		on.run(t, volume, "true")
		on.docker(t, "volume", "inspect", volume)
		on.docker(t, "volume", "ls")
		if got := on.count(t, "Activate") - lives; got != 1 {
			t.Errorf("one life of dockerd activates %d times", got)
		}
		if got := on.count(t, "Capabilities") - before; got != 1 {
			t.Errorf("one life of dockerd asks for the capabilities %d times", got)
		}
	})
}

func TestC57NameOfAVolumeRemovedBehindDockersBackIsFree(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c57")
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		the.Ctl(t, "volume", "rm", volume)
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		if !exists(t, volume) {
			t.Error("Docker did not ask for the volume again")
		}
		the.Ctl(t, "volume", "rm", volume)
		on.docker(t, "volume", "create", "-d", "local", volume)
		mustBe(t, "the driver of the third", on.docker(t, "volume", "inspect", volume, "--format", "{{.Driver}}"), "local")
		on.docker(t, "volume", "rm", volume)
	})
}

func TestC58MountThatFailedLeavesNoReference(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c58")
		defer the.TryOn(t, other, "docker", "rm", "-f", volume)
		the.On(t, other, "docker", "run", "-d", "--name", volume, "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
		if r := on.tryDocker(t, "run", "--name", volume, "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "true"); r.Code == 0 {
			t.Error("two hosts use the volume at once")
		}
		mustBe(t, "its calls", on.changes(t, volume), "Mount")
		on.hasUses(t, volume, 0)
		the.On(t, other, "docker", "rm", "-f", volume)
		on.docker(t, "rm", volume)
		on.docker(t, "volume", "rm", volume)
	})
}

func TestC59CopyIntoARunningContainerLeavesTheCount(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c59")
		on.start(t, volume, volume)
		before := fmt.Sprint(on.uses(t, volume))
		on.docker(t, "cp", "/etc/hostname", volume+":/data/copied")
		on.docker(t, "cp", volume+":/data/copied", "/tmp/copied")
		// Docker mounts for each request that cp makes, the one that asks what kind of file it is included.
		calls := strings.TrimPrefix(on.changes(t, volume), "Create Mount")
		if pairs := strings.Count(calls, " Mount Unmount"); pairs < 2 || strings.ReplaceAll(calls, " Mount Unmount", "") != "" {
			t.Errorf("cp made the calls%s", calls)
		}
		mustBe(t, "the count", fmt.Sprint(on.uses(t, volume)), before)
		if r := the.TryOn(t, other, "docker", "run", "--rm", "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "true"); r.Code == 0 {
			t.Error("another host could use the volume")
		}
		on.docker(t, "exec", volume, "test", "-s", "/data/copied")
		on.docker(t, "rm", "-f", volume)
		on.noUses(t, volume)
	})
}

func TestC60LocalVolumeOfTheSameNameIsNotHarmed(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c60")
		on.docker(t, "volume", "create", "-d", "local", volume)
		on.docker(t, "run", "--rm", "-v", volume+":/data", "busybox", "sh", "-c", "echo local > /data/x")
		the.InVolume(t, other, volume, "echo of the cluster > /data/x")
		r := on.tryDocker(t, "volume", "create", "-d", "mobyfs", volume)
		if r.Code == 0 {
			t.Error("Docker has two volumes of one name")
		}
		fleet.Has(t, r.Stderr, volume, "local")
		mustBe(t, "the local one", on.docker(t, "run", "--rm", "-v", volume+":/data", "busybox", "cat", "/data/x"), "local")
		mustBe(t, "the cluster's", the.InVolume(t, other, volume, "cat /data/x"), "of the cluster")
		on.docker(t, "volume", "rm", volume)
	})
}

// image is one that has files where a volume will be.
func (h *host) image(t *testing.T) string {
	t.Helper()
	h.sh(t, `docker image inspect c61 >/dev/null 2>&1 || {
		docker run --name c61-make busybox sh -c 'mkdir /full && echo "from the image" > /full/x && chown -R 1234:1235 /full && chmod 2750 /full && chmod 600 /full/x' &&
		docker commit c61-make c61 && docker rm c61-make; }`)
	return "c61"
}

const lookAtFull = `stat -c "%u:%g %a" /full /full/x; cat /full/x; ls -A /full`

func TestC61FilesOfTheImageArriveInANewVolume(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c61")
		got := on.docker(t, "run", "--rm", "-v", volume+":/full", "--volume-driver=mobyfs", on.image(t), "sh", "-c", lookAtFull)
		mustBe(t, "in the volume", got, "1234:1235 2750\n1234:1235 600\nfrom the image\nx")
	})
}

func TestC62NocopyAndReadOnlyAreRespected(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c62")
		mustBe(t, "with nocopy", on.docker(t, "run", "--rm", "-v", volume+":/full:nocopy", "--volume-driver=mobyfs", on.image(t), "ls", "-A", "/full"), "")
		on.run(t, volume, "echo written > /data/x")
		r := on.tryDocker(t, "run", "--rm", "-v", volume+":/data:ro", "--volume-driver=mobyfs", "busybox", "sh", "-c", "cat /data/x; echo overwritten > /data/x")
		if r.Code == 0 || strings.TrimSpace(r.Stdout) != "written" {
			t.Errorf("a read-only volume: %v", r)
		}
		fleet.Has(t, r.Stderr, "Read-only")
	})
}

// TestC63VolumeSubpath: 20.10 does not know it.
func TestC63VolumeSubpath(t *testing.T) {
	bootstrap(t)
	on := engines[1]
	t.Run(on.engine, func(t *testing.T) {
		volume := on.volume(t, "c63")
		on.run(t, volume, "mkdir /data/sub; echo below > /data/sub/x; echo above > /data/y")
		got := on.docker(t, "run", "--rm", "--mount", "type=volume,src="+volume+",dst=/data,volume-driver=mobyfs,volume-subpath=sub", "busybox", "sh", "-c", "ls /data; cat /data/x")
		mustBe(t, "the container sees", got, "x\nbelow")
	})
}

func TestC64MountWithVolumeOptions(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c64")
		on.docker(t, "run", "--rm", "--mount", "type=volume,src="+volume+",dst=/data,volume-driver=mobyfs,volume-opt=size=5MiB", "busybox", "true")
		for _, c := range on.calls(t, volume) {
			if c.Call == "Create" && c.Opts["size"] != "5MiB" {
				t.Errorf("Create had the options %v", c.Opts)
			}
		}
		if got := the.Volume(t, volume).Spec.SizeBytes; got != 5<<20 {
			t.Errorf("the volume has %d bytes", got)
		}
	})
}

func TestC65TwoContainersShareAVolume(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c65")
		on.start(t, volume, volume)
		on.docker(t, "run", "-d", "--name", volume+"-2", "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
		on.docker(t, "exec", volume+"-2", "sh", "-c", "echo shared > /data/x")
		mustBe(t, "the first reads", on.docker(t, "exec", volume, "cat", "/data/x"), "shared")
		on.hasUses(t, volume, 2)
		on.docker(t, "rm", "-f", volume)
		on.hasUses(t, volume, 1)
		if r := the.TryOn(t, other, "docker", "run", "--rm", "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "true"); r.Code == 0 {
			t.Error("another host could use the volume before the second container ended")
		}
		on.docker(t, "rm", "-f", volume+"-2")
		on.hasUses(t, volume, 0)
		mustBe(t, "another host reads", the.InVolume(t, other, volume, "cat /data/x"), "shared")
	})
}

func TestC66OneVolumeTwiceInOneContainer(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c66")
		got := on.docker(t, "run", "--rm", "-v", volume+":/a", "-v", volume+":/b", "--volume-driver=mobyfs", "busybox", "sh", "-c", "echo one > /a/x; cat /b/x")
		mustBe(t, "the container reads", got, "one")
		mustBe(t, "its calls", on.changes(t, volume), "Create Mount Mount Unmount Unmount")
		on.noUses(t, volume)
	})
}

func TestC67VolumeIsAdoptedWithoutNamingTheDriver(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c67")
		the.InVolume(t, other, volume, "echo made elsewhere > /data/x")
		mustBe(t, "the container reads", on.docker(t, "run", "--rm", "-v", volume+":/data", "busybox", "cat", "/data/x"), "made elsewhere")
		if v := the.Volume(t, volume); v.Node != on.name {
			t.Errorf("the volume is on %s", v.Node)
		}
		mustBe(t, "its driver", the.Inspect(t, on.name, volume).Driver, "mobyfs")
	})
}

// TestC68UserNamespacesDontStopAContainer: a second dockerd on the host maps root to somebody else.
func TestC68UserNamespacesDontStopAContainer(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c68")
		t.Cleanup(func() {
			// The second dockerd took the first one's bridge away.
			on.sh(t, "systemctl stop mapped; rm -rf /srv/mapped /run/mapped*; userdel dockremap")
			on.restartDockerd(t)
		})
		on.sh(t, `id dockremap >/dev/null 2>&1 || useradd --system dockremap
			grep -q dockremap /etc/subuid || { echo dockremap:500000:65536 >> /etc/subuid; echo dockremap:500000:65536 >> /etc/subgid; }
			systemd-run -q --unit=mapped dockerd --userns-remap=default -H unix:///run/mapped.sock --data-root /srv/mapped --storage-driver vfs \
				--exec-root /run/mapped --pidfile /run/mapped.pid --bridge=none --iptables=false
			for i in $(seq 300); do docker -H unix:///run/mapped.sock version >/dev/null 2>&1 && break; sleep 0.1; done
			docker -H unix:///run/mapped.sock version >/dev/null || { journalctl -u mapped --no-pager -n 20 >&2; exit 1; }
			docker save busybox | docker -H unix:///run/mapped.sock load`)
		got := on.sh(t, "docker -H unix:///run/mapped.sock run --rm --network none -v %s:/data --volume-driver=mobyfs busybox sh -c 'cat /proc/self/uid_map; ls -A /data; echo started'", volume)
		if fields := strings.Fields(got); len(fields) < 3 || fields[1] == "0" || !slices.Contains(fields, "started") {
			t.Errorf("the container says %q, want that its root is somebody else", got)
		}
		on.noUses(t, volume)
	})
}
