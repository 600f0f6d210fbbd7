package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

func measures() []measure {
	list := []measure{
		{name: "idle", once: true, run: idle},
		{name: "storm", run: storm},
	}
	for _, n := range []int{100, 1000} {
		list = append(list, measure{name: fmt.Sprintf("trips%d", n), run: func(ctx context.Context, g *gate) ([]figure, error) {
			return trips(ctx, g, n)
		}})
	}
	list = append(list,
		measure{name: "fixed", run: fixed},
		measure{name: "churn", run: churn},
		measure{name: "reload", once: true, run: reload},
	)
	list = append(list, doorMeasures()...)
	return append(list, costMeasures()...)
}

// idle is what a connection costs that says nothing, before and after it has
// carried a message that fills a TLS record.
func idle(ctx context.Context, g *gate) ([]figure, error) {
	n := *idleCount
	base, err := g.private()
	if err != nil {
		return nil, err
	}
	c, err := g.connect(ctx, n, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	each := func() float64 {
		now, memErr := g.private()
		err = errors.Join(err, memErr)
		return float64(now-base) / float64(n) / 1000
	}
	time.Sleep(*settle)
	before := each()
	if err := c.burst(make16K()); err != nil {
		return nil, err
	}
	time.Sleep(*settle)
	after := each()
	if c.lost() > 0 {
		return nil, fmt.Errorf("%d idle connections lost: %w", c.lost(), c.why())
	}
	what := fmt.Sprintf("user memory for an idle connection, %d of them, KB", n)
	return []figure{{what, before, 2}, {"the same after 16 KiB on each, KB", after, 2}}, err
}

// storm is what it takes when everybody comes at once.
func storm(ctx context.Context, g *gate) ([]figure, error) {
	n := *stormCount
	start := time.Now()
	c, err := g.connect(ctx, n, true)
	if err != nil {
		return nil, err
	}
	defer c.close()
	took := time.Since(start)
	peak, err := g.peak()
	what := fmt.Sprintf("peak memory, %d clients at once, MB", n)
	return []figure{
		{what, float64(peak) / 1e6, 0},
		{"attempts that failed and were repeated", float64(c.refused.Load()), 0},
		{"until all were connected, s", took.Seconds(), 1},
	}, err
}

var sizes = []struct {
	name  string
	bytes int
}{{"128 B", 128}, {"1 KiB", 1 << 10}, {"16 KiB", 16 << 10}}

// trips is what a message there and back costs when each client sends as soon
// as it has its answer.
func trips(ctx context.Context, g *gate, n int) ([]figure, error) {
	n = clients(n)
	c, err := g.connect(ctx, n, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var figures []figure
	for _, size := range sizes {
		used, err := g.cpuOf(func() (int, error) { return c.closedLoop(message(size.bytes), busy()) })
		if err != nil {
			return nil, err
		}
		figures = append(figures, figure{fmt.Sprintf("CPU for a round trip, %d connections, %s, µs", n, size.name), micros(used), 1})
	}
	return figures, nil
}

// fixed is the same at a rate that leaves time to sleep, with what the gate
// adds to the latency of a connection straight to the upstream.
func fixed(ctx context.Context, g *gate) ([]figure, error) {
	const rate, size = 5000, 128
	n := clients(1000)
	c, err := g.connect(ctx, n, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	direct, err := g.connectUpstream(ctx, n)
	if err != nil {
		return nil, err
	}
	defer direct.close()
	straight, err := direct.paced(message(size), rate, busy())
	if err != nil {
		return nil, err
	}
	var through []time.Duration
	used, err := g.cpuOf(func() (int, error) {
		through, err = c.paced(message(size), rate, busy())
		return len(through), err
	})
	if err != nil {
		return nil, err
	}
	added := func(p float64) float64 { return micros(percentile(through, p) - percentile(straight, p)) }
	return []figure{
		{fmt.Sprintf("CPU for a round trip, %d/s on %d connections, %d B, µs", rate, n, size), micros(used), 1},
		{"latency added there, p50, µs", added(0.50), 0},
		{"latency added there, p99, µs", added(0.99), 0},
	}, nil
}

// churn is what a connection costs that comes and goes, or that asks for a name that is
// not served.
func churn(ctx context.Context, g *gate) ([]figure, error) {
	var figures []figure
	for _, resume := range []bool{false, true} {
		used, err := g.cpuOf(func() (int, error) { return g.comeAndGo(ctx, *churnCount, resume) })
		if err != nil {
			return nil, err
		}
		what := "CPU for connect, handshake, upgrade and close, full, ms"
		if resume {
			what = "the same with a resumed TLS session, ms"
		}
		figures = append(figures, figure{what, micros(used) / 1000, 2})
	}
	used, err := g.cpuOf(func() (int, error) { return *churnCount, g.nameless(*churnCount) })
	if err != nil {
		return nil, err
	}
	return append(figures, figure{"CPU for a name that is not served, ms", micros(used) / 1000, 2}), nil
}

// reload is what busy connections notice of three reloads.
func reload(ctx context.Context, g *gate) ([]figure, error) {
	const rate, reloads = 2000, 3
	n := clients(1000)
	c, err := g.connect(ctx, n, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	reloaded := make(chan error, 1)
	go func() {
		for range reloads {
			time.Sleep(busy() / (reloads + 1))
			if err := g.reload(); err != nil {
				reloaded <- err
				return
			}
		}
		reloaded <- nil
	}()
	if _, err := c.paced(message(128), rate, busy()); err != nil && !errors.Is(err, errLost) {
		return nil, err
	}
	if err := <-reloaded; err != nil {
		return nil, err
	}
	time.Sleep(2 * time.Second)
	left, err := g.processes()
	return []figure{
		{fmt.Sprintf("connections lost in %d reloads, of %d busy ones", reloads, n), float64(c.lost()), 0},
		{"processes then", float64(len(left)), 0},
	}, err
}

// clients is how many there are where n are meant.
func clients(n int) int {
	if *quick {
		return max(n/50, 1)
	}
	return n
}

func busy() time.Duration { return time.Duration(*seconds * float64(time.Second)) }

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// percentile sorts latencies; p is between 0 and 1.
func percentile(latencies []time.Duration, p float64) time.Duration {
	if len(latencies) == 0 {
		return 0
	}
	slices.Sort(latencies)
	return latencies[int(p*float64(len(latencies)-1))]
}
