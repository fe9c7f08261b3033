package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	holds  = "✔"
	broken = "✖"
)

// report makes the page, and lists what is wrong.
func report(list promises, r *results) (page string, wrong []string) {
	cells, wrong := r.proofs()
	for _, pkg := range r.broken {
		wrong = append(wrong, pkg+" failed")
	}
	for _, engine := range columns[:2] {
		if r.engines[engine] == "" {
			wrong = append(wrong, "no host told the version of its Docker "+engine)
		}
	}
	var rows strings.Builder
	counts := map[string]int{}
	used := map[string]bool{}
	for _, p := range list.items {
		fmt.Fprintf(&rows, "| %d | %s |", p.number, p.text)
		for _, column := range columns {
			shown, complaints := judge(p, column, cells[cell{p.number, column}])
			wrong = append(wrong, complaints...)
			if word := p.excuse[column]; strings.HasPrefix(shown, "n/a") {
				used[word] = true
				counts["n/a"]++
			} else {
				counts[shown]++
			}
			fmt.Fprintf(&rows, " %s |", shown)
		}
		rows.WriteString("\n")
	}
	for word := range list.reasons {
		if !used[word] {
			wrong = append(wrong, fmt.Sprintf("no cell needs the reason (%s)", word))
		}
	}
	slices.Sort(wrong)
	return head(r, counts) + rows.String() + footnotes(list, used), wrong
}

// judge fills one cell.
func judge(p promise, column string, is proof) (shown string, wrong []string) {
	word := p.excuse[column]
	switch {
	case len(is.failed) > 0:
		for _, f := range is.failed {
			wrong = append(wrong, fmt.Sprintf("promise %d, %s: %s", p.number, column, f))
		}
		return broken, wrong
	case is.passed > 0 && word != "":
		return holds, []string{fmt.Sprintf("promise %d, %s: has tests and the excuse (%s): take one away", p.number, column, word)}
	case is.passed > 0:
		return holds, nil
	case word != "":
		return fmt.Sprintf("n/a (%s)", word), nil
	default:
		return broken, []string{fmt.Sprintf("promise %d, %s: neither a test nor a reason why not", p.number, column)}
	}
}

func head(r *results, counts map[string]int) string {
	return fmt.Sprintf(`# Conformance
What the driver promises Docker, and whether it holds. `+"`make conformance`"+` runs the tests and writes this page; a test carries
the number of its promise in its name (`+"`grep -rn TestC39`"+`), the promises stand in `+"`tools/conformance/promises.txt`"+`.

Run on %s against Docker %s and Docker %s, each on its own host, and in process (column peer): the driver, the
agent and the program without a dockerd, and Docker's own plugin client and volume store in front of them.
%d promises, %d cells: %d hold, %d are broken, %d are not applicable for the reason named.

| number | promise | 20.10 | 26.1 | peer |
|---|---|---|---|---|
`, r.date.UTC().Format("2006-01-02"), orUnknown(r.engines[columns[0]]), orUnknown(r.engines[columns[1]]),
		items, items*len(columns), counts[holds], counts[broken], counts["n/a"])
}

func orUnknown(version string) string {
	if version == "" {
		return "(version unknown)"
	}
	return version
}

func footnotes(list promises, used map[string]bool) string {
	var b strings.Builder
	b.WriteString("\n## Not applicable\n")
	for _, word := range slices.Sorted(maps.Keys(used)) {
		fmt.Fprintf(&b, "- **%s**: %s\n", word, list.reasons[word])
	}
	return b.String()
}
