// Package chat is both ends of XMPP over WebSocket for tests, rigs and the
// demo: a Server that stands where Tigase would, and a Client that comes
// through TLS as a browser would.
//
// A Server with the zero Config is polite: it reads RFC 7395's framing and the
// older draft's, lets people in with ANONYMOUS and PLAIN, binds, routes
// messages and presence between its sessions, resumes streams (XEP-0198), and
// says goodbye when it stops. Habits make it behave as a real server does
// where that is awkward (Tigase has them all), and an Outburst makes it rude.
// With Echo it knows no XMPP and sends each frame back.
//
// It does not federate, keeps no rosters and no offline messages.
//
// Every conn has one goroutine that reads, and while something waits to be
// written a second one; a mutex is never held across I/O, so that a Server
// also works inside a testing/synctest bubble, over net.Pipe with ServeConn.
package chat

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// A Config says what a Server is. The zero value is polite and serves every
// domain. A Config must not change once a Server has it.
type Config struct {
	Domains  []string // XMPP domains served, in lower case; empty: every one
	Password string   // the one password that PLAIN takes; empty: any
	Echo     bool     // no XMPP: frames go back as they came, fragments and opcodes kept

	Habits          // what a real server does besides
	Rude   Outburst // what no server should do

	// OnFrame, where set, sees each frame from the peer, payload unmasked,
	// before the Server acts on it. It runs on the conn's reading goroutine
	// and must not keep the payload. In echo mode the payload is nil.
	OnFrame func(p *Peer, h ws.Header, payload []byte)
}

// history is how many peers a Server remembers after they left.
const history = 4096

// goodbyePatience is how long Stop waits for peers to take the goodbye.
const goodbyePatience = time.Second

// ErrClosed is what Serve returns after Close or Stop.
var ErrClosed = errors.New("chat: server closed")

// A Server is safe for concurrent use. Its life: Listen (or New and Serve or
// ServeConn), then Close or Stop, which end every goroutine it started.
type Server struct {
	cfg Config
	wg  sync.WaitGroup // every goroutine of ours

	mu        sync.Mutex // held for moments only, never across I/O
	closed    bool
	listeners []net.Listener
	conns     map[*Conn]bool
	peers     []*Peer // the newest history ones, oldest first
	seen      int
	changed   chan struct{} // closed and replaced whenever a count above changes
	second    time.Time     // start of the second that thisSecond counts
	perSecond int           // conns accepted in that second

	router router
}

// New makes a Server that has no listener yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, conns: map[*Conn]bool{}, changed: make(chan struct{})}
	s.router.accounts = map[string]map[string]*session{}
	s.router.resumable = map[string]*session{}
	return s
}

// Listen starts a Server on a port of 127.0.0.1 that the kernel chooses.
func Listen(cfg Config) (*Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := New(cfg)
	s.Start(ln)
	return s, nil
}

// Start serves ln in a goroutine of its own. The Server closes ln.
func (s *Server) Start(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ln.Close()
		return
	}
	s.listeners = append(s.listeners, ln)
	s.wg.Go(func() { s.acceptLoop(ln) })
}

// Serve serves ln until the Server is closed, then returns ErrClosed.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ln.Close()
		return ErrClosed
	}
	s.listeners = append(s.listeners, ln)
	s.mu.Unlock()
	return s.acceptLoop(ln)
}

func (s *Server) acceptLoop(ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		if err != nil {
			if s.isClosed() {
				return ErrClosed
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			time.Sleep(5 * time.Millisecond) // EMFILE and its kin pass
			continue
		}
		s.wg.Go(func() { s.ServeConn(nc) })
	}
}

// Addr returns the address of the first listener.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listeners) == 0 {
		return ""
	}
	return s.listeners[0].Addr().String()
}

// URL returns the address as "ws://127.0.0.1:4711/".
func (s *Server) URL() string { return "ws://" + s.Addr() + "/" }

// Close closes the listeners and all conns at once and waits until every
// goroutine of the Server has ended.
func (s *Server) Close() error {
	for _, c := range s.shut() {
		c.destroy()
	}
	s.wg.Wait()
	s.router.close()
	return nil
}

// Stop ends the Server as SIGTERM ends a real one, then closes it. A polite
// one sends the stream error system-shutdown, ends the stream and sends Close
// 1001; with the habit BareFIN it sends nothing but FIN.
func (s *Server) Stop() error {
	for _, c := range s.shut() {
		c.goodbye()
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbyePatience)
	defer cancel()
	s.WaitOpen(ctx, 0) // those who do not leave are closed
	return s.Close()
}

// shut closes the listeners, lets no more conns in and returns those there are.
func (s *Server) shut() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, ln := range s.listeners {
		ln.Close()
	}
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Seen returns how many conns were accepted so far, refused ones included.
func (s *Server) Seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// Open returns how many conns are open now.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// WaitOpen waits until exactly n conns are open.
func (s *Server) WaitOpen(ctx context.Context, n int) error {
	return s.wait(ctx, func() bool { return len(s.conns) == n })
}

// WaitSeen waits until at least n conns were accepted.
func (s *Server) WaitSeen(ctx context.Context, n int) error {
	return s.wait(ctx, func() bool { return s.seen >= n })
}

// wait waits for ok, which is called with mu held.
func (s *Server) wait(ctx context.Context, ok func() bool) error {
	for {
		s.mu.Lock()
		done, changed := ok(), s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// touch wakes those who wait. mu is held.
func (s *Server) touch() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Peers returns those whose request was read, oldest first: the last 4096 of
// them, gone or not.
func (s *Server) Peers() []*Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.peers)
}

// Last returns the newest of Peers, or nil.
func (s *Server) Last() *Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.peers) == 0 {
		return nil
	}
	return s.peers[len(s.peers)-1]
}

// Conns returns the open conns whose opening handshake is done, oldest first.
func (s *Server) Conns() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Conn
	for c := range s.conns {
		if c.upgraded.Load() {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *Conn) int { return cmp.Compare(a.Peer.ID, b.Peer.ID) })
	return out
}

// admit gives c its number, or says no: closed, or too many this second.
func (s *Server) admit(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.seen++
	c.Peer.ID = s.seen
	if limit := s.cfg.NewPerSecond; limit > 0 {
		if now := time.Now(); now.Sub(s.second) >= time.Second {
			s.second, s.perSecond = now, 0
		}
		if s.perSecond++; s.perSecond > limit {
			s.touch()
			return false
		}
	}
	s.conns[c] = true
	s.touch()
	return true
}

func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.touch()
}

func (s *Server) remember(p *Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.peers) == history {
		s.peers = slices.Delete(s.peers, 0, history/4) // a quarter at a time: moving is rare
	}
	s.peers = append(s.peers, p)
	s.touch()
}

// serves reports whether domain is one of ours.
func (s *Server) serves(domain string) bool {
	return domain != "" && (len(s.cfg.Domains) == 0 || slices.Contains(s.cfg.Domains, domain))
}
