package terminal

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/admin"
)

// gateOf returns a gate whose admin listener is h.
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

// Tunnels that end between their count and their close do not make deny -close fail;
// tunnels that stay do.
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

// A certificate that was revoked and has no successor is not called valid.
func TestACMERevoked(t *testing.T) {
	var out bytes.Buffer
	err := gateOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, admin.Status{Gate: admin.Gate{ACME: []admin.ACMEName{{Name: "a.example", State: "valid", Revoked: true, Failures: 1, Err: "connection refused"}}}})
	})).ACME(t.Context(), &out, false)
	for _, want := range []string{"revoked", "a.example: has been revoked on request; it is served until there is another certificate\n", "a.example: connection refused\n"} {
		if err != nil || !strings.Contains(out.String(), want) || strings.Contains(out.String(), "valid") {
			t.Errorf("acme status prints %q, and %v; want %q, and not that it is valid", out.String(), err, want)
		}
	}
}

// A roundTrip answers requests without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A listener that does not answer is given up, also by a trace.
func TestTraceNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gate{address: "127.0.0.1:9291", client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}}
		began := time.Now()
		err := g.Trace(t.Context(), &bytes.Buffer{}, "abc", false)
		if err == nil || !strings.Contains(err.Error(), "no answer in time") || time.Since(began) != patience {
			t.Errorf("after %v: %v; want no answer in time after %v", time.Since(began), err, patience)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Trace(ctx, &bytes.Buffer{}, "abc", false); err == nil {
			t.Error("a trace that never began is no error")
		}
	})
}

// A trace that is cut off at any point has an error for that, not for a missing gate.
func TestTraceCutOff(t *testing.T) {
	const whole = `{"at":"2030-01-02T03:04:05Z","from":"client","opcode":"text","fin":true,"length":3}`
	for body, why := range map[string]string{"": "the gate ended", whole + "\n": "the gate ended", whole + "\n" + whole[:20]: "the gate ended",
		whole[:20]: "the gate ended", strings.Repeat("x", 2*maxTraceLine): "more than 65536 bytes"} {
		g := gateOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(body))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		err := g.Trace(t.Context(), &bytes.Buffer{}, "abc", false)
		if err == nil || !strings.Contains(err.Error(), "was cut off") || !strings.Contains(err.Error(), why) {
			t.Errorf("a trace of %.80q: %v; want that it was cut off, because %s", body, err, why)
		}
	}
	g := gateOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(whole + "\n" + `{"at":"2030-01-02T03:04:05Z","end":"operator"}` + "\n"))
	}))
	if err := g.Trace(t.Context(), &bytes.Buffer{}, "abc", false); err != nil {
		t.Errorf("a trace to its end: %v", err)
	}
}
