package gate

import (
	"context"
	"net"
	"slices"
	"time"

	"wssgate/listen"
)

const (
	// handOverPatience is how long a leaving process completes TCP handshakes that have
	// begun: half a second is a round trip for nearly all clients. It is under a
	// second, so that a client whose SYN was dropped meanwhile reaches the other
	// process with its first retransmission.
	handOverPatience = 500 * time.Millisecond

	// settlePatience is how long the last accepted connections may take to become
	// tunnels before the drain begins.
	settlePatience = time.Second

	handOverStep = 10 * time.Millisecond // between two checks
)

// handOver stops listening without refusing connections on the way here, if another
// socket listens on the same addresses: that of another process started beside this
// one, or of systemd, which keeps its sockets for the next process. Otherwise it
// returns at once. It waits until accepted connections are tunnels, or until patience
// is over.
//
// When a listener closes, the kernel resets the connections in its queue and those in
// the middle of the TCP handshake. So the order is: divert new connections, accept
// those that wait, then close.
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
	for _, ln := range own { // a change to a socket of systemd's would affect the next process too
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

// handOn does the same for listeners that a reload removes, if another listener is on
// the same port by now, such as ":5291" after "127.0.0.1:5291": connections on the way
// to the old one are served. If there is none, clients are refused anyway.
func (g *gate) handOn(gone []net.Listener) {
	g.emptyQueues(slices.DeleteFunc(gone, func(ln net.Listener) bool {
		return !listen.IsShared(ln, []net.Listener{ln})
	}), settlePatience)
}

// emptyQueues diverts new connections to the other listeners on the same addresses, and
// waits until those that came here before are accepted.
func (g *gate) emptyQueues(shared []net.Listener, patience time.Duration) {
	if len(shared) == 0 {
		return
	}
	began := time.Now()
	for _, ln := range shared {
		if _, isUnix := ln.(*listen.UnixListener); isUnix {
			continue // no new connections arrive
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
