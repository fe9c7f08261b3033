package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func records(text string) (all []Record) {
	for i, word := range strings.Fields(text) { // a1 is record 1 of writer a
		r := Record{Writer: word[:1], Begin: int64(10 * i)}
		_, _ = fmt.Sscanf(word[1:], "%d", &r.Seq)
		all = append(all, r)
	}
	return all
}

func acked(all []Record) (acks []Ack) {
	for _, r := range all {
		acks = append(acks, Ack{r, r.Begin + 5})
	}
	return acks
}

func TestJudgeFindsWhatIsLostAndWhoWroteAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		file, acks    string
		lost, doubles int
	}{
		"all is well":                            {"a1 a2 b3 b4", "a1 a2 b3 b4", 0, 0},
		"what was not acknowledged may be there": {"a1 a2 b3 b4", "a1 a2", 0, 0},
		"the last one is lost":                   {"a1 a2", "a1 a2 a3", 1, 0},
		"an older copy was gone on with":         {"a1 a2 b3", "a1 a2 a3 b3", 1, 1}, // b3 stands where a3 did, and began before its end
		"a writer comes back":                    {"a1 b2 a3", "", 0, 1},
		"a hole":                                 {"a1 a3", "", 0, 1},
		"the beginning is not there":             {"a3", "", 0, 1},
		"two in two copies":                      {"a1 a2 b3 b4", "a1 b3 a4 b4", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			file := records(c.file)
			acks := acked(records(c.acks))
			for i := range acks { // a record has one time, in the file and when it is acknowledged
				for _, r := range file {
					if r.Writer == acks[i].Writer && r.Seq == acks[i].Seq {
						acks[i].Record = r
						acks[i].End = r.Begin + 5
					}
				}
			}
			v := Judge(file, acks)
			if len(v.Lost) != c.lost || len(v.Doubles) != c.doubles {
				t.Errorf("got %d lost and %d doubles, want %d and %d: %+v", len(v.Lost), len(v.Doubles), c.lost, c.doubles, v)
			}
		})
	}
}

func TestTheLongestGapIsThatSinceAMoment(t *testing.T) {
	acks := []Ack{{End: 10}, {End: 100}, {End: 130}, {End: 140}}
	if got := LongestGap(acks, 90); got != 30 {
		t.Errorf("got %v, want 30ns", got)
	}
}

func TestAWriterGoesOnWhereTheFileEndsAndIsHeard(t *testing.T) {
	l, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	first := Record{Writer: "old", Seq: 7}
	if err := os.WriteFile(path, []byte(first.Line()+"old 8 torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	enough := make(chan Ack, 3)
	done := make(chan error, 1)
	go func() {
		done <- write(dir, time.Millisecond, func(a Ack) {
			if len(enough) == cap(enough) {
				select {} // it is heard no more of
			}
			enough <- a
		})
	}()
	var told []Ack
	for range 3 {
		select {
		case a := <-enough:
			told = append(told, a)
		case err := <-done:
			t.Fatalf("it has ended: %v", err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, torn := Parse(string(text))
	if torn != 1 || len(all) < 4 || all[1].Seq != 8 || all[1].Writer == "old" {
		t.Errorf("%d torn lines, the records are %+v", torn, all)
	}
	if v := Judge(all[1:], told); len(v.Lost) > 0 {
		t.Errorf("what was told is not there: %v", v.Lost)
	}
	to := teller{address: fmt.Sprintf("127.0.0.1:%d", l.Port())}
	to.tell("db ack w1 3 100 200\n")
	to.tell("db trouble " + errors.ErrUnsupported.Error() + "\n")
	for len(l.Troubles("db")) == 0 { // lines come in their order
		runtime.Gosched()
	}
	if a := l.Acks("db"); len(a) != 1 || a[0] != (Ack{Record{"w1", 3, 100}, 200}) {
		t.Errorf("the ledger has %+v", a)
	}
}

func TestAWriterOutlivesAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	told := make(chan Ack)
	done := make(chan error, 1)
	go func() {
		done <- write(dir, 0, func(a Ack) { told <- a })
	}()
	next := func(within time.Duration) (a Ack, ok bool) {
		select {
		case a = <-told:
			return a, true
		case err := <-done:
			t.Fatalf("it has ended: %v", err)
		case <-time.After(within):
		}
		return a, false
	}
	var acks []Ack
	for a, ok := next(10 * time.Second); ok; a, ok = next(time.Second) { // until 64 KiB are full of records
		acks = append(acks, a)
	}
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	a, ok := next(10 * time.Second)
	if !ok || len(acks) < 100 || a.Seq != acks[len(acks)-1].Seq+1 {
		t.Fatalf("after %d records and with more room came %+v, %v", len(acks), a, ok)
	}
	text, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	all, torn := Parse(string(text))
	if v := Judge(all, append(acks, a)); len(v.Lost)+len(v.Doubles) > 0 || torn > 0 {
		t.Errorf("%d torn lines, and %+v", torn, v)
	}
}
