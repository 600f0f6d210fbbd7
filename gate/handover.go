package gate

import (
	"context"
	"net"
	"slices"
	"time"

	"wssgate/listen"
)

const (
	// handOverPatience is how long a process that leaves completes TCP
	// handshakes that have begun. Half a second is a round trip for nearly all
	// clients. It is less than a second, so that a client whose SYN was dropped
	// reaches the other process with its first retransmission.
	handOverPatience = 500 * time.Millisecond

	// settlePatience is how long the last accepted connections may take to become
	// tunnels before the drain begins.
	settlePatience = time.Second

	handOverStep = 10 * time.Millisecond // interval of checks
)

// handOver stops listening without refusing connections that are on their way,
// if another socket listens on the same addresses. That is the socket of
// another process, or of systemd, which keeps its sockets for the next process.
// Otherwise it returns at once. It waits until accepted connections are
// tunnels, or until patience is over.
//
// When a listener closes, the kernel resets the connections in its queue and
// those in the middle of the TCP handshake. So the order is: divert new
// connections, accept those that wait, then close.
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
	for _, ln := range own { // a change to systemd's socket would also affect the next process
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

// handOn does the same for listeners that a reload removes, if another listener
// is now on the same port, such as ":5291" after "127.0.0.1:5291": connections
// on their way to the old one are served. If there is none, clients are refused
// anyway.
func (g *gate) handOn(gone []net.Listener) {
	g.emptyQueues(slices.DeleteFunc(gone, func(ln net.Listener) bool {
		return !listen.IsShared(ln, []net.Listener{ln})
	}), settlePatience)
}

// emptyQueues diverts new connections to the other listeners on the same
// addresses, and waits until the queued ones have been accepted.
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
