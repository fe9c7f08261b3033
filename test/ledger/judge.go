package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Verdict is what is wrong, in words. Both are empty if all is well.
type Verdict struct {
	Lost    []string // records that were acknowledged, and are not in the file
	Doubles []string // moments at which two wrote
}

// Judge compares a file with what was acknowledged before it was read.
func Judge(file []Record, acks []Ack) Verdict {
	var v Verdict
	has := make(map[Record]bool, len(file))
	for _, r := range file {
		has[r] = true
	}
	for _, a := range acks {
		if !has[a.Record] {
			v.Lost = append(v.Lost, fmt.Sprintf("record %d of %s was acknowledged and is not there", a.Seq, a.Writer))
		}
	}
	v.Doubles = append(inTurn(file), apart(acks)...)
	return v
}

// inTurn finds records of a file that do not go on where the one before ends, and writers who came back.
func inTurn(file []Record) (wrong []string) {
	over := map[string]bool{}
	for i, r := range file {
		if i == 0 {
			if r.Seq != 1 {
				wrong = append(wrong, fmt.Sprintf("the file begins with record %d", r.Seq))
			}
			continue
		}
		last := file[i-1]
		if r.Seq != last.Seq+1 {
			wrong = append(wrong, fmt.Sprintf("record %d of %s follows record %d of %s", r.Seq, r.Writer, last.Seq, last.Writer))
		}
		if r.Writer != last.Writer {
			over[last.Writer] = true
			if over[r.Writer] {
				wrong = append(wrong, fmt.Sprintf("%s writes record %d, after %s had taken its place", r.Writer, r.Seq, last.Writer))
			}
		}
	}
	return wrong
}

// apart finds writers of whom one wrote before the other had written for the last time.
func apart(acks []Ack) (wrong []string) {
	type life struct {
		writer       string
		first, until int64
	}
	lives := map[string]*life{}
	for _, a := range acks {
		l := lives[a.Writer]
		if l == nil {
			l = &life{a.Writer, a.Begin, a.End}
			lives[a.Writer] = l
		}
		l.first, l.until = min(l.first, a.Begin), max(l.until, a.End)
	}
	var order []*life
	for _, l := range lives {
		order = append(order, l)
	}
	slices.SortFunc(order, func(x, y *life) int { return cmp.Compare(x.first, y.first) })
	for i := 1; i < len(order); i++ {
		before, l := order[i-1], order[i]
		if l.first < before.until {
			wrong = append(wrong, fmt.Sprintf("%s began to write %v before %s had written for the last time", l.writer, time.Duration(before.until-l.first).Round(time.Millisecond), before.writer))
		}
		if before.until > l.until { // it outlived the next one too
			order[i] = before
		}
	}
	return wrong
}

// LongestGap is the longest time between two acknowledgements after a moment, which tells how long nobody wrote.
func LongestGap(acks []Ack, since int64) (longest time.Duration) {
	last := since
	for _, a := range acks {
		if a.End <= since {
			continue
		}
		longest, last = max(longest, time.Duration(a.End-last)), a.End
	}
	return longest
}
