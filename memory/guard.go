package memory

import (
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"wssgate/panics"
)

// Options configure a new Guard. Short and Shed are required.
type Options struct {
	Limit int64 // limits.memory in bytes; 0: none

	// Short is called with each change of the Shortage. It must return at once.
	Short func(Shortage)

	// Shed closes the largest consumers until about so many bytes are free. If sockets
	// is true, the kernel's part of a connection counts too. If atOnce is true, the
	// memory must be free when Shed returns; otherwise clients have ShedPatience to
	// read what is queued for them.
	Shed func(bytes int64, sockets, atOnce bool) Shed

	// Braked returns how many tunnels have ended since the start because they could not
	// grow while memory was Dire. Nil: none.
	Braked func() int

	Log *slog.Logger
}

// A Shortage is the degree to which memory is short.
type Shortage int

const (
	Enough Shortage = iota
	Short           // new clients must be refused
	Dire            // nothing may grow either, because it would grow before anything is shed
)

// A Shed is what was closed to free memory.
type Shed struct {
	Tunnels  int   // ended for data queued for their clients
	Requests int   // of BOSH
	Bytes    int64 // held by these, approximately
}

// ShedPatience is how long a client may continue to read what is queued for it when it
// is shed. It then learns why it was closed.
const ShedPatience = time.Second

// Intervals between the Guard's measurements. Nothing grows faster than growth, so the
// next measurement is due when memory at that rate would reach the limit.
const (
	growth   = 1 << 30 // bytes a second; two processors encrypt less
	lookMin  = 20 * time.Millisecond
	lookMax  = time.Second
	lookOver = 50 * time.Millisecond // while it is above the limit
)

const (
	// backShare: memory is sufficient again once one part in backShare of the limit is
	// free. Otherwise each connection that ends would admit one that is closed next.
	backShare = 16

	// calm is how long memory must be sufficient before an episode ends: a flood that
	// continues is one episode.
	calm = 5 * time.Second

	// direShare: memory is Dire above the limit by more than one part in direShare.
	// With the default limit, a sixth of the cgroup is left then.
	direShare = 32

	// collectRest: while memory goes above and below the limit, collections take at
	// most one part in collectRest of the time.
	collectRest = 20
)

// State is the state of a Guard.
type State struct {
	Used  int64     // bytes, now
	Limit int64     // bytes; 0: none
	Short bool      // above the limit, and not yet well below it again
	Since time.Time // start of the current or last episode; zero: never
	Until time.Time // end of the last episode; zero while it continues
	Shed  Shed      // since the start
}

// A Guard watches how much memory the process uses. Above the limit it reports a
// shortage and sheds the largest consumers until use is below the limit again. It
// collects garbage first, so that it sheds clients only if that is not enough. Its
// methods are safe for concurrent use.
type Guard struct {
	options Options
	measure func() (used int64, sockets bool)
	collect func() // returns garbage to the system
	changed chan struct{}
	done    chan struct{}
	ended   chan struct{}

	// only for run
	told      Shortage
	collectAt time.Time // not earlier, while memory is sufficient
	judgeAt   time.Time // when the effect of the last shedding is visible
	calmAt    time.Time // when the episode ends, unless something changes
	episode   episode

	mu    sync.Mutex
	state State
}

// An episode is a period in which memory is short.
type episode struct {
	peak   int64
	shed   Shed
	atOnce bool  // mode of the last shedding
	last   int64 // bytes in use then
	braked int   // Braked at its start
}

// Start creates and starts a Guard. Close ends it.
func Start(o Options) *Guard {
	g := newGuard(o)
	g.start()
	return g
}

func (g *Guard) start() {
	go func() {
		defer close(g.ended)
		panics.Keep(g.done, panics.Memory, g.run)
	}()
}

func newGuard(o Options) *Guard {
	return &Guard{
		options: o, measure: newMeter(os.DirFS("/")).measure, collect: debug.FreeOSMemory,
		changed: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}),
		state: State{Limit: o.Limit},
	}
}

// SetLimit changes the limit, in bytes; 0: none.
func (g *Guard) SetLimit(limit int64) {
	g.mu.Lock()
	g.state.Limit = limit
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default: // a measurement is already pending
	}
}

// State measures the memory in use, and returns it with the state of the Guard.
func (g *Guard) State() State {
	used, _ := g.measure()
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.state
	s.Used = used
	s.Shed.Tunnels += g.braked()
	return s
}

func (g *Guard) braked() int {
	if g.options.Braked == nil {
		return 0
	}
	return g.options.Braked()
}

// Close stops the Guard. A current shortage is not lifted.
func (g *Guard) Close() {
	close(g.done)
	<-g.ended
}

// run is the Guard's goroutine.
func (g *Guard) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-g.done:
			return
		case <-g.changed:
		case <-timer.C:
		}
		timer.Reset(g.look(time.Now()))
	}
}

// look takes the action that is due, and returns the time until the next call.
func (g *Guard) look(now time.Time) time.Duration {
	used, _ := g.measure()
	g.mu.Lock()
	limit, short := g.state.Limit, g.state.Short
	g.mu.Unlock()
	if !short {
		if limit == 0 {
			return lookMax
		}
		if used >= limit && !now.Before(g.collectAt) {
			took := g.watched(limit, g.collect)
			g.collectAt = now.Add(max(lookMax, took*collectRest))
			used, _ = g.measure()
		}
		if used < limit {
			g.tell(Enough)
			return pause(limit - used)
		}
		g.enter(now, used, limit)
	}
	if used > limit-limit/backShare {
		g.calmAt = now.Add(calm)
	}
	if limit == 0 || !now.Before(g.calmAt) {
		g.leave(now, used, limit)
		return lookMin
	}
	g.episode.peak = max(g.episode.peak, used)
	dire := isDire(used, limit)
	if dire {
		g.tell(Dire)
	} else if used < limit {
		g.tell(Short)
	}
	// After a shedding, the next one must wait until the first has had its effect,
	// unless use continues to rise.
	worse := dire && (!g.episode.atOnce || used >= g.episode.last+limit/(2*direShare))
	if used >= limit && (worse || !now.Before(g.judgeAt)) {
		g.shed(now, limit)
	}
	return lookOver
}

func isDire(used, limit int64) bool { return used >= limit+limit/direShare }

// tell reports a change.
func (g *Guard) tell(s Shortage) {
	if s != g.told {
		g.told = s
		g.options.Short(s)
	}
}

// watched calls do, which may take a second on a busy machine, and stops all growth if
// memory becomes dire in the meantime.
func (g *Guard) watched(limit int64, do func()) (took time.Duration) {
	began := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		panics.Catch(panics.Memory, do)
	}()
	look := time.NewTicker(lookMin)
	defer look.Stop()
	for {
		if used, _ := g.measure(); isDire(used, limit) {
			g.tell(Dire)
		}
		select {
		case <-done:
			return time.Since(began)
		case <-look.C:
		}
	}
}

// pause returns the time in which use could grow by so many bytes.
func pause(left int64) time.Duration {
	return min(max(time.Duration(float64(left)/growth*float64(time.Second)), lookMin), lookMax)
}

// shed frees enough memory to be well below the limit, as far as possible.
func (g *Guard) shed(now time.Time, limit int64) {
	took := g.watched(limit, g.collect) // the result of the last shedding is garbage at best
	used, sockets := g.measure()
	if used < limit {
		return
	}
	atOnce := isDire(used, limit)
	var out Shed
	g.watched(limit, func() { out = g.options.Shed(used-(limit-limit/backShare), sockets, atOnce) })
	g.episode.atOnce, g.episode.last = atOnce, used
	g.episode.shed.add(out)
	switch {
	case out.Bytes == 0: // nothing is left to shed, so another collection would not help
		g.judgeAt = now.Add(max(lookMax, took*collectRest))
	case atOnce:
		g.judgeAt = now.Add(took + lookOver)
	default:
		g.judgeAt = now.Add(took + ShedPatience + lookOver)
	}
	g.mu.Lock()
	g.state.Shed.add(out)
	g.mu.Unlock()
}

func (s *Shed) add(more Shed) {
	s.Tunnels += more.Tunnels
	s.Requests += more.Requests
	s.Bytes += more.Bytes
}

func (g *Guard) enter(now time.Time, used, limit int64) {
	g.mu.Lock()
	g.state.Short, g.state.Since, g.state.Until = true, now, time.Time{}
	g.mu.Unlock()
	g.episode = episode{peak: used, braked: g.braked()}
	g.judgeAt = time.Time{}
	g.tell(max(g.told, Short))
	g.options.Log.Warn("memory is above limits.memory: new clients are refused, and the largest consumers are closed", "used", used, "limit", limit,
		"hint", "give the gate more memory and raise limits.memory, or lower limits.connections or limits.client_backlog")
}

func (g *Guard) leave(now time.Time, used, limit int64) {
	g.mu.Lock()
	g.state.Short, g.state.Until = false, now
	since := g.state.Since
	g.mu.Unlock()
	g.tell(Enough)
	g.options.Log.Info("memory is well below limits.memory again: new clients are let in", "used", used, "limit", limit, "peak", g.episode.peak,
		"duration", now.Sub(since), "tunnels", g.episode.shed.Tunnels+g.braked()-g.episode.braked, "requests", g.episode.shed.Requests, "bytes", g.episode.shed.Bytes)
}
