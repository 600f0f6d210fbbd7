package proxy

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
	"wssgate/upstream"
)

// A front is a gate on the fake clock, with pipes for clients, in front of one node.
type front struct {
	t      *testing.T
	server *Server
	node   *chat.Server
	vhost  *upstream.Vhost
}

// inFront runs f in a bubble. cfg configures the node.
func inFront(t *testing.T, cfg chat.Config, edit func(*upstream.Options), f func(*front)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		loops, now, quiet := newTestLoops(t), new(current), slog.New(slog.DiscardHandler)
		now.Store(&configuration{})
		control := &accessControl{now: now}
		g := &front{t: t, node: chat.New(cfg), server: &Server{
			loops: loops, guard: newGuard(quiet), dialler: newDialler(loops, logPanics(quiet)), admission: newAdmission(control), access: control,
		}}
		g.server.tunnels = &tunnels{access: control, guard: g.server.guard, dialler: g.server.dialler}
		o := upstream.Options{
			Upstreams: []upstream.GroupOptions{group("test", "ws://192.0.2.1:5290/")},
			Wrap:      WrapUpstream, Log: slog.New(slog.DiscardHandler),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				gate, node := net.Pipe()
				go g.node.ServeConn(node)
				return gate, nil
			},
		}
		o.Upstreams[0].XMPP = !cfg.Echo
		if edit != nil {
			edit(&o)
		}
		table, err := upstream.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if g.vhost, err = table.Routes().Lookup(testName); err != nil {
			t.Fatal(err)
		}
		defer func() {
			g.server.loops.close()
			g.server.dialler.jobs.Wait()
			table.Close()
			g.node.Close()
		}()
		f(g)
	})
}

// tunnel returns a client that has its 101.
func (g *front) tunnel() *bench {
	g.t.Helper()
	request := &upstream.Request{ServerName: testName, Host: testName, Subprotocol: "xmpp"}
	var up *upstream.Conn
	if !g.vhost.RoutesTo() {
		var err error
		if up, err = g.vhost.Dial(g.t.Context(), request); err != nil {
			g.t.Fatal(err)
		}
	}
	client, clientGate := net.Pipe()
	b := &bench{t: g.t, loops: g.server.loops, client: client, done: make(chan struct{})}
	b.tunnel = &tunnel{
		settings: &tunnelSettings{backlog: 1 << 20},
		shared:   g.server.tunnels,
		info:     &tunnelInfo{suspect: keyFor("192.0.2.7"), vhost: g.vhost, upstream: up, request: request, serverName: testName, host: testName, path: "/"},
		client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, limit: 1 << 20, keep: 1}},
		upstream: upstreamLeg(up),
		onDone:   func(t *tunnel, _ time.Duration) { t.giveUp(); close(b.done) },
	}
	if err := b.loops.take(b.tunnel); err != nil {
		g.t.Fatal(err)
	}
	return b
}

// heard returns the number of clients' frames that reached the node.
func (g *front) heard() (frames int64) {
	synctest.Wait()
	for _, p := range g.node.Peers() {
		frames += p.Count.FramesIn.Load()
	}
	return frames
}

// masked encodes frames of a client.
func masked(frames ...ws.Frame) (b []byte) {
	for _, f := range frames {
		var buf bytes.Buffer
		ws.MustWriteFrame(&buf, ws.MaskFrameWith(f, testKey))
		b = append(b, buf.Bytes()...)
	}
	return b
}

// text returns the client's input up to the Close frame, which it answers.
func (b *bench) text() (words string, code uint16) {
	b.t.Helper()
	for {
		h, payload, err := b.frame(b.client)
		if err != nil {
			b.t.Fatalf("after %q: %v", words, err)
		}
		if h.opcode == opClose {
			b.send(b.client, opClose, string(payload))
			return words, closeCode(h, payload)
		}
		words += string(payload)
	}
}

// badStarts are first words that are not a start tag. After a declaration they count as
// an attempt at one, in the older draft.
var badStarts = []struct {
	name      string
	frames    []ws.Frame
	every     time.Duration // between frames
	condition string
	declared  bool
	after     time.Duration // time until the verdict is certain
}{
	{name: "garbage", frames: words("hello"), condition: "not-well-formed"},
	{name: "UTF-16", frames: words("<\x00o\x00"), condition: "unsupported-encoding"},
	{name: "a stanza", frames: words("<message to='a@b'/>"), condition: "bad-format"},
	{name: "a stanza in pieces", frames: pieces("<message to='a@b'/>", 5), condition: "bad-format"},
	{name: "<close/>", frames: words("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"), condition: "bad-format"},
	{name: "binary", frames: []ws.Frame{ws.NewBinaryFrame([]byte(openTag(testName, false)))}, condition: "bad-format"},
	{name: "empty", frames: words(""), condition: "not-well-formed"},
	{name: "empty, in two", frames: []ws.Frame{ws.NewFrame(ws.OpText, false, nil), ws.NewFrame(ws.OpContinuation, true, nil)}, condition: "not-well-formed"},
	{name: "document type", frames: words("<!DOCTYPE open [<!ENTITY a 'b'>]><open/>"), condition: "restricted-xml"},
	{name: "comment", frames: words("<!-- -->"), condition: "restricted-xml"},
	{name: "9 KiB of white space", frames: words(strings.Repeat(" ", 9<<10)), condition: "policy-violation"},
	{name: "many frames of nothing", frames: pieces(strings.Repeat(" ", 3000), 1), condition: "policy-violation"},
	{name: "silence", condition: "connection-timeout", after: greetingTimeout},
	{name: "pings", frames: []ws.Frame{ws.NewPingFrame(nil), ws.NewPingFrame(nil)}, every: 4 * time.Second, condition: "connection-timeout", after: greetingTimeout},
	{name: "slow bytes", frames: pieces("             ", 1), every: time.Second, condition: "connection-timeout", after: greetingTimeout},
	{name: "a stanza behind a declaration", frames: words("<?xml version='1.0'?><message/>"), condition: "bad-format", declared: true},
	{name: "9 KiB behind a declaration", frames: words("<?xml version='1.0'?>" + strings.Repeat("\n", 9<<10)), condition: "policy-violation", declared: true},
	{name: "a declaration alone", frames: words("<?xml version='1.0'?>"), condition: "connection-timeout", declared: true, after: greetingTimeout},
}

func words(s ...string) (frames []ws.Frame) {
	for _, w := range s {
		frames = append(frames, ws.NewTextFrame([]byte(w)))
	}
	return frames
}

// pieces returns a message in fragments of n bytes.
func pieces(s string, n int) (frames []ws.Frame) {
	for i := 0; i < len(s); i += n {
		op := ws.OpText
		if i > 0 {
			op = ws.OpContinuation
		}
		frames = append(frames, ws.NewFrame(op, i+n >= len(s), []byte(s[i:min(i+n, len(s))])))
	}
	return frames
}

// say sends frames; it is not an error if the gate stops reading.
func (b *bench) say(frames []ws.Frame, every time.Duration) {
	for _, f := range frames {
		if _, err := b.client.Write(masked(f)); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// In XMPP there is no stream without a valid start tag, and the node sees nothing of
// other input.
func TestBadStartWhereXMPPIsSpoken(t *testing.T) {
	for _, test := range badStarts {
		t.Run(test.name, func(t *testing.T) {
			cfg := chat.Config{Domains: []string{"other.example"}, Habits: chat.Tigase()}
			inFront(t, cfg, nil, func(g *front) {
				for range 2 {
					b := g.tunnel()
					began := time.Now()
					var said sync.WaitGroup
					said.Go(func() { b.say(test.frames, test.every) })
					got, code := b.text()
					if took := time.Since(began); took != test.after {
						t.Errorf("it took %v; want %v", took, test.after)
					}
					opening := "<open "
					if test.declared {
						opening = "<stream:stream "
					}
					wantWords(t, got, opening, "<"+test.condition+" ", end(test.declared))
					if code != codeNormal {
						t.Errorf("Close %d; want 1000", code)
					}
					b.client.Close()
					<-b.done
					said.Wait()
				}
				pings := int64(0)
				if test.name == "pings" {
					pings = 4
				}
				if n := g.heard(); n != pings {
					t.Errorf("the node got %d frames; want %d", n, pings)
				}
				synctest.Wait()
				if n := g.node.Open(); n != 0 {
					t.Errorf("%d connections to the node stay", n)
				}
			})
		})
	}
}

// Outside of XMPP all input passes unchanged, and continues to.
func TestBadStartToAnEcho(t *testing.T) {
	for _, test := range badStarts {
		if test.declared {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			inFront(t, chat.Config{Echo: true}, nil, func(g *front) {
				for range 2 {
					b := g.tunnel()
					go b.say(test.frames, test.every)
					for _, f := range test.frames {
						opcode := byte(f.Header.OpCode)
						if f.Header.OpCode == ws.OpPing {
							opcode = opPong
						}
						h, got, err := b.frame(b.client)
						if err != nil || h.opcode != opcode || h.fin != f.Header.Fin || !bytes.Equal(got, f.Payload) {
							t.Fatalf("%+v %.30q, %v; want %+v %.30q", h, got, err, f.Header, f.Payload)
						}
					}
					time.Sleep(time.Hour)
					go b.send(b.client, opText, "still there")
					b.wantFrame(b.client, opText, "still there")
					go b.send(b.client, opClose, "\x03\xe8")
					b.wantClose(b.client, codeNormal)
					b.wantReason(reasonClientClose)
				}
			})
		})
	}
}

// A client that does not answer a drain's Close frame does not delay its tunnel's end.
func TestDrainWithoutAnswer(t *testing.T) {
	for _, late := range []bool{false, true} { // it connects after the drain has begun
		for timeout, want := range map[time.Duration]time.Duration{time.Second: closeTimeout, time.Minute: time.Minute} {
			inFront(t, chat.Config{}, nil, func(g *front) {
				drain := func() { g.server.StartDrain(Target{}, Pacing{Timeout: timeout}) }
				if late {
					drain()
				}
				b := g.tunnel()
				if !late {
					drain()
				}
				b.wantClose(b.client, codeAway)
				began := time.Now()
				go b.send(b.client, opText, openTag(testName, false))
				go io.Copy(io.Discard, b.client)
				b.wantReason(reasonDrain)
				if took := time.Since(began); took != want {
					t.Errorf("late %t, timeout %v: it took %v; want %v", late, timeout, took, want)
				}
			})
		}
	}
}

// Outside of XMPP, data that looks like the end of a stream, and does not end, passes.
func TestDataIsNoRedirect(t *testing.T) {
	messages := []string{"hello", "<close " + strings.Repeat("x", 20_000), "<stream:error>" + strings.Repeat("<a>", 5000), strings.Repeat("<", 20_000)}
	seed := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		b := make([]byte, 1+seed.IntN(30_000))
		for i := range b {
			b[i] = "<<<>/='\"close stream:error!?-[]\x00"[seed.IntN(32)]
		}
		messages = append(messages, string(b))
	}
	inFront(t, chat.Config{Echo: true}, nil, func(g *front) {
		b := g.tunnel()
		defer b.client.Close()
		for _, opcode := range []byte{opText, opBinary} {
			for _, m := range messages {
				go b.send(b.client, opcode, m)
				if h, got, err := b.frame(b.client); err != nil || h.opcode != opcode || string(got) != m {
					g.t.Fatalf("opcode %d, %.60q: got opcode %d, %.60q, %v", opcode, m, h.opcode, got, err)
				}
			}
		}
	})
}
