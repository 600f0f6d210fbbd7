package proxy

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/upstream"
	"wssgate/xmpp"
)

// inner is an address that no client may see.
const inner = "ws://10.1.2.3:5290/x"

// upstreamSays are messages of an upstream that may come in any order.
var upstreamSays = []string{
	"<message xmlns='jabber:client'><body>" + strings.Repeat("long ", 400) + "</body></message>",
	"<iq xmlns='jabber:client' type='result' id='1'/>",
	"<presence xmlns='jabber:client'/>",
	"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
	"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='2' version='1.0'/>",
	"<stream:features xmlns:stream='http://etherx.jabber.org/streams'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>",
	" ",
	"",
}

// upstreamRedirects are the forms of a redirect.
var upstreamRedirects = []string{
	"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='" + inner + "'/>",
	" <close see-other-uri = \"" + inner + "\" xmlns='urn:ietf:params:xml:ns:xmpp-framing' />",
	"<stream:error xmlns:stream='http://etherx.jabber.org/streams'><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>10.1.2.3:5290</see-other-host></stream:error><close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
}

// fragments returns a message in an upstream's frames, cut at random.
func fragments(rnd *rand.Rand, text string) (b []byte) {
	opcode := byte(opText)
	for n := rnd.IntN(4); n > 0 && len(text) > 0; n-- {
		part := rnd.IntN(min(len(text), 60) + 1)
		b = appendHeader(b, header{opcode: opcode, length: int64(part)})
		b = append(b, text[:part]...)
		text, opcode = text[part:], opContinuation
		if rnd.IntN(4) == 0 {
			b = appendFrame(b, opPing, []byte("p"), nil)
		}
	}
	b = appendHeader(b, header{fin: true, opcode: opcode, length: int64(len(text))})
	return append(b, text...)
}

// The address of a redirect never reaches the client, regardless of the messages before
// it, of frames, cuts and pauses. Everything before the redirect does, at once if it
// can't contain a redirect.
func FuzzRedirectNeverLeaks(f *testing.F) {
	for seed := range uint64(64) {
		f.Add(seed)
	}
	vhost := xmppVhost(f)
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		d := newTunnelRig(t, func(tn *tunnel) { tn.info.vhost = vhost })
		say := func(text string) {
			b := fragments(rnd, text)
			for len(b) > 0 {
				n := len(b)
				if rnd.IntN(2) == 0 {
					n = 1 + rnd.IntN(len(b))
				}
				if k := len(d.upstream.in); k > 0 && rnd.IntN(2) == 0 { // in one read with the bytes before
					d.upstream.in[k-1] = append(bytes.Clone(d.upstream.in[k-1]), b[:n]...)
				} else {
					d.upstream.give(bytes.Clone(b[:n]))
				}
				b = b[n:]
				if rnd.IntN(3) == 0 {
					d.turns()
				}
				if rnd.IntN(8) == 0 {
					d.turns()
					d.pass(3 * answerTimeout)
				}
			}
		}
		open := func() {
			d.client.give(appendFrame(nil, opText, []byte(openTag(testName, false)), &testKey))
			d.turns()
		}
		redirect := upstreamRedirects[rnd.IntN(len(upstreamRedirects))]
		if rnd.IntN(3) == 0 { // so that the client would not notice an end of its stream
			opened := rnd.IntN(3) > 0
			if opened {
				open()
			}
			for range rnd.IntN(4) {
				say(upstreamSays[rnd.IntN(len(upstreamSays))])
			}
			if rnd.IntN(3) == 0 {
				d.client.give(appendFrame(nil, opClose, []byte("\x03\xe8"), &testKey))
				d.turns()
			}
			before := upstreamSays[rnd.IntN(len(upstreamSays))]
			cut := rnd.IntN(len(redirect))
			switch rnd.IntN(3) {
			case 0:
				say(before + redirect) // in one message
			case 1:
				say(redirect[:cut]) // in two
				if rnd.IntN(2) == 0 {
					d.turns()
					d.pass(2 * answerTimeout)
				}
				say(redirect[cut:] + before)
			default:
				say(redirect)
			}
			d.turns()
			if !opened {
				open()
			}
			d.pass(2 * closeTimeout)
			if bytes.Contains(d.client.out, []byte("10.1.2.3")) {
				t.Fatalf("seed %d: the client got %q", seed, d.client.text())
			}
			return
		}
		open()
		var want []string
		if rnd.IntN(4) > 0 {
			want = append(want, "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1' version='1.0'/>")
			say(want[0])
			for range rnd.IntN(6) {
				want = append(want, upstreamSays[rnd.IntN(len(upstreamSays))])
				say(want[len(want)-1])
			}
		}
		say(redirect)
		for range rnd.IntN(3) {
			say(upstreamSays[rnd.IntN(len(upstreamSays))])
		}
		d.turns()
		d.pass(10 * answerTimeout)
		if bytes.Contains(d.client.out, []byte("10.1.2.3")) {
			t.Fatalf("seed %d: the client got %q", seed, d.client.text())
		}
		if d.why != reasonRedirectLost || d.client.closes() != codeGateway {
			t.Errorf("seed %d: ended for %v, Close %d, after %q", seed, d.why, d.client.closes(), d.client.text())
		}
		for n := len(want); n > 0 && (strings.TrimSpace(want[n-1]) == "" || strings.HasPrefix(want[n-1], "<open")); n-- {
			want = want[:n-1] // an opening and white space after it may be held; the gate then sends its own
		}
		if got := strings.Join(d.client.text(), ""); len(want) > 1 && !strings.HasPrefix(got, strings.Join(want, "")) {
			t.Errorf("seed %d: the client got %q; want it to begin with %q", seed, got, want)
		}
	})
}

// After a redirect in the last frame of a message whose first frames were passed on,
// the client is inside that message: it gets a Close frame, but no message from the
// gate.
func TestRedirectInTheLastFrame(t *testing.T) {
	d := newTunnelRig(t, func(tn *tunnel) { tn.stage, tn.stream.framing, tn.stream.opened = stageOver, xmpp.RFC7395, true })
	d.upstream.give(appendHeader(nil, header{opcode: opText, length: 10}), []byte("<presence>"))
	d.upstream.give(appendFrame(nil, opContinuation, []byte("</presence>"+upstreamRedirects[0]), nil))
	d.turns()
	if d.why != reasonRedirectLost || d.client.closes() != codeGateway {
		t.Errorf("ended for %v, Close %d; want a lost redirect, 1014", d.why, d.client.closes())
	}
	if got := d.client.text(); !slices.Equal(got, []string{"<presence>"}) {
		t.Errorf("the client got %q; want nothing behind the first frame", got)
	}
}

// A client that has closed gets no Close frame inside the half frame before a redirect.
func TestRedirectBehindHalfAFrameWhileClosing(t *testing.T) {
	d := newTunnelRig(t, func(tn *tunnel) { tn.stage, tn.stream.opened = stageOver, true })
	said := "<presence>" + strings.Repeat("x", 100) + "</presence>" + upstreamRedirects[0]
	frame := appendFrame(nil, opText, []byte(said), nil)
	d.upstream.give(frame[:50])
	d.turns()
	d.client.give(appendFrame(nil, opClose, []byte("\x03\xe8"), &testKey))
	d.turns()
	d.upstream.give(frame[50:])
	d.turns()
	d.pass(2 * closeTimeout)
	if !d.done || !bytes.HasPrefix(frame, d.client.out) {
		t.Errorf("done %t, the client got %q; want a part of the frame and nothing else", d.done, d.client.out)
	}
}

// A drain that is stopped when a client is to be read again does not make the loop
// forget that.
func TestRearmKeepsWhatIsDue(t *testing.T) {
	d := newTunnelRig(t, func(tn *tunnel) { tn.stage = stageOver })
	d.begin(d.w)
	d.rest(d.w.now + time.Second)
	d.settle(d.w)
	l := &loop{work: d.w}
	l.timers.add(d.tunnel)
	d.w.now += time.Second
	l.rearm([]*tunnel{d.tunnel})
	if due, _ := l.timers.next(d.w.now); due != d.tunnel {
		t.Errorf("the client is read again at %v; want it now, %v", d.tunnel.due, d.w.now)
	}
}

// An end of the stream without a redirect, or any other message, is not held longer
// after the tail of a stanza than alone.
func TestNothingIsHeldBehindATail(t *testing.T) {
	stanza := appendFrame(nil, opText, []byte("<message>"+strings.Repeat("x", 1000)+"</message>"), nil)
	for _, last := range []string{
		"<stream:error xmlns:stream='http://etherx.jabber.org/streams'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
		"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
		"<iq/>",
	} {
		d := newTunnelRig(t, nil)
		d.client.give(appendFrame(nil, opText, []byte(openTag(testName, false)), &testKey))
		d.upstream.give(appendFrame(nil, opText, []byte("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1'/>"), nil))
		d.turns()
		d.upstream.give(appendFrame(nil, opText, []byte("<stream:features/>"), nil), stanza[:500])
		d.turns()
		d.upstream.give(append(bytes.Clone(stanza[500:]), appendFrame(nil, opText, []byte(last), nil)...))
		d.turns()
		if got := d.client.text(); got[len(got)-1] != last {
			t.Errorf("%q is held: the client got %.60q", last, got)
		}
	}
}

// A Close frame after a start tag that chooses the upstream is answered at once,
// because there is no upstream to answer it.
func TestCloseWhileDialling(t *testing.T) {
	for _, stage := range []stage{stageAwaited, stageDialling} {
		d := newTunnelRig(t, func(tn *tunnel) {
			tn.upstream = upstreamLeg(nil)
			tn.stage = stage
			if stage == stageDialling {
				tn.greeting = &greeting{pending: true}
			}
		})
		d.client.give(appendFrame(appendFrame(nil, opPing, nil, &testKey), opClose, []byte("\x03\xe8"), &testKey))
		d.event(d.w, &d.tunnel.client, inputReady)
		if stage == stageDialling { // it is not read earlier
			d.begin(d.w)
			d.read(d.w, &d.tunnel.client)
			d.settle(d.w)
		}
		if code := d.client.closes(); !d.done || code != codeNormal {
			t.Errorf("stage %d: done %t, Close %d; want an answer at once", stage, d.done, code)
		}
	}
}

// Frames that are passed on leave together, including the gate's own answers.
func TestSmallFramesGoTogether(t *testing.T) {
	var pings []byte
	for range 1000 {
		pings = appendFrame(pings, opPing, nil, &testKey)
	}
	d := newTunnelRig(t, func(tn *tunnel) { tn.stage = stageOver })
	d.client.give(pings)
	d.turns()
	if !bytes.Equal(d.upstream.out, pings) || d.upstream.writes != 1 {
		t.Errorf("1000 Pings: %d bytes in %d writes to the upstream; want %d in one", len(d.upstream.out), d.upstream.writes, len(pings))
	}
	d = newTunnelRig(t, func(tn *tunnel) { tn.upstream = upstreamLeg(nil) })
	d.client.give(pings)
	d.turns()
	if want := bytes.Repeat([]byte{0x8a, 0}, 1000); !bytes.Equal(d.client.out, want) || d.client.writes != 1 {
		t.Errorf("1000 Pings before there is an upstream: %d bytes in %d writes; want %d in one", len(d.client.out), d.client.writes, len(want))
	}
}

// A client that is reset ends its tunnel at once, even if bytes wait for it, and for an
// upstream that reads nothing.
func TestDeadClientLeavesThePollSet(t *testing.T) {
	d := newTunnelRig(t, func(tn *tunnel) { tn.stage = stageOver })
	d.client.room, d.upstream.room = 0, 0
	d.upstream.give(appendFrame(nil, opText, make([]byte, 1000), nil))
	d.client.give(appendFrame(nil, opText, make([]byte, 1000), &testKey))
	d.turns()
	if d.client.want != forFailure|forRoom {
		t.Fatalf("the client is waited for with %b", d.client.want)
	}
	d.event(d.w, &d.tunnel.client, failed|roomReady)
	if d.client.want != 0 || d.why != reasonClientGone || d.tunnel.client.sock.out.size != 0 {
		t.Errorf("waits for %b, %v, %d bytes kept; want nothing of a dead client", d.client.want, d.why, d.tunnel.client.sock.out.size)
	}
	d.upstream.room = -1
	d.turns()
	if !d.done {
		t.Error("the tunnel goes on without its client, though all is delivered")
	}
}

// A client that does not answer Pings is reset, so that the kernel drops the bytes that
// it did not read.
func TestDeadClientIsReset(t *testing.T) {
	d := newTunnelRig(t, func(tn *tunnel) {
		tn.stage = stageOver
		tn.settings.ping, tn.settings.pong = 30*time.Second, 20*time.Second
	})
	d.pass(51 * time.Second)
	if !d.done || d.why != reasonPong || !d.client.reset || d.upstream.reset {
		t.Errorf("done %t, %v, client reset %t, upstream reset %t; want the client reset after 50 s", d.done, d.why, d.client.reset, d.upstream.reset)
	}
}

// If an upstream disconnects in the middle of the client's frame, the client may be
// unable to answer. The gate does not wait long.
func TestUpstreamGoesInClientsFrame(t *testing.T) {
	for _, part := range []int{1, 5, 500} {
		for _, closes := range []bool{false, true} {
			d := newTunnelRig(t, func(tn *tunnel) { tn.stage = stageOver })
			d.client.give(appendFrame(nil, opText, make([]byte, 1000), &testKey)[:part])
			d.turns()
			code := uint16(codeRestart)
			if closes {
				code = codeNormal
				d.upstream.give(appendFrame(nil, opClose, []byte("\x03\xe8"), nil))
			}
			d.upstream.fin = true
			d.turns()
			if got := d.client.closes(); got != code {
				t.Fatalf("%d bytes: Close %d; want %d", part, got, code)
			}
			d.pass(breachTimeout)
			if !d.done {
				t.Errorf("%d bytes, Close %t: the client is still waited for after %v", part, closes, breachTimeout)
			}
		}
	}
}

// A queue does not grow beyond its limit, regardless of the writer.
func TestQueueIsBounded(t *testing.T) {
	d := newTunnelRig(t, func(tn *tunnel) {
		tn.stage, tn.settings = stageOver, &tunnelSettings{backlog: 64 << 10}
	})
	d.client.room = 0
	for range 1000 { // as crypto/tls does for KeyUpdates
		d.begin(d.w)
		d.tunnel.client.sock.Write(make([]byte, 1<<10))
		d.settle(d.w)
		if size := d.tunnel.client.sock.out.size; size > 64<<10+clientExtra {
			t.Fatalf("%d bytes wait", size)
		}
		if d.done {
			break
		}
	}
	if !d.done || d.why != reasonSlowClient || !d.client.reset {
		t.Errorf("done %t, %v, reset %t; want a slow client's end", d.done, d.why, d.client.reset)
	}
}

// A client that exceeds its quota of frames is read more slowly, and closed if it
// continues; one within its quota is not affected.
func TestFramesPerSecond(t *testing.T) {
	limit := func(tn *tunnel) {
		tn.stage, tn.settings = stageOver, &tunnelSettings{backlog: 1 << 20, frames: 100}
	}
	frame := appendHeader(nil, header{opcode: opContinuation, masked: true, key: testKey})
	begin := appendHeader(nil, header{opcode: opText, masked: true, key: testKey})

	d := newTunnelRig(t, limit)
	d.client.give(begin)
	for range 60 { // a minute at the full rate
		d.client.give(bytes.Repeat(frame, 100))
		d.turns()
		if d.client.want&forInput == 0 {
			t.Fatal("a client that keeps to its quota is not read")
		}
		d.pass(time.Second)
	}

	d = newTunnelRig(t, limit)
	d.client.give(begin)
	began := d.w.now
	for !d.done {
		if d.client.want&forInput != 0 {
			d.client.give(bytes.Repeat(frame, 50))
		}
		d.turns()
		d.pass(100 * time.Millisecond)
	}
	if d.why != reasonFlood || d.client.closes() != codePolicy {
		t.Errorf("%v, Close %d; want flood, 1008", d.why, d.client.closes())
	}
	took := (d.w.now - began).Seconds()
	if most := (took + quotaBurst + 1) * 100; float64(d.tunnel.client.scan.frames) > most || took < quotaPatience.Seconds() {
		t.Errorf("%d frames were read in %.1f s; want at most %.0f, and 10 s of patience", d.tunnel.client.scan.frames, took, most)
	}
}

// A vhost's domains apply to every start tag, at any place and in any frames and cuts:
// a forbidden one never reaches the upstream whole, and everything that is allowed
// does.
func FuzzDomainsHold(f *testing.F) {
	vhost := vhostWith(f, upstream.VhostOptions{Names: []string{testName}, Upstream: "test", Domains: []string{testName}})
	for seed := range uint64(64) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		const bad = "forbidden.example"
		good := []string{
			"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AA==</auth>",
			"<message to='a@b'><body>" + strings.Repeat("open the stream ", 20) + "</body></message>",
			"<iq type='set' id='1'><open xmlns='http://jabber.org/protocol/ibb' sid='1' block-size='4096'/></iq>",
			"<presence/>", " ", openTag(testName, false), openTag(testName, true),
		}
		evil := []string{
			openTag(bad, false), openTag(bad, true), "<presence/>" + openTag(bad, false),
			"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>" + openTag(bad, false),
			"</stream:stream><?xml version='1.0'?>" + openTag(bad, true),
		}
		d := newTunnelRig(t, func(tn *tunnel) { tn.info.vhost = vhost })
		var want string
		say := func(text string) {
			b := withPings(rnd, maskFrames(fragments(rnd, text)))
			for len(b) > 0 {
				n := 1 + rnd.IntN(len(b))
				if rnd.IntN(4) == 0 {
					n = min(n, 1+rnd.IntN(4))
				}
				if rnd.IntN(2) == 0 {
					n = len(b)
				}
				d.client.give(bytes.Clone(b[:n]))
				b = b[n:]
				if rnd.IntN(2) == 0 {
					d.turns()
				}
			}
		}
		first := openTag(testName, rnd.IntN(2) == 0)
		last := evil[rnd.IntN(len(evil))]
		switch rnd.IntN(3) {
		case 0:
			say(first + last) // in one message
			want = first
		default:
			say(first)
			want = first
			for range rnd.IntN(5) {
				text := good[rnd.IntN(len(good))]
				say(text)
				want += text
			}
			say(last)
		}
		d.turns()
		got := strings.Join(d.upstream.text(), "")
		s := scanner{fromClient: true, keep: 1}
		for b := d.upstream.out; len(b) > 0; {
			_, n, err := s.next(b)
			if err != nil {
				t.Fatalf("seed %d: the upstream got bytes in another order: %v at %.40x", seed, err, b)
			}
			if n == 0 {
				break
			}
			b = b[n:]
		}
		if i := strings.Index(string(unmaskAll(d.upstream.out)), bad); i >= 0 {
			t.Fatalf("seed %d: the upstream got %q", seed, got)
		}
		if len(d.upstream.text()) > 0 && !strings.HasPrefix(got+"half a frame", want) && !strings.HasPrefix(got, want) && !strings.HasPrefix(want+last, strings.TrimSuffix(got, "half a frame")) {
			t.Errorf("seed %d: the upstream got %q; want it to begin with %q", seed, got, want)
		}
		if d.why != reasonHostUnknown || !strings.Contains(strings.Join(d.client.text(), ""), "<host-unknown ") {
			t.Errorf("seed %d: %v, the client got %q; want host-unknown", seed, d.why, d.client.text())
		}
	})
}

// An incomplete start tag has bounded size and time, whichever frames add to it.
func TestUnfinishedTagIsBounded(t *testing.T) {
	vhost := vhostWith(t, upstream.VhostOptions{Names: []string{testName}, Upstream: "test", Domains: []string{testName}})
	masked100 := bytes.Repeat([]byte{'x'}, 100)
	applyMask(masked100, testKey, 0)
	for name, more := range map[string][]byte{
		"Pings behind a whole frame": appendFrame(nil, opPing, make([]byte, maxControl), &testKey),
		"Pongs behind a whole frame": appendFrame(nil, opPong, make([]byte, maxControl), &testKey),
		"more of the tag":            append(appendHeader(nil, header{opcode: opContinuation, masked: true, key: testKey, length: 100}), masked100...),
		"nothing":                    nil,
	} {
		d := newTunnelRig(t, func(tn *tunnel) { tn.info.vhost = vhost })
		d.client.give(appendFrame(nil, opText, []byte(openTag(testName, false)), &testKey))
		d.upstream.give(appendFrame(nil, opText, []byte("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1'/>"), nil), appendFrame(nil, opText, []byte("<stream:features/>"), nil))
		d.turns()
		tag := []byte("<open xmlns='urn")
		applyMask(tag, testKey, 0)
		d.client.give(append(appendHeader(nil, header{opcode: opText, masked: true, key: testKey, length: int64(len(tag))}), tag...))
		for n := 0; n < 10_000 && !d.done; n++ {
			d.client.give(bytes.Clone(more))
			d.turns()
			if v := d.vetting; v != nil && len(v.kept) > maxGreeting+1000 {
				t.Fatalf("%s: %d bytes are kept", name, len(v.kept))
			}
			d.pass(10 * time.Millisecond)
		}
		d.pass(time.Minute)
		if !d.done || d.why != reasonNoStream && d.why != reasonBadStream {
			t.Errorf("%s: done %t, %v; want an end", name, d.done, d.why)
		}
	}
}

// withPings puts Pings between masked frames.
func withPings(rnd *rand.Rand, b []byte) (out []byte) {
	for len(b) > 0 {
		h, _ := parseHeader(b)
		end := h.size + int(h.length)
		out, b = append(out, b[:end]...), b[end:]
		if rnd.IntN(3) == 0 {
			out = appendFrame(out, opPing, []byte("are you there?"), &testKey)
		}
	}
	return out
}

// A control frame does not overtake the end of the frame before it, which is held
// because it may begin a tag.
func TestPingStaysBehindItsFrame(t *testing.T) {
	vhost := vhostWith(t, upstream.VhostOptions{Names: []string{testName}, Upstream: "test", Domains: []string{testName}})
	ping := appendFrame(nil, opPing, []byte("p"), &testKey)
	for cut := 1; cut < 30; cut++ {
		d := newTunnelRig(t, func(tn *tunnel) { tn.info.vhost = vhost })
		d.client.give(appendFrame(nil, opText, []byte(openTag(testName, false)), &testKey))
		d.upstream.give(appendFrame(nil, opText, []byte("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1'/>"), nil), appendFrame(nil, opText, []byte("<stream:features/>"), nil))
		d.turns()
		d.upstream.out = nil
		first := appendFrame(nil, opText, []byte("<message><body>a<op"), &testKey)
		first[0] &^= bitFIN
		rest := maskFrames(append(appendHeader(nil, header{fin: true, opcode: opContinuation, length: 21}), "era/></body></message"...))
		rest = append(rest, ping...)
		for _, b := range [][]byte{first[:len(first)-min(cut, len(first)-1)], first[len(first)-min(cut, len(first)-1):], ping, rest} {
			d.client.give(bytes.Clone(b))
			d.turns()
		}
		want := slices.Concat(first, ping, rest)
		if !bytes.Equal(d.upstream.out, want) {
			t.Errorf("cut %d: the upstream got\n%x, want\n%x", cut, d.upstream.out, want)
		}
	}
}

// maskFrames masks whole frames with testKey.
func maskFrames(b []byte) (out []byte) {
	for len(b) > 0 {
		h, _ := parseHeader(b)
		end := h.size + int(h.length)
		payload := bytes.Clone(b[h.size:end])
		h.masked, h.key = true, testKey
		applyMask(payload, testKey, 0)
		out = append(appendHeader(out, h), payload...)
		b = b[end:]
	}
	return out
}

// unmaskAll returns the payload of all data frames in b, as far as it is complete.
func unmaskAll(b []byte) (out []byte) {
	s := scanner{fromClient: true, keep: 1}
	for len(b) > 0 {
		p, n, err := s.next(b)
		if n == 0 || err != nil {
			break
		}
		if !p.control() {
			out = p.unmasked(out)
		}
		b = b[n:]
	}
	return out
}

// Records are counted regardless of the cuts.
func TestRecordCounter(t *testing.T) {
	var stream []byte
	for i := range 100 {
		n := i * 37 % 300
		stream = append(stream, 23, 3, 3, byte(n>>8), byte(n))
		stream = append(stream, make([]byte, n)...)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		c := recordCounter{on: true}
		for b := stream; len(b) > 0; {
			n := 1 + rnd.IntN(min(len(b), 400))
			c.count(b[:n])
			b = b[n:]
		}
		if c.number != 100 || c.left != 0 || c.have != 0 {
			t.Fatalf("%+v; want 100 records", c)
		}
	}
}

// A client that reads slowly is alive: the Ping behind a message that is still in the
// kernel's buffer does not count against it. One that reads nothing is gone.
func TestSlowReaderIsAlive(t *testing.T) {
	d := newTunnelRig(t, func(t *tunnel) {
		t.settings = &tunnelSettings{backlog: 1 << 20, ping: time.Second, pong: 2 * time.Second}
	})
	d.client.unread = 300 << 10
	for d.client.unread > 10<<10 {
		d.client.unread -= 10 << 10
		d.pass(time.Second)
		if d.done {
			t.Fatalf("cut off with %d bytes left: %v", d.client.unread, d.why)
		}
	}
	d.pass(5 * time.Second)
	if !d.done || d.why != reasonPong {
		t.Errorf("done %t, %v; want a client that reads nothing more to be gone", d.done, d.why)
	}
}

// A client whose frames come in more records than necessary pays for the records, but
// only for those with little data. One that writes headers and payloads separately is
// far from its quota, and so is one that sends much.
func TestShareCost(t *testing.T) {
	for _, test := range []struct {
		what  string
		sent  share
		cost  int64
		small bool
	}{
		{"frames, a thousand to a record", share{frames: 1000, bytes: 6000, data: 1}, 1000, false},
		{"a stanza in one record", share{frames: 1, bytes: 150, data: 1}, 1, false},
		{"a stanza in two records", share{frames: 1, bytes: 150, data: 2}, 2, false},
		{"the payload of an earlier header", share{bytes: 150, data: 1}, 1, false},
		{"an upload in full records", share{frames: 1, bytes: 64 << 10, data: 4}, 1, false},
		{"an upload in records of 512 bytes", share{bytes: 64 << 10, data: 128}, 0, false},
		{"a turn of single bytes", share{frames: 14, bytes: 2800, data: 2800}, 2790, true},
		{"the same in a smaller piece", share{frames: 0, bytes: 89, data: 89}, 89, true},
		{"KeyUpdates", share{idle: 3}, 3 * idleRecordCost, true},
		{"half a record", share{idle: -1}, 0, false},
	} {
		if cost, small := test.sent.cost(), test.sent.small(); cost != test.cost || small != test.small {
			t.Errorf("%s: %d, %t; want %d, %t", test.what, cost, small, test.cost, test.small)
		}
	}
}

// A client that is reset while its upstream reads nothing ends the tunnel at once,
// regardless of waiting bytes; after a FIN its bytes are still delivered.
func TestResetBesideStuckUpstream(t *testing.T) {
	stuck := func() *tunnelRig {
		d := newTunnelRig(t, func(tn *tunnel) { tn.stage = stageOver })
		d.client.room, d.upstream.room = 0, 0
		d.upstream.give(appendFrame(nil, opText, []byte("to a client that does not read"), nil))
		d.turns()
		return d
	}
	frame := appendFrame(nil, opText, []byte("to an upstream that does not read"), &testKey)

	for _, is := range []readiness{failed, failed | roomReady, failed | inputReady | roomReady} {
		d := stuck()
		d.client.give(frame)
		d.turns()
		if d.client.want&forInput != 0 || d.client.want&forFailure == 0 {
			t.Fatalf("the client is waited for with %b", d.client.want)
		}
		d.client.broken = errFailed // also for writes
		d.event(d.w, &d.tunnel.client, is)
		if !d.done || !d.client.closed || !d.upstream.closed || d.why != reasonClientGone {
			t.Errorf("after a reset (%b): done %t, closed %t and %t, %v", is, d.done, d.client.closed, d.upstream.closed, d.why)
		}
	}

	d := stuck()
	d.client.give(frame)
	d.client.fin = true
	d.event(d.w, &d.tunnel.client, inputReady)
	d.upstream.room = -1
	d.turns()
	if !d.done || len(d.upstream.out) != len(frame) {
		t.Errorf("%d bytes of what came before the end were delivered; want %d", len(d.upstream.out), len(frame))
	}

	d = stuck() // an upstream that is reset, with a client that reads nothing
	d.upstream.broken = errFailed
	d.event(d.w, &d.tunnel.upstream, failed)
	if !d.upstream.closed {
		t.Error("the upstream's descriptor is kept after its reset")
	}
}
