package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// items is how many promises there are; they are numbered from 1.
const items = 103

// columns of the page: two engines on real hosts, and the tests in process.
var columns = []string{"20.10", "26.1", "peer"}

// promises is what the file of promises holds.
type promises struct {
	items   []promise         // by number, from 1
	reasons map[string]string // why a cell is not applicable, by the word that the cell shows
}

// promise is one row.
type promise struct {
	number int
	text   string
	excuse map[string]string // column → word of a reason
}

// readPromises reads the file of promises. Lines are
//
//	(word) a reason
//	39 a promise
//	39 a promise | 20.10: word, peer: word
//
// and comments that start with #.
func readPromises(path string) (promises, error) {
	p := promises{reasons: map[string]string{}}
	f, err := os.Open(path)
	if err != nil {
		return p, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if err := p.read(strings.TrimSpace(lines.Text())); err != nil {
			return p, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return p, err
	}
	if len(p.items) != items {
		return p, fmt.Errorf("%s has %d promises, want %d", path, len(p.items), items)
	}
	return p, nil
}

func (p *promises) read(line string) error {
	switch {
	case line == "", strings.HasPrefix(line, "#"):
		return nil
	case strings.HasPrefix(line, "("):
		word, reason, ok := strings.Cut(line[1:], ") ")
		if !ok || reason == "" {
			return fmt.Errorf("a reason is written (word) why")
		}
		p.reasons[word] = reason
		return nil
	}
	number, rest, _ := strings.Cut(line, " ")
	n, err := strconv.Atoi(number)
	if err != nil || n != len(p.items)+1 {
		return fmt.Errorf("the line starts with %q, want promise %d", number, len(p.items)+1)
	}
	text, excuses, _ := strings.Cut(rest, " | ")
	if text == "" {
		return fmt.Errorf("promise %d says nothing", n)
	}
	it := promise{n, text, map[string]string{}}
	for _, e := range strings.FieldsFunc(excuses, func(r rune) bool { return r == ',' }) {
		column, word, _ := strings.Cut(strings.TrimSpace(e), ": ")
		if !slices.Contains(columns, column) || p.reasons[word] == "" {
			return fmt.Errorf("promise %d: %q is not a column and the word of a reason given above", n, strings.TrimSpace(e))
		}
		it.excuse[column] = word
	}
	p.items = append(p.items, it)
	return nil
}
