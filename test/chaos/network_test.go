package chaos

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs/test/chaos/network"
)

// A test that runs twice in one process makes its network twice.
func TestANetworkThatWasClosedCanBeMadeAgain(t *testing.T) {
	const number = 251
	for range 2 {
		n := network.New(number)
		here, err := n.JoinHere("here")
		if err != nil {
			t.Fatal(err)
		}
		there, err := n.Join("there")
		if err != nil {
			t.Fatal(err)
		}
		err = there.Do(func() error {
			out, err := exec.Command("ip", "-o", "addr", "show", "dev", "net251").CombinedOutput()
			if !strings.Contains(string(out), there.IP) {
				t.Errorf("its interface is %q, %v", out, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := there.Do(func() error { return nil }); err == nil {
			t.Error("something was done in a namespace that is gone")
		}
		if _, err := n.Join("late"); err == nil {
			t.Error("a host joined a network that was closed")
		}
		if out, err := exec.Command("ip", "link", "show", "dev", "net251").CombinedOutput(); err == nil {
			t.Errorf("the interface of %s is still there: %s", here.Name, out)
		}
	}
}
