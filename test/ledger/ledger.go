// Package ledger judges writers that move from host to host. A writer appends records to a file in its volume, syncs each,
// and then tells of it to a Ledger, which is on none of the hosts. Whatever happens to the hosts, Judge finds in the file
// and in what was told whether an acknowledged record is lost, and whether two writers ever wrote at once.
//
// All hosts of the tests share one kernel, so that one clock, CLOCK_BOOTTIME, stands on all records.
package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Name is that of the file in the volume.
const Name = "records"

// Record is one write.
type Record struct {
	Writer string // one word, another one for each life of a writer
	Seq    uint64 // from 1, and on over all writers of the file
	Begin  int64  // before it was written, CLOCK_BOOTTIME, ns
}

// Line is the record as it stands in the file.
func (r Record) Line() string {
	text := fmt.Sprintf("%s %d %d", r.Writer, r.Seq, r.Begin)
	return fmt.Sprintf("%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

// Parse reads a file of records. Lines that are none, as a crash tears them, are counted.
func Parse(text string) (all []Record, torn int) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		i := strings.LastIndexByte(line, ' ')
		var r Record
		var sum uint32
		if i < 0 {
			torn += min(1, len(line))
			continue
		}
		_, err1 := fmt.Sscanf(line[i+1:], "%x", &sum)
		_, err2 := fmt.Sscanf(line[:i], "%s %d %d", &r.Writer, &r.Seq, &r.Begin)
		if err1 != nil || err2 != nil || sum != crc32.ChecksumIEEE([]byte(line[:i])) {
			torn++
			continue
		}
		all = append(all, r)
	}
	return all, torn
}

// Ack says that a record is on the disk.
type Ack struct {
	Record
	End int64 // once it was synced, CLOCK_BOOTTIME, ns
}

// Ledger hears of acknowledged records. What it does not hear of was not acknowledged.
type Ledger struct {
	listener net.Listener

	mu       sync.Mutex
	acks     map[string][]Ack
	troubles map[string][]string
}

// Listen begins to hear, at any free port of this machine.
func Listen() (*Ledger, error) {
	listener, err := net.Listen("tcp4", ":0")
	if err != nil {
		return nil, fmt.Errorf("listen for acknowledged records: %w", err)
	}
	l := &Ledger{listener: listener, acks: map[string][]Ack{}, troubles: map[string][]string{}}
	go l.serve()
	return l, nil
}

// Close ends it. Writers that are connected are heard until they end.
func (l *Ledger) Close() error { return l.listener.Close() }

// Port is where it is to be told.
func (l *Ledger) Port() int { return l.listener.Addr().(*net.TCPAddr).Port }

func (l *Ledger) serve() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer conn.Close()
			for r := bufio.NewReader(conn); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				l.note(strings.TrimSuffix(line, "\n"))
			}
		}()
	}
}

// note takes down "NAME ack WRITER SEQ BEGIN END" or "NAME trouble TEXT".
func (l *Ledger) note(text string) {
	name, rest, _ := strings.Cut(text, " ")
	kind, rest, _ := strings.Cut(rest, " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	var a Ack
	if kind == "ack" {
		if _, err := fmt.Sscanf(rest, "%s %d %d %d", &a.Writer, &a.Seq, &a.Begin, &a.End); err == nil {
			l.acks[name] = append(l.acks[name], a)
			return
		}
	}
	l.troubles[name] = append(l.troubles[name], rest)
}

// Acks are those of a name so far, in the order in which they came.
func (l *Ledger) Acks(name string) []Ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.acks[name])
}

// Troubles is what writers of a name could not do.
func (l *Ledger) Troubles(name string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.troubles[name])
}

// Write is a writer: it goes on where the file in the directory ends, a record after each pause, and tells the ledger at an
// address of each that is on the disk. A full disk it outlives, and tries the same record again. It returns at the first write
// that fails for another reason, which it tells of too.
func Write(dir, address, name string, pause time.Duration) error {
	to := teller{address: address}
	err := write(dir, pause, func(a Ack) {
		to.tell(fmt.Sprintf("%s ack %s %d %d %d\n", name, a.Writer, a.Seq, a.Begin, a.End))
	})
	to.tell(fmt.Sprintf("%s trouble %v\n", name, err))
	return err
}

// teller tells a ledger. If it does not hear, nobody was promised anything, and the writer goes on.
type teller struct {
	address string
	conn    net.Conn
}

// patience is how long a writer waits for a ledger that does not hear.
const patience = time.Second

func (t *teller) tell(line string) {
	if t.conn == nil {
		conn, err := net.DialTimeout("tcp4", t.address, patience)
		if err != nil {
			return
		}
		t.conn = conn
	}
	err := t.conn.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = t.conn.Write([]byte(line))
	}
	if err != nil {
		_ = t.conn.Close()
		t.conn = nil
	}
}

func write(dir string, pause time.Duration, tell func(Ack)) error {
	f, err := os.OpenFile(filepath.Join(dir, Name), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	r := Record{Writer: fmt.Sprintf("w%x", Now())}
	if all, _ := Parse(string(text)); len(all) > 0 {
		r.Seq = all[len(all)-1].Seq
	}
	end := "" // of what a crash may have torn
	if n := len(text); n > 0 && text[n-1] != '\n' {
		end = "\n"
	}
	for size := int64(len(text)); ; time.Sleep(pause) {
		next := r
		next.Seq, next.Begin = r.Seq+1, Now()
		n, err := f.WriteString(end + next.Line())
		if err == nil {
			err = f.Sync()
		}
		if errors.Is(err, unix.ENOSPC) {
			if err := f.Truncate(size); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		r, end, size = next, "", size+int64(n)
		tell(Ack{r, Now()})
	}
}

// Now is CLOCK_BOOTTIME, ns.
func Now() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // there since Linux 2.6.39
	return t.Nano()
}
