package gate

import (
	"context"
	"net"
	"slices"
	"time"

	"wssgate/listen"
)

const (
	// handOverPatience is how long a leaving process finishes the TCP handshakes
	// that it has begun: half a second is a round trip for all but a few. Under
	// a second, so that a client whose SYN was dropped meanwhile finds the
	// other process at its second try.
	handOverPatience = 500 * time.Millisecond

	// settlePatience is how long those that were accepted last may take to
	// become tunnels, before the drain begins.
	settlePatience = time.Second

	handOverStep = 10 * time.Millisecond // between two looks
)

// handOver ends listening in such a way that whoever is on the way here is still
// served, where somebody else listens on the same addresses: another process
// that was started beside this one, or systemd, which keeps its sockets for the
// next. It returns at once where nobody does; else when connections that had
// been accepted are tunnels, or after patience.
//
// The kernel resets connections that wait in the queue of a listener when it is
// closed, and those in the middle of the TCP handshake. So the order is: no new
// ones, the old ones in, then close.
func (g *gate) handOver(patience time.Duration) {
	var all, own, shared []net.Listener
	for key, listeners := range map[string]map[string]net.Listener{"wss": g.listeners, "http": g.plain.listeners} {
		for addr, ln := range listeners {
			all = append(all, ln)
			if g.sockets.Find(key, addr) == nil {
				own = append(own, ln)
			}
		}
	}
	looking, cancel := context.WithTimeout(context.Background(), listen.RemovalPatience)
	defer cancel()
	for _, ln := range own { // what is done to a socket of systemd's, the next process would have too
		u, isUnix := ln.(*listen.UnixListener)
		if isUnix && !u.IsOurs(looking) || !isUnix && listen.IsShared(ln, all) {
			shared = append(shared, ln)
		}
	}
	if len(shared) == 0 && len(own) == len(all) || patience <= 0 {
		return
	}
	began := time.Now()
	g.log.Info("hand-over", "connections", g.server.Connections())
	g.emptyQueues(shared, patience)
	for _, ln := range all {
		ln.Close()
	}
	g.accepting.Wait()
	for g.server.Arriving() > 0 && time.Since(began) < patience {
		time.Sleep(handOverStep)
	}
}

// handOn is the same for listeners that a reload takes away: where another one is
// on the same port by now, as it is where "127.0.0.1:5291" becomes ":5291",
// those who are on the way to the old one are served. Where there is none, clients
// are refused anyway.
func (g *gate) handOn(gone []net.Listener) {
	g.emptyQueues(slices.DeleteFunc(gone, func(ln net.Listener) bool {
		return !listen.IsShared(ln, []net.Listener{ln})
	}), settlePatience)
}

// emptyQueues has newcomers go to those who listen on the same addresses as these,
// and waits until those who came here before are accepted.
func (g *gate) emptyQueues(shared []net.Listener, patience time.Duration) {
	if len(shared) == 0 {
		return
	}
	began := time.Now()
	for _, ln := range shared {
		if _, isUnix := ln.(*listen.UnixListener); isUnix {
			continue // nobody comes to it any more
		}
		if err := listen.LeaveToOthers(ln); err != nil {
			g.log.Warn("hand-over: some clients may be reset", "addr", ln.Addr().String(), "err", err)
		}
	}
	time.Sleep(min(handOverPatience, patience/2))
	for _, ln := range shared {
		for listen.Waiting(ln) > 0 && time.Since(began) < patience {
			time.Sleep(handOverStep)
		}
	}
}
