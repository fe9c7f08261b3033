package provision

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

// TestClassSaysHowVolumesAreMade also is about modes without quotes, which other readers of YAML take for numbers.
func TestClassSaysHowVolumesAreMade(t *testing.T) {
	for _, mode := range []string{`"0770"`, `'0770'`, `0770`} {
		c, err := ParseConfig("cluster.yaml", []byte(placed+"  classes: [{name: pg, backend: loop, size: 1GiB, fs: xfs, mode: "+mode+", uid: 999, gid: 998}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		want := mobyfs.VolumeClass{Name: "pg", Backend: "loop", SizeBytes: 1 << 30, Filesystem: "xfs", Mode: "0770", UID: 999, GID: 998}
		if d := cmp.Diff(want, c.classes()[0]); d != "" {
			t.Errorf("mode: %s: -want +got:\n%s", mode, d)
		}
	}
}

func TestClassThatNoVolumeCanBeMadeOfIsRefused(t *testing.T) {
	for class, want := range map[string]string{
		"{name: a, mode: rwx}":                             "is no mode of a directory",
		"{name: a, mode: \"0999\"}":                        "is no mode of a directory",
		"{name: a, uid: -1}":                               "is no owner",
		"{name: a, fs: xfs}":                               "has no file system of its own",
		"{name: a, backend: loop, fs: zfs}":                "there is no file system",
		"{name: a, backend: loop, fs: xfs, size: 100MiB}":  "too little for a file system",
		"{name: a, backend: btrfs, size: 1000B}":           "too little for a subvolume",
		"{name: a, backend: btrfs, fs: ext4, size: 10GiB}": "has no file system of its own",
	} {
		_, err := ParseConfig("cluster.yaml", []byte(placed+"  classes: ["+class+"]\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", class, err, want)
		}
	}
}
