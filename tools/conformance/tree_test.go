package main

import (
	"fmt"
	"os"
	"regexp"
	"testing"
)

// TestPageInTheTreeHasARowForEachPromise, in the list's words and with the list's excuses. That promises hold is for
// make conformance to say.
func TestPageInTheTreeHasARowForEachPromise(t *testing.T) {
	list, err := readPromises("promises.txt")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \| (.*) \| (.*) \| (.*) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(rows) != items {
		t.Fatalf("the page has %d rows, want %d; run make conformance", len(rows), items)
	}
	for i, row := range rows {
		want := list.items[i]
		if row[1] != fmt.Sprint(want.number) || row[2] != want.text {
			t.Errorf("row %s says %q, the list %d %q; run make conformance", row[1], row[2], want.number, want.text)
		}
		for j, column := range columns {
			if shown := row[3+j]; shown != holds && shown != broken && shown != fmt.Sprintf("n/a (%s)", want.excuse[column]) {
				t.Errorf("promise %s, %s: the page shows %q", row[1], column, shown)
			}
		}
	}
}
