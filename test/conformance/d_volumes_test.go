package conformance

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

func TestC27CreatedVolumeIsFoundListedAndDated(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c27")
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		here, there := the.Inspect(t, on.name, volume), the.Inspect(t, other, volume)
		at, err := time.Parse(time.RFC3339, here.CreatedAt)
		if err != nil || at.After(time.Now()) || time.Since(at) > time.Minute {
			t.Errorf("it was created at %q: %v", here.CreatedAt, err)
		}
		mustBe(t, "CreatedAt on another node", there.CreatedAt, here.CreatedAt)
		if n := strings.Count(on.docker(t, "volume", "ls", "-q"), volume); n != 1 {
			t.Errorf("it is listed %d times", n)
		}
	})
}

func TestC28CreateAgainAgreesOrNamesTheDifference(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c28")
		create := func(size string) request {
			return on.asDocker("VolumeDriver.Create", args("Name", volume, "Opts", map[string]string{"size": size}))
		}
		peer := &host{name: other, engine: "20.10"}
		done := make(chan []said)
		go func() { done <- peer.wire(t, 5, slices.Repeat([]request{create("5M")}, 5)...) }()
		for _, s := range append(on.wire(t, 5, slices.Repeat([]request{create("5M")}, 5)...), <-done...) {
			s.succeeded(t)
		}
		if n := strings.Count(list(t), `"`+volume+`"`); n != 1 {
			t.Errorf("there are %d volumes, want 1", n)
		}
		a := on.wire(t, 1, create("6M"))[0].answer(t)
		fleet.Has(t, *a.Err, volume, "5M", "6M")
	})
}

func TestC29CreateWithABadOptionLeavesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c29")
		for opt, word := range map[string]string{"size=lots": "lots", "size=-1": "-1", "sise=1G": "size", "backend=ext5": "dir", "fs=ext5": "fs"} {
			r := on.tryDocker(t, "volume", "create", "-d", "mobyfs", "-o", opt, volume)
			if r.Code == 0 {
				t.Errorf("-o %s was accepted", opt)
			}
			fleet.Has(t, r.Stderr, word)
		}
		if exists(t, volume) || slices.Contains(on.names(t), volume) {
			t.Error("a refused volume is there")
		}
	})
}

func TestC30NamesAreRefusedOrWorkToTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		before := list(t)
		for _, name := range []string{"", "x", "../../etc/passwd", "../" + on.name, "a/b", ".", "..", "-dash", "new\nline", "nul\x00", "café", "cafe\u0301",
			"\xff\xfe", "a b", "<b>", `"quoted"`, strings.Repeat("x", 129), strings.Repeat("x", 20_000)} {
			text := on.refused(t, "Create", "Name", name)
			if strings.ContainsAny(text, "\n\r\x00") || len(text) > 400 {
				t.Errorf("%.40q is refused with %q, want one clear line", name, text)
			}
		}
		if after := list(t); strings.Contains(after, "etc") || len(before) > 0 && strings.Contains(after, `"x"`) {
			t.Errorf("the catalogue changed: %s", after)
		}
		for _, suffix := range []string{"..", "__", strings.Repeat("y", 100), ".lock"} {
			name := on.volume(t, "C30.")
			on.remove(t, name)
			name += suffix
			t.Cleanup(func() { on.remove(t, name) })
			mustBe(t, "through a container", the.InVolume(t, on.name, name, "echo here > /data/x; cat /data/x"), "here")
			fleet.Has(t, on.refused(t, "Create", "Name", strings.ToLower(name)), name)
			on.docker(t, "volume", "rm", name)
		}
	})
}

func TestC31UnknownNamesAreToldAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		get := on.asDocker("VolumeDriver.Get", args("Name", "c31-never-made"))
		answers := on.wire(t, 1, slices.Repeat([]request{get}, 9)...)
		for _, s := range answers {
			mustBe(t, "Get", *s.answer(t).Err, "no such volume")
		}
		if took := usual(answers); took >= 50 {
			t.Errorf("it took %d ms", took)
		}
	})
}

func TestC31ImpossibleNamesNeedNoControl(t *testing.T) {
	withoutControl(t)
	onBoth(t, func(t *testing.T, on *host) {
		for _, name := range []string{"../x", "a/b", "", strings.Repeat("x", 300)} {
			answers := on.wire(t, 1, slices.Repeat([]request{on.asDocker("VolumeDriver.Get", args("Name", name))}, 9)...)
			mustBe(t, name, *answers[0].answer(t).Err, "no such volume")
			if took := usual(answers); took >= 50 {
				t.Errorf("%.20q took %d ms", name, took)
			}
		}
	})
}

// label is what Docker alone knows of a volume: it forgets it if Get answers an error.
func label(t *testing.T, on *host, volume string) string {
	t.Helper()
	return the.Inspect(t, on.name, volume).Labels["keep"]
}

func TestC32KnownVolumesAreToldWhileControlIsAway(t *testing.T) {
	volumes := map[string]string{}
	bootstrap(t)
	for _, on := range engines {
		volumes[on.name] = on.volume(t, "c32")
		on.docker(t, "volume", "create", "-d", "mobyfs", "--label", "keep=yes", volumes[on.name])
	}
	withoutControl(t)
	onBoth(t, func(t *testing.T, on *host) {
		fleet.Eventually(t, 60*time.Second, func() string {
			if the.Inspect(t, on.name, volumes[on.name]).Status["stale"] != true {
				return "it is not marked as stale"
			}
			return ""
		})
		mustBe(t, "Docker's label", label(t, on, volumes[on.name]), "yes")
		if !slices.Contains(on.names(t), volumes[on.name]) {
			t.Error("it is not listed")
		}
		on.sh(t, "systemctl restart mobyfs") // an agent that has never heard of control in its life
		mustBe(t, "Docker's label after a restart", label(t, on, volumes[on.name]), "yes")
	})
}

// TestC33NamesNeverSeenAreNotDeniedWhileControlIsAway: the agent has even lost its catalogue, and Docker knows a volume
// of which it has never heard in its life.
func TestC33NamesNeverSeenAreNotDeniedWhileControlIsAway(t *testing.T) {
	volumes := map[string]string{}
	bootstrap(t)
	for _, on := range engines {
		volumes[on.name] = on.volume(t, "c33")
		the.On(t, other, "docker", "volume", "create", "-d", "mobyfs", volumes[on.name])
		on.docker(t, "volume", "create", "-d", "mobyfs", "--label", "keep=yes", volumes[on.name])
	}
	withoutControl(t)
	t.Run("away", func(t *testing.T) {
		onBoth(t, func(t *testing.T, on *host) {
			on.sh(t, "systemctl stop mobyfs; rm /var/lib/mobyfs/state/catalogue.json; systemctl start mobyfs")
			s := on.wire(t, 1, on.asDocker("VolumeDriver.Get", args("Name", volumes[on.name])))[0]
			if s.Bytes != 0 || s.Took > 2100 {
				t.Errorf("got %+v, want it cut within 2 s", s)
			}
			r := on.tryDocker(t, "volume", "inspect", volumes[on.name])
			if r.Code == 0 || strings.Contains(strings.ToLower(r.Stderr), "no such volume") {
				t.Errorf("Docker says %v, want that it could not ask", r)
			}
		})
	})
	startControl(t)
	t.Run("back", func(t *testing.T) {
		onBoth(t, func(t *testing.T, on *host) {
			mustBe(t, "Docker's label", label(t, on, volumes[on.name]), "yes")
		})
	})
}

func TestC34GetOfAVolumeThatExistsIsAlwaysAVolume(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c34")
		check := func(state string) {
			t.Helper()
			v := on.do(t, "Get", "Name", volume).Volume
			if v == nil || v.Name != volume || !strings.HasPrefix(v.Mountpoint, "/") {
				t.Fatalf("%s: got %+v", state, v)
			}
			if _, err := time.Parse(time.RFC3339, v.CreatedAt); err != nil {
				t.Errorf("%s: %v", state, err)
			}
		}
		on.do(t, "Create", "Name", volume)
		check("new")
		on.do(t, "Mount", "Name", volume, "ID", "x")
		check("mounted")
		on.do(t, "Unmount", "Name", volume, "ID", "x")
		check("unmounted")
		the.Ctl(t, "volume", "move", volume, "--to", other)
		check("moved away")
	})
}

func TestC35PathIsTheSameForLife(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c35")
		on.do(t, "Create", "Name", volume)
		path := on.do(t, "Get", "Name", volume).Volume.Mountpoint
		if !strings.HasPrefix(path, "/") {
			t.Errorf("the path is %q", path)
		}
		mustBe(t, "Mount", on.do(t, "Mount", "Name", volume, "ID", "x").Mountpoint, path)
		mustBe(t, "Get during the mount", on.do(t, "Get", "Name", volume).Volume.Mountpoint, path)
		on.sh(t, "test -d %s", path)
		on.do(t, "Unmount", "Name", volume, "ID", "x")
		free(t, volume)
		mustBe(t, "Get after the mount", on.do(t, "Get", "Name", volume).Volume.Mountpoint, path)
	})
}

func TestC38RemovedVolumeIsGoneEverywhereAndMayBeRemovedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c38")
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		on.docker(t, "volume", "rm", volume)
		for h := range the.Hosts {
			if the.DockerLists(t, h, volume) {
				t.Errorf("%s lists it", h)
			}
		}
		on.do(t, "Remove", "Name", volume)
		on.do(t, "Remove", "Name", "c38-never-made")
	})
}

// TestC39RemoveWhileAContainerRunsKeepsTheData: Docker is made to forget the volume, so it does not refuse by itself.
func TestC39RemoveWhileAContainerRunsKeepsTheData(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c39")
		on.start(t, volume, volume)
		if r := on.tryDocker(t, "volume", "rm", volume); r.Code == 0 {
			t.Error("Docker removed a volume that it knows to be in use")
		}
		admit := on.deny(t, volume)
		on.tryDocker(t, "volume", "inspect", volume) // Docker learns that there is no such volume, and forgets who uses it
		admit()
		r := on.tryDocker(t, "volume", "rm", volume)
		if r.Code == 0 || !strings.HasSuffix(on.changes(t, volume), "Remove") {
			t.Errorf("docker volume rm says %v after the calls %s, want a Remove that is refused", r, on.changes(t, volume))
		}
		fleet.Has(t, r.Stderr, volume, "in use", on.name)
		mustBe(t, "the data", on.started(t, volume, 1), "")
		if !exists(t, volume) {
			t.Error("the volume is gone")
		}
	})
}

func TestC40RemoveWhileAnotherHostUsesItNamesThatHost(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c40")
		defer the.TryOn(t, other, "docker", "rm", "-f", volume)
		the.On(t, other, "docker", "run", "-d", "--name", volume, "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
		fleet.Has(t, on.refused(t, "Remove", "Name", volume), volume, other)
		r := on.tryDocker(t, "volume", "rm", volume)
		fleet.Has(t, r.Stderr, volume, other)
		the.On(t, other, "docker", "exec", volume, "touch", "/data/still-there")
		the.On(t, other, "docker", "rm", "-f", volume)
	})
}

// TestC40StaleCountsDontBlockRemove: a use that no container stands behind, as after a kill of dockerd.
func TestC40StaleCountsDontBlockRemove(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c40s")
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		on.do(t, "Mount", "Name", volume, "ID", "stale")
		fleet.Eventually(t, 30*time.Second, func() string { return on.tryDocker(t, "volume", "rm", volume).Stderr })
		if exists(t, volume) {
			t.Error("the volume is still there")
		}
		on.hasUses(t, volume, 0)
	})
}

func TestC41ForcedRemoveOfAVolumeInUseLosesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c41")
		defer the.TryOn(t, other, "docker", "rm", "-f", volume)
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		the.On(t, other, "docker", "run", "-d", "--name", volume, "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sh", "-c", "echo precious > /data/x; sleep 100000")
		on.tryDocker(t, "volume", "rm", "-f", volume) // Docker forgets the volume, whatever the driver says
		if !slices.Contains(on.names(t), volume) {
			t.Error("it is not listed any more")
		}
		mustBe(t, "the data", the.On(t, other, "docker", "exec", volume, "cat", "/data/x"), "precious")
		the.On(t, other, "docker", "rm", "-f", volume)
	})
}

func TestC42PathOfMountedUnmountedAndUnknown(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c42")
		on.refused(t, "Path", "Name", volume)
		on.do(t, "Create", "Name", volume)
		path := on.do(t, "Path", "Name", volume).Mountpoint
		mustBe(t, "mounted", on.do(t, "Mount", "Name", volume, "ID", "x").Mountpoint, path)
		mustBe(t, "Path of a mounted one", on.do(t, "Path", "Name", volume).Mountpoint, path)
		on.do(t, "Unmount", "Name", volume, "ID", "x")
	})
}

func TestC43SecretsInOptionsAreShownNowhere(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c43")
		secret := "hunter2-" + on.name
		on.sh(t, "sed -i '/^MOBYFS_LOG/d' /etc/mobyfs/mobyfs.env; echo MOBYFS_LOG=debug >> /etc/mobyfs/mobyfs.env; systemctl kill -s HUP mobyfs")
		defer on.sh(t, "sed -i '/^MOBYFS_LOG/d' /etc/mobyfs/mobyfs.env; systemctl kill -s HUP mobyfs")
		for _, opts := range []string{"-o password=" + secret, "-o backend=dir -o key=" + secret, "-o size=1MiB -o token=" + secret} {
			r := on.try(t, "docker volume create -d mobyfs %s %s", opts, volume)
			if r.Code == 0 || strings.Contains(r.Stderr+r.Stdout, secret) {
				t.Errorf("%s: %v", opts, r)
			}
		}
		on.docker(t, "volume", "create", "-d", "mobyfs", volume)
		status, err := json.Marshal(the.Inspect(t, on.name, volume).Status)
		if logs := on.sh(t, "journalctl -u mobyfs -u mobyfs-control --no-pager"); err != nil || strings.Contains(logs+string(status)+list(t), secret) {
			t.Errorf("the secret is in a log or a status: %v", err)
		}
	})
}

func TestC44ErrorsAreOneLineWithTheVolumeAndTheWayOut(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c44")
		defer the.TryOn(t, other, "docker", "rm", "-f", volume)
		the.On(t, other, "docker", "run", "-d", "--name", volume, "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
		for what, text := range map[string]string{
			"mounted elsewhere": on.refused(t, "Mount", "Name", volume, "ID", "x"),
			"removed elsewhere": on.refused(t, "Remove", "Name", volume),
			"other options":     on.refused(t, "Create", "Name", volume, "Opts", map[string]string{"size": "7MiB"}),
			"hostile name":      on.refused(t, "Create", "Name", "<"+volume+">\n\"\u202e\x1b[31m"),
			"hostile option":    on.refused(t, "Create", "Name", volume, "Opts", map[string]string{"<o\n\x00\">": "v"}),
			"hostile ID":        on.refused(t, "Mount", "Name", volume, "ID", strings.Repeat("x\n", 500)),
		} {
			if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) || !strings.Contains(text, " – ") && what != "hostile ID" || len(text) > 400 {
				t.Errorf("%s: %q is not one line with the way out", what, text)
			}
			if !strings.HasPrefix(what, "hostile") {
				fleet.Has(t, text, volume)
			}
		}
		the.On(t, other, "docker", "rm", "-f", volume)
	})
}
