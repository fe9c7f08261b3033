package provision

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// What a host can lack is told by name, with the cause and the way out; the golden file is what people read.
func TestChecks(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	good := func() step.Facts {
		space := func(mount string, mib int64, options string) step.Space {
			return step.Space{FreeBytes: mib << 20, Mount: mount, Options: options}
		}
		return step.Facts{
			OS: "Linux", Arch: "x86_64", Systemd: true, Docker: true, DockerVersion: "20.10.24+dfsg1", Clock: now,
			Space: map[string]step.Space{
				step.BinDir: space("/", 5000, "rw"), step.DistDir: space("/", 5000, "rw"), step.AgentRoot: space("/var", 900, "rw"),
				step.ControlRoot: space("/var", 900, "rw"), step.EnvDir: space("/", 5000, "rw"), step.UnitDir: space("/", 5000, "rw"),
			},
			Units: map[string]step.Unit{}, Listen: map[int]step.Listener{}, Links: map[string]string{}, Files: map[string]step.FileFact{},
		}
	}
	space := func(f *step.Facts, change func(*step.Space), dirs ...string) {
		for _, d := range dirs {
			s := f.Space[d]
			change(&s)
			f.Space[d] = s
		}
	}
	var out strings.Builder
	for _, tc := range []struct {
		name   string
		change func(f *step.Facts)
	}{
		{"good", func(*step.Facts) {}},
		{"not Linux", func(f *step.Facts) { f.OS = "FreeBSD" }},
		{"no systemd", func(f *step.Facts) { f.Systemd = false }},
		{"no Docker", func(f *step.Facts) { f.Docker, f.DockerVersion = false, "" }},
		{"Docker does not run", func(f *step.Facts) { f.DockerVersion = "" }},
		{"old Docker", func(f *step.Facts) { f.DockerVersion = "19.03.15" }},
		{"older Docker", func(f *step.Facts) { f.DockerVersion = "1.13.1" }},
		{"new Docker", func(f *step.Facts) { f.DockerVersion = "29.7.2" }},
		{"a Docker of one's own", func(f *step.Facts) { f.DockerVersion = "dev" }},
		{"disk full", func(f *step.Facts) { space(f, func(s *step.Space) { s.FreeBytes = 3 << 20 }, step.DistDir) }},
		{"room for state full", func(f *step.Facts) {
			space(f, func(s *step.Space) { s.FreeBytes = 300 << 20 }, step.AgentRoot, step.ControlRoot)
		}},
		{"noexec", func(f *step.Facts) {
			space(f, func(s *step.Space) { s.Mount, s.Options = "/usr", "rw,noexec" }, step.DistDir)
		}},
		{"read-only", func(f *step.Facts) { space(f, func(s *step.Space) { s.Mount, s.Options = "/usr", "ro" }, step.BinDir) }},
		{"agent's port taken", func(f *step.Facts) { f.Listen[8080] = step.Listener{Name: "nginx", PID: 77} }},
		{"control's port taken by who knows whom", func(f *step.Facts) { f.Listen[7946] = step.Listener{} }},
		{"ports taken by ourselves", func(f *step.Facts) {
			f.Listen[8080], f.Listen[7946] = step.Listener{Name: "mobyfs", PID: 812}, step.Listener{}
			f.Units[step.AgentUnit], f.Units[step.ControlUnit] = step.Unit{Active: "active", PID: 812}, step.Unit{Active: "active"}
		}},
		{"both ports taken", func(f *step.Facts) {
			f.Listen[8080], f.Listen[7946] = step.Listener{Name: "java", PID: 5}, step.Listener{Name: "dockerd", PID: 6}
		}},
		{"another cluster", func(f *step.Facts) { f.Installed = &step.Journal{Cluster: "lab", Node: "vol-1"} }},
		{"another name", func(f *step.Facts) { f.Installed = &step.Journal{Cluster: "shop", Node: "vol-7"} }},
		{"installed already", func(f *step.Facts) { f.Installed = &step.Journal{Cluster: "shop", Node: "vol-1", Control: true} }},
		{"a program of somebody else's", func(f *step.Facts) { f.Links["/usr/bin/mobyfs"] = "" }},
		{"a link of somebody else's", func(f *step.Facts) { f.Links["/usr/bin/mobyfs-control"] = "/opt/mobyfs-control" }},
		{"a unit of somebody else's", func(f *step.Facts) { f.Files["/etc/systemd/system/mobyfs.service"] = step.FileFact{} }},
		{"clock ahead", func(f *step.Facts) { f.Clock = now.Add(3 * time.Hour) }},
		{"clock behind", func(f *step.Facts) { f.Clock = now.Add(-31 * time.Minute) }},
		{"clock a little off", func(f *step.Facts) { f.Clock = now.Add(-29 * time.Minute) }},
		{"everything at once", func(f *step.Facts) {
			f.Systemd, f.Docker, f.Clock = false, false, now.Add(-time.Hour)
			f.Listen[8080] = step.Listener{Name: "nginx", PID: 77}
		}},
	} {
		f := good()
		tc.change(&f)
		h := &HostPlan{
			Name: "vol-1", facts: f, Changes: []step.Diff{{Step: "program"}},
			uploads: []program{{Program: step.Program{Name: "mobyfs", Size: 18 << 20}}},
			desired: step.Desired{
				Cluster: "shop", Node: "vol-1", Control: true,
				Programs: []step.Program{{Name: "mobyfs"}, {Name: "mobyfs-control"}},
				Files:    []step.File{{Path: "/etc/systemd/system/mobyfs.service"}},
			},
		}
		fmt.Fprintf(&out, "== %s\n", tc.name)
		for _, p := range h.check(now, map[int]string{8080: step.AgentUnit, 7946: step.ControlUnit}) {
			out.WriteString(p.Report())
		}
	}
	golden(t, "checks.golden", out.String())
}

func TestControlThatRunsElsewhere(t *testing.T) {
	f := step.Facts{Installed: &step.Journal{Cluster: "shop", Node: "vol-2", Control: true}}
	p := checkOwner("vol-2", f, step.Desired{Cluster: "shop", Node: "vol-2"})
	if p == nil || !p.Of(host.OtherControl) || !strings.Contains(p.Fix, "control: [vol-2]") {
		t.Errorf("got %+v", p)
	}
}

// fakeELF is the head of a program for a machine.
func fakeELF(t *testing.T, path string, m elf.Machine) {
	t.Helper()
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	head[16], head[18], head[20], head[52] = 2, byte(m), 1, 64
	head[19] = byte(m >> 8)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, head, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestProgramsFitTheArchitecture(t *testing.T) {
	dir := t.TempDir()
	fakeELF(t, filepath.Join(dir, "mobyfs"), elf.EM_X86_64)
	fakeELF(t, filepath.Join(dir, "linux-arm64", "mobyfs"), elf.EM_AARCH64)
	fakeELF(t, filepath.Join(dir, "linux-riscv64", "mobyfs"), elf.EM_X86_64) // put there by mistake
	if err := os.WriteFile(filepath.Join(dir, "junk"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := &Programs{Dir: dir}
	for arch, want := range map[string]string{"x86_64": "mobyfs", "aarch64": "linux-arm64/mobyfs"} {
		got, err := p.find("mobyfs", arch)
		if err != nil || got.path != filepath.Join(dir, want) || got.Size != 64 || len(got.SHA256) != 64 {
			t.Errorf("%s: got %+v, %v", arch, got, err)
		}
	}
	for _, arch := range []string{"riscv64", "mips"} {
		if _, err := p.find("mobyfs", arch); !errors.Is(err, errArch) || !strings.Contains(err.Error(), arch) {
			t.Errorf("%s: got %v", arch, err)
		}
	}
	if _, err := p.find("mobyfs-control", "x86_64"); err == nil || errors.Is(err, errArch) || !strings.Contains(err.Error(), "mobyfs-control") {
		t.Errorf("a program that is not there: %v", err)
	}
	if _, err := p.find("junk", "x86_64"); err == nil || !strings.Contains(err.Error(), "no Linux program") {
		t.Errorf("a script: %v", err)
	}
}

func TestWrongArchitectureIsAProblemOfTheHost(t *testing.T) {
	f := newFleet(t, "vol-1")
	f.hosts["vol-1"].Script(t, "uname", `case $1 in -s) echo Linux;; -m) echo riscv64;; *) echo x;; esac`)
	_, err := f.in.Plan(t.Context())
	if text := reports(err); !strings.Contains(text, "vol-1  MFS-P003") || !strings.Contains(text, "riscv64") {
		t.Errorf("got %v\n%s", err, text)
	}
}
