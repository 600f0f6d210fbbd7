package admin

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/proxy"
)

// A gate with constant activity has constant rates, one sample every ten seconds, and
// at most an hour of them.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := newServer(t, func(o *Options) {
			o.Memory = func() Memory { return Memory{Bytes: 11} }
			o.Counts = func() proxy.Counts {
				n := int64(time.Since(start) / time.Second)
				return proxy.Counts{
					Connections: 9, Vhosts: []proxy.VhostCount{{Name: "a", Open: 3}, {Name: "b", Open: 4}},
					Handshakes: []proxy.HandshakeCount{{Result: "full", Version: "1.3", N: 2 * n}, {Result: "full", Version: "1.2", N: n}, {Result: "resumed", Version: "1.3", N: 5 * n},
						{Result: "silent", Version: "", N: 100 * n}, {Result: "challenge", Version: "", N: 7 * n}, {Result: "timeout", Version: "", N: n}, {Result: "no_place", Version: "", N: n}},
					FramesIn: 10 * n, FramesOut: 20 * n, BytesIn: 1000 * n, BytesOut: 2000 * n,
					Closed: map[string]int64{"drain": 7, "client_close": n / 2},
					Lag:    proxy.Durations{Sum: time.Duration(n) * 500 * time.Millisecond},
					Loops:  2,
				}
			}
		})
		time.Sleep(5 * time.Second)
		if h := s.history.rows(); len(h.Times) != 0 {
			t.Errorf("%d rates after one sample; want none", len(h.Times))
		}
		time.Sleep(10 * time.Second)
		h := s.history.rows()
		if len(h.Times) != 1 || h.Times[0] != start.Unix()+10 {
			t.Errorf("times = %v; want one, 10 s after the start", h.Times)
		}
		time.Sleep(3 * time.Hour)
		h = s.history.rows()
		if len(h.Times) != maxSamples || h.Times[len(h.Times)-1]-h.Times[0] != 3590 {
			t.Errorf("%d times over %d s; want an hour of them", len(h.Times), h.Times[len(h.Times)-1]-h.Times[0])
		}
		for i := range h.Times {
			got := []float64{h.Full[i], h.Resumed[i], h.Failed[i], h.FramesIn[i], h.FramesOut[i], h.BytesIn[i], h.BytesOut[i], h.Busy[i], h.Closed["client_close"][i]}
			for j, want := range []float64{3, 5, 2, 10, 20, 1000, 2000, 0.25, 0.5} {
				if got[j] != want {
					t.Fatalf("at %d: rates = %v; number %d should be %v", i, got, j, want)
				}
			}
			if h.Tunnels[i] != 7 || h.Connections[i] != 9 || h.Memory[i] != 11 {
				t.Fatalf("at %d: tunnels, connections, memory = %d, %d, %d", i, h.Tunnels[i], h.Connections[i], h.Memory[i])
			}
		}
		if _, ok := h.Closed["drain"]; ok || len(h.Closed) != 1 {
			t.Errorf("closed = %v; want no row for a reason that had none in this hour", h.Closed)
		}
		if c := cap(s.history.ring); c != maxSamples+1 {
			t.Errorf("the ring has grown to %d", c)
		}
	})
}

// The history is included only with ?history, and Close ends the sampling.
func TestHistoryInStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		s := newServer(t, func(o *Options) { o.Counts = func() proxy.Counts { calls++; return proxy.Counts{} } })
		time.Sleep(time.Minute)
		synctest.Wait()
		for query, want := range map[string]bool{"": false, "?history": true} {
			var st Status
			if err := json.Unmarshal(ask(s, loopback, "GET", "http://127.0.0.1/status"+query).Body.Bytes(), &st); err != nil {
				t.Fatal(err)
			}
			if (st.History != nil) != want {
				t.Errorf("/status%s has a history: %v; want %v", query, st.History != nil, want)
			}
		}
		s.Close()
		before := calls
		time.Sleep(time.Hour)
		if calls != before {
			t.Errorf("%d samples after Close", calls-before)
		}
	})
}

// A reason that occurs later than others starts at zero.
func TestHistoryNewReason(t *testing.T) {
	h := newHistory()
	start := time.Now()
	h.add(sample{at: start}, map[string]int64{"a": 5})
	h.add(sample{at: start.Add(10 * time.Second)}, map[string]int64{"a": 5, "b": 20})
	if got := h.rows().Closed; len(got) != 1 || got["b"][0] != 2 {
		t.Errorf("closed = %v; want b at 2 a second", got)
	}
}
