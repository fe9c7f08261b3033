package mobyfs

import "testing"

func TestClassFillsHowAVolumeIsMade(t *testing.T) {
	class := VolumeClass{Name: "pg", Backend: LoopBackend, SizeBytes: 1 << 30, Filesystem: "xfs", Mode: "0770", UID: 999, GID: 998}
	for _, tc := range []struct {
		what     string
		asked    VolumeSpec
		fs, mode string
		uid, gid int
	}{
		{what: "nothing", fs: "xfs", mode: "0770", uid: 999, gid: 998},
		{what: "all", asked: VolumeSpec{Filesystem: "ext4", Mode: "1777", UID: 1, GID: 2}, fs: "ext4", mode: "1777", uid: 1, gid: 2},
		{what: "a mode", asked: VolumeSpec{Mode: "0700"}, fs: "xfs", mode: "0700", uid: 999, gid: 998},
		{what: "its backend", asked: VolumeSpec{Backend: LoopBackend}, fs: "xfs", mode: "0770", uid: 999, gid: 998},
		{what: "another backend, without file systems", asked: VolumeSpec{Backend: "dir"}, mode: "0770", uid: 999, gid: 998},
	} {
		got := class.Fill(tc.asked)
		if got.Filesystem != tc.fs || got.Mode != tc.mode || got.UID != tc.uid || got.GID != tc.gid {
			t.Errorf("asked for %s: got fs %q, mode %q, owner %d:%d", tc.what, got.Filesystem, got.Mode, got.UID, got.GID)
		}
		if err := got.WithDefaults().CheckLayout(); err != nil {
			t.Errorf("asked for %s: %v", tc.what, err)
		}
		if !got.Meets(tc.asked) {
			t.Errorf("asked for %s: what the class made of it does not meet that", tc.what)
		}
	}
}
