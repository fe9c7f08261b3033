package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

func TestOptionsOfUnknownNamesShowNoValue(t *testing.T) {
	_, err := parseOptions(map[string]string{"token": "hunter2"}, []string{"dir"})
	wantCode(t, err, mobyfs.CodeInvalid, `"token"`, "known: apart, backend, class, from, fs, gid, mode, node-label, size")
	if strings.Contains(err.Error()+mobyfs.HintOf(err), "hunter2") {
		t.Errorf("the secret is in %v", err)
	}
	_, err = parseOptions(map[string]string{"backend": "Dri"}, []string{"dir", "btrfs"})
	wantCode(t, err, mobyfs.CodeInvalid, "did you mean dir?")
	spec, err := parseOptions(nil, []string{"dir"})
	if err != nil || !cmp.Equal(spec, mobyfs.VolumeSpec{}) {
		t.Errorf("no options: got %+v, %v", spec, err)
	}
}

func TestOptionsSayWhereAVolumeMayBe(t *testing.T) {
	spec, err := parseOptions(map[string]string{"zone": "east", "apart": "db", "node-label": "disk=ssd,fast", "toleration": "gpu,old=yes"}, []string{"dir"})
	want := mobyfs.VolumeSpec{Zone: "east", Apart: "db", NodeLabels: map[string]string{"disk": "ssd", "fast": ""}, Tolerations: []string{"gpu", "old=yes"}}
	if err != nil || !cmp.Equal(spec, want) {
		t.Errorf("got %+v, %v", spec, err)
	}
	for key, bad := range map[string]string{"zone": "a b", "apart": "", "node-label": "disk=ssd,,", "toleration": "gpu:no-place"} {
		_, err := parseOptions(map[string]string{key: bad}, []string{"dir"})
		wantCode(t, err, mobyfs.CodeInvalid)
	}
	if d := difference(mobyfs.VolumeSpec{Zone: "west", Tolerations: want.Tolerations}, mobyfs.VolumeSpec{Zone: "east", Apart: "db", Tolerations: []string{"gpu"}}); d !=
		"it has zone=west, asked for was zone=east; it has no apart, asked for was apart=db" {
		t.Errorf("got %q", d)
	}
}

func TestCatalogueKeepsTheNewestRecordInWhateverOrderTheyCome(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.json")
	open := func() *catalogue { return openCatalogue(path, slog.New(slog.DiscardHandler)) }
	c := open()
	v := func(id, name string, rev int64) mobyfs.Volume {
		return mobyfs.Volume{ID: mobyfs.VolumeID(id), Name: name, State: mobyfs.VolumeReady, Revision: rev}
	}
	revision := func(name string) int64 { got, _ := c.named(name); return got.Revision }

	c.learn(v("v1", "pgdata", 10))
	if c.learn(v("v1", "pgdata", 9)) || revision("pgdata") != 10 {
		t.Error("an older record replaced a newer one")
	}
	c.replace(&mobyfs.Snapshot{Volumes: []mobyfs.Volume{v("v1", "pgdata", 8), v("v2", "shop", 7)}}, 9, nil)
	if revision("pgdata") != 10 || revision("shop") != 7 {
		t.Errorf("after a state of revision 9: pgdata %d, shop %d", revision("pgdata"), revision("shop"))
	}
	c.learn(v("v3", "fresh", 20))
	if gone := c.replace(&mobyfs.Snapshot{}, 15, nil); len(gone) != 2 || revision("fresh") != 20 {
		t.Errorf("gone by revision 15: %v; fresh has %d", gone, revision("fresh"))
	}
	c.remove("v3")
	if c.learn(v("v3", "fresh", 20)) || revision("fresh") != 0 {
		t.Error("a late answer brought a deleted volume back")
	}

	c.learn(v("v4", "twice", 30))
	c.leaving("v4")
	if revision("twice") != 0 {
		t.Error("a volume that is being removed has its name still")
	}
	c.learn(v("v5", "twice", 31))
	c.remove("v4")
	if revision("twice") != 31 {
		t.Error("the end of the old volume took the name from the new one")
	}
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	c = open()
	if revision("twice") != 31 {
		t.Error("it is not on disk")
	}
	if _, told := c.record("v5"); told || c.isFresh() {
		t.Error("what comes from disk was not told in this life")
	}
	if gone := c.replace(&mobyfs.Snapshot{Volumes: []mobyfs.Volume{v("v5", "twice", 5)}}, 6, nil); gone != nil || revision("twice") != 5 {
		t.Errorf("a control plane that was set back is believed: got %d", revision("twice"))
	}
}

func TestLedgerSharesWritesAndNeverAnswersBeforeOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mounts.json")
	l := openLedger(path, slog.New(slog.DiscardHandler), time.Now())
	var writes atomic.Int32
	write := l.saver.write
	l.saver.write = func(data any) error { writes.Add(1); time.Sleep(time.Millisecond); return write(data) }
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			use := fmt.Sprint("id-", i)
			l.take("v1", "pgdata", use, 7)
			if err := l.flush(); err != nil {
				t.Error(err)
			}
			now := openLedger(path, slog.New(slog.DiscardHandler), time.Now())
			if id, ok := now.holder("pgdata", use); !ok || id != "v1" {
				t.Errorf("%s was flushed and is not on disk", use)
			}
		})
	}
	wg.Wait()
	if n := writes.Load(); n > 90 {
		t.Errorf("%d writes for 100 uses", n)
	}
	if s := l.standing("v1"); s.uses != 100 || s.lease != 7 {
		t.Errorf("got %+v", s)
	}
}

func TestLedgerThatCantWriteSaysSo(t *testing.T) {
	l := openLedger(filepath.Join(t.TempDir(), "mounts.json"), slog.New(slog.DiscardHandler), time.Now())
	write, broken := l.saver.write, true
	l.saver.write = func(data any) error {
		if broken {
			return errors.New("no space left on device")
		}
		return write(data)
	}
	l.take("v1", "pgdata", "a", 7)
	wantCode(t, l.flush(), mobyfs.CodeInternal, "no space left")
	broken = false
	if err := l.flush(); err != nil {
		t.Errorf("after there was space: %v", err)
	}
}

func TestLedgerNeverCountsBelowZero(t *testing.T) {
	l := openLedger(filepath.Join(t.TempDir(), "mounts.json"), slog.New(slog.DiscardHandler), time.Now())
	l.give("v1", "a")
	l.take("v1", "pgdata", "a", 7)
	l.give("v1", "a")
	l.give("v1", "a")
	if s := l.standing("v1"); s.uses != 0 || s.lease != 7 {
		t.Errorf("got %+v", s)
	}
	l.take("v1", "pgdata", "a", 7)
	if s := l.standing("v1"); s.uses != 1 {
		t.Errorf("got %+v", s)
	}
}

func TestDockerNamesTheContainersThatRun(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	answer := func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		mount := func(name string) any {
			return []map[string]string{{"Type": "volume", "Name": name, "Destination": "pgdata"}}
		}
		_ = json.NewEncoder(w).Encode([]any{
			map[string]any{"Id": "aaaaaaaaaaaaaaaaaa", "Names": []string{"/web-1"}, "State": "running", "Mounts": mount("pgdata")},
			map[string]any{"Id": "bbbbbbbbbbbbbbbbbb", "Names": []string{"/old"}, "State": "exited", "Mounts": mount("pgdata")},
			map[string]any{"Id": "cccccccccccccccccc", "State": "paused", "Mounts": mount("pgdata")},
			map[string]any{"Id": "dddddddddddddddddd", "Names": []string{"/other"}, "State": "running", "Mounts": mount("elsewhere")},
		})
	}
	s := &http.Server{Handler: http.HandlerFunc(answer)}
	go func() { _ = s.Serve(l) }()
	defer func() { _ = s.Close() }()
	names, err := NewDocker(socket, nil).Running(t.Context(), "pgdata")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"cccccccccccc", "web-1"}, names); d != "" {
		t.Error(d)
	}
	if want := "/containers/json?all=1&filters=%7B%22volume%22%3A%5B%22pgdata%22%5D%7D"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	if _, err := NewDocker(filepath.Join(t.TempDir(), "none.sock"), nil).Running(t.Context(), "pgdata"); err == nil {
		t.Error("a dockerd that is not there has no containers")
	}
}

func TestBackoffGrowsToItsMostAndJitters(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, most: 30 * time.Second}
	now := time.Now()
	for i := range 100 {
		ideal := min(100*time.Millisecond<<min(i, 20), 30*time.Second)
		if wait := b.fail(now); wait < ideal*3/4 || wait > ideal*5/4+1 || b.next != now.Add(wait) {
			t.Errorf("try %d: waits %v, want about %v", i, wait, ideal)
		}
	}
	b.reset()
	if wait := b.fail(now); wait > 200*time.Millisecond {
		t.Errorf("after a success: %v", wait)
	}
}

func TestOptionsOfTheLayoutAreReadAndCompared(t *testing.T) {
	spec, err := parseOptions(map[string]string{"backend": "loop", "size": "1G", "fs": "xfs", "mode": "0750", "uid": "999", "gid": "70"}, []string{"dir", "loop"})
	want := mobyfs.VolumeSpec{Backend: "loop", SizeBytes: 1 << 30, Filesystem: "xfs", Mode: "0750", UID: 999, GID: 70}
	if err != nil || difference(want, spec) != "" || spec.UID != 999 || spec.GID != 70 || spec.Mode != "0750" {
		t.Errorf("got %+v, %v", spec, err)
	}
	for key, bad := range map[string]string{"mode": "rwx", "uid": "postgres", "gid": "-1"} {
		_, err := parseOptions(map[string]string{key: bad}, nil)
		wantCode(t, err, mobyfs.CodeInvalid, key)
	}
	for _, other := range []mobyfs.VolumeSpec{{Filesystem: "ext4"}, {Mode: "0700"}, {UID: 1}, {GID: 1}} {
		if difference(want, other) == "" {
			t.Errorf("%+v is no difference to %+v", other, want)
		}
	}
}
