package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"wssgate/access"
	"wssgate/panics"
)

// Serve accepts connections from ln until Shutdown is called, or ln is closed or fails
// permanently. It closes ln. When descriptors or memory run out, Serve continues: it
// closes a connection that waits for its client, and retries after 5 ms to 1 s.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()

	deferAccept(ln)
	wait := time.Duration(0)
	for {
		s.door.awaitRoom(s.stop)
		conn, err := ln.Accept()
		switch {
		case err == nil:
			wait = 0
			s.admit(conn)
		case errors.Is(err, net.ErrClosed):
			return nil
		case passes(err):
			if wait = min(max(2*wait, minAcceptWait), maxAcceptWait); wait == minAcceptWait {
				s.log.Warn("accept", "addr", ln.Addr().String(), "err", err)
			}
			s.door.shed()
			select {
			case <-time.After(wait):
			case <-s.stop:
			}
		default:
			return err
		}
	}
}

const (
	minAcceptWait = 5 * time.Millisecond
	maxAcceptWait = time.Second
)

// passes reports whether an accept error is temporary.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EINTR, syscall.EPROTO, syscall.EPERM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// admit counts conn and starts its goroutine, or closes it if a limit is reached and
// the door has no connection to give up for it. It runs before the next accept, so that
// Shutdown never misses a connection.
func (s *Server) admit(conn net.Conn) {
	defer func() {
		if cause := recover(); cause != nil {
			conn.Close()
			s.panicked(panics.Handshake, cause, "client", conn.RemoteAddr().String())
		}
	}()
	if limit := s.place(conn); limit >= 0 {
		s.stats.refused[limit].Add(1)
		s.log.Debug("connection refused", "client", conn.RemoteAddr().String(), "reason", limitNames[limit])
		conn.Close()
		return
	}
	s.stats.accepted.Add(1)
}

// place counts conn, or returns the limit that was reached; -1: none.
func (s *Server) place(conn net.Conn) (limit int) {
	now := s.now.Load()
	key := keyOf(conn.RemoteAddr())
	perClient, addr := now.PerClient, addrPortOf(conn.RemoteAddr()).Addr()
	balances := now.sendsProxyHeader(addr)
	if balances {
		perClient = 0 // its clients are judged, once they are known
	}
	c := s.newClientConn(conn, now)
	c.visit.begin = func() { go c.serve() }
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped, s.ended:
		return limitDrain
	case !balances && !s.Allows(now.Access, addr):
		return limitAccess
	case s.short.Load():
		return limitMemory
	case perClient > 0 && key.IsValid() && s.clients[key] >= perClient && !s.door.yields(key):
		return limitPerClient
	}
	switch s.door.enter(&c.visit, key) {
	case errFull:
		return limitConnections
	case errNoPlace:
		return limitHandshakes
	}
	if key.IsValid() {
		s.clients[key]++
	}
	return -1
}

// denied reports whether a client may not come now, by the configuration in force and by
// the operator's bans.
func (s *Server) denied(client netip.Addr) bool { return !s.Allows(s.now.Load().Access, client) }

// Allows reports whether a client may come, by rules and by the operator's bans.
func (s *Server) Allows(rules *access.Rules, client netip.Addr) bool {
	return rules.Allows(client) && !s.bans.Has(client, time.Now)
}

// Ban keeps the clients of a network out for a while, reloads included; zero or less
// lifts the ban, and returns other ones that these clients are in. Tunnels go on. It is an
// error to lift what is not banned, and to ban a network that has an address of a load
// balancer: that would be all of its clients.
func (s *Server) Ban(network netip.Prefix, duration time.Duration) (rest []access.Ban, err error) {
	now := time.Now()
	if duration <= 0 {
		if !s.bans.Lift(network, now) {
			err = ErrNotBanned
		}
		return s.bans.Rest(network, now), err
	}
	for _, balancer := range s.now.Load().ProxyProtocol {
		if balancer.Overlaps(network) {
			return nil, fmt.Errorf("%s has load balancers of listen.proxy_protocol", network)
		}
	}
	return nil, s.bans.Set(network, now.Add(duration), now)
}

// ErrNotBanned is the error of lifting a ban that does not exist.
var ErrNotBanned = errors.New("it is not banned")

// Bans are those in force, those first that end first.
func (s *Server) Bans() []access.Ban { return s.bans.List(time.Now()) }

// DeniesPlain reports whether the access list or a ban denies a client on a listener without
// TLS, and counts the refusal. An address that is only missing from the allow list is
// not denied: a CA that fetches the answer to an http-01 challenge is not a client.
func (s *Server) DeniesPlain(client netip.Addr) bool {
	denies := s.now.Load().Access.Denies(client) || s.bans.Has(client, time.Now)
	if denies {
		s.stats.refused[limitAccess].Add(1)
	}
	return denies
}

// addrPortOf returns the address and port of a TCP address, unmapping IPv4, or the zero
// value for other kinds.
func addrPortOf(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
