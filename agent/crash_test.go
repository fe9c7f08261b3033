package agent

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
)

// rigIn is a cluster of h1 and h2 whose control and nodes lie in a directory, so that they outlive the process.
func rigIn(t *testing.T, path string) *rig { return fillRig(newRig(t), path) }

func fillRig(r *rig, path string) *rig {
	r.linger = time.Second
	r.cluster = newCluster(r.cluster.signer, filepath.Join(path, "cluster.json"))
	for _, name := range []string{"h1", "h2"} {
		r.join(name, filepath.Join(path, name))
	}
	return r
}

// TestCrashChild is the life that TestDeathAtEachDurableMomentLosesNothing ends. It writes down each step that was
// answered.
func TestCrashChild(t *testing.T) {
	path := os.Getenv("MOBYFS_CRASH_DIR")
	if path == "" {
		return // on its own it proves nothing and disproves nothing
	}
	journal, err := os.Create(filepath.Join(path, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	// The moment counts from a step on: until then the file that names it is out of the way.
	at := os.Getenv("MOBYFS_KILL_AT")
	wait, err := strconv.Atoi(os.Getenv("MOBYFS_CRASH_AFTER"))
	if err == nil {
		err = os.Rename(at, at+".later")
	}
	if err != nil {
		t.Fatal(err)
	}
	arm := func() {
		if wait--; wait < 0 {
			_ = os.Rename(at+".later", at)
		}
	}
	arm()
	did := func(format string, args ...any) {
		if _, err := fmt.Fprintf(journal, format+"\n", args...); err != nil {
			t.Fatal(err)
		}
		arm()
	}
	leave := func(n *node, id string) {
		if _, err := fmt.Fprintf(journal, "unmounted %s %s\n", n.name, id); err != nil { // either is true from now on
			t.Fatal(err)
		}
		n.unmount("pgdata", id)
		did("left")
	}
	bubble(t, func(t *testing.T) {
		r := rigIn(t, path)
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", map[string]string{"size": "1M"})
		did("created")
		write(t, h1.mount("pgdata", "a"), "rows", "1")
		did("mounted h1 a")
		h1.mount("pgdata", "b")
		did("mounted h1 b")
		leave(h1, "a")
		leave(h1, "b")
		pass(2 * time.Second)
		write(t, h2.mount("pgdata", "c"), "rows", "2")
		did("mounted h2 c")
		pass(2 * time.Second)
		h1.create("other", nil)
		if err := h1.agent.Remove(t.Context(), "other"); err != nil {
			t.Fatal(err)
		}
		did("removed other")
		pass(2 * time.Hour) // the trash is emptied
	})
}

// answered reads what the child was answered: the uses that it holds, and the steps.
func answered(t *testing.T, path string) (uses map[string][]string, steps []string) {
	f, err := os.Open(filepath.Join(path, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	uses = map[string][]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		steps = append(steps, s.Text())
		words := strings.Fields(s.Text())
		switch words[0] {
		case "mounted":
			uses[words[1]] = append(uses[words[1]], words[2])
		case "unmounted":
			uses[words[1]] = slices.DeleteFunc(uses[words[1]], func(id string) bool { return id == words[2] })
		}
	}
	return uses, steps
}

// durableMoments are those of the agent and of its backend.
func durableMoments(t *testing.T) []string {
	all := killtest.Moments(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../backend/dir")
	all = append(all, killtest.Moments(t)...)
	t.Chdir(here)
	return all
}

func TestDeathAtEachDurableMomentLosesNothing(t *testing.T) {
	moments := append(durableMoments(t), "agent.commit.before", "agent.commit.after")
	child := killtest.Build(t)
	lives, deaths := 0, map[string]int{}
	for _, moment := range moments {
		if strings.HasPrefix(moment, "dir.purge.") {
			continue // an hour later, when uses that no kernel shows have been given up; backend/dir kills there
		}
		after := 1
		if strings.HasPrefix(moment, "agent.") {
			after = 7 // these come in each step of the life
		}
		for step := range after {
			t.Run(fmt.Sprintf("%s/%d", moment, step), func(t *testing.T) {
				path := t.TempDir()
				lives++
				if !child.Run("TestCrashChild", moment, "MOBYFS_CRASH_DIR="+path, fmt.Sprint("MOBYFS_CRASH_AFTER=", step)) {
					return // this life never comes there
				}
				deaths[moment]++
				uses, steps := answered(t, path)
				bubble(t, func(t *testing.T) { afterDeath(t, path, uses, steps) })
			})
		}
	}
	if len(deaths) < 30 || deaths["agent.mounts.before"] < 6 || deaths["agent.mounts.after"] < 6 {
		t.Errorf("the child was killed only at %v", deaths)
	}
	t.Logf("%d lives, killed at %d of %d moments", lives, len(deaths), len(moments))
}

// afterDeath opens the cluster again and checks that what was answered is true.
func afterDeath(t *testing.T, path string, uses map[string][]string, steps []string) {
	r := rigIn(t, path)
	pass(time.Second)
	for name, n := range r.nodes {
		counted := n.uses("pgdata")
		for _, id := range uses[name] {
			if counted[id] != 1 {
				t.Errorf("use %s on %s is counted %d times", id, name, counted[id])
			}
		}
		if len(counted) > len(uses[name])+1 { // the one that was being answered may be there
			t.Errorf("%s counts %v, answered was %v", name, counted, uses[name])
		}
	}
	v := r.cluster.volume("pgdata")
	if v.ID == "" {
		if slices.Contains(steps, "created") {
			t.Error("the volume is gone")
		}
		return
	}
	pass(20 * time.Minute) // no container is there: all uses go
	for _, n := range r.nodes {
		if len(n.uses("pgdata")) != 0 {
			t.Errorf("%s still counts %v", n.name, n.uses("pgdata"))
		}
		if left := n.staged(); left != nil {
			t.Errorf("%s has staged %v", n.name, left)
		}
	}
	for _, name := range []string{"h1", "h2", "h1"} {
		n := r.nodes[name]
		got := read(t, n.mountWithRows(t, "pgdata", "z", steps), "rows")
		switch moved := slices.Contains(steps, "mounted h2 c"); {
		case moved && got != "2":
			t.Errorf("%s holds %q, written was 2", name, got)
		case slices.Contains(steps, "mounted h1 a") && got != "1" && got != "2":
			t.Errorf("%s holds %q, written was 1", name, got)
		}
		n.unmount("pgdata", "z")
		pass(time.Second)
	}
	if v := r.cluster.volume("pgdata"); v.State != mobyfs.VolumeReady || v.Lease != nil || v.Migration != nil {
		t.Errorf("in the end it is %+v", v)
	}
	if v := r.cluster.volume("other"); v.ID != "" && slices.Contains(steps, "removed other") {
		t.Errorf("other was removed and is %+v", v)
	}
}

// mountWithRows mounts a volume. If the child never came to write into it, rows are written now.
func (n *node) mountWithRows(t *testing.T, name, id string, steps []string) string {
	path := n.mount(name, id)
	if _, err := os.Stat(filepath.Join(path, "rows")); err != nil && !slices.Contains(steps, "mounted h1 a") {
		write(t, path, "rows", "1")
	}
	return path
}
