package boottime

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestItIsTheTimeSinceTheMachineStarted(t *testing.T) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	up, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	if off := Now() - time.Duration(up*float64(time.Second)); off.Abs() > 5*time.Second {
		t.Errorf("it is %v off /proc/uptime", off)
	}
}
