package interop

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/admin"
)

// A lookStep is a step of admin.mjs.
type lookStep map[string]any

// A looked is the result of one.
type looked struct {
	Text    string   `json:"text"`
	Verdict string   `json:"verdict"`
	Title   string   `json:"title"`
	Wide    bool     `json:"wide"` // it has to be scrolled sideways
	Errors  []string `json:"errors"`
	Value   any      `json:"value"`
}

// look lets Chromium do the steps. The names resolve to 127.0.0.1.
func look(t *testing.T, names []string, steps ...lookStep) []looked {
	t.Helper()
	need(t, "chromium", "chromium")
	need(t, "node", "nodejs")
	if _, err := os.Stat("../node_modules/playwright-core"); err != nil {
		missing(t, "playwright-core is not installed; to run this test: npm ci --prefix tests")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	task, err := json.Marshal(map[string]any{"chromium": chromium, "home": t.TempDir(), "map": names, "steps": steps})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	node := exec.CommandContext(t.Context(), "node", "admin.mjs")
	node.Stdin, node.Stdout, node.Stderr = bytes.NewReader(task), &stdout, &stderr
	if err := node.Run(); err != nil {
		t.Fatalf("node admin.mjs: %v\n%s", err, stderr.Bytes())
	}
	var results []looked
	if err := json.Unmarshal(stdout.Bytes(), &results); err != nil || len(results) != len(steps) {
		t.Fatalf("node admin.mjs: %v; %d results for %d steps", err, len(results), len(steps))
	}
	return results
}

// The page shows a good hour, a bad one and a drain, in light and dark, on a
// desk and on a phone. The pictures of it in docs/ are made here:
//
//	WSSGATE_SCREENSHOTS=docs go test ./interop -run TestAdminPictures
func TestAdminPictures(t *testing.T) {
	dir := t.TempDir()
	if to := os.Getenv("WSSGATE_SCREENSHOTS"); to != "" {
		dir = filepath.Join("..", "..", to)
	}
	well, draining := play(t, false)
	broken, _ := play(t, true)
	desk, phone := []int{1240, 900}, []int{390, 844}
	tests := []struct {
		name    string
		answer  []byte
		scheme  string
		size    []int
		scale   int
		verdict string
		want    []string
	}{
		{"status-well", well, "light", desk, 1, "card good", []string{
			"All is well", "tunnels · 3 vhosts · 2 upstream nodes", "61 days", "43 days", "tigase / t2", "0.78 ms", "reason=slow_client",
			"client close", "pong timeout", "from clients", "% resumed since the start", "taken",
		}},
		{"status-broken", broken, "dark", desk, 1, "card bad", []string{
			"2 things need you now", `vhost "new.example3.com" has no certificate`, "put its certificate and key into the certificate directory",
			`the certificate of "example2.com" expires in 9 days`, "connection refused", "warn ×38", "upstream gone", "refused",
			`hint: did you mean "connections"?`, "in 50 minutes",
		}},
		{"status-phone", broken, "light", phone, 2, "card bad", []string{"2 things need you now", "new.example3.com"}},
		{"status-drain", draining, "dark", phone, 2, "card work", []string{"Draining: 493 of 1,247 connections left", "since 11 seconds; what is left 19 seconds from now is closed"}},
	}
	var steps []lookStep
	for _, test := range tests {
		onPhone := test.size[0] == phone[0]
		steps = append(steps,
			lookStep{"page": test.name, "open": serveAnswer(t, test.answer), "scheme": test.scheme, "size": test.size, "scale": test.scale},
			lookStep{"page": test.name, "until": "as of "},
			lookStep{"page": test.name, "see": true},
			lookStep{"page": test.name, "shot": filepath.Join(dir, test.name+".png"), "whole": !onPhone},
			lookStep{"page": test.name, "run": "document.querySelectorAll('#charts path').length"},
		)
	}
	got := look(t, nil, steps...)
	for i, test := range tests {
		page, paths := got[5*i+2], got[5*i+4].Value.(float64)
		if page.Verdict != test.verdict || len(page.Errors) > 0 || page.Wide {
			t.Errorf("%s: verdict %q, want %q; errors %q; has to be scrolled sideways: %v", test.name, page.Verdict, test.verdict, page.Errors, page.Wide)
		}
		for _, want := range test.want {
			if !strings.Contains(page.Text, want) {
				t.Errorf("%s does not show %q:\n%s", test.name, want, page.Text)
			}
		}
		if paths < 15 {
			t.Errorf("%s: %v lines and areas in six charts", test.name, paths)
		}
	}
}

// serveAnswer serves the page, with that answer to its questions.
func serveAnswer(t *testing.T, answer []byte) string {
	s := admin.New(admin.Options{Gate: func() admin.Gate { return admin.Gate{} }, Counts: func() admin.Counts { return admin.Counts{} }})
	t.Cleanup(s.Close)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/status" {
			w.Write(answer)
			return
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	return web.URL + "/"
}
