// Package arch holds the directions in which imports may point, as rules that its test checks.
//
// Imports point down, never sideways. Who understands a layer need not know the ones above it, and the agent and
// the control plane can only meet in the root package's seams, where both ends of every promise are written.
package arch

import "strings"

// module is the path under which all packages of the project lie.
const module = "github.com/mobyfs/mobyfs"

// layers lists packages from the bottom up. A package may import those of lower layers, and of its own layer
// those below its own folder (a parent and its child are one subject).
var layers = [][]string{
	{"", "internal/"},
	{"backend", "backend/backendtest", "migrate", "control/placement", "templates", "provision/host"},
	{"migrate/transfer", "control/store", "provision/step", "provision/cloud", "api", "driver", "backend/dir", "backend/shared", "backend/loop", "backend/btrfs"},
	{"agent", "control", "provision"},
	{"cmd/"},
	{"test", "tools"},
}

// never lists imports that are wrong in any layer, with the reason.
var never = []struct{ from, to, why string }{
	{"agent", "control", "the agent meets control in seams.go; cmd introduces them"},
	{"driver", "agent", "the driver meets the agent in seams.go; cmd introduces them"},
	{"", "", "the root package holds the model; it knows nothing below or above it"},
}

// layerOf tells the layer of a package by its path below the module, and whether it has one.
func layerOf(pkg string) (int, bool) {
	best, found := -1, -1
	for i, names := range layers {
		for _, name := range names {
			dir := strings.TrimSuffix(name, "/")
			if (pkg == dir || dir != "" && strings.HasPrefix(pkg, dir+"/")) && len(dir) > found {
				best, found = i, len(dir)
			}
		}
	}
	return best, best >= 0
}

// judge tells why package from may not import package to, or "".
func judge(from, to string) string {
	for _, n := range never {
		if within(from, n.from) && within(to, n.to) && n.to != "" {
			return n.why
		}
	}
	if from == "" {
		return never[2].why
	}
	f, ok := layerOf(from)
	if !ok {
		return "the package has no layer: give it one in internal/arch"
	}
	t, ok := layerOf(to)
	switch {
	case !ok:
		return "the imported package has no layer: give it one in internal/arch"
	case t > f:
		return "the import points up"
	case t == f && f > 0 && !within(from, parent(to)) && !within(to, from):
		return "the import points sideways"
	}
	return ""
}

// within reports whether pkg is dir or lies below it.
func within(pkg, dir string) bool { return pkg == dir || dir != "" && strings.HasPrefix(pkg, dir+"/") }

func parent(pkg string) string {
	i := strings.LastIndex(pkg, "/")
	if i < 0 {
		return pkg
	}
	return pkg[:i]
}
