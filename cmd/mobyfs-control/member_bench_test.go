//go:build bench

package main

import (
	"testing"
	"time"
)

// TestBenchLeader is what docs/benchmarks.md tells of a control host that dies.
func TestBenchLeader(t *testing.T) {
	if gaps := killLeaders(t, 30); gaps[(len(gaps)*99-1)/100] > 3*time.Second {
		t.Errorf("the goal is 3 s, the longest of %d is %v", len(gaps), gaps[len(gaps)-1])
	}
}
