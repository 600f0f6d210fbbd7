package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"wssgate/access"
	"wssgate/panics"
	"wssgate/upstream"
)

// The methods of a Server. Most of them belong to one part; StartDrain and Shutdown
// coordinate several.

// Serve accepts connections from ln until Shutdown is called, or ln is closed or fails
// permanently. It closes ln. When descriptors or memory run out, Serve continues: it
// closes a connection that waits for its client, and retries after 5 ms to 1 s.
func (s *Server) Serve(ln net.Listener) error { return s.acceptor.serve(ln) }

// Pages returns a handler that calls the current Pages, for requests from other
// listeners.
func (s *Server) Pages() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.now.Load().Pages.ServeHTTP(w, r) })
}

// Connections returns how many connections are open, tunnels included.
func (s *Server) Connections() int { return s.door.connections() }

// Arriving returns the number of connections between accept and a tunnel or an answer.
func (s *Server) Arriving() int { return s.door.arriving() }

// Recover returns a handler that calls next; a panic in it ends only that request and
// its connection. net/http does this as well, but logs the panic like the errors of
// scanners.
func (s *Server) Recover(where panics.Place, next http.Handler) http.Handler {
	return recovering(s.panicked, where, next)
}

// Allows reports whether rules and the operator's bans allow a client to connect.
func (s *Server) Allows(rules *access.Rules, client netip.Addr) bool {
	return s.access.allows(rules, client)
}

// DeniesPlain reports whether the access list or a ban denies a client on a listener
// without TLS, and counts the refusal. An address that is only missing from the allow list is
// not denied: a CA that fetches the answer to an http-01 challenge is not a client.
func (s *Server) DeniesPlain(client netip.Addr) bool {
	denies := s.access.deniesPlain(client)
	if denies {
		s.admission.refused[limitAccess].Add(1)
	}
	return denies
}

// Ban refuses the clients of a network for the duration, across reloads. Their open
// tunnels continue. A duration of zero or less lifts the ban, and returns other bans that
// still cover some of these clients. The error is ErrNotBanned if there was no ban to
// lift. It is also an error to ban the address of a load balancer, because that would ban
// all of its clients.
func (s *Server) Ban(network netip.Prefix, duration time.Duration) (rest []access.Ban, err error) {
	return s.access.ban(network, duration)
}

// Bans returns the current bans, ordered by their end.
func (s *Server) Bans() []access.Ban { return s.access.bans.List(time.Now()) }

// Unserved returns the server names without a certificate that clients asked for most
// within the last hour, at most limit.
func (s *Server) Unserved(limit int) []UnservedName {
	return s.ingress.unserved.most(limit, time.Now(), s.now.Load().HasCertificate)
}

// ProxyTroubles returns the troubles of the last minutes: with networks of
// listen.proxy_protocol whose connections begin without a valid header, and with peers
// that send one and are in none of these networks.
func (s *Server) ProxyTroubles() (header, unexpected BalancerTrouble) {
	now := time.Now()
	return s.ingress.proxyHeader.recent(now), s.ingress.proxyUnexpected.recent(now)
}

// Suspects returns the client addresses with failed logins, the worst first.
func (s *Server) Suspects() []Suspect { return s.guard.list(time.Now()) }

// LoginLimit returns the current limit of failed logins.
func (s *Server) LoginLimit() LoginFailures { return s.now.Load().LoginFailures }

// Pardon forgets the failed logins of a client address or its /64, and lets it in
// again; the zero Addr means all addresses. It returns the number of addresses that it
// forgot.
func (s *Server) Pardon(client netip.Addr) int {
	if !client.IsValid() {
		return s.guard.pardon(clientKey{})
	}
	return s.guard.pardon(keyOfAddr(client.Unmap()))
}

// LoginsRefused returns how long to refuse a request for the Pages, because too many
// logins from its client's address failed; 0: do not refuse it.
func (s *Server) LoginsRefused(r *http.Request) time.Duration {
	_, key := whose(r)
	return s.guard.refuses(key, guardedBOSH)
}

// LoginsEnded counts failed logins, and possibly a successful one, in the answer to a
// request for the Pages. The caller must delay the answer by slow. If banned is not 0,
// the client gets no answers for that time, including this one.
func (s *Server) LoginsEnded(r *http.Request, failed int) (slow, banned time.Duration) {
	client, key := whose(r)
	slow, banned = s.guard.judge(key, failed, client, r.TLS.ServerName)
	if banned > 0 {
		s.guard.refused[guardedBOSH].Add(1)
	}
	return slow, banned
}

// Tunnels lists tunnels. It waits for the current batch of each event loop, but not for
// clients, and keeps each loop busy for about a millisecond per 10,000 tunnels. Its
// memory depends only on q.Limit.
func (s *Server) Tunnels(q TunnelQuery) TunnelList { return s.loops.tunnels(q) }

// Clients returns the number of client addresses with tunnels, and the addresses whose
// tunnels have moved the most bytes, at most limit. It costs as much as Tunnels, and
// memory for each address while it counts.
func (s *Server) Clients(limit int) (total int, busiest []ClientCount) { return s.loops.clients(limit) }

// CloseTunnels begins to close all tunnels that f selects, and returns their number. This
// includes tunnels that are closing already: if a drain gave them more time than an
// operator's close does, that time is cut short.
func (s *Server) CloseTunnels(f TunnelFilter) (n int) { return s.loops.closeTunnels(f) }

// Trace calls line for each event of a tunnel. It returns nil when the tunnel ends, and
// otherwise the error of ctx or of line; ErrNoTunnel if no open tunnel has the ID, and
// ErrTracing during another trace. The tunnel does not wait for line: events that line
// cannot take in time are left out and counted in the next one.
func (s *Server) Trace(ctx context.Context, id string, line func(TraceLine) error) error {
	return s.tracer.trace(ctx, id, line)
}

// SetShort tells the Server whether memory is short. While it is, the Server closes new
// connections at once, and answers opening handshakes and BOSH requests on others with
// 503. Tunnels continue, but if brake is true, a tunnel whose backlog grows beyond 64
// KiB ends.
func (s *Server) SetShort(short, brake bool) {
	s.admission.shortage.on.Store(short)
	s.admission.shortage.brake.on.Store(brake)
}

// Braked returns the number of tunnels that the brake has ended since the start.
func (s *Server) Braked() int { return int(s.admission.shortage.brake.ended.Load()) }

// Shed ends the largest consumers of memory until about that many bytes are free, or no
// large ones are left. It ends tunnels like those of slow clients, and resets their
// connections after patience; BOSH requests get 503. If sockets is true, data in the
// kernel counts as well. Shed returns how many it ended, and how many bytes they used.
// Calls must not overlap.
func (s *Server) Shed(bytes int64, sockets bool, patience time.Duration) (tunnels, requests int, freed int64) {
	return shed(s.loops, s.pages, bytes, sockets, patience)
}

// TurnsAway reports whether a drain or a shortage of memory turns away new clients of a
// vhost.
func (s *Server) TurnsAway(vhost *upstream.Vhost) bool { return s.admission.turnsAway(vhost) }

// StartDrain closes the tunnels of a target at a pace, and turns its new clients away,
// until stop is called. Tunnels that are still open then stay open, unless another
// drain applies to them. StartDrain returns the number of tunnels to close. If several
// drains apply to the same tunnels or clients, the newest one decides. A second call of
// stop does nothing.
func (s *Server) StartDrain(target Target, p Pacing) (tunnels int, stop func()) {
	o := &drainOrder{target: target, timeout: p.Timeout}
	s.loops.visit(func(t *tunnel, _ *turn) {
		if o.matches(t) {
			tunnels++
		}
	})
	o.within = p.within(tunnels)
	admitAgain := s.admission.drains.start(target, p.Redirect)
	s.loops.drain(o)
	return tunnels, func() {
		admitAgain()
		s.loops.undrain(o)
	}
}

// ErrDrainDeadline is returned by Shutdown if connections were still open at its
// deadline.
var ErrDrainDeadline = errors.New("drain deadline passed")

// Shutdown drains all tunnels and ends the Server. It stops accepting at once or, if it
// redirects new clients, when the last tunnel has ended; clients that keep reconnecting
// do not delay it. It cancels requests that wait in Pages. It sends each tunnel's
// client, at the pace, a Close frame with status code 1001 between two frames, and
// waits for the closing handshakes. What is still open after p.Timeout, or when ctx
// ends, is closed without a handshake, and the error is then ErrDrainDeadline. When
// Shutdown returns, all goroutines of the Server have ended. Call it once.
func (s *Server) Shutdown(ctx context.Context, p Pacing) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()

	total := s.Connections()
	if p.Redirect == nil {
		s.stopAccepting()
	}
	s.StartDrain(Target{}, p)
	s.pages.drain()
	s.admission.drains.end()
	s.door.drain()

	select {
	case <-s.admission.drains.emptied:
	case <-ctx.Done():
	}
	s.stopAccepting()
	var err error
	select {
	case <-s.door.idle:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %d of %d connections open after %v; closed them", ErrDrainDeadline, s.Connections(), total, p.Timeout)
	}
	s.dialler.cancel()
	s.door.closeAll()
	s.loops.close()
	s.dialler.jobs.Wait()
	s.pages.close()
	<-s.door.idle
	return err
}

// stopAccepting closes the listeners, and refuses connections that wait for a slot.
func (s *Server) stopAccepting() {
	s.acceptor.close()
	s.door.stop()
}
