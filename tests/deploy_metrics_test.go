package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// promtool runs Debian's promtool.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := program(t, "promtool", "prometheus", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func deployed(t *testing.T, name string) string {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "deploy", name)
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The alert rules are rules, a gate that is well raises none of them, and each
// of them is raised by what it is for.
func TestAlerts(t *testing.T) {
	alerts, tests := readFile(t, deployed(t, "alerts.yml")), readFile(t, deployed(t, "alerts_test.yml"))
	names := regexp.MustCompile(`(?m)- alert: (\w+)`).FindAllStringSubmatch(alerts, -1)
	if len(names) == 0 {
		t.Fatal("no alerts")
	}
	for _, name := range names {
		if !strings.Contains(tests, fmt.Sprintf("{alertname=%q}', value: 1", name[1])) {
			t.Errorf("alerts_test.yml does not raise %s", name[1])
		}
	}
	promtool(t, "", "check", "rules", deployed(t, "alerts.yml"))
	promtool(t, "", "test", "rules", deployed(t, "alerts_test.yml"))
}

// Every query of the dashboard is PromQL, and its panels do not overlap.
func TestDashboard(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, deployed(t, "grafana-dashboard.json"))), &dashboard); err != nil {
		t.Fatal(err)
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	taken := map[[2]int]string{}
	n := 0
	for _, p := range dashboard.Panels {
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" && other != p.Title || x >= 24 {
					t.Errorf("panel %q at %d, %d is over %q, or outside", p.Title, x, y, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			n++
			expr := strings.NewReplacer("$__rate_interval", "1m", "$job", "x", "$instance", "x").Replace(target.Expr)
			fmt.Fprintf(&rules, "  - {record: \"panel:%d:%d\", expr: %q}\n", p.ID, n, expr)
		}
	}
	if n < 20 {
		t.Errorf("%d queries in %d panels: is that all?", n, len(dashboard.Panels))
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
}
