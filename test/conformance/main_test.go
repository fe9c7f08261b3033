// Package conformance tries the promises about Docker's plugin protocol on real hosts, with Docker 20.10 and 26.1. The
// number in a test's name is that of its promise in tools/conformance/promises.txt; its subtests are named after the
// engines. One fleet serves all tests.
package conformance

import (
	"flag"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// long makes the tests as long as the promises say: 10,000 calls where 1,000 tell nearly as much.
var long = flag.Bool("long", false, "try every promise at its full length")

// the is the fleet of this run.
var the *fleet.Fleet

func TestMain(m *testing.M) { os.Exit(fleet.Main(m, &the)) }

// made says that the cluster was made, by whichever test came first.
var made sync.Once

func bootstrap(t *testing.T) {
	t.Helper()
	made.Do(func() { the.Bootstrap(t) })
}

// engines are the hosts that each promise is tried on. The third host is the other one of a test that needs two.
var engines = []*host{{name: "h1", engine: "20.10"}, {name: "h3", engine: "26.1"}}

const other = "h2"

// onBoth runs a test on both engines at once.
func onBoth(t *testing.T, test func(t *testing.T, on *host)) {
	t.Helper()
	bootstrap(t)
	for _, on := range engines {
		t.Run(on.engine, func(t *testing.T) {
			t.Parallel()
			test(t, on)
		})
	}
}

// onEach runs a test on one engine after the other.
func onEach(t *testing.T, test func(t *testing.T, on *host)) {
	t.Helper()
	bootstrap(t)
	for _, on := range engines {
		t.Run(on.engine, func(t *testing.T) { test(t, on) })
	}
}

// withoutControl stops the control plane until the test and its subtests are over.
func withoutControl(t *testing.T) {
	t.Helper()
	bootstrap(t)
	t.Cleanup(func() { startControl(t) })
	the.Sh(t, "h1", "systemctl stop mobyfs-control")
}

// startControl starts the control plane and waits until all nodes are heard again.
func startControl(t *testing.T) {
	t.Helper()
	the.Sh(t, "h1", "systemctl start mobyfs-control")
	fleet.Eventually(t, time.Minute, func() string {
		r := the.Try(t, "node", "ls")
		if r.Code != 0 || strings.Count(r.Stdout, " ready ") < len(the.Hosts) {
			return r.String()
		}
		return ""
	})
}

// TestEnginesAreTheOnesPromised also tells their exact versions to the table.
func TestEnginesAreTheOnesPromised(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		version := on.docker(t, "version", "--format", "{{.Server.Version}}")
		if !strings.HasPrefix(version, on.engine+".") {
			t.Errorf("%s has Docker %s, want %s", on.name, version, on.engine)
		}
		t.Attr("docker", version)
	})
}
