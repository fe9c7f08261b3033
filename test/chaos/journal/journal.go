// Package journal is the file that containers of the chaos harness write into their volume: a line for each write, which
// says who wrote it under which fence. What was acknowledged, and by whom, can be read back from it anywhere.
package journal

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"
)

// Name is that of the file in the volume.
const Name = "journal"

// Record is one write.
type Record struct {
	Fence  uint64
	Writer string // one word, one for each container
	Seq    uint64 // from 1 for each writer
	At     int64  // CLOCK_BOOTTIME, ns
}

// Line is the record as it stands in the file.
func (r Record) Line() string {
	text := fmt.Sprintf("%d %s %d %d", r.Fence, r.Writer, r.Seq, r.At)
	return fmt.Sprintf("%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

// Parse reads a line without its end.
func Parse(line string) (Record, error) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return Record{}, fmt.Errorf("%q is no record", line)
	}
	var sum uint32
	var r Record
	if _, err := fmt.Sscanf(line[i+1:], "%x", &sum); err != nil || sum != crc32.ChecksumIEEE([]byte(line[:i])) {
		return Record{}, fmt.Errorf("the checksum of %q is wrong", line)
	}
	_, err := fmt.Sscanf(line[:i], "%d %s %d %d", &r.Fence, &r.Writer, &r.Seq, &r.At)
	return r, err
}

// Read reads all records of a file. No file holds none. Lines that are none (torn by a kill) are counted.
func Read(path string) (all []Record, torn int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if r, err := Parse(lines.Text()); err == nil {
			all = append(all, r)
		} else if lines.Text() != "" {
			torn++
		}
	}
	return all, torn, lines.Err()
}
