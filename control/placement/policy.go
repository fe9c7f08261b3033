package placement

import (
	"strings"

	"github.com/coreos/go-semver/semver"

	"github.com/mobyfs/mobyfs"
)

// Strategy says which of the nodes that fit are preferred.
type Strategy string

const (
	Spread  Strategy = "spread"  // those with most room left, so that all fill alike
	BinPack Strategy = "binpack" // those with least room left, so that few are in use
)

// Policy is how a cluster places volumes.
type Policy struct {
	Strategy   Strategy
	Overcommit float64 // how many bytes may be promised per byte that there is, 1 or more
	Headroom   float64 // the share of each disk that is never given to volumes, from 0 to less than 1
	Version    string  // of control; a node more than one minor version away gets nothing
}

// DefaultPolicy is that of a cluster whose operator has said nothing.
func DefaultPolicy() Policy { return Policy{Strategy: Spread, Overcommit: 1, Headroom: 0.05} }

// Check tells what is wrong with a policy, or nil.
func (p Policy) Check() error {
	switch {
	case p.Strategy != Spread && p.Strategy != BinPack:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "volumes can't be placed by %.40q", p.Strategy).WithHint("use %s or %s", Spread, BinPack)
	case !(p.Overcommit >= 1 && p.Overcommit <= maxOvercommit):
		return mobyfs.Errorf(mobyfs.CodeInvalid, "an overcommit of %v is not possible", p.Overcommit).
			WithHint("use 1 to promise what there is, or up to %d to count on volumes that are never full", maxOvercommit)
	case !(p.Headroom >= 0 && p.Headroom <= maxHeadroom):
		return mobyfs.Errorf(mobyfs.CodeInvalid, "a headroom of %v is not possible", p.Headroom).
			WithHint("use the share of each disk that stays free, from 0 to %v, such as 0.05", maxHeadroom)
	}
	return nil
}

const (
	maxOvercommit = 100
	maxHeadroom   = 0.9
)

// headroom is what stays free of a disk, in bytes.
func (p *Policy) headroom(total int64) int64 { return int64(float64(total) * p.Headroom) }

// limit is how much may be used and promised on a disk, in bytes.
func (p *Policy) limit(total int64) int64 {
	usable := total - p.headroom(total)
	if p.Overcommit <= 1 {
		return usable
	}
	return int64(min(float64(usable)*p.Overcommit, most))
}

const most = 1 << 62 // bytes; more than anybody has, and sums of two still fit

// release is the part of a version that decides which programs understand each other.
type release struct{ major, minor int64 }

// releaseOf reads a version. It reports false for one that says no release, such as that of a build that never was one.
func releaseOf(version string) (release, bool) {
	v, err := semver.NewVersion(strings.TrimPrefix(version, "v"))
	if err != nil {
		return release{}, false
	}
	return release{v.Major, v.Minor}, true
}

// far reports whether two releases are more than one minor version apart.
func (r release) far(from release) bool {
	return r.major != from.major || r.minor > from.minor+1 || from.minor > r.minor+1
}
