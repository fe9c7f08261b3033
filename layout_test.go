package mobyfs

import (
	"io/fs"
	"testing"
)

func TestLayoutThatCanNotBeIsRefusedWithAWayOut(t *testing.T) {
	for what, c := range map[string]struct {
		spec VolumeSpec
		good bool
	}{
		"nothing asked":       {VolumeSpec{}, true},
		"loop without size":   {VolumeSpec{Backend: "loop"}, true},
		"xfs":                 {VolumeSpec{Backend: "loop", Filesystem: "xfs", SizeBytes: 300 << 20}, true},
		"xfs too small":       {VolumeSpec{Backend: "loop", Filesystem: "xfs", SizeBytes: 299 << 20}, false},
		"ext4 too small":      {VolumeSpec{Backend: "loop", SizeBytes: 1 << 20}, false},
		"other file system":   {VolumeSpec{Backend: "loop", Filesystem: "ntfs"}, false},
		"file system of dir":  {VolumeSpec{Filesystem: "ext4"}, false},
		"no such backend":     {VolumeSpec{Backend: "floppy"}, false},
		"size below nothing":  {VolumeSpec{SizeBytes: -1}, false},
		"owner":               {VolumeSpec{UID: 999, GID: 70, Mode: "1777"}, true},
		"owner below nothing": {VolumeSpec{UID: -1}, false},
		"owner beyond all":    {VolumeSpec{GID: 1 << 31}, false},
		"mode of no octal":    {VolumeSpec{Mode: "rwx"}, false},
		"mode beyond all":     {VolumeSpec{Mode: "10000"}, false},
	} {
		err := c.spec.WithDefaults().CheckLayout()
		if (err == nil) != c.good || err != nil && (CodeOf(err) != CodeInvalid || HintOf(err) == "") {
			t.Errorf("%s: got %v (%s)", what, err, HintOf(err))
		}
	}
}

func TestRootModeIsThatOfChmod(t *testing.T) {
	for text, want := range map[string]fs.FileMode{
		"": 0o755, "700": 0o700, "0750": 0o750, "1777": 0o777 | fs.ModeSticky, "2770": 0o770 | fs.ModeSetgid, "4711": 0o711 | fs.ModeSetuid,
	} {
		if got, err := (VolumeSpec{Mode: text}).RootMode(); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}
