package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// event is a line of go test -json.
type event struct {
	Time    time.Time
	Action  string
	Package string
	Test    string
	Key     string // of an attribute
	Value   string
}

// results is what all tests said.
type results struct {
	ended   map[testName]string // action that a test ended with; "run" if it did not end
	engines map[string]string   // column → version, as the hosts told it
	broken  []string            // packages that failed as a whole
	date    time.Time           // of the earliest event
	files   int
}

// testName is unlike that of the same test in another file: a module may be tested more than once.
type testName struct {
	file      int
	pkg, test string
}

func newResults() *results {
	return &results{ended: map[testName]string{}, engines: map[string]string{}}
}

func (r *results) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r.files++
	if err := r.read(f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (r *results) read(from io.Reader) error {
	for events := json.NewDecoder(from); ; {
		var e event
		err := events.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r.note(e)
	}
}

func (r *results) note(e event) {
	if !e.Time.IsZero() && (r.date.IsZero() || e.Time.Before(r.date)) {
		r.date = e.Time
	}
	switch {
	case e.Action == "attr" && e.Key == "docker":
		r.engines[lastPart(e.Test)] = e.Value
	case e.Test == "" && (e.Action == "fail" || e.Action == "build-fail"):
		if !slices.Contains(r.broken, e.Package) && e.Package != "" {
			r.broken = append(r.broken, e.Package)
		}
	case e.Test != "" && slices.Contains([]string{"run", "pass", "fail", "skip"}, e.Action):
		r.ended[testName{r.files, e.Package, e.Test}] = e.Action
	}
}

// numbered is the name of a test that belongs to a promise, or to several: TestC81And83….
var numbered = regexp.MustCompile(`^TestC(\d{2,3}(?:And\d{2,3})*)\p{Lu}`)

// numbers are those of the promises that a test belongs to.
func numbers(test string) []int {
	m := numbered.FindStringSubmatch(test)
	if m == nil {
		return nil
	}
	var all []int
	for _, digits := range strings.Split(m[1], "And") {
		n, _ := strconv.Atoi(digits)
		all = append(all, n)
	}
	return all
}

// onHosts is the import path of packages whose tests run on real hosts.
var onHosts = regexp.MustCompile(`/test(/|$)`)

// proof is what is known about a cell.
type proof struct {
	passed int
	failed []string // tests
}

type cell struct {
	number int
	column string
}

type table map[cell]proof

func (t table) add(c cell, name testName, action string) {
	p := t[c]
	if action == "pass" {
		p.passed++
	} else { // also a test that was skipped, or never ended
		p.failed = append(p.failed, fmt.Sprintf("%s %s", name.test, map[string]string{"fail": "failed", "skip": "was skipped", "run": "did not end"}[action]))
	}
	t[c] = p
}

// proofs sums the tests up by promise and column, and tells what is wrong with tests that can't be.
func (r *results) proofs() (table, []string) {
	cells := table{}
	var wrong []string
	for name, action := range r.ended {
		top, _, _ := strings.Cut(name.test, "/")
		for _, number := range numbers(top) {
			wrong = append(wrong, r.prove(cells, number, name, action)...)
		}
	}
	slices.Sort(wrong)
	return cells, wrong
}

// prove adds what one test says about one promise, and tells what is wrong with the test.
func (r *results) prove(cells table, number int, name testName, action string) []string {
	isSub := strings.Contains(name.test, "/")
	switch {
	case number < 1 || number > items:
		return []string{fmt.Sprintf("%s: there is no promise %d", name.test, number)}
	case !onHosts.MatchString(name.pkg):
		if !isSub {
			cells.add(cell{number, "peer"}, name, action)
		}
	case isSub && isEngine(lastPart(name.test)):
		cells.add(cell{number, lastPart(name.test)}, name, action)
	case !isSub:
		return r.withoutEngine(cells, number, name, action)
	}
	return nil
}

// withoutEngine judges a test on hosts by what its subtests don't tell: it may have failed before them, or have none.
func (r *results) withoutEngine(cells table, number int, name testName, action string) []string {
	tried := false
	for sub, ended := range r.ended {
		if sub.file == name.file && sub.pkg == name.pkg && strings.HasPrefix(sub.test, name.test+"/") && isEngine(lastPart(sub.test)) {
			tried = true
			if ended != "pass" {
				return nil // told by the subtest
			}
		}
	}
	switch {
	case action != "pass":
		for _, engine := range columns[:2] {
			cells.add(cell{number, engine}, name, action)
		}
	case !tried:
		return []string{name.test + " ran on hosts, and no subtest tells on which engine"}
	}
	return nil
}

func lastPart(test string) string { return test[strings.LastIndex(test, "/")+1:] }

func isEngine(name string) bool { return name == columns[0] || name == columns[1] }
