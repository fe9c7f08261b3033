package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// events writes lines of go test -json: "package test action".
func events(lines ...string) string {
	var b strings.Builder
	b.WriteString(`{"Time":"2026-11-26T10:00:00Z","Action":"attr","Package":"m/test/conformance","Test":"TestEngines/20.10","Key":"docker","Value":"20.10.24"}
{"Action":"attr","Package":"m/test/conformance","Test":"TestEngines/26.1","Key":"docker","Value":"26.1.5"}
`)
	for _, l := range lines {
		f := strings.Fields(l)
		test := f[1]
		if test == "-" {
			test = ""
		}
		fmt.Fprintf(&b, `{"Action":%q,"Package":%q,"Test":%q}`+"\n", f[2], f[0], test)
	}
	return b.String()
}

// three are promises of which the second is excused from one column and the rest of the file from all.
func three(t *testing.T) promises {
	t.Helper()
	var b strings.Builder
	b.WriteString("(why) because\n1 first\n2 second | peer: why\n")
	for n := 3; n <= items; n++ {
		fmt.Fprintf(&b, "%d other | 20.10: why, 26.1: why, peer: why\n", n)
	}
	p, err := readPromises(file(t, b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// good are tests that prove all cells of three.
var good = []string{
	"m/driver TestC01InProcess pass",
	"m/driver TestC01InProcess/20.10 pass",
	"m/test/conformance TestC01OnHosts/20.10 pass", "m/test/conformance TestC01OnHosts/26.1 pass", "m/test/conformance TestC01OnHosts pass",
	"m/test TestC01And02OnHosts/20.10 pass", "m/test TestC01And02OnHosts/a/26.1 pass", "m/test TestC01And02OnHosts pass",
	"m/test/conformance TestSomethingElse fail",
}

func TestEveryCellIsATestOrAReason(t *testing.T) {
	r := newResults()
	if err := r.read(strings.NewReader(events(good...))); err != nil {
		t.Fatal(err)
	}
	page, wrong := report(three(t), r)
	if len(wrong) != 0 {
		t.Errorf("got complaints %q", wrong)
	}
	for _, want := range []string{"| 1 | first | ✔ | ✔ | ✔ |\n", "| 2 | second | ✔ | ✔ | n/a (why) |\n", "| 103 | other | n/a (why) | n/a (why) | n/a (why) |\n",
		"2026-11-26", "20.10.24", "26.1.5", "5 hold, 0 are broken, 304 are not applicable", "- **why**: because\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing in\n%.1500s", want, page)
		}
	}
}

// TestWhatIsWrongIsShownAndTold: each change to the good results breaks a cell or is complained of.
func TestWhatIsWrongIsShownAndTold(t *testing.T) {
	for name, c := range map[string]struct {
		more string // replaces what good says of that test
		row  string
		told string
	}{
		"a failure on one engine":       {"m/test/conformance TestC01OnHosts/20.10 fail", "| 1 | first | ✖ | ✔ | ✔ |", "promise 1, 20.10: TestC01OnHosts/20.10 failed"},
		"a failure in process":          {"m/driver TestC01InProcess fail", "| 1 | first | ✔ | ✔ | ✖ |", "promise 1, peer: TestC01InProcess failed"},
		"a second test that fails":      {"m/agent TestC01Again fail", "| 1 | first | ✔ | ✔ | ✖ |", "promise 1, peer: TestC01Again failed"},
		"a test that was skipped":       {"m/test TestC01And02OnHosts/20.10 skip", "| 2 | second | ✖ | ✔ | n/a (why) |", "promise 2, 20.10: TestC01And02OnHosts/20.10 was skipped"},
		"a test that never ended":       {"m/driver TestC01InProcess run", "| 1 | first | ✔ | ✔ | ✖ |", "TestC01InProcess did not end"},
		"a failure before the engines":  {"m/test/conformance TestC02Early fail", "| 2 | second | ✖ | ✖ | n/a (why) |", "TestC02Early failed"},
		"no engine on hosts":            {"m/test/conformance TestC02Nowhere pass", "| 2 | second | ✔ | ✔ | n/a (why) |", "TestC02Nowhere ran on hosts, and no subtest tells on which engine"},
		"a number that is not promised": {"m/driver TestC104Beyond pass", "| 1 | first | ✔ | ✔ | ✔ |", "there is no promise 104"},
		"a test and an excuse":          {"m/driver TestC02InProcess pass", "| 2 | second | ✔ | ✔ | ✔ |", "promise 2, peer: has tests and the excuse (why)"},
		"a package that fails":          {"m/driver - fail", "| 1 | first | ✔ | ✔ | ✔ |", "m/driver failed"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newResults()
			if err := r.read(strings.NewReader(events(append(good, c.more)...))); err != nil {
				t.Fatal(err)
			}
			page, wrong := report(three(t), r)
			if !strings.Contains(page, c.row+"\n") {
				t.Errorf("the row %q is missing in\n%.1500s", c.row, page)
			}
			if all := strings.Join(wrong, "\n"); !strings.Contains(all, c.told) {
				t.Errorf("got complaints %q, want %q", all, c.told)
			}
		})
	}
}

func TestCellWithoutTestOrReasonFailsTheRunAndIsShown(t *testing.T) {
	var promises strings.Builder
	for n := 1; n <= items; n++ {
		fmt.Fprintf(&promises, "%d text\n", n)
	}
	into := filepath.Join(t.TempDir(), "page.md")
	var told bytes.Buffer
	err := run(file(t, promises.String()), into, []string{file(t, events(good...))}, &told)
	if err == nil {
		t.Error("a promise without a test passed")
	}
	page, _ := os.ReadFile(into)
	if !strings.Contains(string(page), "| 2 | text | ✔ | ✔ | ✖ |\n") || !strings.Contains(told.String(), "promise 2, peer: neither a test nor a reason why not") {
		t.Errorf("told %s, and wrote\n%.1500s", told.String(), page)
	}
}

// TestModuleTestedTwiceHasToPassTwice, in whichever order.
func TestModuleTestedTwiceHasToPassTwice(t *testing.T) {
	pass, fail := file(t, events("m/driver TestC01InProcess pass")), file(t, events("m/driver TestC01InProcess fail"))
	for _, results := range [][]string{{pass, fail}, {fail, pass}} {
		r := newResults()
		for _, path := range results {
			if err := r.readFile(path); err != nil {
				t.Fatal(err)
			}
		}
		if page, _ := report(three(t), r); !strings.Contains(page, "| 1 | first | ✖ | ✖ | ✖ |\n") {
			t.Errorf("%v: got\n%.1200s", results, page)
		}
	}
}

func TestBadPromisesAreRefusedWithTheirLine(t *testing.T) {
	for text, want := range map[string]string{
		"2 second\n":               "promise 1",
		"1\n":                      "says nothing",
		"1 first | peer: why\n":    "not a column and the word of a reason",
		"(why) x\n1 a | 9.9: why":  "not a column",
		"(why)\n":                  "(word) why",
		"1 first\n# two\n3 third":  ":3: ",
		"1 first and then no more": "has 1 promises, want 103",
	} {
		if _, err := readPromises(file(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want it to say %q", text, err, want)
		}
	}
}
