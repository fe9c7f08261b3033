package step

import (
	"context"
	"slices"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Journal is written on the host before anything else is, and removed last: what it does not list is not ours.
type Journal struct {
	Cluster string            `json:"cluster"`
	Node    string            `json:"node"`
	Control bool              `json:"control"`
	Paths   []string          `json:"paths"`             // what was or is about to be put here
	Running map[string]string `json:"running,omitempty"` // the digest that each unit was last started with
	// Endpoint is where a dockerd that runs may call, for the driver was proven to answer there. Empty: the socket
	// that Docker finds by itself, if mobyfs.socket ever ran.
	Endpoint discovery.Endpoint `json:"endpoint,omitempty"`
}

// running tells the digest that a unit was last started with, "" if it never was.
func (f Facts) running(unit string) string {
	if f.Installed == nil {
		return ""
	}
	return f.Installed.Running[unit]
}

// merge is the journal for d that forgets no path of an earlier one.
func (f Facts) merge(d Desired) Journal {
	j := Journal{Cluster: d.Cluster, Node: d.Node, Control: d.Control, Running: map[string]string{}}
	if f.Installed != nil {
		j.Paths, j.Endpoint = slices.Clone(f.Installed.Paths), f.Installed.Endpoint
		for unit, digest := range f.Installed.Running {
			j.Running[unit] = digest
		}
	}
	for _, p := range d.paths() {
		if isPluginDir(p) && f.Exists[p] {
			continue // somebody else's, or ours and in the list already
		}
		if !slices.Contains(j.Paths, p) {
			j.Paths = append(j.Paths, p)
		}
	}
	return j
}

type journal struct{}

func (journal) Name() string { return "journal" }

func (journal) Check(f Facts, d Desired) []Change {
	switch now, want := f.Installed, f.merge(d); {
	case now == nil:
		return []Change{{Add, JournalPath, "lists all that is installed"}}
	case now.Cluster != want.Cluster || now.Node != want.Node || now.Control != want.Control || !slices.Equal(now.Paths, want.Paths):
		return []Change{{Modify, JournalPath, ""}}
	default:
		return nil
	}
}

func (journal) Apply(_ context.Context, r *Run) error {
	if err := r.mkdirAll(AgentRoot, 0o700); err != nil {
		return err
	}
	return r.writeJournal(r.Facts.merge(r.Desired))
}

func (r *Run) writeJournal(j Journal) error {
	if err := durable.WriteJSON("step.journal", r.path(JournalPath), j, 0o600); err != nil {
		return err
	}
	r.Facts.Installed = &j
	return nil
}

// noteRunning records that a unit was started with what is now on disk.
func (r *Run) noteRunning(unit string) error {
	j := r.Facts.merge(r.Desired)
	j.Running[unit] = r.Desired.digest(unit)
	return r.writeJournal(j)
}
