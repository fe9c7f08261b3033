// Package killtest runs one test of a package in a child process that a failpoint kills, for tests that ask what
// is true after a crash at each named moment.
package killtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Child is the test program of the package under test, built with the tag failpoints.
type Child struct {
	t   *testing.T
	bin string
}

// Build builds the child from the package in the working directory, which is where go test runs its tests.
func Build(t *testing.T) *Child {
	t.Helper()
	c := &Child{t, filepath.Join(t.TempDir(), "child")}
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoints", "-o", c.bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the child: %v\n%s", err, out)
	}
	return c
}

// Run runs the named test in the child and reports whether it was killed at the moment. An end of any other kind
// than that or success fails the caller's test. env is added to the environment, as "KEY=value".
func (c *Child) Run(test, moment string, env ...string) (killed bool) {
	c.t.Helper()
	at := filepath.Join(c.t.TempDir(), "kill-at")
	if err := os.WriteFile(at, []byte(moment), 0o600); err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(c.bin, "-test.run", "^"+test+"$", "-test.count", "1")
	// A child that is killed removes nothing; what it makes lies in the caller's directory.
	cmd.Env = append(append(os.Environ(), "MOBYFS_KILL_AT="+at, "TMPDIR="+filepath.Dir(at)), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		c.t.Fatalf("the child was to be killed at %s, but: %v\n%s", moment, err, out)
	}
	return false
}

var moment = regexp.MustCompile(`\bdurable\.(?:WriteFile|WriteJSON|Rename|Remove)\("([^"]+)"`)

// Moments lists the moments, both .before and .after, of all durable changes that the sources in the working
// directory make by a literal name.
func Moments(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range moment.FindAllStringSubmatch(string(src), -1) {
			all = append(all, m[1]+".before", m[1]+".after")
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
