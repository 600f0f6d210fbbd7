package terminal

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// gateOf is a gate whose admin listener answers as h.
func gateOf(t *testing.T, h http.Handler) *Gate {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	g, err := Reach("config.toml", server.Listener.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// Tunnels that end between their count and their close are no failure of deny -close;
// tunnels that stay are.
func TestDenyNothingLeft(t *testing.T) {
	for name, test := range map[string]struct {
		counts []int
		fails  bool
	}{
		"ended meanwhile": {[]int{2, 0}, false},
		"still open":      {[]int{2, 2}, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			mux := http.NewServeMux()
			mux.HandleFunc("POST /deny", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, outcome{Result: "192.0.2.7: denied"})
			})
			mux.HandleFunc("GET /tunnels", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]int{"matched": test.counts[asked]})
				asked++
			})
			mux.HandleFunc("POST /close", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusNotFound, outcome{Result: "nothing is open"})
			})
			var out bytes.Buffer
			err := gateOf(t, mux).Deny(t.Context(), &out, "192.0.2.7", time.Hour, true)
			if (err != nil) != test.fails || !strings.Contains(out.String(), "denied") || asked != 2 {
				t.Errorf("deny prints %q, and %v, after %d counts; want a failure: %v", out.String(), err, asked, test.fails)
			}
		})
	}
}
