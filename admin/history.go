package admin

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"wssgate/proxy"
)

// The last hour, for the charts of the page.
const (
	SampleEvery = 10 * time.Second
	maxSamples  = 360
)

// A sample is the counts at one time. Counters keep their values, so that rates are
// right for any time between two samples.
type sample struct {
	at                                     time.Time
	tunnels, connections                   int64
	full, resumed, failed, noPlace         int64
	framesIn, framesOut, bytesIn, bytesOut int64
	busy                                   time.Duration // average of the possible loops
	memory                                 int64
	closed                                 []int64 // as history.reasons at that time
}

// history is a ring of samples.
type history struct {
	mu   sync.Mutex
	ring []sample // oldest first; one more than is shown, for the first rates

	// reasons are the reasons of closed tunnels, each once. There are few, because
	// they are constants of the program.
	reasons []string
}

func newHistory() *history { return &history{ring: make([]sample, 0, maxSamples+1)} }

// sample takes a sample every SampleEvery until ctx ends.
func (s *Server) sample(ctx context.Context) {
	ticker := time.NewTicker(SampleEvery)
	defer ticker.Stop()
	for {
		s.takeSample()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) takeSample() {
	defer s.survive()
	counts := s.options.Counts()
	s.history.add(newSample(time.Now(), counts, s.memory()), counts.Closed)
}

func newSample(at time.Time, c proxy.Counts, memory Memory) sample {
	s := sample{
		at: at, tunnels: c.Tunnels(), connections: int64(c.Connections),
		framesIn: c.FramesIn, framesOut: c.FramesOut, bytesIn: c.BytesIn, bytesOut: c.BytesOut,
		busy: c.Lag.Sum / time.Duration(max(c.Loops, 1)), memory: memory.Bytes,
	}
	for _, h := range c.Handshakes {
		switch h.Result {
		case proxy.HandshakeFull:
			s.full += h.N
		case proxy.HandshakeResumed:
			s.resumed += h.N
		case proxy.HandshakeSilent, proxy.HandshakeChallenge: // a port scan, a load balancer's probe, a CA: not failures
		case proxy.HandshakeNoPlace:
			s.noPlace += h.N
			s.failed += h.N
		default:
			s.failed += h.N
		}
	}
	return s
}

// add appends a sample with the counts of each reason.
func (h *history) add(s sample, closed map[string]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for reason := range closed {
		if !slices.Contains(h.reasons, reason) {
			h.reasons = append(h.reasons, reason)
		}
	}
	s.closed = make([]int64, len(h.reasons))
	for i, reason := range h.reasons {
		s.closed[i] = closed[reason]
	}
	if len(h.ring) == cap(h.ring) {
		copy(h.ring, h.ring[1:])
		h.ring = h.ring[:len(h.ring)-1]
	}
	h.ring = append(h.ring, s)
}

// History is the last hour as rows of equal length: values at each time, or averages
// per second since the time before.
type History struct {
	Times       []int64              `json:"times"` // Unix, seconds
	Tunnels     []int64              `json:"tunnels"`
	Connections []int64              `json:"connections"`
	Memory      []int64              `json:"memory"`     // bytes
	Full        []float64            `json:"full"`       // handshakes per second
	Resumed     []float64            `json:"resumed"`    //
	Failed      []float64            `json:"failed"`     //
	FramesIn    []float64            `json:"frames_in"`  // per second
	FramesOut   []float64            `json:"frames_out"` //
	BytesIn     []float64            `json:"bytes_in"`   //
	BytesOut    []float64            `json:"bytes_out"`  //
	Busy        []float64            `json:"busy"`       // share of the time, 0 to 1
	Closed      map[string][]float64 `json:"closed"`     // tunnels per second, by reason; without reasons that did not occur
}

func (h *history) rows() *History {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := max(len(h.ring)-1, 0)
	out := &History{Closed: map[string][]float64{}}
	for _, row := range []*[]int64{&out.Times, &out.Tunnels, &out.Connections, &out.Memory} {
		*row = make([]int64, 0, n)
	}
	for _, row := range []*[]float64{&out.Full, &out.Resumed, &out.Failed, &out.FramesIn, &out.FramesOut, &out.BytesIn, &out.BytesOut, &out.Busy} {
		*row = make([]float64, 0, n)
	}
	for i := 1; i < len(h.ring); i++ {
		a, b := &h.ring[i-1], &h.ring[i]
		took := b.at.Sub(a.at)
		out.Times = append(out.Times, b.at.Unix())
		out.Tunnels = append(out.Tunnels, b.tunnels)
		out.Connections = append(out.Connections, b.connections)
		out.Memory = append(out.Memory, b.memory)
		for _, r := range []struct {
			row  *[]float64
			a, b int64
		}{
			{&out.Full, a.full, b.full}, {&out.Resumed, a.resumed, b.resumed}, {&out.Failed, a.failed, b.failed},
			{&out.FramesIn, a.framesIn, b.framesIn}, {&out.FramesOut, a.framesOut, b.framesOut},
			{&out.BytesIn, a.bytesIn, b.bytesIn}, {&out.BytesOut, a.bytesOut, b.bytesOut},
		} {
			*r.row = append(*r.row, perSecond(r.b-r.a, took))
		}
		out.Busy = append(out.Busy, share(b.busy-a.busy, took))
		for k, count := range b.closed {
			before, reason := int64(0), h.reasons[k]
			if k < len(a.closed) {
				before = a.closed[k]
			}
			if count == before {
				continue
			}
			if out.Closed[reason] == nil {
				out.Closed[reason] = make([]float64, n)
			}
			out.Closed[reason][i-1] = perSecond(count-before, took)
		}
	}
	return out
}

// since returns the newest sample and the one taken about d before it; ok is false if
// there are fewer than two.
func (h *history) since(d time.Duration) (then, now sample, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ring) < 2 {
		return then, now, false
	}
	last := len(h.ring) - 1
	first := max(last-int(d/SampleEvery), 0)
	return h.ring[min(first, last-1)], h.ring[last], true
}

// perSecond returns a rounded rate: the page needs no more digits, and the JSON is
// shorter.
func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 || n < 0 {
		return 0
	}
	return math.Round(float64(n)/d.Seconds()*1000) / 1000
}

func share(part, whole time.Duration) float64 {
	if whole <= 0 || part < 0 {
		return 0
	}
	return math.Round(min(part.Seconds()/whole.Seconds(), 1)*1000) / 1000
}
