package migrations

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/test/fleet"
	"github.com/mobyfs/mobyfs/test/ledger"
)

// controlHost is where the fleet's control runs.
const controlHost = "h1"

// armed is the file by which a program is told what to do at a moment.
const armed = "/run/mobyfs.kill-at"

var hostNames = []string{"h1", "h2", "h3"}

// lab is a cluster, and the volume that moves in it.
type lab struct {
	*fleet.Fleet
	t      *testing.T
	rng    *rand.Rand
	ledger *ledger.Ledger
	volume string // its name, and that of the container
	number int    // of volumes so far
	tree   string // sum of what lies in the volume beside the records

	troubles int // of writers of the volume, before the move that goes on
}

// newLab makes the cluster.
func newLab(t *testing.T, f *fleet.Fleet, seed uint64) *lab {
	t.Helper()
	l := &lab{Fleet: f, t: t, rng: rand.New(rand.NewPCG(seed, 0)), ledger: f.Ledger(t)}
	if _, err := os.Stat(f.ClusterYAML()); err != nil {
		f.Ctl(t, "init", "--sandbox", f.Name, "-o", f.ClusterYAML())
	}
	f.UseBinaries(t, "bin-failpoints")
	for _, h := range hostNames {
		f.Sh(t, h, ownDisk)
		l.disarm(h)
	}
	fleet.Eventually(t, time.Minute, func() string {
		var nodes []mobyfs.Node
		f.Decode(t, &nodes, "node", "ls", "-o", "json")
		for _, n := range nodes {
			if !n.Ready {
				return n.Name + " is not ready"
			}
		}
		return ""
	})
	return l
}

// ownDisk gives a host's agent a disk of 384 MiB.
const ownDisk = `if ! grep -q ' /var/lib/mobyfs tmpfs' /proc/mounts; then
	systemctl stop mobyfs.socket mobyfs && mkdir -p /mnt/own && mount -t tmpfs -o size=384m,mode=700 own /mnt/own &&
	cp -a /var/lib/mobyfs/. /mnt/own/ && mount --bind /mnt/own /var/lib/mobyfs && systemctl start mobyfs.socket mobyfs
fi`

// newVolume makes a volume with some files and a container that writes to it, on any host.
func (l *lab) newVolume() {
	l.t.Helper()
	l.number++
	l.volume = fmt.Sprintf("moved-%d-%d", os.Getpid(), l.number) // hosts that were kept may have some of other runs
	host := hostNames[l.rng.IntN(len(hostNames))]
	l.Ctl(l.t, "volume", "create", l.volume, "--node", host)
	v := l.Volume(l.t, l.volume)
	l.On(l.t, host, "hosttool", "make", treeOf(v), "50", fmt.Sprint(4<<20))
	l.tree = l.On(l.t, host, "hosttool", "sum", treeOf(v))
	l.RunWriter(l.t, l.ledger, host, l.volume, fleet.WriterImage)
}

// dropVolume takes the volume and its container off.
func (l *lab) dropVolume() {
	l.t.Helper()
	for _, h := range hostNames {
		l.TryOn(l.t, h, "docker", "rm", "-f", l.volume)
	}
	l.Remove(l.t, l.volume)
}

func treeOf(v mobyfs.Volume) string { return fleet.DataDir(v) + "/tree" }

// elsewhere picks a host that is none of those given.
func (l *lab) elsewhere(not ...string) string {
	rest := slices.DeleteFunc(slices.Clone(hostNames), func(h string) bool { return slices.Contains(not, h) })
	return rest[l.rng.IntN(len(rest))]
}

// arm tells the programs of a host what to do at a moment.
func (l *lab) arm(host, line string) { l.Sh(l.t, host, "echo '"+line+"' > "+armed) }

// disarm takes back what was told, and lets go who is held. It tells whether the moment was reached.
func (l *lab) disarm(host string) (reached bool) {
	return l.TryOn(l.t, host, "sh", "-c", "test -e "+armed+" || echo reached; rm -f "+armed+" "+armed+".held "+armed+".noted").Stdout == "reached\n"
}

// held reports whether somebody on the host is held.
func (l *lab) held(host string) bool {
	return l.TryOn(l.t, host, "test", "-e", armed+".held").Code == 0
}

// noted are the moments that programs on a host have come to.
func (l *lab) noted(host string) []string {
	all := strings.Fields(l.Sh(l.t, host, "cat "+armed+".noted 2>/dev/null || true"))
	slices.Sort(all)
	return slices.Compact(all)
}

// cut takes all links of a host to the others, and heal gives them back. What it tells the ledger goes on.
func (l *lab) cut(host string)  { l.TryOn(l.t, host, "sh", "-c", l.rules(host, "-I")) }
func (l *lab) heal(host string) { l.TryOn(l.t, host, "sh", "-c", l.rules(host, "-D")) }

func (l *lab) rules(host, do string) string {
	var lines []string
	for other, address := range l.Hosts {
		if other != host {
			lines = append(lines, fmt.Sprintf("iptables -w %s INPUT -s %s -j DROP; iptables -w %s OUTPUT -d %s -j DROP", do, address, do, address))
		}
	}
	return strings.Join(lines, "; ")
}

// fill leaves nothing free on the disk of a host's agent, and empty gives it back.
func (l *lab) fill(host string) {
	l.TryOn(l.t, host, "sh", "-c", "cat /dev/zero > /var/lib/mobyfs/ballast")
}
func (l *lab) empty(host string) { l.TryOn(l.t, host, "rm", "-f", "/var/lib/mobyfs/ballast") }
