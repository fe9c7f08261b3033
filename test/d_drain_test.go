package test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// TestDrainTakesAHostOutWhateverEndsMeanwhile drains the host on which control runs. Control is killed in the middle; a
// volume in use goes when its container has ended; then the host gets no volumes until it is uncordoned.
func TestDrainTakesAHostOutWhateverEndsMeanwhile(t *testing.T) {
	trees := map[string]string{}
	for _, name := range []string{"drain-a", "drain-b", "drain-c"} {
		_, trees[name] = treeVolume(t, name, 200, 20<<20)
		defer the.Remove(t, name)
	}
	the.Sh(t, "h1", "docker run -d --name drain-user -v drain-c:/data --volume-driver=mobyfs busybox sleep 1000")
	defer the.TryOn(t, "h1", "docker", "rm", "-f", "drain-user")

	var o mobyfs.Operation
	if err := json.Unmarshal([]byte(the.Ctl(t, "node", "drain", "h1", "--detach", "-o", "json")), &o); err != nil {
		t.Fatal(err)
	}
	defer the.Ctl(t, "node", "uncordon", "h1")
	the.Sh(t, "h1", "systemctl kill -s KILL mobyfs-control")
	fleet.Eventually(t, 60*time.Second, func() string { // systemd starts it again
		return the.Try(t, "operation", "inspect", string(o.ID)).Stderr
	})
	for _, name := range []string{"drain-a", "drain-b"} {
		checkWhole(t, name, trees[name], "h2", "h3")
	}
	fleet.Eventually(t, 60*time.Second, func() string {
		out := the.Ctl(t, "operation", "inspect", string(o.ID))
		if !strings.Contains(out, "waiting") || !strings.Contains(out, "drain-user") {
			return out
		}
		return ""
	})
	if v := the.Volume(t, "drain-c"); v.Node != "h1" || v.Lease == nil {
		t.Errorf("the volume in use is %+v", v)
	}
	the.On(t, "h1", "docker", "rm", "-f", "drain-user")
	t.Log(strings.TrimSpace(the.Ctl(t, "operation", "wait", string(o.ID))))
	checkWhole(t, "drain-c", trees["drain-c"], "h2", "h3")
	fleet.Has(t, the.Ctl(t, "node", "ls"), "drained")
	r := the.Try(t, "volume", "create", "drain-d", "--node", "h1")
	if r.Code == 0 {
		t.Error("a drained host got a volume")
		the.Remove(t, "drain-d")
	}
	fleet.Has(t, r.Stderr, "drained", "hint:")
}
