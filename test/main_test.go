// Package test tries the whole system the way its users do. One fleet serves all tests; they run in the order of the
// files' names, which is the order of a cluster's life.
package test

import (
	"os"
	"testing"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// the is the fleet of this run.
var the *fleet.Fleet

func TestMain(m *testing.M) { os.Exit(fleet.Main(m, &the)) }
