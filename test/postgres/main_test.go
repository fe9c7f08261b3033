// Package postgres moves a database while it is used: PostgreSQL in a container on real hosts, under load, whose volume goes to
// and fro. What it has acknowledged is written down outside, by a client that Docker and mobyfs know nothing of. It is a module
// of its own, so that the product's graph holds no client of a database.
package postgres

import (
	"os"
	"testing"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// the is the fleet of this run.
var the *fleet.Fleet

func TestMain(m *testing.M) { os.Exit(fleet.Main(m, &the)) }
