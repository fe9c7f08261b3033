package sandbox

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

func TestMissingCapabilities(t *testing.T) {
	for _, tc := range []struct {
		bounding string
		want     []string
	}{
		{"000001ffffffffff", nil},
		{"000001fffeffffff", []string{"SYS_RESOURCE"}},
		{"000000ffffffffff", []string{"CHECKPOINT_RESTORE"}},
		{"000001fffedfffff", []string{"SYS_ADMIN", "SYS_RESOURCE"}},
		{"ffffffffffffffff", nil}, // a kernel with more than are known here
	} {
		got, err := missingCapabilities("Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t" + tc.bounding + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.bounding, d)
		}
	}
	for _, status := range []string{"", "CapBnd:\tzz\n"} {
		if _, err := missingCapabilities(status); err == nil {
			t.Errorf("%q was accepted", status)
		}
	}
}

func TestHostFlagsArePrivilegedOnlyWhereTheMachineHasEveryCapability(t *testing.T) {
	whole := machine{}.hostFlags()
	if !slices.Contains(whole, "--privileged") || slices.Contains(whole, "--cap-add") {
		t.Errorf("with all capabilities: got %q", whole)
	}
	part := strings.Join(machine{missing: []string{"SYS_RESOURCE", "BPF"}}.hostFlags(), " ")
	if !strings.Contains(part, "--cap-add ALL --cap-drop SYS_RESOURCE --cap-drop BPF") || strings.Contains(part, "--privileged") {
		t.Errorf("without some: got %q", part)
	}
}

func TestInitCommandAsksForTheOldHierarchyOnlyWhereItIs(t *testing.T) {
	const legacy = "systemd.unified_cgroup_hierarchy=0"
	v1, v2 := machine{}.initCommand(false), machine{cgroupV2: true}.initCommand(false)
	if !slices.Contains(v1, legacy) || slices.Contains(v2, legacy) {
		t.Errorf("got %q and %q", v1[4:], v2[4:])
	}
	const noDocker = "systemd.mask=docker.service"
	if slices.Contains(v1, noDocker) || !slices.Contains(machine{}.initCommand(true), noDocker) {
		t.Errorf("Docker must be masked on light hosts and on no other")
	}
}

func TestDockerInfo(t *testing.T) {
	for _, tc := range []struct {
		name, info string
		v2         bool
		code       mobyfs.Code
	}{
		{"cgroups v1", `{"ServerVersion":"20.10.24","OSType":"linux","CgroupVersion":"1","SecurityOptions":["name=seccomp,profile=default"]}`, false, ""},
		{"cgroups v2", `{"ServerVersion":"26.1.5","OSType":"linux","CgroupVersion":"2"}`, true, ""},
		{"rootless", `{"OSType":"linux","CgroupVersion":"2","SecurityOptions":["name=rootless"]}`, false, mobyfs.CodeInvalid},
		{"windows", `{"OSType":"windows"}`, false, mobyfs.CodeInvalid},
		{"no engine", `{"ServerErrors":["Cannot connect to the Docker daemon at unix:///x."]}`, false, mobyfs.CodeUnavailable},
		{"rubbish", `{`, false, mobyfs.CodeInternal},
	} {
		m, err := parseInfo([]byte(tc.info))
		if mobyfs.CodeOf(err) != tc.code || m.cgroupV2 != tc.v2 {
			t.Errorf("%s: got %+v, %v; want v2 %v, code %q", tc.name, m, err, tc.v2, tc.code)
		}
	}
}

func TestMoreHostsThanInotifyAllowsAreRefused(t *testing.T) {
	hosts := func(n int, light bool) Fleet {
		f := Fleet{}
		for range n {
			f.Hosts = append(f.Hosts, Host{Light: light})
		}
		return f
	}
	for _, tc := range []struct {
		limit, others int
		fleet         Fleet
		fits          bool
	}{
		{128, 0, hosts(3, false), true},
		{128, 0, hosts(19, true), true},
		{128, 0, hosts(20, true), false},
		{128, 15, hosts(3, false), false},
		{8192, 0, hosts(100, false), true},
	} {
		err := enoughInotify(tc.limit, tc.others, tc.fleet)
		if (err == nil) != tc.fits {
			t.Errorf("%d hosts and %d others of %d: got %v", len(tc.fleet.Hosts), tc.others, tc.limit, err)
		}
		if err != nil && !strings.Contains(mobyfs.HintOf(err), "sysctl fs.inotify.max_user_instances=") {
			t.Errorf("the hint is no command: %q", mobyfs.HintOf(err))
		}
	}
}

func TestUnitsWithoutWhichAHostIsOfNoUse(t *testing.T) {
	failed := []string{"docker.service", "proc-sys-fs-binfmt_misc.mount", "ssh.service"}
	if d := cmp.Diff([]string{"docker.service", "ssh.service"}, needed(failed, false)); d != "" {
		t.Errorf("full (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"ssh.service"}, needed(failed, true)); d != "" {
		t.Errorf("light (-want +got):\n%s", d)
	}
}
