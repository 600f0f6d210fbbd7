package tests

import (
	"context"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"wssgate/demo/chat"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// redirecting starts an XMPP server of the manual's cluster, which sends streams on to
// where that says, "" for nowhere.
func redirecting(t *testing.T, to func(legacy bool) string) *chat.Server {
	t.Helper()
	habits := chat.Tigase()
	habits.Redirect = func(o chat.Open) string { return to(o.Legacy) }
	return listenXMPP(t, chat.Config{Domains: []string{"example2.com"}, Habits: habits})
}

// A gate beside each node, as docs/tigase.md writes it: a client of the other node's is
// sent to the gate there, and is served.
func TestGateBesideEachNode(t *testing.T) {
	var config string
	for _, f := range document(t, "docs/tigase.md").blocks("toml") {
		if strings.Contains(f.text, `redirects = "rewrite"`) {
			config = f.text
		}
	}
	if config == "" {
		t.Fatal("docs/tigase.md shows no gate beside each node")
	}
	const t1, t2 = "t1.example1.com", "t2.example1.com"
	first := redirecting(t, func(legacy bool) string {
		if legacy {
			return t2 + ":5222"
		}
		return "ws://" + t2 + ":5290/"
	})
	second := redirecting(t, func(bool) string { return "" })
	start := func(config string, node *chat.Server) (*gate.Site, *gate.Gate) {
		config = strings.Replace(config, `url = "ws://127.0.0.1:5290/"`, `url = "`+node.URL()+`"`, 1)
		// Nobody is to go there, so that it need not be reached.
		config = regexp.MustCompile(` url = "wss://[^"]*"`).ReplaceAllString(config, ` url = "wss://127.0.0.1:1/"`)
		site := gate.NewSite(t, t1, t2)
		return site, site.Start(t, config)
	}
	site1, gate1 := start(config, first)
	site2, gate2 := start(strings.NewReplacer("t1", "t2", "t2", "t1").Replace(config), second)
	for _, legacy := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 4*gate.Patience)
		defer cancel()
		target := chat.Target{URL: "wss://" + t1 + ":5291/", Addr: gate1.Addr("wss"), TLS: site1.Client(t1), Domain: "example2.com", Legacy: legacy}
		_, err := chat.Login(ctx, target)
		if err == nil || !strings.Contains(err.Error(), t2+":5291") || strings.Contains(err.Error(), ":52"+"90") || strings.Contains(err.Error(), ":5222") {
			t.Errorf("legacy %v: %v; want to be sent to t2's public address", legacy, err)
		}
		target.URL, target.Addr, target.TLS = "wss://"+t2+":5291/", gate2.Addr("wss"), site2.Client(t2)
		c, err := chat.Login(ctx, target)
		if err != nil {
			t.Fatalf("legacy %v: at t2: %v", legacy, err)
		}
		c.Abort()
	}
}

// What the log advises where a node is not configured mends it: the line that it shows,
// with the node's address, is all that is missing.
func TestLostRedirectAdvice(t *testing.T) {
	second := redirecting(t, func(bool) string { return "" })
	first := redirecting(t, func(bool) string { return "ws://t2.example1.com:5290/" })
	site := gate.NewSite(t, name)
	config := func(more string) string {
		return "[upstream.tigase]\nhealth.interval = \"0s\"\nnodes = [\n{ name = \"t1\", url = \"" + first.URL() + "\" },\n" + more + "]\n[[vhost]]\nnames = [\"" + name + "\"]\nnode = \"t1\"\n"
	}
	g := site.Start(t, config(""))
	ctx, cancel := context.WithTimeout(t.Context(), 4*gate.Patience)
	defer cancel()
	target := chat.Target{URL: "wss://" + name + "/", Addr: g.Addr("wss"), TLS: site.Client(name), Domain: "example2.com"}
	if _, err := chat.Login(ctx, target); err == nil || !strings.Contains(err.Error(), "remote-connection-failed") {
		t.Errorf("an unknown node: %v; want remote-connection-failed", err)
	}
	hint := g.WaitLine("a lost redirect", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "clients lost") }).Str("hint")
	advice := regexp.MustCompile(`\{ name = "t2.example1.com", url = "([^"]*)" \}`).FindStringSubmatch(hint)
	if advice == nil {
		t.Fatalf("hint %q shows no node", hint)
	}
	o := operate(t, g)
	st := o.status()
	if st.Upstreams[0].Lost.Count != 1 || len(st.Findings) != 1 || !strings.Contains(st.Findings[0].Do, advice[0]) {
		t.Errorf("status has %+v; want one lost redirect, and the line to write", st)
	}
	wait := g.Mark()
	g.Signal(syscall.SIGHUP) // a reload that changes nothing
	wait("reloaded", func(l gate.Line) bool { return l.Msg() == "reloaded" })
	if st := o.status(); st.Upstreams[0].Lost.Count != 1 || len(st.Findings) != 1 {
		t.Errorf("after a reload status has %+v; want the lost redirect", st)
	}
	wait = g.Mark()
	site.Config(t, config(strings.Replace(advice[0], advice[1], second.URL(), 1)+","))
	g.Signal(syscall.SIGHUP)
	wait("reloaded", func(l gate.Line) bool { return l.Msg() == "reloaded" })
	if st := o.status(); st.Upstreams[0].Lost.Count != 0 || len(st.Findings) != 0 {
		t.Errorf("with that line status has %+v; want no lost redirect", st)
	}
	c, err := chat.Login(ctx, target)
	if err != nil {
		t.Fatalf("with that line: %v", err)
	}
	c.Abort()
}

// What names an inner address beside a redirect stays behind: the location of a stream
// that can be resumed, and the reason in a Close frame.
func TestInnerAddressBesideRedirects(t *testing.T) {
	up, conns := wire.Chan(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, "[upstream.tigase]\nnodes = [\""+up.URL+"\"]\nhealth.interval = \"0s\"\n")
	for reason, want := range map[string]string{
		"moved to ws://10.1.2.3:5290/":      "",
		"127.0.0.1 is going down":           "",
		"see you":                           "see you",
		"":                                  "",
		"the wssgate cluster has no secret": "the wssgate cluster has no secret",
	} {
		client := wire.Dial(t, g.Addr("wss"), site.Client(name))
		open := framings[0].open(name)
		client.SendText(open)
		server := wire.Take(t, conns)
		server.WantText(open)
		for _, words := range []string{
			"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='" + name + "' id='1' version='1.0'/>",
			"<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>",
			"<enabled xmlns='urn:xmpp:sm:3' id='a' location='10.1.2.3:5290' resume='true'/>",
		} {
			server.SendText(words)
			client.WantText(strings.Replace(words, " location='10.1.2.3:5290'", strings.Repeat(" ", len(" location='10.1.2.3:5290'")), 1))
		}
		server.Send(wire.CloseFrame(false, 1001, reason))
		f, err := client.Frame()
		if err != nil || f.Op != wire.Close || string(f.Payload[min(2, len(f.Payload)):]) != want {
			t.Errorf("reason %q: got %v, %v; want %q", reason, f, err, want)
		}
		client.Close()
		server.Close()
	}
}
