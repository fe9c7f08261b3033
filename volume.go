package mobyfs

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// VolumeID names a volume for its whole life and is never used twice: 26 characters of a ULID, lower case. On
// disk everything goes by the ID, so no name that a user invents ever becomes part of a path.
type VolumeID string

// Copying names the copy that a volume begins as (VolumeSpec.From) among the migrations of which nodes tell and keep bytes.
// A volume has no migration before it is whole.
func (id VolumeID) Copying() MigrationID { return MigrationID(id) }

// Volume is the control plane's record of a volume, as all agents and clients see it.
type Volume struct {
	ID        VolumeID    `json:"id"`
	Name      string      `json:"name"`
	Spec      VolumeSpec  `json:"spec"`
	State     VolumeState `json:"state"`
	CreatedAt time.Time   `json:"created_at"`
	Node      string      `json:"node"`                // the home: the node that has the bytes
	Fence     Fence       `json:"fence"`               // the highest fence ever given out for this volume
	Lease     *Lease      `json:"lease,omitempty"`     // nil while no container uses the volume
	Migration *Migration  `json:"migration,omitempty"` // nil while the volume stays where it is
	LastMove  *Migration  `json:"last_move,omitempty"` // the migration that ended last, nil if there was none
	Arrived   MigrationID `json:"arrived,omitempty"`   // whose commit made Node the home; "" if the bytes were made there
	UsedBytes int64       `json:"used_bytes"`          // as the home last reported; 0 until it has
	Revision  int64       `json:"revision"`            // of the record in the store; grows with each change
	Aside     *Aside      `json:"aside,omitempty"`     // nil unless no node had the bytes after a restore
	// Undeletion is nil unless the volume was removed and came back.
	Undeletion *Undeletion `json:"undeletion,omitempty"`
	Kept       []string    `json:"kept,omitempty"` // nodes with other bytes of it since a restore, which stay untouched
}

// Aside says why a volume is kept on record and can't be used: after control was restored from a backup no node had its
// bytes. It may have been removed since the backup was made.
type Aside struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Fence  Fence     `json:"fence"` // of the volume as the backup knew it
}

// KeepsAt reports whether a node has other bytes of the volume that are to stay untouched.
func (v Volume) KeepsAt(node string) bool { return slices.Contains(v.Kept, node) }

// VolumeSpec is what a user asks for, and in a record what the volume was given.
type VolumeSpec struct {
	Class     string            `json:"class,omitempty"`      // the VolumeClass that filled what the user left open
	Backend   string            `json:"backend,omitempty"`    // "dir" if empty
	SizeBytes int64             `json:"size_bytes,omitempty"` // space to count on, and where the backend bounds it the most; 0 = no promise
	Takeover  Takeover          `json:"takeover,omitempty"`   // TakeoverNever if empty
	Labels    map[string]string `json:"labels,omitempty"`

	// What the volume is made with. It is read once: whose the root directory is later, containers say.
	Filesystem string `json:"fs,omitempty"`   // of a volume that has its own: ext4, or xfs; ext4 if empty
	Mode       string `json:"mode,omitempty"` // of the root directory, in octal; 0755 if empty
	UID        int    `json:"uid,omitempty"`  // of the root directory
	GID        int    `json:"gid,omitempty"`
	From       string `json:"from,omitempty"` // absolute path of a directory on its home that it began as a copy of; "" if it began empty

	Zone        string            `json:"zone,omitempty"`        // only nodes of this zone
	NodeLabels  map[string]string `json:"node_labels,omitempty"` // only nodes with all of these
	Apart       string            `json:"apart,omitempty"`       // only nodes without another volume of this group (anti-affinity)
	Tolerations []string          `json:"tolerations,omitempty"` // taints that do not keep it away: KEY or KEY=VALUE
}

// Meets reports whether a volume of this spec is what is asked for. What is left open is met by anything.
func (s VolumeSpec) Meets(asked VolumeSpec) bool {
	s = s.WithDefaults()
	if asked.Class != "" && asked.Class != s.Class || asked.Backend != "" && asked.Backend != s.Backend ||
		asked.SizeBytes != 0 && asked.SizeBytes != s.SizeBytes ||
		asked.Takeover != "" && asked.Takeover != cmp.Or(s.Takeover, TakeoverNever) {
		return false
	}
	if asked.Filesystem != "" && asked.Filesystem != cmp.Or(s.Filesystem, "ext4") || asked.Mode != "" && asked.Mode != s.Mode ||
		asked.UID != 0 && asked.UID != s.UID || asked.GID != 0 && asked.GID != s.GID || asked.From != "" && asked.From != s.From {
		return false
	}
	if asked.Zone != "" && asked.Zone != s.Zone || asked.Apart != "" && asked.Apart != s.Apart {
		return false
	}
	for _, t := range asked.Tolerations {
		if !slices.Contains(s.Tolerations, t) {
			return false
		}
	}
	return holds(s.NodeLabels, asked.NodeLabels) && holds(s.Labels, asked.Labels)
}

// holds reports whether all of some labels are among others.
func holds(labels, some map[string]string) bool {
	for k, v := range some {
		if has, ok := labels[k]; !ok || has != v {
			return false
		}
	}
	return true
}

// WithDefaults fills what the user left open.
func (s VolumeSpec) WithDefaults() VolumeSpec {
	if s.Backend == "" {
		s.Backend = DefaultBackend
	}
	if s.Backend == LoopBackend && s.SizeBytes == 0 {
		s.SizeBytes = DefaultLoopSize
	}
	return s
}

// VolumeClass is a name for what volumes of one kind have in common, such as fast or archive. The operator defines the
// classes of a cluster once, in cluster.yaml. A class is read when a volume is created: what it says later does not
// change that volume.
type VolumeClass struct {
	Name      string            `json:"name"`
	Backend   string            `json:"backend,omitempty"`
	SizeBytes int64             `json:"size_bytes,omitempty"`
	Takeover  Takeover          `json:"takeover,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`

	// As in VolumeSpec. An owner of 0 is one that the class says nothing of.
	Filesystem string `json:"fs,omitempty"`
	Mode       string `json:"mode,omitempty"`
	UID        int    `json:"uid,omitempty"`
	GID        int    `json:"gid,omitempty"`

	Zone        string            `json:"zone,omitempty"`
	NodeLabels  map[string]string `json:"node_labels,omitempty"`
	Apart       string            `json:"apart,omitempty"`
	Tolerations []string          `json:"tolerations,omitempty"`
}

// Fill gives a spec what it leaves open. The file system of the class is that of its backend: whoever chooses another one gets
// that one's.
func (c VolumeClass) Fill(s VolumeSpec) VolumeSpec {
	if s.Backend == "" || s.Backend == c.Backend {
		s.Filesystem = cmp.Or(s.Filesystem, c.Filesystem)
	}
	s.Class, s.Backend, s.SizeBytes = c.Name, cmp.Or(s.Backend, c.Backend), cmp.Or(s.SizeBytes, c.SizeBytes)
	s.Mode, s.UID, s.GID = cmp.Or(s.Mode, c.Mode), cmp.Or(s.UID, c.UID), cmp.Or(s.GID, c.GID)
	s.Takeover = cmp.Or(s.Takeover, c.Takeover)
	s.Zone, s.Apart = cmp.Or(s.Zone, c.Zone), cmp.Or(s.Apart, c.Apart)
	if len(s.Tolerations) == 0 {
		s.Tolerations = slices.Clone(c.Tolerations)
	}
	s.Labels, s.NodeLabels = filled(s.Labels, c.Labels), filled(s.NodeLabels, c.NodeLabels)
	return s
}

// filled are labels, and those of a class that they leave open.
func filled(labels, class map[string]string) map[string]string {
	if len(class) == 0 {
		return labels
	}
	all := maps.Clone(class)
	maps.Copy(all, labels)
	return all
}

// VolumeState says how far a volume's life has come. It only goes forward, in the order of the constants.
type VolumeState string

const (
	// VolumeCreating: the home is chosen; the bytes may not be there yet. An empty volume may be made.
	VolumeCreating VolumeState = "creating"
	// VolumeReady: the home has the bytes. If it finds none it must say so, never make an empty volume.
	VolumeReady VolumeState = "ready"
	// VolumeRemoving: the name is free again; the record stays until the home has removed the bytes.
	VolumeRemoving VolumeState = "removing"
)

// Leads reports whether state s may be followed by next.
func (s VolumeState) Leads(next VolumeState) bool {
	switch s {
	case VolumeCreating:
		return next == VolumeReady || next == VolumeRemoving
	case VolumeReady:
		return next == VolumeRemoving
	default:
		return false
	}
}

// InUse reports who uses the volume, as one phrase such as "on h1 by container web-1", and whether anyone does.
func (v Volume) InUse() (string, bool) {
	if v.Lease == nil {
		return "", false
	}
	switch users := v.Lease.Users; len(users) {
	case 0:
		return fmt.Sprintf("on %s by a container", v.Lease.Node), true
	case 1:
		return fmt.Sprintf("on %s by container %s", v.Lease.Node, users[0]), true
	default:
		return fmt.Sprintf("on %s by containers %s", v.Lease.Node, strings.Join(users, ", ")), true
	}
}

// Condition is the one word that lists show: the state, or what goes on with a ready volume.
func (v Volume) Condition() string {
	switch {
	case v.State != VolumeReady:
		return string(v.State)
	case v.Aside != nil:
		return "aside"
	case v.Returning():
		return "returning"
	case v.Migration != nil:
		return "moving"
	case v.Lease != nil:
		return "in use"
	default:
		return "ready"
	}
}

// volumeName is Docker's own rule for the names of local volumes, plus a cap of 128 characters.
var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$`)

// CheckVolumeName tells what is wrong with a name that a volume can't have, or nil. Docker passes every string on
// to a volume driver, so this is the only gate.
func CheckVolumeName(name string) error {
	if volumeName.MatchString(name) {
		return nil
	}
	shown := name
	if utf8.RuneCountInString(shown) > 40 {
		shown = string([]rune(shown)[:40]) + "…"
	}
	why := "it may hold letters, digits, _ . - and must start with a letter or digit"
	switch {
	case name == "":
		return Errorf(CodeInvalid, "a volume needs a name").WithHint("give it 2 to 128 letters, digits, _ . or -")
	case len(name) == 1:
		why = "it needs two characters at least"
	case len(name) > 128:
		why = fmt.Sprintf("it has %d characters, 128 are the most", utf8.RuneCountInString(name))
	}
	return Errorf(CodeInvalid, "%q can't be the name of a volume: %s", shown, why).
		WithHint("use 2 to 128 letters, digits, _ . or -, such as pgdata or shop_db-1")
}

// FoldName is the form of a name under which it is unique in the cluster: names that differ only in case are one,
// so that PGDATA can't be mistaken for pgdata.
func FoldName(name string) string { return strings.ToLower(name) }
