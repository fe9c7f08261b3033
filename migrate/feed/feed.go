// Package feed tells what changed in a directory tree while it was used.
package feed

import (
	"cmp"
	"context"
	"slices"
)

// Feed tells what changed in one tree. Changes, Last and Close are called one after the other.
type Feed interface {
	// Name is the kind of feed, for people.
	Name() string
	// Changes tells what changed since the last call, or since the feed was armed. It may tell of more than that, never of
	// less: what it can't vouch for is Set.All. It writes out first what the kernel holds back, where it needs that.
	Changes(ctx context.Context) (Set, error)
	// Last is Changes of a tree that nobody writes to any more: nothing is asked after it, so it need not prepare for that.
	Last(ctx context.Context) (Set, error)
	// Close ends it and removes what it keeps.
	Close() error
}

// Set is what changed.
type Set struct {
	All bool   // it is not known what changed: everything is to be compared
	Why string // of All, for people
	// Paths are relative to the root, which is "" itself. Those of a directory stand for its metadata and its list of names,
	// not for what lies in it. Of a file nil stands for its metadata and all of its content, ranges for its metadata and
	// those alone. A directory that was renamed is told by both of its parents; what lies in it is to be compared.
	Paths map[string][]Range
}

// Range is a stretch of a file's content, in bytes.
type Range struct{ Off, Len int64 }

// Union is what lies in any of the lists, in order and apart. They may be in any order.
func Union(lists ...[]Range) (all []Range) {
	every := slices.Concat(lists...)
	slices.SortFunc(every, func(a, b Range) int { return cmp.Compare(a.Off, b.Off) })
	for _, r := range every {
		all = addRange(all, r.Off, r.Off+r.Len)
	}
	return all
}
