package clients

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// imageMade says that both hosts have the image of the shop.
var imageMade sync.Once

// shop brings Compose, the shop's image and its folder onto both hosts. The image is one and the same: another
// MariaDB would not read the database's files.
func shop(t *testing.T) {
	t.Helper()
	imageMade.Do(func() {
		install(t, old.name, "mariadb-server-core", "mariadb-client-core")
		give(t, old.name, "image", "/root")
		the.Sh(t, old.name, "cd /root/image && sh make.sh")
		save, load := the.CmdOn(old.name, "docker", "save", "shop"), the.CmdOn(recent.name, "docker", "load")
		pipe, err := save.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		load.Stdin = pipe
		if err := save.Start(); err != nil {
			t.Fatal(err)
		}
		if out, err := load.CombinedOutput(); err != nil {
			t.Fatalf("docker load on %s: %v\n%s", recent.name, err, out)
		}
		if err := save.Wait(); err != nil {
			t.Fatalf("docker save on %s: %v", old.name, err)
		}
		for _, h := range []host{old, recent} {
			install(t, h.name, "docker-compose")
			give(t, h.name, "shop", "/root")
		}
	})
}

// compose runs docker-compose in the shop's folder, and returns all that it said.
func (h host) compose(t *testing.T, args string) string {
	t.Helper()
	return the.Sh(t, h.name, "cd /root/shop && docker-compose --file compose.yaml --ansi never "+args+" 2>&1")
}

// orders asks the web service for its rows, one a line. A post makes a row first.
func (h host) orders(t *testing.T, post ...string) (rows string) {
	t.Helper()
	args := []string{"busybox", "wget", "-qO-"}
	if len(post) > 0 {
		args = append(args, "--post-data", post[0])
	}
	args = append(args, "http://127.0.0.1:8000/cgi-bin/orders")
	fleet.Eventually(t, time.Minute, func() string {
		r := the.TryOn(t, h.name, args...)
		rows = strings.TrimSpace(r.Stdout)
		if r.Code != 0 || strings.Contains(rows, "ERROR") {
			return r.String()
		}
		return ""
	})
	return rows
}

// TestComposeBringsAShopUpOnAnotherHostWithItsRows: up, rows made, down; up on the other host: the rows are there, more
// are made, and all are there when it comes back. The two hosts have different generations of Compose.
func TestComposeBringsAShopUpOnAnotherHostWithItsRows(t *testing.T) {
	onEach(t, func(t *testing.T, on, away host) {
		shop(t)
		t.Cleanup(func() { the.Remove(t, "shop_dbdata") })
		for _, h := range []host{on, away} {
			t.Cleanup(func() { h.compose(t, "down") })
			if out := the.On(t, h.name, "docker-compose", "version"); !strings.Contains(out, " "+h.composeVersion+".") && !strings.Contains(out, "v"+h.composeVersion+".") {
				t.Fatalf("%s has %s, want Compose %s", h.name, out, h.composeVersion)
			}
		}
		t.Log(on.compose(t, "up --detach"))
		on.orders(t)
		on.orders(t, "a boat")
		first := on.orders(t, "it's <5 & \"good\"")
		if want := "1\ta boat\n2\tit's <5 & \"good\""; first != want {
			t.Fatalf("on %s the shop has\n%s\nwant\n%s", on.name, first, want)
		}
		t.Log(on.compose(t, "down"))

		began := time.Now()
		t.Log(away.compose(t, "up --detach"))
		if got := away.orders(t); got != first {
			t.Fatalf("on %s the shop has\n%s\nwant\n%s", away.name, got, first)
		}
		t.Logf("Compose on %s showed the rows after %.1f s", away.name, time.Since(began).Seconds())
		second := away.orders(t, "made on "+away.name)
		if want := first + "\n3\tmade on " + away.name; second != want {
			t.Fatalf("on %s the shop has\n%s\nwant\n%s", away.name, second, want)
		}
		away.compose(t, "down")

		on.compose(t, "up --detach")
		if got := on.orders(t); got != second {
			t.Errorf("back on %s the shop has\n%s\nwant\n%s", on.name, got, second)
		}
	})
}

// TestComposeElsewhereWhileTheShopIsUpIsRefused: the second host's Compose tells its user where the database runs, and
// the first one's shop goes on.
func TestComposeElsewhereWhileTheShopIsUpIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, on, away host) {
		shop(t)
		t.Cleanup(func() { the.Remove(t, "shop_dbdata") })
		for _, h := range []host{on, away} {
			t.Cleanup(func() { h.compose(t, "down") })
		}
		away.compose(t, "up --detach")
		rows := away.orders(t, "one")
		fleet.Eventually(t, 10*time.Second, func() string {
			if v := the.Volume(t, "shop_dbdata"); v.Lease == nil || len(v.Lease.Users) != 1 {
				return "the container is not known by name"
			}
			return ""
		})
		r := the.TryOn(t, on.name, "sh", "-c", "cd /root/shop && docker-compose --file compose.yaml up --detach")
		if r.Code == 0 {
			t.Fatal("two hosts have the database up at once")
		}
		t.Logf("Compose %s says: %s", on.composeVersion, r.Stderr)
		fleet.Has(t, r.Stderr, "shop_dbdata", "in use on "+away.name, "db")
		if got := away.orders(t); got != rows {
			t.Errorf("the shop has\n%s\nwant\n%s", got, rows)
		}
	})
}

// TestComposeTakesAVolumeOfASizeThatWasMadeBeforehand: Compose 1.29 would refuse driver_opts on the second host.
func TestComposeTakesAVolumeOfASizeThatWasMadeBeforehand(t *testing.T) {
	onEach(t, func(t *testing.T, on, away host) {
		the.Ctl(t, "volume", "create", "sized", "--size", "10MiB")
		t.Cleanup(func() { the.Remove(t, "sized") })
		want := ""
		for _, h := range []host{on, away} {
			install(t, h.name, "docker-compose")
			give(t, h.name, "shop", "/root")
			the.Sh(t, h.name, "cd /root/shop && export NODE="+h.name+" && docker-compose --file sized.yaml up && docker-compose --file sized.yaml down")
			want += "done on " + h.name + "\n"
		}
		if got := the.InVolume(t, third, "sized", "cat /data/log"); got+"\n" != want {
			t.Errorf("the volume has %q, want %q", got, want)
		}
	})
}
