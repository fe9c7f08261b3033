package mobyfs

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestVolumeNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"pgdata":                 true,
		"a1":                     true,
		"shop_db-1.bak":          true,
		"PGDATA":                 true,
		strings.Repeat("x", 128): true,
		strings.Repeat("x", 129): false,
		strings.Repeat("x", 300): false,
		"":                       false,
		"a":                      false,
		"-dash":                  false,
		".hidden":                false,
		"..":                     false,
		"../../etc/passwd":       false,
		"a/b":                    false,
		"a\x00b":                 false,
		"a\nb":                   false,
		"pgdata\n":               false,
		"café":                   false,
		"pg data":                false,
		"ｐｇdata":                 false,
	} {
		err := CheckVolumeName(name)
		if (err == nil) != ok {
			t.Errorf("CheckVolumeName(%q) = %v, allowed should be %v", name, err, ok)
		}
		if err == nil {
			continue
		}
		if CodeOf(err) != CodeInvalid || HintOf(err) == "" {
			t.Errorf("CheckVolumeName(%q): code %q, hint %q", name, CodeOf(err), HintOf(err))
		}
		if text := err.Error(); strings.ContainsAny(text, "\n\x00") || len(text) > 300 {
			t.Errorf("CheckVolumeName(%q): the text is not one short line: %q", name, text)
		}
	}
}

func TestNodeNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"h1": true, "vol-1": true, "x": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "H1": false, "a.b": false, "a/b": false, strings.Repeat("a", 64): false, "h1\n": false,
	} {
		if err := CheckNodeName(name); (err == nil) != ok {
			t.Errorf("CheckNodeName(%q) = %v, allowed should be %v", name, err, ok)
		}
	}
}

func TestVolumeStatesOnlyGoForward(t *testing.T) {
	order := []VolumeState{VolumeCreating, VolumeReady, VolumeRemoving}
	for i, from := range order {
		for j, to := range order {
			if got, want := from.Leads(to), j > i; got != want {
				t.Errorf("%s leads to %s: got %v, want %v", from, to, got, want)
			}
		}
	}
}

func TestMigrationEndsOnce(t *testing.T) {
	all := []MigrationState{MigrationCopying, MigrationCommitted, MigrationAborted}
	for _, from := range all {
		for _, to := range all {
			want := from == MigrationCopying && to != MigrationCopying
			if got := from.Leads(to); got != want {
				t.Errorf("%s leads to %s: got %v, want %v", from, to, got, want)
			}
		}
	}
}

func TestSpecMeetsWhatIsAskedFor(t *testing.T) {
	has := VolumeSpec{Class: "fast", SizeBytes: 1 << 30, Labels: map[string]string{"app": "shop", "tier": "gold"}}
	for _, tc := range []struct {
		asked VolumeSpec
		want  bool
	}{
		{VolumeSpec{}, true},
		{VolumeSpec{Class: "fast"}, true},
		{VolumeSpec{Class: "slow"}, false},
		{VolumeSpec{Backend: "dir", SizeBytes: 1 << 30, Labels: map[string]string{"app": "shop"}}, true},
		{VolumeSpec{Backend: "btrfs"}, false},
		{VolumeSpec{SizeBytes: 1}, false},
		{VolumeSpec{Labels: map[string]string{"app": "blog"}}, false},
		{VolumeSpec{Labels: map[string]string{"App": "shop"}}, false},
	} {
		if got := has.Meets(tc.asked); got != tc.want {
			t.Errorf("%+v meets %+v: got %v, want %v", has, tc.asked, got, tc.want)
		}
	}
}

func TestClassFillsWhatASpecLeavesOpen(t *testing.T) {
	fast := VolumeClass{Name: "fast", Backend: "btrfs", SizeBytes: 5, Labels: map[string]string{"tier": "gold", "app": "any"}}
	for _, tc := range []struct{ asked, want VolumeSpec }{
		{VolumeSpec{Class: "fast"}, VolumeSpec{Class: "fast", Backend: "btrfs", SizeBytes: 5, Labels: map[string]string{"tier": "gold", "app": "any"}}},
		{VolumeSpec{Class: "fast", Backend: "dir", SizeBytes: 7, Labels: map[string]string{"app": "shop"}},
			VolumeSpec{Class: "fast", Backend: "dir", SizeBytes: 7, Labels: map[string]string{"tier": "gold", "app": "shop"}}},
	} {
		if got := fast.Fill(tc.asked); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%+v filled: got %+v, want %+v", tc.asked, got, tc.want)
		}
	}
	if got := (VolumeClass{Name: "bare"}).Fill(VolumeSpec{Labels: map[string]string{"a": "b"}}); got.Labels["a"] != "b" {
		t.Errorf("a class without labels took those of the spec away: %+v", got)
	}
	if fast.Labels["app"] != "any" {
		t.Error("filling changed the class")
	}
}

func TestErrorsKeepCodeHintAndCause(t *testing.T) {
	err := error(Errorf(CodeUnavailable, "pull pgdata from h1: %w", io.ErrUnexpectedEOF).WithHint("try again"))
	wrapped := fmt.Errorf("mount pgdata: %w", err)
	if got := CodeOf(wrapped); got != CodeUnavailable {
		t.Errorf("code: got %q", got)
	}
	if got := HintOf(wrapped); got != "try again" {
		t.Errorf("hint: got %q", got)
	}
	if !errors.Is(wrapped, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	if CodeOf(nil) != "" || CodeOf(io.EOF) != CodeInternal || HintOf(io.EOF) != "" {
		t.Error("errors of others: wrong code or hint")
	}
}

func TestConditionAndUse(t *testing.T) {
	lease := &Lease{Node: "h1"}
	for _, tc := range []struct {
		v         Volume
		condition string
		use       string
	}{
		{Volume{State: VolumeCreating}, "creating", ""},
		{Volume{State: VolumeReady}, "ready", ""},
		{Volume{State: VolumeReady, Lease: lease}, "in use", "on h1 by a container"},
		{Volume{State: VolumeReady, Lease: &Lease{Node: "h1", Users: []string{"web-1"}}}, "in use", "on h1 by container web-1"},
		{Volume{State: VolumeReady, Lease: &Lease{Node: "h1", Users: []string{"a", "b"}}}, "in use", "on h1 by containers a, b"},
		{Volume{State: VolumeReady, Migration: &Migration{}}, "moving", ""},
		{Volume{State: VolumeRemoving}, "removing", ""},
	} {
		use, used := tc.v.InUse()
		if tc.v.Condition() != tc.condition || use != tc.use || used != (tc.use != "") {
			t.Errorf("%+v: got %q, %q", tc.v, tc.v.Condition(), use)
		}
	}
}
