package admin

import (
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"wssgate/fair"
	"wssgate/sampling"
)

const (
	freeGuesses = 10               // wrong tokens of an address that are answered at once
	firstWait   = time.Second / 10 // before the answer to the next one; then twice that, and so on
	longestWait = 2 * time.Second
	forgetAfter = 5 * time.Minute // without a wrong token
	maxGuessers = 1024            // addresses that are told apart
)

// guesses slows down those who send wrong tokens, each address for itself; who has
// the right one never waits. Of the log they get a line a minute. The zero value is
// ready.
type guesses struct {
	line sampling.Line

	mu sync.Mutex
	of map[netip.Addr]*guesser
}

type guesser struct {
	n    int
	last time.Time
}

// wrong notes a request with a wrong token, and waits as long as its address has
// earned. Its connection may be given up meanwhile, so that it keeps nobody out.
func (g *guesses) wrong(r *http.Request, log *slog.Logger) {
	g.line.Warn(log, "admin request with a wrong token", "client", r.RemoteAddr, "path", r.URL.Path)
	if wait := g.note(fair.OwnerOf(r.RemoteAddr), time.Now()); wait > 0 {
		fair.While(r.Context(), func() {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
			}
		})
	}
}

func (g *guesses) note(owner netip.Addr, now time.Time) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of == nil {
		g.of = map[netip.Addr]*guesser{}
	}
	if g.of[owner] == nil {
		if len(g.of) >= maxGuessers {
			for a, old := range g.of {
				if now.Sub(old.last) >= forgetAfter {
					delete(g.of, a)
				}
			}
		}
		if len(g.of) >= maxGuessers {
			owner = netip.Addr{} // all others are one
		}
	}
	a := g.of[owner]
	if a == nil || now.Sub(a.last) >= forgetAfter {
		a = &guesser{}
		g.of[owner] = a
	}
	a.n++
	a.last = now
	if a.n <= freeGuesses {
		return 0
	}
	return min(firstWait<<min(a.n-freeGuesses-1, 10), longestWait)
}
