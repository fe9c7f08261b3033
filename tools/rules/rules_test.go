// Package rules reads the alert rules and dashboards with Prometheus' own parser. It is a module of its own, so that the
// product's graph holds no Prometheus server. That each metric which they ask for exists, cmd/mobyfs tests.
package rules

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const monitoring = "../../templates/monitoring"

func TestAlertRulesAreOnesThatPrometheusTakes(t *testing.T) {
	groups, errs := rulefmt.ParseFile(filepath.Join(monitoring, "alerts.yaml"), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	rules := 0
	if groups != nil {
		for _, g := range groups.Groups {
			rules += len(g.Rules)
		}
	}
	if rules < 20 {
		t.Errorf("there are %d rules only; the test looks in the wrong place", rules)
	}
}

func TestDashboardsAskInPromQL(t *testing.T) {
	boards, err := filepath.Glob(filepath.Join(monitoring, "grafana-*.json"))
	if err != nil || len(boards) < 2 {
		t.Fatalf("got %v, %v", boards, err)
	}
	for _, path := range boards {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID, Title string
			Panels     []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &board); err != nil || board.UID == "" || board.Title == "" {
			t.Fatalf("%s: %+v, %v", path, board, err)
		}
		for _, p := range board.Panels {
			for _, target := range p.Targets {
				expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m") // as Grafana does
				if _, err := parser.NewParser(parser.Options{}).ParseExpr(expr); err != nil {
					t.Errorf("%s: %s: %s: %v", filepath.Base(path), p.Title, expr, err)
				}
			}
		}
	}
}
