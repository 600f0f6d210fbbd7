package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
)

const (
	boshPath = "/http-bind"
	// How long the server holds a request that it has no answer for.
	boshHold = 2 * time.Second
	// Requests of a session that may be under way at once (XEP-0124, section 11).
	boshAtOnce = 2
	// Replies that the server keeps for a client that asks for them again.
	boshKept = 2 * boshAtOnce
)

// A boshQuery is the start tag of a request's body, and what is in it. The mark
// is the session's identifier; attempt counts how often the client sent this
// request before, so that the server can tell the client's repetitions from the
// gate's.
type boshQuery struct {
	rid, attempt int
	mark, to     string
	last         bool // terminates the session
	payload      string
}

func (q boshQuery) String() string {
	kind := ""
	if q.last {
		kind = " type='terminate'"
	}
	return fmt.Sprintf("<body xmlns='http://jabber.org/protocol/httpbind' rid='%d' sid='%s' to='%s' attempt='%d'%s>%s</body>", q.rid, q.mark, q.to, q.attempt, kind, q.payload)
}

// parseQuery reads what String wrote; all of it must be right.
func parseQuery(text string) (q boshQuery, ok bool) {
	tag, rest, _ := strings.Cut(text, ">")
	value := func(name string) string {
		_, v, _ := strings.Cut(tag, " "+name+"='")
		v, _, _ = strings.Cut(v, "'")
		return v
	}
	q.rid, _ = strconv.Atoi(value("rid"))
	q.attempt, _ = strconv.Atoi(value("attempt"))
	q.mark, q.to, q.last = value("sid"), value("to"), value("type") == "terminate"
	q.payload, _ = strings.CutSuffix(rest, "</body>")
	return q, text == q.String()
}

// A boshServer is the upstream of BOSH. Its sessions outlive its connections, so
// that a client that repeats its requests loses nothing, whatever became of them.
type boshServer struct {
	r    *rig
	addr string
	torn atomic.Bool // answers break off in the middle
	out  spell       // requests may fail

	mu       sync.Mutex
	http     *http.Server // nil: killed
	conns    map[net.Conn]bool
	sessions map[string]*boshSession
}

func newBOSHServer(t *testing.T, r *rig) *boshServer {
	t.Helper()
	b := &boshServer{r: r, addr: gate.FreeAddr(t), conns: map[net.Conn]bool{}, sessions: map[string]*boshSession{}}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.http.Close() })
	return b
}

func (b *boshServer) start() error {
	ln, err := net.Listen("tcp", b.addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: b, ConnState: func(conn net.Conn, state http.ConnState) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch state {
		case http.StateNew:
			b.conns[conn] = true
		case http.StateClosed:
			delete(b.conns, conn)
		}
	}}
	b.mu.Lock()
	b.http = server
	b.mu.Unlock()
	go server.Serve(ln)
	return nil
}

func (b *boshServer) open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// disturb kills the server's connections in order or by a reset, or has answers
// break off.
func (b *boshServer) disturb(ctx context.Context, rng *rand.Rand) {
	for first := true; ; first = false {
		if first {
			between(ctx, rng, time.Second, 4*time.Second)
		} else { // seldom, for no request may fail in between
			between(ctx, rng, 5*time.Second, 40*time.Second)
		}
		if ctx.Err() != nil {
			return
		}
		b.r.boshOutages.Add(1)
		b.out.begin()
		switch rng.IntN(3) {
		case 0:
			b.torn.Store(true)
			between(ctx, rng, 100*time.Millisecond, time.Second)
			b.torn.Store(false)
			b.out.end(0)
		case 1:
			b.kill(false)
			// The gate has closed its half of each: it knows.
			for began := time.Now(); b.open() > 0; time.Sleep(10 * time.Millisecond) {
				if time.Since(began) > patience {
					b.r.breach("BOSH: the gate keeps %d connections that the server closed", b.open())
					break
				}
			}
			between(ctx, rng, 100*time.Millisecond, time.Second)
			b.revive()
			b.out.end(0)
		default:
			b.kill(true)
			between(ctx, rng, 100*time.Millisecond, time.Second)
			b.revive()
			b.out.end(lateClose) // nothing tells when the gate knows
		}
	}
}

func (b *boshServer) revive() {
	if err := b.start(); err != nil {
		b.r.breach("rig: the BOSH server: %v", err)
	}
}

// kill ends the listener and all connections.
func (b *boshServer) kill(byReset bool) {
	b.mu.Lock()
	server := b.http
	conns := make([]*net.TCPConn, 0, len(b.conns))
	for conn := range b.conns {
		conns = append(conns, conn.(*net.TCPConn))
	}
	b.mu.Unlock()
	for _, conn := range conns {
		if byReset {
			conn.SetLinger(0)
		} else {
			conn.CloseWrite()
		}
	}
	if byReset {
		server.Close()
		return
	}
	// Closes the listener and what is idle, and comes back when the rest has ended.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server.Shutdown(ctx)
}

func (b *boshServer) session(mark string) *boshSession {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[mark]
	if s == nil {
		s = &boshSession{r: b.r, mark: mark, next: 1, requests: map[int]boshQuery{}, replies: map[int]*boshReply{}, seen: map[[2]int]bool{}}
		b.sessions[mark] = s
	}
	return s
}

func (b *boshServer) forget(mark string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, mark)
}

func (b *boshServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	data, err := io.ReadAll(req.Body)
	if err != nil {
		if !b.out.was(time.Now()) && !b.r.short.was(time.Now()) {
			b.r.breach("BOSH: the gate's request breaks off: %v", err)
		}
		return
	}
	q, ok := parseQuery(string(data))
	if !ok || req.Host != q.to || req.Header.Get("X-Forwarded-For") != "127.0.0.1" || req.Header.Get("X-Real-IP") != "" {
		b.r.breach("BOSH: the server gets %.200q for %s with %v", data, req.Host, req.Header)
		return
	}
	reply := b.session(q.mark).take(q)
	select {
	case <-reply.done:
	case <-req.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	if b.r.fault == boshEnds || b.torn.Load() {
		w.Header().Set("Content-Length", strconv.Itoa(len(reply.text)))
		io.WriteString(w, reply.text[:len(reply.text)/2])
		panic(http.ErrAbortHandler)
	}
	io.WriteString(w, reply.text)
}

// A boshSession is what the server knows of one.
type boshSession struct {
	r    *rig
	mark string

	mu           sync.Mutex
	next         int // rid whose turn it is
	requests     map[int]boshQuery
	replies      map[int]*boshReply
	seen         map[[2]int]bool // rid and attempt
	held         []*boshReply    // without an answer, oldest first
	out          []string        // answers for the client
	notBefore    time.Time       // when they may go
	taken, given int
	over         bool
}

// A boshReply is the answer to one rid, however often it is asked for.
type boshReply struct {
	rid  int
	done chan struct{} // closed when text is there
	text string
}

// take takes a request, and answers those whose turn it is.
func (s *boshSession) take(q boshQuery) *boshReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]int{q.rid, q.attempt}
	if s.seen[key] || s.r.fault == boshTwice && q.rid == 2 {
		s.r.breach("BOSH: request %d of client %s, attempt %d, comes twice", q.rid, s.mark, q.attempt)
	}
	s.seen[key] = true
	reply := s.replies[q.rid]
	if reply == nil {
		reply = &boshReply{rid: q.rid, done: make(chan struct{})}
		if q.rid < s.next {
			s.r.breach("BOSH: client %s asks for answer %d again, which it had, for it asked for %d", s.mark, q.rid, s.next-1)
			close(reply.done)
			return reply
		}
		s.replies[q.rid], s.requests[q.rid] = reply, q
	}
	for {
		q, ok := s.requests[s.next]
		if !ok {
			break
		}
		delete(s.requests, s.next)
		s.process(q)
		s.held = append(s.held, s.replies[s.next])
		delete(s.replies, s.next-boshKept)
		for attempt := 0; s.seen[[2]int{s.next - boshKept, attempt}]; attempt++ {
			delete(s.seen, [2]int{s.next - boshKept, attempt})
		}
		s.next++
	}
	s.settle(false)
	time.AfterFunc(boshHold, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settle(len(s.held) > 0 && s.held[0] == reply)
	})
	return reply
}

// process takes what is in a request.
func (s *boshSession) process(q boshQuery) {
	for text := range strings.SplitAfterSeq(q.payload, "</message>") {
		if text == "" {
			continue
		}
		w, ok := parse(text)
		if !ok || w.mark != s.mark || w.n != s.taken || s.over {
			s.r.breach("BOSH: message %d of client %s is %.200q", s.taken, s.mark, text)
			continue
		}
		s.taken++
		s.r.boshAccepted.Add(1)
		for range answersTo(s.taken) - answersTo(s.taken-1) {
			a := w
			a.n = s.given
			s.given++
			text := a.String()
			if s.given == 2 && s.r.fault == boshOthers {
				text = words{strings.Repeat("f", len(w.mark)), a.n, a.size, a.kind}.String()
			}
			if s.given == 2 && s.r.fault == boshLost {
				continue
			}
			s.out = append(s.out, text)
		}
		if w.n%5 == 4 { // what is said much later comes with a request that is held
			wait := time.Duration(w.size%8) * 50 * time.Millisecond
			s.notBefore = time.Now().Add(wait)
			time.AfterFunc(wait, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.settle(false)
			})
		}
	}
	s.over = s.over || q.last
}

// settle answers requests: one is held, without answers for it.
func (s *boshSession) settle(now bool) {
	for len(s.held) > 0 {
		ready := len(s.out) > 0 && !time.Now().Before(s.notBefore)
		if !ready && !s.over && !now && len(s.held) < boshAtOnce {
			return
		}
		text := ""
		if ready || s.over {
			text, s.out = strings.Join(s.out, ""), nil
		}
		now = false
		reply := s.held[0]
		s.held = s.held[1:]
		reply.text = boshAnswer(reply.rid, text)
		close(reply.done)
	}
}

const boshAnswerTag = "<body xmlns='http://jabber.org/protocol/httpbind' ack='%d'>"

func boshAnswer(rid int, text string) string {
	return fmt.Sprintf(boshAnswerTag, rid) + text + "</body>"
}

// A boshClient is an honest client that speaks BOSH, one session after another.
// Its requests fail only while the server is out or the gate has no descriptor
// left; it repeats them then, and nothing of a session is lost or comes twice.
type boshClient struct {
	r   *rig
	rng *rand.Rand
}

func (h *boshClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		life, cancel := context.WithTimeout(ctx, time.Duration(h.rng.ExpFloat64()*float64(10*time.Second)))
		h.session(life)
		cancel()
	}
	if h.r.fault == "" {
		h.r.calm.Wait()
		life, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		h.session(life)
	}
}

// A boshTunnel is a session of a client.
type boshTunnel struct {
	r       *rig
	mark    string
	name    string
	http    *http.Client
	results chan boshResult
	rid     int // the last one
	under   int // requests under way
	next    int // whose answer comes next
	early   map[int]string
	got     int
}

type boshResult struct {
	rid  int
	text string
	err  error
}

// session has one, and says things until life ends.
func (h *boshClient) session(life context.Context) {
	name := h.r.names[h.rng.IntN(len(h.r.names))]
	transport := &http.Transport{
		TLSClientConfig: h.r.site.Client(name),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, h.r.gate.addr("wss"))
		},
		DisableKeepAlives: h.rng.IntN(4) == 0,
	}
	defer transport.CloseIdleConnections()
	s := &boshTunnel{r: h.r, mark: fmt.Sprintf("%016x", h.rng.Uint64()), name: name,
		http: &http.Client{Transport: transport, Timeout: patience}, results: make(chan boshResult, boshAtOnce), next: 1, early: map[int]string{}}
	defer h.r.bosh.forget(s.mark)
	s.r.boshSessions.Add(1)
	s.post(boshQuery{last: false}) // its first request has nothing in it
	late := time.NewTimer(h.r.patience)
	defer late.Stop()
	pending, sent, want := "", 0, 0
	for want == 0 || s.got < want || s.under > 0 {
		if pending != "" && s.under < boshAtOnce || s.under == 0 {
			s.post(boshQuery{payload: pending})
			pending = ""
		}
		every := time.NewTimer(time.Duration(h.rng.ExpFloat64() * float64(200*time.Millisecond)))
		ended := life.Done()
		if want > 0 || pending != "" {
			every.Stop()
			ended = nil
		}
		select {
		case <-every.C:
			if pending == "" {
				for range 1 + h.rng.IntN(3) {
					pending += h.words(s.mark, sent, "say").String()
					sent++
				}
			}
		case <-ended:
			pending += h.words(s.mark, sent, "fin").String()
			sent++
			want = answersTo(sent)
		case res := <-s.results:
			if !s.take(res) {
				s.drop()
				return
			}
			late.Reset(h.r.patience)
		case <-late.C:
			s.r.breach("BOSH: client %s (%s) wants answer %d of %d (0: not all is said), and waits in vain", s.mark, s.name, s.got, want)
			s.drop()
			return
		}
		every.Stop()
		if want > 0 && s.got < want && s.under == 0 && pending == "" && h.r.fault == boshLost {
			s.r.breach("BOSH: client %s wants answer %d of %d, of which none is under way", s.mark, s.got, want)
			return
		}
	}
	s.post(boshQuery{last: true})
	if s.take(<-s.results) && s.got != want {
		s.r.breach("BOSH: client %s gets %d answers; want %d", s.mark, s.got, want)
	}
	s.r.boshFinished.Add(1)
}

func (h *boshClient) words(mark string, n int, kind string) words {
	size := h.rng.IntN(8)
	if h.rng.IntN(50) == 0 {
		size = h.rng.IntN(1500) // 60 KiB: more than one chunk of the gate's
	}
	return words{mark, n, size, kind}
}

// post sends a request, on a goroutine of its own.
func (s *boshTunnel) post(q boshQuery) {
	s.rid++
	s.under++
	q.rid, q.mark, q.to = s.rid, s.mark, s.name
	go func() {
		text, err := s.ask(q)
		s.results <- boshResult{q.rid, text, err}
	}()
}

// drop waits for what is under way.
func (s *boshTunnel) drop() {
	for ; s.under > 0; s.under-- {
		<-s.results
	}
}

// ask repeats a request until it is answered.
func (s *boshTunnel) ask(q boshQuery) (string, error) {
	for first := time.Now(); ; q.attempt++ {
		s.r.boshRequests.Add(1)
		began := time.Now()
		text, code, err := s.try(q.String())
		if err == nil && code == http.StatusOK {
			return text, nil
		}
		server := code == 0 || code == http.StatusOK || code == http.StatusBadGateway
		switch {
		case (code == 0 || code == http.StatusOK || code == http.StatusServiceUnavailable || code == http.StatusBadGateway) && s.r.short.was(began):
		case server && s.r.bosh.out.was(began):
		default:
			err = fmt.Errorf("BOSH: request %d of client %s (%s), attempt %d, failed without a reason: %d, %v, %.100q", q.rid, s.mark, s.name, q.attempt, code, err, text)
			s.r.breach("%v", err)
			return "", err
		}
		s.r.boshRepeated.Add(1)
		if time.Since(first) > s.r.patience {
			err = errors.New("BOSH: client " + s.mark + " gets no answer, however often it asks")
			s.r.breach("%v", err)
			return "", err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *boshTunnel) try(body string) (text string, code int, err error) {
	req, err := http.NewRequest(http.MethodPost, "https://"+s.name+boshPath, strings.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	req.Header.Set("X-Real-IP", "192.0.2.1") // which no server may believe
	resp, err := s.http.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), resp.StatusCode, err
}

// take checks an answer, once those before it have come.
func (s *boshTunnel) take(res boshResult) bool {
	s.under--
	if res.err != nil {
		return false
	}
	s.early[res.rid] = res.text
	for {
		text, ok := s.early[s.next]
		if !ok {
			return true
		}
		delete(s.early, s.next)
		rest, ok := strings.CutPrefix(text, fmt.Sprintf(boshAnswerTag, s.next))
		rest, end := strings.CutSuffix(rest, "</body>")
		if !ok || !end {
			s.r.breach("BOSH: client %s wants the answer to request %d, and gets %.200q", s.mark, s.next, text)
			return false
		}
		s.next++
		for text := range strings.SplitAfterSeq(rest, "</message>") {
			if text == "" {
				continue
			}
			if w, ok := parse(text); !ok || w.mark != s.mark || w.n != s.got {
				s.r.breach("BOSH: client %s wants answer %d, and gets %.200q", s.mark, s.got, text)
				return false
			}
			s.got++
			s.r.boshDelivered.Add(1)
		}
	}
}

// A spell is a time in which something may fail.
type spell struct {
	mu    sync.Mutex
	on    bool
	until time.Time // the end of the last one
}

func (s *spell) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = true
}

// end ends it, a while from now.
func (s *spell) end(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on, s.until = false, time.Now().Add(after)
}

// was reports whether there was one since then.
func (s *spell) was(since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on || s.until.After(since)
}
