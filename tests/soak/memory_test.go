package soak

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

const (
	// When runs have reached their level of memory: every kind of client and of
	// disturbance was there.
	warmUp = 30 * time.Second
	// The fewest samples that one half is judged by.
	fewSamples = 20

	// What the median of memory in use may grow by, from the first half behind the
	// warm-up to the second one. Both halves have the same load, of which a sample
	// sees between 2.2 and 3.5 MiB; medians of an even run differ by 0.1 MiB. In an
	// hour that is less than 60 bytes for each tunnel.
	spareLive = 1 << 20 // bytes
	// The same for the process's own memory, which has garbage in it, and what the
	// runtime has not given back yet: it varies by 4 MiB.
	spareAnonymous = 3 << 20 // bytes
	// What memory in use may grow by from before the first client to after the last
	// one. The system's root certificates and the buffers of a second event loop are
	// 1.1 MiB of it.
	spareIdle = 2 << 20 // bytes
)

// A footprint is the gate's memory, behind garbage collections.
type footprint struct {
	at        time.Duration // since the run began
	live      int64         // bytes in use: objects, and stacks of goroutines
	anonymous int64         // bytes of the process's memory that is no file's
}

func (p *process) footprint() (f footprint, err error) {
	var body string
	for range 2 { // the first collection leaves what is in pools
		if body, err = p.ask("GET", "/debug/pprof/heap?debug=1&gc=1"); err != nil {
			return f, err
		}
	}
	objects, stacks := number(body, "# HeapAlloc = %d"), number(body, "# Stack = %d")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if f.anonymous = number(string(status), "RssAnon: %d kB") << 10; err == nil && objects*stacks*f.anonymous == 0 {
		err = fmt.Errorf("no figures: %d, %d, %d", objects, stacks, f.anonymous)
	}
	f.live = objects + stacks
	return f, err
}

// watchMemory notes the gate's memory while all go on.
func (r *rig) watchMemory(ctx context.Context, length time.Duration) {
	for began := time.Now(); ; {
		pause(ctx, max(2*time.Second, length/200))
		if ctx.Err() != nil {
			return
		}
		f, err := r.gate.footprint()
		if err != nil {
			r.breach("memory: %v", err)
			return
		}
		f.at = time.Since(began)
		r.footprints = append(r.footprints, f)
	}
}

// growth says what memory did under load: the medians of both halves of the time
// behind the warm-up; wrong is "" where it did not grow. A short run has no halves.
func growth(all []footprint) (first, second footprint, wrong string) {
	warm := slices.IndexFunc(all, func(f footprint) bool { return f.at >= warmUp })
	if warm < 0 || len(all)-warm < 2*fewSamples {
		return first, second, ""
	}
	all = all[warm:]
	first, second = median(all[:len(all)/2]), median(all[len(all)/2:])
	if second.live > first.live+spareLive || second.anonymous > first.anonymous+spareAnonymous {
		wrong = fmt.Sprintf("memory grows at the same load: in use from %s to %s, anonymous from %s to %s", mib(first.live), mib(second.live), mib(first.anonymous), mib(second.anonymous))
	}
	return first, second, wrong
}

// median returns the medians.
func median(all []footprint) footprint {
	middle := func(of func(footprint) int64) int64 {
		var values []int64
		for _, f := range all {
			values = append(values, of(f))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return footprint{live: middle(func(f footprint) int64 { return f.live }), anonymous: middle(func(f footprint) int64 { return f.anonymous })}
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// Memory that grows is told from memory that varies.
func TestGrowth(t *testing.T) {
	run := func(perMinute int64) (all []footprint) {
		for at := time.Duration(0); at < 10*time.Minute; at += 3 * time.Second {
			noise := int64(at/time.Second) * 7919 % (1 << 20)
			grown := int64(at.Minutes() * float64(perMinute))
			all = append(all, footprint{at: at, live: 3<<20 + noise + grown, anonymous: 12<<20 + 4*noise + grown})
		}
		return all
	}
	if _, _, wrong := growth(run(0)); wrong != "" {
		t.Errorf("even: %s", wrong)
	}
	if _, _, wrong := growth(run(300 << 10)); wrong == "" {
		t.Error("300 KiB a minute are not noticed")
	}
	objects := run(0)
	for i := range objects {
		objects[i].anonymous += int64(objects[i].at.Minutes() * float64(800<<10))
	}
	if _, _, wrong := growth(objects); wrong == "" {
		t.Error("memory outside of the heap that grows is not noticed")
	}
}
