package test

import (
	"crypto/tls"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// anonymousGet asks a TLS server something without a certificate of one's own.
func anonymousGet(addr string) error {
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	resp, err := client.Get("https://" + addr + "/v1/volumes")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestScenario01VolumeIsCreatedWhereAsked(t *testing.T) {
	the.Ctl(t, "volume", "create", "s01", "--node", "h2", "--size", "10MiB")
	defer the.Remove(t, "s01")
	v := the.Volume(t, "s01")
	if v.State != mobyfs.VolumeReady || v.Node != "h2" || v.Spec.SizeBytes != 10<<20 {
		t.Errorf("got %+v, want it ready on h2 with 10 MiB", v)
	}
	d := the.Inspect(t, "h2", "s01")
	if d.Driver != "mobyfs" || d.Scope != "global" || d.Mountpoint != fleet.DataDir(v) || d.CreatedAt == "" {
		t.Errorf("Docker on h2 says %+v", d)
	}
	if out := the.Sh(t, "h2", "stat -c %F "+d.Mountpoint); out != "directory" {
		t.Errorf("the path on h2 is %q", out)
	}
	the.Sh(t, "h1", "! ls /var/lib/mobyfs/volumes/"+string(v.ID))
}

// TestVolumeOfDockersOwnBecomesOneOfTheCluster is about a volume that a container uses at first.
func TestVolumeOfDockersOwnBecomesOneOfTheCluster(t *testing.T) {
	defer the.Remove(t, "taken")
	defer the.TryOn(t, "h1", "sh", "-c", "docker rm -f writer; docker volume rm old")
	the.On(t, "h1", "docker", "run", "-d", "--name", "writer", "-v", "old:/data", "busybox", "sh", "-c",
		"cd /data; mkdir -p d; echo hello > d/x; chmod 640 d/x; ln d/x d/y; ln -s d/x l; mkfifo f; chown -R 70:70 .; touch done; sleep 1000")
	path := the.Sh(t, "h1", "docker volume inspect -f {{.Mountpoint}} old")
	create := []string{"docker", "volume", "create", "-d", "mobyfs", "-o", "from=" + path, "taken"}
	fleet.Eventually(t, 60*time.Second, func() string { return the.TryOn(t, "h1", "ls", path+"/done").Stderr })
	fleet.Has(t, the.TryOn(t, "h1", create...).Stderr, path, "in use", "stop the containers")
	the.On(t, "h1", "docker", "rm", "-f", "writer")

	tree := "cd /data; find . -type f -exec md5sum {} + | sort; find . -exec stat -c '%n %F %a %u:%g %h %Y' {} + | sort"
	inOld := []string{"docker", "run", "--rm", "-v", "old:/data", "busybox", "sh", "-c", tree}
	before := the.On(t, "h1", inOld...)
	the.On(t, "h1", create...)
	if v := the.Volume(t, "taken"); v.State != mobyfs.VolumeReady || v.Node != "h1" {
		t.Errorf("it is %+v", v)
	}
	for _, host := range []string{"h1", "h3"} { // it goes where its container goes
		if got := the.InVolume(t, host, "taken", tree); got != before {
			t.Errorf("on %s it differs:\n%s", host, diffLines(before, got))
		}
	}
	if got := the.On(t, "h1", inOld...); got != before {
		t.Errorf("Docker's own volume was changed:\n%s", diffLines(before, got))
	}
	if r := the.Try(t, "volume", "inspect", "taken", "-o", "json"); !strings.Contains(r.Stdout, path) {
		t.Errorf("mobyctl does not tell where it is from: %v", r)
	}
}

func TestScenario04MoveKeepsAllAttributes(t *testing.T) {
	the.Ctl(t, "volume", "create", "s04", "--node", "h1", "--size", "1MiB", "--label", "app=shop")
	defer the.Remove(t, "s04")
	the.InVolume(t, "h1", "s04", "echo hello > /data/x; chmod 640 /data/x; touch -d '2001-02-03 04:05:06' /data/x")
	before := the.Volume(t, "s04")
	tree := the.TreeOf(t, "h1", before)
	the.Ctl(t, "volume", "move", "s04", "--to", "h3")
	after := the.Volume(t, "s04")
	if after.Node != "h3" || after.Migration != nil || after.Fence <= before.Fence {
		t.Errorf("after the move: %+v", after)
	}
	if after.ID != before.ID || !reflect.DeepEqual(after.Spec, before.Spec) || !after.CreatedAt.Equal(before.CreatedAt) || after.Name != before.Name {
		t.Errorf("attributes changed: %+v, were %+v", after, before)
	}
	if got := the.TreeOf(t, "h3", after); got != tree {
		t.Errorf("the tree changed:\n%s", diffLines(tree, got))
	}
	fleet.Eventually(t, 60*time.Second, func() string {
		if the.TryOn(t, "h1", "ls", fleet.DataDir(after)).Code == 0 {
			return "h1 still has the bytes"
		}
		return ""
	})
	if out := the.Ctl(t, "volume", "move", "s04", "--to", "h3"); !strings.Contains(out, "already") {
		t.Errorf("a second move to h3 says %q", out)
	}
}

func TestScenario05DeletedVolumeIsGoneEverywhere(t *testing.T) {
	the.On(t, "h1", "docker", "volume", "create", "-d", "mobyfs", "s05")
	v := the.Volume(t, "s05")
	the.On(t, "h1", "docker", "volume", "rm", "s05")
	if r := the.Try(t, "volume", "inspect", "s05"); r.Code == 0 {
		t.Errorf("it is still in the catalogue: %v", r)
	}
	fleet.Eventually(t, 60*time.Second, func() string {
		for h := range the.Hosts {
			if the.DockerLists(t, h, "s05") {
				return h + " lists it"
			}
		}
		if the.TryOn(t, v.Node, "ls", fleet.DataDir(v)).Code == 0 {
			return v.Node + " has its bytes"
		}
		return ""
	})
	the.On(t, "h2", "docker", "volume", "create", "-d", "mobyfs", "s05") // the name is free again
	if again := the.Volume(t, "s05"); again.ID == v.ID {
		t.Error("the new volume has the old one's ID")
	}
	the.Remove(t, "s05")
}

func TestScenario10WriteAndReadThroughHTTP(t *testing.T) {
	defer the.Remove(t, "s10")
	defer the.TryOn(t, "h1", "docker", "rm", "-f", "s10web")
	the.InVolume(t, "h1", "s10", `mkdir /data/cgi-bin; printf '#!/bin/sh\ncat > /data/posted\necho\necho stored\n' > /data/cgi-bin/put; chmod +x /data/cgi-bin/put`)
	the.On(t, "h1", "docker", "run", "-d", "--name", "s10web", "-v", "s10:/data", "--volume-driver=mobyfs", "-p", "8088:80", "busybox", "httpd", "-f", "-h", "/data")
	fleet.Eventually(t, 60*time.Second, func() string {
		if r := the.TryOn(t, "h1", "busybox", "wget", "-qO-", "--post-data", "written by HTTP", "http://127.0.0.1:8088/cgi-bin/put"); !strings.Contains(r.Stdout, "stored") {
			return r.String()
		}
		return ""
	})
	if got := the.On(t, "h1", "busybox", "wget", "-qO-", "http://127.0.0.1:8088/posted"); got != "written by HTTP" {
		t.Errorf("read %q", got)
	}
	the.On(t, "h1", "docker", "rm", "-f", "s10web")
	if got := the.InVolume(t, "h2", "s10", "cat /data/posted"); got != "written by HTTP" {
		t.Errorf("on h2 read %q", got)
	}
}

// TestScenario12ContainerComesBackWithItsDataAfterDockerRestarts: also when dockerd is killed, and on both versions
// of Docker.
func TestScenario12ContainerComesBackWithItsDataAfterDockerRestarts(t *testing.T) {
	for _, host := range []string{"h1", "h3"} {
		for _, how := range []struct{ name, do string }{
			{"restart", "systemctl restart docker"},
			{"kill", "kill -9 $(systemctl show -p MainPID --value docker); sleep 0.5; systemctl restart docker"},
		} {
			t.Run(host+" "+how.name, func(t *testing.T) {
				defer the.Remove(t, "s12")
				defer the.TryOn(t, host, "docker", "rm", "-f", "s12c")
				the.On(t, host, "docker", "run", "-d", "--name", "s12c", "--restart=always", "-v", "s12:/data", "--volume-driver=mobyfs",
					"busybox", "sh", "-c", "echo started >> /data/log; exec sleep 100000")
				fleet.Eventually(t, 60*time.Second, func() string { return lines(the, t, host, "s12c", 1) })
				the.Sh(t, host, how.do)
				fleet.Eventually(t, 60*time.Second, func() string { return lines(the, t, host, "s12c", 2) })
				if v := the.Volume(t, "s12"); v.Lease == nil || v.Lease.Node != host {
					t.Errorf("after the restart nobody holds the volume: %+v", v)
				}
				the.On(t, host, "docker", "rm", "-f", "s12c")
				fleet.Eventually(t, 60*time.Second, func() string {
					if v := the.Volume(t, "s12"); v.Lease != nil {
						return "the lease is still held"
					}
					return ""
				})
			})
		}
	}
}

// lines says what is missing until the container has started n times on the same data.
func lines(f *fleet.Fleet, t *testing.T, host, container string, n int) string {
	t.Helper()
	r := f.TryOn(t, host, "docker", "exec", container, "cat", "/data/log")
	if got := strings.Count(r.Stdout, "started"); got < n {
		return r.String()
	}
	return ""
}

// TestDockerThatIsStoppedStaysStopped: systemd holds dockerd's socket, and whoever asks there starts dockerd again.
func TestDockerThatIsStoppedStaysStopped(t *testing.T) {
	defer the.Remove(t, "quiet")
	for _, host := range []string{"h1", "h3"} {
		the.On(t, host, "docker", "run", "-d", "--name", "quietc", "-v", "quiet:/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
		the.Sh(t, host, "systemctl stop docker 2>/dev/null")
		// Everything that the agent asks dockerd after an Unmount, it asks within nine seconds.
		the.Sh(t, host, "for i in $(seq 24); do sleep 0.5; [ $(systemctl is-active docker) = inactive ] || exit 1; done")
		the.Sh(t, host, "systemctl start docker; docker rm -f quietc")
	}
}

func TestScenario13ContainerRunsWithNewAndWithGivenVolume(t *testing.T) {
	defer the.Remove(t, "s13new", "s13api")
	if got := the.InVolume(t, "h3", "s13new", "echo new > /data/x; cat /data/x"); got != "new" {
		t.Errorf("a new volume: read %q", got)
	}
	the.Ctl(t, "volume", "create", "s13api", "--node", "h1")
	if got := the.InVolume(t, "h3", "s13api", "echo api > /data/x; cat /data/x"); got != "api" {
		t.Errorf("a volume made by mobyctl on another node: read %q", got)
	}
	if v := the.Volume(t, "s13api"); v.Node != "h3" {
		t.Errorf("the volume is on %s, want h3 where its container ran", v.Node)
	}
}

func TestScenario14DataFollowsTheContainer(t *testing.T) {
	defer the.Remove(t, "s14")
	the.InVolume(t, "h1", "s14", "echo 1 > /data/log")
	the.InVolume(t, "h1", "s14", "echo 2 >> /data/log")
	the.InVolume(t, "h2", "s14", "echo 3 >> /data/log")
	the.InVolume(t, "h3", "s14", "echo 4 >> /data/log")
	if got := the.InVolume(t, "h1", "s14", "cat /data/log"); got != "1\n2\n3\n4" {
		t.Errorf("read %q, want what all four containers wrote", got)
	}
}

func TestScenario15VolumesMadeElsewhereAreSeen(t *testing.T) {
	the.On(t, "h1", "docker", "volume", "create", "-d", "mobyfs", "s15")
	defer the.Remove(t, "s15")
	for h := range the.Hosts {
		if !the.DockerLists(t, h, "s15") {
			t.Errorf("docker volume ls on %s lacks s15", h)
		}
		d := the.Inspect(t, h, "s15")
		if d.Name != "s15" || d.Driver != "mobyfs" || d.Status["node"] != "h1" {
			t.Errorf("docker volume inspect on %s says %+v", h, d)
		}
	}
	// Adopted by a plain -v on another host, without naming the driver.
	the.On(t, "h3", "docker", "run", "--rm", "-v", "s15:/data", "busybox", "touch", "/data/x")
	if v := the.Volume(t, "s15"); v.Node != "h3" {
		t.Errorf("the volume is on %s, want h3", v.Node)
	}
}

// TestVolumeInUseElsewhereIsRefused: in one line that tells the node, the container and the way out.
func TestVolumeInUseElsewhereIsRefused(t *testing.T) {
	defer the.Remove(t, "busy")
	defer the.TryOn(t, "h1", "docker", "rm", "-f", "web-1")
	the.On(t, "h1", "docker", "run", "-d", "--name", "web-1", "-v", "busy:/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
	fleet.Eventually(t, 60*time.Second, func() string {
		if v := the.Volume(t, "busy"); v.Lease == nil || len(v.Lease.Users) != 1 {
			return "the container is not known by name"
		}
		return ""
	})
	r := the.TryOn(t, "h2", "docker", "run", "--rm", "-v", "busy:/data", "--volume-driver=mobyfs", "busybox", "true")
	if r.Code == 0 {
		t.Fatal("two hosts use the volume at once")
	}
	fleet.Has(t, r.Stderr, "busy", "h1", "web-1", "stop")
	t.Logf("Docker says: %s", r.Stderr)
	for _, args := range [][]string{{"volume", "move", "busy", "--to", "h2"}, {"volume", "rm", "busy"}} {
		r := the.Try(t, args...)
		if r.Code == 0 {
			t.Errorf("mobyctl %v went ahead", args)
		}
		fleet.Has(t, r.Stderr, "busy", "h1", "web-1", "hint:")
	}
	if r := the.TryOn(t, "h2", "docker", "volume", "rm", "busy"); r.Code == 0 {
		t.Error("h2 removed a volume that h1 uses")
	}
	the.On(t, "h1", "docker", "exec", "web-1", "touch", "/data/still-there")
	the.On(t, "h1", "docker", "rm", "-f", "web-1")
	fleet.Eventually(t, 60*time.Second, func() string {
		r := the.TryOn(t, "h2", "docker", "run", "--rm", "-v", "busy:/data", "--volume-driver=mobyfs", "busybox", "ls", "/data")
		if r.Code != 0 || !strings.Contains(r.Stdout, "still-there") {
			return r.String()
		}
		return ""
	})
}

func TestImpossibleVolumeNamesAreRefusedByDocker(t *testing.T) {
	the.Ctl(t, "volume", "create", "twin")
	defer the.Remove(t, "twin")
	before := the.Ctl(t, "volume", "ls", "-o", "json")
	for _, name := range []string{"../../etc/passwd", "a/b", "..", "-dash", strings.Repeat("x", 300), "nul\\u0000byte", "TWIN", "Twin", "caf\\u00e9", "line\\nbreak"} {
		body := `{"Name":"` + name + `","Driver":"mobyfs"}`
		out := the.On(t, "h1", "hosttool", "post", "/var/run/docker.sock", "/volumes/create", body)
		if strings.Contains(out, `"Mountpoint"`) {
			t.Errorf("Docker made a volume %q: %s", name, out)
		}
		fleet.Has(t, out, "message")
	}
	if after := the.Ctl(t, "volume", "ls", "-o", "json"); after != before {
		t.Errorf("the catalogue changed:\n%s", diffLines(before, after))
	}
	for _, name := range []string{"../x", strings.Repeat("x", 300), "TWIN", ""} {
		r := the.Try(t, "volume", "create", name)
		if r.Code == 0 {
			t.Errorf("mobyctl made a volume %q", name)
		}
		fleet.Has(t, r.Stderr, "hint:")
	}
}

func TestWrongOptionsAreRefusedWithTheRightWord(t *testing.T) {
	for opt, want := range map[string]string{"sise=1G": "size", "size=lots": "lots", "size=-1": "-1"} {
		r := the.TryOn(t, "h2", "docker", "volume", "create", "-d", "mobyfs", "-o", opt, "optvol")
		if r.Code == 0 {
			t.Errorf("-o %s was accepted", opt)
		}
		fleet.Has(t, r.Stderr, want)
	}
	if the.DockerLists(t, "h2", "optvol") {
		t.Error("a refused volume is listed")
	}
}

// TestAgentKilledUnderARunningContainer: nobody notices, and the count of uses is right afterwards.
func TestAgentKilledUnderARunningContainer(t *testing.T) {
	defer the.Remove(t, "alive")
	defer the.TryOn(t, "h2", "docker", "rm", "-f", "writer")
	the.On(t, "h2", "docker", "run", "-d", "--name", "writer", "-v", "alive:/data", "--volume-driver=mobyfs", "busybox",
		"sh", "-c", "while :; do date +%s.%N >> /data/log || exit 1; sleep 0.05; done")
	pid := the.Sh(t, "h2", "systemctl show -p MainPID --value mobyfs")
	the.Sh(t, "h2", "kill -9 "+pid)
	fleet.Eventually(t, 60*time.Second, func() string {
		now := the.Sh(t, "h2", "systemctl show -p MainPID --value mobyfs")
		if now == pid || now == "0" {
			return "the agent is not back"
		}
		return ""
	})
	if got := the.On(t, "h2", "docker", "exec", "writer", "sh", "-c", "wc -l < /data/log"); got == "0" {
		t.Error("the container lost its volume")
	}
	if !the.DockerLists(t, "h2", "alive") {
		t.Error("docker volume ls does not list the volume")
	}
	if r := the.TryOn(t, "h1", "docker", "run", "--rm", "-v", "alive:/data", "--volume-driver=mobyfs", "busybox", "true"); r.Code == 0 {
		t.Error("after the agent was killed a second host could use the volume")
	}
	the.On(t, "h2", "docker", "rm", "-f", "writer")
	fleet.Eventually(t, 60*time.Second, func() string {
		if v := the.Volume(t, "alive"); v.Lease != nil {
			return "the lease is still held after the last container ended"
		}
		return ""
	})
}

// TestModeAndOwnerAreSeenInTheContainer has a container that is not root write into a volume that is made for it.
func TestModeAndOwnerAreSeenInTheContainer(t *testing.T) {
	the.Sh(t, "h1", "docker volume create -d mobyfs -o mode=0770 -o uid=999 -o gid=998 owned")
	defer the.Remove(t, "owned")
	as := func(host, user, line string) string {
		return the.On(t, host, "docker", "run", "--rm", "--user", user, "-v", "owned:/data", "--volume-driver=mobyfs", "busybox", "sh", "-c", line)
	}
	const shown = "stat -c '%a %u:%g' /data"
	if got := as("h1", "999:1", shown+" && echo mine > /data/file"); got != "770 999:998" {
		t.Errorf("in the container its root is %q", got)
	}
	if got := as("h1", "1000:1000", "cat /data/file 2>/dev/null || echo refused"); got != "refused" {
		t.Errorf("a stranger reads %q", got)
	}
	if got := as("h2", "5:998", shown+" && cat /data/file"); got != "770 999:998\nmine" {
		t.Errorf("on the other node it is %q", got)
	}
}
