package proxy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
	"wssgate/upstream"
)

// frameFrom returns a complete text frame of a client, or of an upstream.
func frameFrom(client bool, text string) []byte {
	if client {
		return appendFrame(nil, opText, []byte(text), &testKey)
	}
	return appendFrame(nil, opText, []byte(text), nil)
}

// Without a trace a frame costs no allocation.
func TestNoTraceNoAllocation(t *testing.T) {
	group := group("test", "ws://192.0.2.1:5290/")
	group.Redirects = "off" // the search for redirects may allocate
	vhost := vhostOf(t, group, upstream.VhostOptions{Names: []string{testName}, Upstream: "test"})
	d := newTunnelRig(t, func(t *tunnel) { t.info.vhost, t.stage = vhost, stageOver })
	fromClient, fromUpstream := frameFrom(true, "<message><body>hello</body></message>"), frameFrom(false, "<message><body>hello</body></message>")
	chunks := [][]byte{nil}
	once := func() {
		d.client.out, d.upstream.out = d.client.out[:0], d.upstream.out[:0]
		chunks[0] = fromClient
		d.client.in = chunks
		d.turns()
		chunks[0] = fromUpstream
		d.upstream.in = chunks
		d.turns()
	}
	once()
	if got := d.client.text(); !slices.Equal(got, []string{"<message><body>hello</body></message>"}) {
		t.Fatalf("the client got %q", got)
	}
	if n := testing.AllocsPerRun(100, once); n != 0 {
		t.Errorf("%v allocations for two frames; want none", n)
	}
}

// A reader that does not read blocks nothing: lines without room are counted, and the
// next line has their number.
func TestTraceNeverWaits(t *testing.T) {
	d := newTunnelRig(t, nil)
	d.tap = &tap{lines: make(chan TraceLine, 2)}
	for range 10 {
		d.client.give(frameFrom(true, "<presence/>"))
		d.turns()
	}
	if n := len(d.upstream.text()); n != 10 {
		t.Errorf("the upstream got %d frames; want 10", n)
	}
	<-d.tap.lines
	<-d.tap.lines
	d.client.give(frameFrom(true, "<presence/>"))
	d.turns()
	if l := <-d.tap.lines; l.Dropped != 8 || l.Shape != "<presence/>" {
		t.Errorf("the line is %+v; want 8 dropped", l)
	}
	d.tap.off.Store(true)
	d.client.give(frameFrom(true, "<presence/>"))
	d.turns()
	if d.tap != nil {
		t.Error("a tap that nobody reads is still there")
	}
}

// A frame has one line, regardless of its pieces, and a message one shape, regardless
// of its frames. A frame that began before the trace has no line, and neither has one
// that a scanner refuses.
func TestTraceFrames(t *testing.T) {
	d := newTunnelRig(t, nil)
	half := frameFrom(false, "<message><body>before</body></message>")
	d.upstream.give(half[:20])
	d.turns()
	p := &tap{lines: make(chan TraceLine, 20)}
	d.tap = p
	d.upstream.give(half[20:])
	d.turns()
	first := appendHeader(nil, header{opcode: opText, length: 20})
	first = append(first, "<message><body>s3cr3"[:20]...)
	last := appendHeader(nil, header{fin: true, opcode: opContinuation, length: 18})
	last = append(last, "t </body></message>"[1:]...)
	d.upstream.give(first[:12], first[12:], appendFrame(nil, opPing, []byte("secret"), nil), last[:5], last[5:])
	d.turns()
	d.client.give(frameFrom(true, "not < XML secret"), appendFrame(nil, opClose, closePayload(1000, "secret"), &testKey), []byte("rubbish"))
	d.turns()
	close(p.lines)
	var got []string
	for l := range p.lines {
		if l.Masked != (l.From == "client") {
			t.Errorf("%+v: masked is wrong", l)
		}
		got = append(got, strings.Join([]string{l.From, l.Opcode, map[bool]string{true: "fin", false: "more"}[l.Fin], l.Shape}, " "))
	}
	want := []string{"upstream text more <message><body>…", "upstream ping fin ", "upstream continuation fin </body></message>", "client text fin …", "client close fin "}
	if !slices.Equal(got, want) {
		t.Errorf("lines %q; want %q", got, want)
	}
}

// A message that began before the trace may be CDATA, whose content looks like tags.
// Input after a full shape is ignored. The next message is shown again.
func TestTraceRestOfMessage(t *testing.T) {
	d := newTunnelRig(t, nil)
	part := func(opcode byte, fin bool, text string) []byte {
		return append(appendHeader(nil, header{fin: fin, opcode: opcode, length: int64(len(text))}), text...)
	}
	d.upstream.give(part(opText, false, "<message><body><![CDATA["))
	d.turns()
	p := &tap{lines: make(chan TraceLine, 20)}
	d.tap = p
	d.upstream.give(part(opContinuation, false, "<s3cret>"), part(opContinuation, true, "<more/>]]></body></message>"),
		part(opText, false, strings.Repeat("<a/>", maxShape)), part(opContinuation, true, "<b/>"), part(opText, true, "<c/>"))
	d.turns()
	close(p.lines)
	var got []string
	for l := range p.lines {
		if l.Cut {
			l.Shape = "cut"
		}
		got = append(got, l.Shape)
	}
	if want := []string{"…", "…", "cut", "…", "<c/>"}; !slices.Equal(got, want) {
		t.Errorf("shapes %q; want %q", got, want)
	}
}

// A trace begins with its tunnel, includes the gate's frames, and ends with the tunnel.
// Only one trace is possible at a time, and another one after it.
func TestTrace(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL())
	if err := g.Trace(t.Context(), "zzzzzzzz", nil); !errors.Is(err, ErrNoTunnel) {
		t.Errorf("no tunnel: %v; want ErrNoTunnel", err)
	}
	c := g.dial()
	echo := func() {
		t.Helper()
		if err := c.WriteFrame(ws.NewTextFrame([]byte("<presence/>"))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadFrame(); err != nil {
			t.Fatal(err)
		}
	}
	echo()
	id := g.Tunnels(TunnelQuery{Limit: 1}).Tunnels[0].ID
	start := func(ctx context.Context) (lines chan TraceLine, done chan error) {
		lines, done = make(chan TraceLine, 100), make(chan error, 1)
		go func() {
			done <- g.Trace(ctx, id, func(l TraceLine) error {
				lines <- l
				return nil
			})
		}()
		if l := <-lines; l.Tunnel == nil || l.Tunnel.ID != id || l.Tunnel.BytesIn == 0 {
			t.Fatalf("the first line is %+v", l)
		}
		return lines, done
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, done := start(ctx)
	if err := g.Trace(t.Context(), id, nil); !errors.Is(err, ErrTracing) || !strings.Contains(err.Error(), "tunnel "+id+" of 127.0.0.1:") || !strings.Contains(err.Error(), ", since 20") {
		t.Errorf("a second trace: %v; want ErrTracing with the tunnel, its client and a time", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	g.loops.survey(func(tu *tunnel, _ time.Duration) {
		if tu.tap != nil {
			t.Error("a tap is left")
		}
	})
	lines, done := start(t.Context())
	echo()
	g.CloseTunnels(TunnelFilter{ID: id})
	closeCodeOf(t, c)
	c.WriteFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1008, "")))
	if err := <-done; err != nil {
		t.Errorf("when the tunnel has ended: %v", err)
	}
	close(lines)
	var got []string
	for l := range lines {
		got = append(got, l.From+" "+l.Opcode+l.End)
	}
	want := []string{"client text", "upstream text", "gate close", "client close", " operator"}
	if !slices.Equal(got, want) {
		t.Errorf("lines %q; want %q", got, want)
	}
}
