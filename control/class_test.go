package control

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

func TestClassFillsWhatAVolumeLeavesOpen(t *testing.T) {
	f := newFleet(t, false)
	f.control.cfg.Classes = []mobyfs.VolumeClass{{Name: "fast", SizeBytes: gib, Labels: map[string]string{"tier": "gold"}}, {Name: "archive"}}
	ctx, h1 := t.Context(), f.node("h1")
	v := must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{Class: "fast"}, ""))
	want := mobyfs.VolumeSpec{Class: "fast", Backend: "dir", SizeBytes: gib, Labels: map[string]string{"tier": "gold"}}
	if diff := cmp.Diff(want, v.Spec); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, asked := range []mobyfs.VolumeSpec{{}, {Class: "fast"}, {Class: "fast", SizeBytes: gib}} {
		if again := must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "pgdata", asked, "")); again.ID != v.ID {
			t.Errorf("asked for again as %+v it is another volume", asked)
		}
	}
	f.control.cfg.Classes[0].SizeBytes = 2 * gib // later volumes are larger, this one stays as it is
	if again := must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{Class: "fast"}, "")); again.Spec.SizeBytes != gib {
		t.Errorf("it has %d bytes now", again.Spec.SizeBytes)
	}
	_, err := h1.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{Class: "archive"}, "")
	wantCode(t, err, mobyfs.CodeExists)
	if got := must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "own", mobyfs.VolumeSpec{Class: "fast", SizeBytes: 5}, "")); got.Spec.SizeBytes != 5 {
		t.Errorf("the class took over the size that was given: %+v", got.Spec)
	}
}

func TestUnknownClassIsRefusedWithTheRightWord(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1 := t.Context(), f.node("h1")
	_, err := h1.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{Class: "fast"}, "")
	wantCode(t, err, mobyfs.CodeInvalid)
	if want := "this cluster has no classes: leave it out, or define it under classes in cluster.yaml"; mobyfs.HintOf(err) != want {
		t.Errorf("the hint is %q", mobyfs.HintOf(err))
	}
	f.control.cfg.Classes = []mobyfs.VolumeClass{{Name: "archive"}, {Name: "fast"}}
	_, err = h1.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{Class: "fats"}, "")
	wantCode(t, err, mobyfs.CodeInvalid)
	if want := "did you mean fast? (known: archive, fast)"; mobyfs.HintOf(err) != want {
		t.Errorf("the hint is %q", mobyfs.HintOf(err))
	}
	if all := must[[]mobyfs.Volume](t)(f.operator().Volumes(ctx)); len(all) != 0 {
		t.Errorf("there is %v", all)
	}
}

func TestClassesAreReadFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "classes.json")
	if classes, err := ReadClasses(path); classes != nil || err != nil {
		t.Errorf("no file: %v, %v", classes, err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`[{"name": "fast", "size_bytes": 10, "labels": {"tier": "gold"}}]`)
	classes, err := ReadClasses(path)
	if want := []mobyfs.VolumeClass{{Name: "fast", SizeBytes: 10, Labels: map[string]string{"tier": "gold"}}}; err != nil || !cmp.Equal(classes, want) {
		t.Errorf("got %v, %v", classes, err)
	}
	for _, bad := range []string{`{`, `[{"name": "fast", "sise": 1}]`, `[{"name": "fast", "size_bytes": -1}]`, `[{"name": "fast", "backend": "floppy"}]`} {
		write(bad)
		if _, err := ReadClasses(path); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}
