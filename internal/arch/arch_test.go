package arch

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// packages lists all packages of the module.
func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list names %d packages only; the test looks in the wrong place", len(all))
	}
	return all
}

func below(path string) (string, bool) {
	if path != module && !strings.HasPrefix(path, module+"/") {
		return "", false
	}
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/"), true
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := below(p.ImportPath)
		for _, imp := range p.Imports {
			if to, ours := below(imp); ours {
				if why := judge(from, to); why != "" {
					t.Errorf("%s imports %s: %s", from, to, why)
				}
			}
		}
	}
}

func TestRootUsesTheStandardLibraryOnly(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module {
			continue
		}
		for _, imp := range p.Imports {
			if strings.Contains(strings.Split(imp, "/")[0], ".") {
				t.Errorf("the root package imports %s", imp)
			}
			for _, io := range []string{"os", "net", "net/http", "syscall"} {
				if imp == io {
					t.Errorf("the root package imports %s, but does no I/O", imp)
				}
			}
		}
	}
}

// The agent runs on every host: it stays small, and what it does not link can't be attacked in it.
func TestAgentLinksNeitherEtcdNorACloudSDK(t *testing.T) {
	for _, d := range links(t, "cmd/mobyfs") {
		for _, bad := range []string{"go.etcd.io/", "github.com/aws/", "google.golang.org/grpc", "github.com/hashicorp/terraform", module + "/control"} {
			if strings.HasPrefix(d, bad) {
				t.Errorf("cmd/mobyfs links %s", d)
			}
		}
	}
}

// The managed plugin passes calls on, and that is all it can do.
func TestManagedPluginLinksTheDriverAndTheStandardLibraryOnly(t *testing.T) {
	for _, d := range links(t, "cmd/mobyfs-plugin") {
		switch {
		case !strings.Contains(strings.Split(d, "/")[0], "."), strings.HasPrefix(d, "vendor/"): // the standard library
		case d == module, d == module+"/driver", d == module+"/cmd/mobyfs-plugin":
		default:
			t.Errorf("cmd/mobyfs-plugin links %s", d)
		}
	}
}

// links lists all packages that a program is made of.
func links(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", module+"/"+program).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Fatalf("%s has %d dependencies only; the test looks in the wrong place", program, len(deps))
	}
	return deps
}

// Docker's own code is the oracle of the driver's tests, in a module of their own. It never enters the product.
func TestProductKnowsNoDockerAndNoDatabase(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "all").Output()
	if err != nil {
		t.Fatalf("go list -m all: %v", err)
	}
	modules := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(modules) < 20 {
		t.Fatalf("the graph has %d modules only; the test looks in the wrong place", len(modules))
	}
	for _, m := range modules {
		path, _, _ := strings.Cut(m, " ")
		for _, bad := range []string{"github.com/docker/docker", "github.com/moby/moby", "github.com/jackc"} {
			if path == bad || strings.HasPrefix(path, bad+"/") {
				t.Errorf("the product's graph holds %s", m)
			}
		}
	}
	for _, p := range packages(t) {
		if rest, ours := below(p.ImportPath); ours && (within(rest, "driver/peer") || within(rest, "test/postgres")) {
			t.Errorf("%s is part of the product; it needs its own go.mod", p.ImportPath)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		allowed  bool
	}{
		{"agent", "backend", true},
		{"agent", "internal/pki", true},
		{"agent", "", true},
		{"backend/dir", "backend", true},
		{"control", "control/store", true},
		{"cmd/mobyfs", "agent", true},
		{"agent", "control", false},
		{"agent", "control/placement", false},
		{"driver", "agent", false},
		{"backend", "agent", false},
		{"api", "driver", false},
		{"internal/pki", "api", false},
		{"", "internal/pki", false},
		{"newpackage", "internal/pki", false},
		{"internal/durable", "internal/failpoint", true},
	} {
		if why := judge(tc.from, tc.to); (why == "") != tc.allowed {
			t.Errorf("judge(%q, %q) = %q, allowed should be %v", tc.from, tc.to, why, tc.allowed)
		}
	}
}
