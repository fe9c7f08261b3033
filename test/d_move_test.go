package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// treeVolume makes a volume on h1 with a tree of every kind of file, and returns the sum of its tree.
func treeVolume(t *testing.T, name string, files, bigBytes int) (mobyfs.Volume, string) {
	t.Helper()
	the.Ctl(t, "volume", "create", name, "--node", "h1")
	v := the.Volume(t, name)
	the.On(t, "h1", "hosttool", "make", fleet.DataDir(v), fmt.Sprint(files), fmt.Sprint(bigBytes))
	return v, the.TreeOf(t, "h1", v)
}

// holders tells which hosts have the volume's bytes where a container would get them.
func holders(t *testing.T, v mobyfs.Volume) []string {
	t.Helper()
	var have []string
	for _, h := range []string{"h1", "h2", "h3"} {
		if the.TryOn(t, h, "ls", fleet.DataDir(v)).Code == 0 {
			have = append(have, h)
		}
	}
	return have
}

// checkWhole says what is missing until the volume is ready, on one of the nodes, on no other host, with its tree.
func checkWhole(t *testing.T, name, tree string, nodes ...string) {
	t.Helper()
	var v mobyfs.Volume
	fleet.Eventually(t, 60*time.Second, func() string {
		v = the.Volume(t, name)
		if v.Migration != nil || v.State != mobyfs.VolumeReady {
			return fmt.Sprintf("it is %s", v.Condition())
		}
		if have := holders(t, v); !slices.Equal(have, []string{v.Node}) {
			return fmt.Sprintf("the bytes are on %v, the owner is %s", have, v.Node)
		}
		return ""
	})
	if !slices.Contains(nodes, v.Node) {
		t.Errorf("the owner is %s, want one of %v", v.Node, nodes)
	}
	if got := the.TreeOf(t, v.Node, v); got != tree {
		t.Errorf("the tree on %s is not the one that was written:\n%.2000s", v.Node, diffLines(tree, got))
	}
}

// TestTenThousandFilesAndABigOneArriveWhole: content and metadata, both ways, old and new hosts.
func TestTenThousandFilesAndABigOneArriveWhole(t *testing.T) {
	_, tree := treeVolume(t, "tree", 10_000, 300<<20)
	defer the.Remove(t, "tree")
	if n := strings.Count(tree, "\n"); n < 10_100 {
		t.Fatalf("the tree has %d files only", n)
	}
	for _, to := range []string{"h3", "h2"} {
		t.Log(strings.TrimSpace(the.Ctl(t, "volume", "move", "tree", "--to", to)))
		checkWhole(t, "tree", tree, to)
	}
}

func TestMoveToANodeThatDoesNotExist(t *testing.T) {
	the.Ctl(t, "volume", "create", "nowhere", "--node", "h1")
	defer the.Remove(t, "nowhere")
	r := the.Try(t, "volume", "move", "nowhere", "--to", "h9")
	if r.Code == 0 {
		t.Fatal("the volume moved to nowhere")
	}
	fleet.Has(t, r.Stderr, "h9", "hint:")
	if v := the.Volume(t, "nowhere"); v.Node != "h1" || v.Migration != nil {
		t.Errorf("after the refusal: %+v", v)
	}
}

func TestMoveThatDoesNotFitLeavesTheVolumeWhereItIs(t *testing.T) {
	_, tree := treeVolume(t, "toobig", 10, 40<<20)
	defer the.Remove(t, "toobig")
	// h2 gets a small disk: the agent's state moves there, volumes would have to.
	defer the.Sh(t, "h2", `systemctl stop mobyfs.socket mobyfs; umount /var/lib/mobyfs; umount /mnt/small; systemctl start mobyfs.socket mobyfs`)
	the.Sh(t, "h2", `systemctl stop mobyfs.socket mobyfs && mkdir -p /mnt/small && mount -t tmpfs -o size=24m,mode=700 tmpfs /mnt/small &&
		cp -a /var/lib/mobyfs/pki /var/lib/mobyfs/state /mnt/small/ && mount --bind /mnt/small /var/lib/mobyfs && systemctl start mobyfs.socket mobyfs`)
	r := the.Try(t, "volume", "move", "toobig", "--to", "h2")
	if r.Code == 0 {
		t.Fatal("40 MiB went into 24 MiB")
	}
	fleet.Has(t, r.Stderr, "toobig", "h2", "stays on h1")
	checkWhole(t, "toobig", tree, "h1")
}

func TestMoveIsCancelled(t *testing.T) {
	_, tree := treeVolume(t, "cancelled", 2000, 200<<20)
	defer the.Remove(t, "cancelled")
	the.Ctl(t, "volume", "move", "cancelled", "--to", "h3", "--detach")
	r := the.Try(t, "volume", "move", "cancelled", "--cancel")
	if r.Code != 0 {
		t.Fatalf("cancel: %v", r)
	}
	checkWhole(t, "cancelled", tree, "h1")
	if v := the.Volume(t, "cancelled"); v.LastMove == nil || v.LastMove.State != mobyfs.MigrationAborted {
		t.Errorf("the move does not stand as aborted: %+v", v.LastMove)
	}
}
