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
	freeGuesses = 10               // wrong tokens of one address that are answered at once
	firstWait   = time.Second / 10 // before the next answer; doubles each time
	longestWait = 2 * time.Second
	forgetAfter = 5 * time.Minute // without a wrong token
	maxGuessers = 1024            // addresses with a count of their own
)

// guesses slows down senders of wrong tokens, each address separately; requests with
// the right token never wait. The log has a line a minute about them. The zero value is
// ready for use.
type guesses struct {
	line sampling.Line

	mu sync.Mutex
	of map[netip.Addr]*guesser
}

type guesser struct {
	n    int
	last time.Time
}

// wrong records a request with a wrong token, and waits for its address's delay.
// Meanwhile the connection may give way to others.
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
			owner = netip.Addr{} // all other addresses share one count
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
