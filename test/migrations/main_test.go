package migrations

import (
	"flag"
	"os"
	"testing"

	"github.com/mobyfs/mobyfs/test/fleet"
)

var (
	the   *fleet.Fleet
	moves = flag.Int("moves", 12, "how many moves with a fault")
	until = flag.Duration("for", 0, "begin no more moves after so long; 0 for no limit")
	seed  = flag.Uint64("seed", 1, "of the order of the faults, and of who moves where")
	into  = flag.String("into", "", "the page to write")
	only  = flag.String("only", "", "a regular expression: faults that it matches, such as 'live move, kill -9 of the source'")
)

func TestMain(m *testing.M) { os.Exit(fleet.Main(m, &the)) }
