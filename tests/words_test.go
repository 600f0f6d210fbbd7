package tests

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// framing is how clients of one framing of XMPP open a stream.
type framing struct{ name, decl, tag, opening, end string }

// framings are both, and the older one with an XML declaration.
var framings = []framing{
	{"RFC 7395", "", "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='%s' version='1.0'/>", "<open ", "<close "},
	{"older draft", "", olderTag, "<stream:stream ", "</stream:stream>"},
	{"older draft, declared", "<?xml version='1.0'?>", olderTag, "<stream:stream ", "</stream:stream>"},
}

const olderTag = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='%s' version='1.0'>"

func (f framing) open(domain string) string { return f.decl + fmt.Sprintf(f.tag, domain) }

// pieces are the ways in which a start tag may come: in a frame, in fragments of
// a few bytes, or the declaration by itself.
func (f framing) pieces(domain string) map[string][]wire.Frame {
	whole := f.open(domain)
	ways := map[string][]wire.Frame{"one frame": {{FIN: true, Op: wire.Text, Payload: []byte(whole)}}}
	for at := 0; at < len(whole); at += 10 {
		fragment := wire.Frame{Op: wire.Continuation, Payload: []byte(whole[at:min(at+10, len(whole))])}
		if at == 0 {
			fragment.Op = wire.Text
		}
		fragment.FIN = at+10 >= len(whole)
		ways["fragments"] = append(ways["fragments"], fragment)
	}
	if f.decl != "" {
		ways["two messages"] = []wire.Frame{{FIN: true, Op: wire.Text, Payload: []byte(f.decl)},
			{FIN: true, Op: wire.Text, Payload: []byte(fmt.Sprintf(f.tag, domain))}}
	}
	return ways
}

// wantWords takes the gate's opening, a stream error, the end of the stream and
// the Close frame.
func wantWords(t *testing.T, c *wire.Conn, f framing, condition string, code uint16) {
	t.Helper()
	for _, want := range []string{f.opening, "<stream:error ", f.end} {
		got, err := c.Frame()
		if err != nil || got.Op != wire.Text || !got.FIN || !strings.HasPrefix(string(got.Payload), want) {
			t.Fatalf("got %v, %v; want %s", got, err, want)
		}
		if want == "<stream:error " && !strings.Contains(string(got.Payload), "<"+condition+" ") {
			t.Errorf("got %s; want %s", got.Payload, condition)
		}
	}
	c.WantClose(code)
	c.Send(wire.CloseFrame(true, code, ""))
	c.WantEnd()
}

// noTags are first words that are no start tag, and what is wrong with them.
var noTags = map[string]struct {
	frames    []wire.Frame
	condition string
}{
	"garbage":              {[]wire.Frame{{FIN: true, Op: wire.Text, Payload: []byte("hello")}}, "not-well-formed"},
	"a stanza":             {[]wire.Frame{{FIN: true, Op: wire.Text, Payload: []byte("<message to='a@b'/>")}}, "bad-format"},
	"a stanza in pieces":   {[]wire.Frame{{Op: wire.Text, Payload: []byte("<mess")}, {FIN: true, Op: wire.Continuation, Payload: []byte("age/>")}}, "bad-format"},
	"binary":               {[]wire.Frame{{FIN: true, Op: wire.Binary, Payload: []byte(framings[0].open(name))}}, "bad-format"},
	"an empty message":     {[]wire.Frame{{FIN: true, Op: wire.Text}}, "not-well-formed"},
	"document type":        {[]wire.Frame{{FIN: true, Op: wire.Text, Payload: []byte("<!DOCTYPE a [<!ENTITY b 'c'>]>")}}, "restricted-xml"},
	"9 KiB of white space": {[]wire.Frame{{FIN: true, Op: wire.Text, Payload: []byte(strings.Repeat(" ", 9<<10))}}, "policy-violation"},
	"70 KB":                {[]wire.Frame{{FIN: true, Op: wire.Text, Payload: payload(70_000)}}, "not-well-formed"},
	"silence":              {nil, "connection-timeout"},
	"a ping":               {[]wire.Frame{{FIN: true, Op: wire.Ping}}, "connection-timeout"},
}

// greetBadly opens a tunnel for each of noTags, all at once, and says it.
func greetBadly(t *testing.T, g *gate.Gate, site *gate.Site) map[string]*wire.Conn {
	clients := map[string]*wire.Conn{}
	for what, bad := range noTags {
		clients[what] = wire.Dial(t, g.Addr("wss"), site.Client(name))
		clients[what].Send(bad.frames...)
	}
	return clients
}

// Without a word about domains in the configuration there is no stream without a
// good start tag where XMPP is spoken, and the server sees nothing of what came
// in its place, whether another client has spoken to it before or not.
func TestNoStartTagInFrontOfXMPP(t *testing.T) {
	t.Parallel()
	var checks []func() // once all wait for their ten seconds
	for how, f := range map[string]*framing{"the first": nil, "by RFC 7395": &framings[0], "by the older draft": &framings[1]} {
		server := listenXMPP(t, chat.Config{Domains: []string{"other.example"}, Habits: chat.Tigase()})
		site := gate.NewSite(t, name)
		g := site.Start(t, strings.Replace(toUpstream(server.URL()), "xmpp = false", "xmpp = true", 1)+"health.interval = \"0s\"\n")
		want := int64(0) // messages to the server
		if f != nil {
			c := wire.Dial(t, g.Addr("wss"), site.Client(name))
			c.SendText(f.open(name))
			for _, word := range []string{f.opening, "<host-unknown", f.end} {
				if got, err := c.Frame(); err != nil || !strings.Contains(string(got.Payload), word) {
					t.Fatalf("%s: got %v, %v; want %s", how, got, err, word)
				}
			}
			c.Conn.Close()
			want = 1
		}
		clients := greetBadly(t, g, site)
		checks = append(checks, func() {
			for what, c := range clients {
				t.Log(how, what)
				if what == "a ping" {
					c.Want(wire.Frame{FIN: true, Op: wire.Pong})
				}
				wantWords(t, c, framings[0], noTags[what].condition, 1000)
			}
			messages := int64(0)
			for _, p := range server.Peers() {
				messages += p.Count.Messages.Load()
			}
			if messages != want {
				t.Errorf("%s: %d messages; want %d", how, messages, want)
			}
		})
	}
	for _, check := range checks {
		check()
	}
}

// In front of anything else the same words go through as they came, and a client
// that says nothing may go on doing so.
func TestNoStartTagInFrontOfAnEcho(t *testing.T) {
	t.Parallel()
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	clients := greetBadly(t, g, site)
	for what, c := range clients {
		for _, f := range noTags[what].frames {
			if f.Op == wire.Ping {
				f.Op = wire.Pong
			}
			c.Want(f)
		}
	}
	time.Sleep(11 * time.Second) // more than the ten for a start tag
	for _, c := range clients {
		c.SendText("still there")
		c.WantText("still there")
	}
}

// A vhost takes the streams of its domains only, and sends each to the upstream
// that is for it, however the start tag comes; no upstream hears of the others.
func TestDomains(t *testing.T) {
	first, toFirst := wire.Chan(t)
	second, toSecond := wire.Chan(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, fmt.Sprintf(`
[upstream.first]
nodes = [%q]
[upstream.second]
nodes = [%q]
[upstream.dead]
nodes = ["ws://127.0.0.1:1/"]
[[vhost]]
names     = [%q]
upstream  = "first"
route     = "to"
domains   = ["one.example", "two.example", "*.dead.example"]
by_domain = { "two.example" = "second", "chat.dead.example" = "dead" }
`, first.URL, second.URL, name))
	for _, f := range framings {
		for way := range f.pieces("") {
			t.Run(f.name+", "+way, func(t *testing.T) {
				say := func(domain string) *wire.Conn {
					c := wire.Dial(t, g.Addr("wss"), site.Client(name))
					c.Send(f.pieces(domain)[way]...)
					return c
				}
				for domain, conns := range map[string]<-chan *wire.Conn{"one.example": toFirst, "TWO.example.": toSecond} {
					c := say(domain)
					up := wire.Take(t, conns)
					var got strings.Builder
					for got.Len() < len(f.open(domain)) {
						fr, err := up.Frame()
						if err != nil {
							t.Fatal(err)
						}
						got.Write(fr.Payload)
					}
					if got.String() != f.open(domain) {
						t.Errorf("the upstream got %q; want %q", &got, f.open(domain))
					}
					up.SendText("<presence/>")
					c.WantText("<presence/>")
					c.Conn.Close()
				}
				seen := len(first.Requests()) + len(second.Requests())
				wantWords(t, say("three.example"), f, "host-unknown", 1000)
				wantWords(t, say("dead.example"), f, "host-unknown", 1000)
				wantWords(t, say("chat.dead.example"), f, "remote-connection-failed", 1014)
				if now := len(first.Requests()) + len(second.Requests()); now != seen {
					t.Errorf("%d requests to upstreams for streams that none may see", now-seen)
				}
			})
		}
	}
}

// Whatever reason the gate has to end a stream, it says so in XMPP first. It does
// not where a message is half said, or the client may come back to the stream.
func TestWhyAStreamEnds(t *testing.T) {
	t.Parallel()
	const resumable = "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='x'/>"
	for _, why := range []struct {
		condition, config string
		code              uint16
		bring             func(g *gate.Gate, client, upstream *wire.Conn)
	}{
		{"system-shutdown", "", 1001, func(g *gate.Gate, _, _ *wire.Conn) { g.Signal(syscall.SIGTERM) }},
		{"remote-connection-failed", "", 1012, func(_ *gate.Gate, _, up *wire.Conn) { up.Conn.Close() }},
		{"remote-connection-failed", "", 1014, func(_ *gate.Gate, _, up *wire.Conn) { up.Write([]byte("\x83\x05Hello")) }},
		{"policy-violation", "[limits]\nmessage = \"16KiB\"\n", 1009, func(_ *gate.Gate, c, _ *wire.Conn) {
			c.Write(c.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: payload(17 << 10)})[:8000])
		}},
		{"connection-timeout", "[timeouts]\nping = \"1s\"\npong = \"4s\"\n", 1001, func(_ *gate.Gate, _, _ *wire.Conn) {}},
	} {
		for _, f := range framings[:2] {
			for _, state := range []string{"open", "half a message", "resumable"} {
				t.Run(fmt.Sprintf("%s %d, %s, %s", why.condition, why.code, f.name, state), func(t *testing.T) {
					t.Parallel()
					g, client, upstream := open(t, why.config)
					opening := strings.Replace(f.open(name), "to=", "id='1' from=", 1)
					client.SendText(f.open(name))
					upstream.WantText(f.open(name))
					says := []wire.Frame{{FIN: true, Op: wire.Text, Payload: []byte(opening)}, {FIN: true, Op: wire.Text, Payload: []byte("<presence/>")}}
					switch state {
					case "half a message":
						says = append(says, wire.Frame{Op: wire.Text, Payload: []byte("<message>")})
					case "resumable":
						says = append(says, wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(resumable)})
					}
					upstream.Send(says...)
					for _, want := range says {
						if got := frameBehindPings(t, client, true); got.FIN != want.FIN || string(got.Payload) != string(want.Payload) {
							t.Fatalf("got %v; want %v", got, want)
						}
					}
					why.bring(g, client, upstream)
					if state == "open" {
						for _, want := range []string{"<" + why.condition + " ", f.end} {
							got := frameBehindPings(t, client, false)
							if got.Op != wire.Text || !strings.Contains(string(got.Payload), want) {
								t.Fatalf("got %v; want %s", got, want)
							}
						}
					}
					if got := frameBehindPings(t, client, false); got.Op != wire.Close || string(got.Payload[:2]) != string([]byte{byte(why.code >> 8), byte(why.code)}) {
						t.Errorf("got %v; want a Close frame %d", got, why.code)
					}
					if why.condition == "system-shutdown" {
						client.Send(wire.CloseFrame(true, why.code, ""))
					}
					if why.code != 1012 {
						// For the upstream it is as if the network were lost.
						if got, err := upstream.Frame(); err == nil {
							t.Errorf("the upstream got %v; want the end", got)
						}
					}
				})
			}
		}
	}
}

// frameBehindPings is the next frame that is no Ping. Those are answered, or not.
func frameBehindPings(t *testing.T, c *wire.Conn, answers bool) wire.Frame {
	t.Helper()
	for {
		f, err := c.Frame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op != wire.Ping {
			return f
		}
		if answers {
			c.Send(wire.Frame{FIN: true, Op: wire.Pong, Payload: f.Payload})
		}
	}
}

// During a drain with a redirect, clients that come are sent elsewhere in their
// framing, and no upstream hears of them: to a URL, or to the public ones of
// nodes. The same holds for the drain that ends the gate.
func TestDrainRedirects(t *testing.T) {
	for _, tt := range []struct{ redirect, want string }{
		{"wss://other.example:5291/xmpp", "other.example:5291"},
		{"nodes", "t2.example:5291"},
	} {
		for _, how := range []string{"all", "vhost", "signal"} {
			t.Run(tt.redirect+", "+how, func(t *testing.T) {
				u, conns := wire.Chan(t)
				site := gate.NewSite(t, name)
				g := site.Start(t, fmt.Sprintf("[upstream.xmpp]\nnodes = [{ name = \"t1\", url = %q, public_url = \"wss://t2.example:5291/\" }]\n", u.URL)+
					vhosts(name)+fmt.Sprintf("[drain]\nredirect = %q\n", tt.redirect))
				held := wire.Dial(t, g.Addr("wss"), site.Client(name))
				wire.Take(t, conns)
				switch how {
				case "all":
					operate(t, g).want("POST", "/drain?all", 202)
				case "vhost":
					operate(t, g).want("POST", "/drain?vhost="+name, 202)
				case "signal":
					g.Signal(syscall.SIGTERM)
				}
				held.WantClose(1001)
				for _, f := range framings {
					c := wire.Dial(t, g.Addr("wss"), site.Client(name))
					c.SendText(f.open(name))
					want := []string{f.opening, "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='wss://" + tt.want}
					if f.end != "<close " {
						want = []string{f.opening, "<stream:error ", f.end}
					}
					for _, w := range want {
						got, err := c.Frame()
						if err != nil || !strings.HasPrefix(string(got.Payload), w) {
							t.Fatalf("got %v, %v; want %s", got, err, w)
						}
						if w == "<stream:error " && !strings.Contains(string(got.Payload), ">"+tt.want+"</see-other-host>") {
							t.Errorf("got %s; want it to name %s", got.Payload, tt.want)
						}
					}
					c.WantClose(1000)
				}
				if n := len(u.Requests()); n != 1 {
					t.Errorf("the upstream had %d requests; want 1", n)
				}
			})
		}
	}
}

// A node's public URL is no place to send a client to that came by it; where there
// is no other one, 503 is the answer.
func TestDrainRedirectsToOtherNodes(t *testing.T) {
	for _, other := range []bool{true, false} {
		u := wire.Echo(t)
		site := gate.NewSite(t, name)
		nodes := fmt.Sprintf("{ name = \"t1\", url = %q, public_url = \"wss://%s:5291/ws\" }", u.URL, strings.ToUpper(name))
		if other {
			nodes += fmt.Sprintf(", { name = \"t2\", url = %q, public_url = \"wss://%s:5292/ws\" }", wire.Echo(t).URL, name)
		}
		g := site.Start(t, "[upstream.xmpp]\nnodes = ["+nodes+"]\n"+vhosts(name)+"[drain]\nredirect = \"nodes\"\n")
		operate(t, g).want("POST", "/drain?all", 202)
		for range 10 {
			c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
			if !other {
				resp, _ := c.Answer(wire.RequestLine("GET /ws HTTP/1.1", name+":5291"))
				if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
					t.Fatalf("%s, %v; want 503 with Retry-After", resp.Status, resp.Header)
				}
				continue
			}
			c.Upgrade(wire.RequestLine("GET /ws HTTP/1.1", name+":5291"))
			c.SendText(framings[0].open(name))
			if got, err := c.Frame(); err != nil || got.Op != wire.Text {
				t.Fatalf("%v, %v; want <open/>", got, err)
			}
			if got, err := c.Frame(); err != nil || !strings.Contains(string(got.Payload), name+":5292/ws") {
				t.Fatalf("%v, %v; want the other node's URL", got, err)
			}
		}
	}
}

// What a vhost has against a request is for the log alone.
func TestForbiddenReason(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(u.URL)+vhosts(name)+"path = \"/xmpp\"\norigins = [\"https://good.example\"]\n")
	c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	resp, body := c.Answer(wire.RequestLine("GET /xmpp HTTP/1.1", name, "Origin: https://evil.example"))
	if resp.StatusCode != 403 || strings.Contains(strings.ToLower(body), "origin") || strings.Contains(body, "good.example") {
		t.Errorf("%d %q; want 403 without the reason", resp.StatusCode, body)
	}
	g.WaitLine("the reason", func(l gate.Line) bool {
		return l.Str("code") == "403" && strings.Contains(l.Str("err"), "https://evil.example")
	})
}

// A client that took too little gets what was sent whole, and then why.
func TestSlowClientIsTold(t *testing.T) {
	for _, f := range framings[:2] {
		_, client, upstream := open(t, "[limits]\nclient_backlog = \"64KiB\"\n")
		client.SendText(f.open(name))
		upstream.WantText(f.open(name))
		upstream.SendText(strings.Replace(f.open(name), "to=", "id='1' from=", 1))
		stanza := upstream.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: payload(10_000)})
		for sent := 0; ; sent++ {
			if _, err := upstream.Write(stanza); err != nil {
				break
			}
			if sent == 10_000 { // 100 MB: more than any kernel's buffers
				t.Fatal("the upstream could send all to a client that reads nothing")
			}
		}
		var words string
		for {
			got, err := client.Frame()
			if err != nil {
				t.Fatal(err)
			}
			if got.Op == wire.Close {
				if string(got.Payload[:2]) != "\x03\xf0" {
					t.Errorf("got %v; want a Close frame 1008", got)
				}
				break
			}
			if len(got.Payload) != 10_000 {
				words += string(got.Payload)
			}
		}
		if _, last, _ := strings.Cut(words, "<policy-violation "); !strings.Contains(last, f.end) {
			t.Errorf("the client was told %q; want policy-violation and %s", words, f.end)
		}
	}
}
