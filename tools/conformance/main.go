// Command conformance writes docs/conformance.md: a row for each promise about Docker's plugin protocol, and whether
// it holds on each engine.
//
//	conformance -promises FILE -into FILE RESULTS…
//
// RESULTS are what go test -json printed. A test belongs to the promise whose number is in its name: TestC39… proves
// promise 39, TestC81And83… both of these. Tests on real hosts prove it for the engines that their subtests are named after, all others in process.
// A promise that a column neither tries nor excuses fails the run, and so does a test that was skipped.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	promises := flag.String("promises", "tools/conformance/promises.txt", "what is promised, and why some cells are not applicable")
	into := flag.String("into", "docs/conformance.md", "the page to write")
	flag.Parse()
	if err := run(*promises, *into, flag.Args(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run writes the page even if promises are broken, and then says so.
func run(promises, into string, results []string, complaints io.Writer) error {
	list, err := readPromises(promises)
	if err != nil {
		return err
	}
	r := newResults()
	for _, path := range results {
		if err := r.readFile(path); err != nil {
			return err
		}
	}
	page, wrong := report(list, r)
	if err := os.WriteFile(into, []byte(page), 0o644); err != nil {
		return err
	}
	for _, w := range wrong {
		fmt.Fprintln(complaints, w)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d things are wrong; %s shows which promises are broken", len(wrong), into)
	}
	return nil
}
