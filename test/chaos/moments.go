package chaos

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// moments are the named moments at which something can be made to happen in a program.
type moments struct {
	agent    []string
	watchdog []string
	control  []string
	fail     map[string]bool // those at which an error can happen
	reached  map[string]int
}

// failing picks those at which an error can happen.
func (m moments) failing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !m.fail[n] })
}

var (
	reachCall   = regexp.MustCompile(`failpoint\.(Reach|Fail)\("([^"]+)"\)`)
	durableCall = regexp.MustCompile(`durable\.(?:WriteFile|WriteJSON|Rename|Remove)\("([^"]+)"`)
)

// readMoments lists the moments that the sources of the programs name, in the module that lies in root.
func readMoments(root string) (moments, error) {
	m := moments{fail: map[string]bool{}, reached: map[string]int{}}
	var err error
	if m.agent, err = m.read(root, "agent", "backend", "migrate"); err == nil {
		m.control, err = m.read(root, "control")
	}
	m.agent = slices.DeleteFunc(m.agent, func(name string) bool {
		if strings.HasPrefix(name, "watchdog.") {
			m.watchdog = append(m.watchdog, name)
			return true
		}
		return false
	})
	if err == nil && (len(m.agent) == 0 || len(m.control) == 0) {
		err = fmt.Errorf("no moments are named in %s", root)
	}
	return m, err
}

func (m moments) read(root string, dirs ...string) ([]string, error) {
	var names []string
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			src, err := os.ReadFile(path)
			for _, call := range reachCall.FindAllStringSubmatch(string(src), -1) {
				names = append(names, call[2])
				m.fail[call[2]] = call[1] == "Fail"
			}
			for _, call := range durableCall.FindAllStringSubmatch(string(src), -1) {
				names = append(names, call[1]+".before", call[1]+".after")
				m.fail[call[1]+".before"] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
