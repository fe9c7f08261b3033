//go:build bench

package movebench

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// TestMain plays a role where this program was started to do that.
func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	var o order
	if text := os.Getenv(orderVariable); text != "" {
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	if err := play(role, o); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		os.Exit(1)
	}
	os.Exit(0)
}
