// Package clients tries what speaks to the driver besides plain docker: Swarm, Compose and Podman, as Debian packages
// them, on real hosts. One fleet serves all tests. A test whose name begins with TestC and a number proves the promise
// of that number on the engine after which its subtest is named.
package clients

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// rounds is how often a service is driven from its node.
var rounds = flag.Int("rounds", 3, "drain the node of a service this often")

// the is the fleet of this run.
var the *fleet.Fleet

func TestMain(m *testing.M) { os.Exit(fleet.Main(m, &the)) }

// host is one of the fleet's, with what its Debian brings.
type host struct {
	name           string
	engine         string // Docker's version, and the name of subtests
	composeVersion string
	podmanVersion  string
}

var (
	old    = host{name: "h1", engine: "20.10", composeVersion: "1.29", podmanVersion: "4.3"}
	recent = host{name: "h3", engine: "26.1", composeVersion: "2.26", podmanVersion: "5.4"}
)

// third is the host that takes part where a test needs another one.
const third = "h2"

// made says that the cluster was made, by whichever test came first.
var made sync.Once

// onEach runs a test on one host after the other. away is the other one of the two.
func onEach(t *testing.T, test func(t *testing.T, on, away host)) {
	t.Helper()
	made.Do(func() { the.Bootstrap(t) })
	t.Run(old.engine, func(t *testing.T) { test(t, old, recent) })
	t.Run(recent.engine, func(t *testing.T) { test(t, recent, old) })
}

// install brings packages of Debian onto a host.
func install(t *testing.T, host string, packages ...string) {
	t.Helper()
	the.Sh(t, host, "export DEBIAN_FRONTEND=noninteractive; dpkg-query -s "+strings.Join(packages, " ")+" >/dev/null 2>&1 || "+
		"{ apt-get update -qq && apt-get install -qq --no-install-recommends "+strings.Join(packages, " ")+" >/dev/null; }")
}

// give copies a file or folder from testdata into a directory on a host.
func give(t *testing.T, host, path, into string) {
	t.Helper()
	the.On(t, host, "mkdir", "-p", into)
	if out, err := exec.Command("docker", "cp", "testdata/"+path, the.Container(host)+":"+into).CombinedOutput(); err != nil {
		t.Fatalf("docker cp testdata/%s %s:%s: %v\n%s", path, host, into, err, out)
	}
}
