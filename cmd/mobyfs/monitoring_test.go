package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
)

var update = flag.Bool("update", false, "write the list of metrics in docs/metrics.md anew")

const (
	monitoring  = "../../templates/monitoring"
	metricsPage = "../../docs/metrics.md"
)

// metric is what is known of a family of series.
type metric struct{ help, labels string }

var labelName = regexp.MustCompile(`\b[a-z_]+(?:=")`)

// listed are the names of labels, as they stand in the page.
func listed(labels []string) string {
	for i, l := range labels {
		labels[i] = "`" + strings.TrimSuffix(l, `="`) + "`"
	}
	slices.Sort(labels)
	return strings.Join(slices.Compact(labels), " ")
}

// described are the names and help texts of all that a gatherer can tell, whether or not there is anything to tell yet.
func described(t *testing.T, g prometheus.Gatherer, into map[string]metric) {
	t.Helper()
	if all, ok := g.(prometheus.Gatherers); ok {
		for _, g := range all {
			described(t, g, into)
		}
		return
	}
	c, ok := g.(prometheus.Collector)
	if !ok {
		t.Fatalf("%T does not describe itself", g)
	}
	ch := make(chan *prometheus.Desc)
	go func() {
		c.Describe(ch)
		close(ch)
	}()
	for d := range ch {
		parts := regexp.MustCompile(`fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)", constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`).FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("can't read %s", d)
		}
		labels := append(strings.FieldsFunc(parts[4], func(r rune) bool { return r == ',' }), labelName.FindAllString(parts[3], -1)...)
		into[parts[1]] = metric{parts[2], listed(labels)}
	}
}

// allMetrics are the names and help texts of all that a cluster tells Prometheus.
func allMetrics(t *testing.T) map[string]metric {
	t.Helper()
	s := newShop(t)
	s.control()
	h1 := s.settingsOf("h1")
	h1.metrics, h1.perVolume = freeport.At(t), true
	s.run(h1)
	s.eventually("the node has joined", func() bool {
		return call(t, h1, "VolumeDriver.Create", map[string]any{"Name": "probe"})["Err"] == ""
	})
	names := map[string]metric{}
	read := func(url string, role string) {
		config, err := s.certify(pki.FilesIn(t.TempDir(), "x"), pki.RoleViewer, "ana").ClientTLS(role, role)
		if err != nil {
			t.Fatal(err)
		}
		status, text, err := scrape(t, url, config)
		if err != nil || status != 200 {
			t.Fatalf("%s: %d, %v", url, status, err)
		}
		for line := range strings.Lines(text) {
			rest, ok := strings.CutPrefix(line, "# HELP ")
			name, text, _ := strings.Cut(strings.TrimSpace(rest), " ")
			series, labels, _ := strings.Cut(line, "{")
			switch m := names[base(series, names)]; {
			case ok:
				names[name] = metric{help: text}
			case m.help != "" && m.labels == "":
				m.labels = listed(slices.DeleteFunc(labelName.FindAllString(labels, -1), func(l string) bool { return l == `le="` }))
				names[base(series, names)] = m
			}
		}
	}
	read("https://"+s.address, pki.RoleControl)
	read("http://"+h1.metrics, pki.RoleControl)
	f := newFront(h1, still(), quiet(t, "described"))
	described(t, f.counts.registry, names)
	g, err := s.ctl.Metrics(t.Context(), pki.Identity{Cluster: "shop", Role: pki.RoleViewer, Name: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	described(t, g, names)
	described(t, agentMetrics(t, s, h1), names)
	return names
}

// agentMetrics are those of an agent with all that can be measured.
func agentMetrics(t *testing.T, s *shop, like settings) prometheus.Gatherer {
	t.Helper()
	set := s.settingsOf("h9")
	set.perVolume, set.shared = like.perVolume, t.TempDir()
	client := s.operator()
	a, err := openAgent(set, client, openIdentity(set, client, quiet(t, "h9")), nil, quiet(t, "h9"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a.Metrics()
}

// expressions are those of the alert rules and the dashboards, by where they stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile(filepath.Join(monitoring, "alerts.yaml"))
	if err == nil {
		err = yaml.Unmarshal(text, &rules)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r.Expr
		}
	}
	boards, err := filepath.Glob(filepath.Join(monitoring, "grafana-*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range boards {
		var board struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &board)
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, p := range board.Panels {
			for i, target := range p.Targets {
				all[fmt.Sprintf("%s: %s %d", filepath.Base(path), p.Title, i)] = target.Expr
			}
		}
	}
	if len(all) < 80 {
		t.Fatalf("there are %d expressions only; the test looks in the wrong place", len(all))
	}
	return all
}

var (
	quoted     = regexp.MustCompile(`"[^"]*"`)
	metricName = regexp.MustCompile(`\b(?:mobyfs|etcd|go|process|promhttp)_[a-z0-9_]+`)
)

// base is the name of the family that a series is of.
func base(name string, known map[string]metric) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if family, ok := strings.CutSuffix(name, suffix); ok && known[family].help != "" {
			return family
		}
	}
	return name
}

func TestAlertsAndDashboardsAskForMetricsThatThereAre(t *testing.T) {
	known := allMetrics(t)
	for where, expr := range expressions(t) {
		names := metricName.FindAllString(quoted.ReplaceAllString(expr, `""`), -1)
		if len(names) == 0 && !strings.Contains(expr, "up{") {
			t.Errorf("%s asks for nothing: %s", where, expr)
		}
		for _, name := range names {
			if known[base(name, known)].help == "" {
				t.Errorf("%s asks for %s, which there is not", where, name)
			}
		}
	}
	keepList(t, known)
}

// keepList holds the list of metrics in the page against those that there are.
func keepList(t *testing.T, known map[string]metric) {
	t.Helper()
	const begin, end = "<!-- list -->\n", "<!-- end of list -->\n"
	text, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	list, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the list", metricsPage)
	}
	var want strings.Builder
	want.WriteString("| metric | labels | tells |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if strings.HasPrefix(name, "mobyfs_") {
			fmt.Fprintf(&want, "| `%s` | %s | %s |\n", name, known[name].labels, known[name].help)
		}
	}
	if *update {
		if err := os.WriteFile(metricsPage, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(list, want.String()); diff != "" {
		t.Errorf("%s differs (-want +got); go test ./cmd/mobyfs -run Dashboards -update writes the list anew:\n%s", metricsPage, diff)
	}
}

// Whoever is woken by an alert finds what to do.
func TestEachAlertSaysWhatToDo(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(monitoring, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if title, ok := strings.CutPrefix(strings.TrimSpace(line), "### "); ok {
			sections[strings.ReplaceAll(strings.ToLower(title), " ", "-")] = true
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert               string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			anchor, ok := strings.CutPrefix(r.Annotations["runbook"], "docs/metrics.md#")
			if used[anchor] = true; !ok || !sections[anchor] {
				t.Errorf("%s: %q is no section of docs/metrics.md", r.Alert, r.Annotations["runbook"])
			}
			if s := r.Labels["severity"]; s != "warning" && s != "critical" || r.Annotations["summary"] == "" {
				t.Errorf("%s: severity %q, summary %q", r.Alert, s, r.Annotations["summary"])
			}
		}
	}
	for section := range sections {
		if !used[section] {
			t.Errorf("no alert leads to the section %q", section)
		}
	}
}
