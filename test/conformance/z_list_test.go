package conformance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// TestC36ListIsCompleteAndQuick: with as many volumes as the promise says if the run is a long one.
func TestC36ListIsCompleteAndQuick(t *testing.T) {
	bootstrap(t)
	makers := []*host{engines[0], {name: other, engine: "20.10"}, engines[1]}
	n := 300
	if *long {
		n = 10_000
	}
	create, drop := map[string][]request{}, map[string][]request{}
	for i := range n {
		name, on := fmt.Sprintf("c36-%05d", i), makers[i%len(makers)]
		create[on.name] = append(create[on.name], on.asDocker("VolumeDriver.Create", args("Name", name)))
		drop[on.name] = append(drop[on.name], on.asDocker("VolumeDriver.Remove", args("Name", name)))
	}
	each := func(requests map[string][]request) {
		t.Helper()
		var all sync.WaitGroup
		for _, on := range makers {
			all.Go(func() {
				for _, s := range on.wire(t, 16, requests[on.name]...) {
					if s.Body != `{"Err":""}`+"\n" {
						t.Errorf("%s answered %+v", on.name, s)
					}
				}
			})
		}
		all.Wait()
	}
	t.Cleanup(func() {
		if *long {
			return // it is the last test, and the hosts go
		}
		each(drop)
	})
	start := time.Now()
	each(create)
	t.Logf("%d volumes made in %v", n, time.Since(start))
	onBoth(t, func(t *testing.T, on *host) {
		ask := on.asDocker("VolumeDriver.List", "{}")
		fleet.Eventually(t, 60*time.Second, func() string {
			if got := strings.Count(on.wire(t, 1, ask)[0].Body, `"c36-`); got != n {
				return fmt.Sprintf("%d volumes are listed, want %d", got, n)
			}
			return ""
		})
		seen := map[string]bool{}
		answers := on.wire(t, 1, ask, ask, ask)
		for _, v := range *answers[0].answer(t).Volumes {
			if v == nil || v.Name == "" || v.Mountpoint == "" || seen[v.Name] {
				t.Fatalf("the list holds %+v", v)
			}
			seen[v.Name] = true
		}
		best := min(answers[0].Took, answers[1].Took, answers[2].Took)
		t.Logf("List of %d volumes takes %d ms", len(seen), best)
		if best >= 300 {
			t.Errorf("List of %d volumes takes %d ms", len(seen), best)
		}
	})
}
