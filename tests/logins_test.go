package tests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A guesser tries passwords at a gate.
type guesser struct {
	t      *testing.T
	target chat.Target
}

// errRefused is what a guesser gets whose address is refused: the opening
// handshake's 403, or the stream error.
var errRefused = errors.New("refused")

func newGuesser(t *testing.T, site *gate.Site, addr string) *guesser {
	return &guesser{t, chat.Target{URL: "wss://" + name + ":5291/", Addr: addr, TLS: site.Client(name), User: "alice", Password: "wrong"}}
}

// from has the guesser come from elsewhere, as a balancer says.
func (g *guesser) from(address string) *guesser {
	there := *g
	there.target.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			_, err = io.WriteString(conn, proxyLine(address))
		}
		return conn, err
	}
	return &there
}

// proxyLine is a PROXY header, version 1.
func proxyLine(address string) string {
	switch {
	case address == "":
		return "PROXY UNKNOWN\r\n"
	case strings.Contains(address, ":"):
		return "PROXY TCP6 " + address + " 2001:db8::1 51812 5291\r\n"
	}
	return "PROXY TCP4 " + address + " 192.0.2.1 51812 5291\r\n"
}

// guess logs in on a tunnel of its own and returns what came of it.
func (g *guesser) guess() error {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), gate.Patience)
	defer cancel()
	c, err := chat.Dial(ctx, g.target)
	var status *chat.StatusError
	if errors.As(err, &status) && status.Response.StatusCode == http.StatusForbidden {
		if after := status.Response.Header.Get("Retry-After"); !regexp.MustCompile(`^[1-9]\d*$`).MatchString(after) {
			g.t.Errorf("403 with Retry-After %q", after)
		}
		return errRefused
	}
	if err == nil {
		defer c.Abort()
		if err = c.OpenStream(); err == nil {
			err = c.Authenticate()
		}
	}
	if err != nil && err.Error() == "stream: error policy-violation" {
		var closed *chat.CloseError
		for err == nil || !errors.As(err, &closed) {
			if _, err = c.Recv(); err != nil && !errors.As(err, &closed) {
				g.t.Fatal(err)
			}
		}
		if closed.Code != 1008 {
			g.t.Errorf("Close %d behind policy-violation, want 1008", closed.Code)
		}
		return errRefused
	}
	return err
}

// wantWrong guesses n times, and is told each time that it is wrong.
func (g *guesser) wantWrong(n int) {
	g.t.Helper()
	for range n {
		if err := g.guess(); err == nil || err.Error() != "SASL: not-authorized" {
			g.t.Fatalf("guess: %v; want not-authorized", err)
		}
	}
}

func (g *guesser) wantRefused() {
	g.t.Helper()
	if err := g.guess(); err != errRefused {
		g.t.Fatalf("guess: %v; want it refused", err)
	}
}

// guarded starts a gate that lets few guesses be made, and that believes PROXY
// headers where a balancer is in front.
func guarded(t *testing.T, url, failures string, balanced bool, more string) (*gate.Site, *gate.Gate) {
	t.Helper()
	site := gate.NewSite(t, name)
	writeGuarded(t, site, url, failures, balanced, more)
	return site, gate.Start(t, site.Dir)
}

func writeGuarded(t *testing.T, site *gate.Site, url, failures string, balanced bool, more string) {
	t.Helper()
	proxy := ""
	if balanced {
		proxy = "proxy_protocol = [\"127.0.0.0/8\"]\n"
	}
	site.Write(t, "config.toml", []byte(fmt.Sprintf(`[listen]
wss = "127.0.0.1:0"
admin = "127.0.0.1:0"
%s
[certificates]
directory = "certs"

%s
[limits]
login_failures = %q
%s`, proxy, gate.Timeouts+fmt.Sprintf("[upstream.xmpp]\nnodes = [%q]\n", url), failures, more)))
}

// Who guesses is refused, with both kinds of SASL and in both framings, even if the
// next guess is the right one; then only who is logged in already is served. A
// pardon ends that. What the page and the metrics say is what has happened.
func TestGuessing(t *testing.T) {
	for _, kind := range []struct{ legacy, sasl2 bool }{{}, {true, false}, {false, true}, {true, true}} {
		t.Run(fmt.Sprintf("older draft %t, SASL 2 %t", kind.legacy, kind.sasl2), func(t *testing.T) {
			up := listenXMPP(t, chat.Config{Password: "right", Habits: chat.Tigase()})
			site, g := guarded(t, up.URL(), "3/10m", false, "")
			op := operate(t, g)
			bad := newGuesser(t, site, g.Addr("wss"))
			bad.target.Legacy, bad.target.SASL2 = kind.legacy, kind.sasl2
			good := bad.target
			good.SASL2, good.Password = false, "right"
			in, err := chat.Login(t.Context(), good)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Abort()

			bad.wantWrong(2)
			op.want("POST", "/pardon?client=192.0.2.9", 404)
			if st := op.status(); len(st.Logins.Clients) != 1 || st.Logins.Clients[0].Failures != 2 || st.Logins.Clients[0].Refused || st.Logins.Limit != "3/10m" {
				t.Errorf("after two failures: %+v", st.Logins)
			}
			bad.wantRefused() // in place of the third answer
			bad.wantRefused() // 403
			if _, err := chat.Login(t.Context(), good); err == nil {
				t.Errorf("somebody else from there gets in")
			}
			if err := in.Message(in.JID, "still here"); err != nil {
				t.Fatal(err)
			}
			if e, err := in.ReadMessage(); err != nil || e.ChildText("body") != "still here" {
				t.Errorf("who is logged in: %v", err)
			}

			st := op.status()
			if len(st.Logins.Clients) != 1 || st.Logins.Clients[0].Network != "127.0.0.1" || !st.Logins.Clients[0].Refused || time.Until(st.Logins.Clients[0].Until) < 5*time.Minute {
				t.Errorf("the list: %+v", st.Logins)
			}
			for metric, want := range map[string]float64{
				`wssgate_login_failures_total`: 3, `wssgate_login_refused_total{what="tunnel"}`: 1, `wssgate_login_refused_total{what="upgrade"}`: 2,
				`wssgate_login_failure_clients{state="refused"}`: 1, `wssgate_login_failure_clients{state="counted"}`: 0,
				`wssgate_upgrades_refused_total{status="403"}`: 2,
			} {
				if got := op.metric(metric); got != want {
					t.Errorf("%s = %v; want %v", metric, got, want)
				}
			}
			g.WaitLine("the address is refused", func(l gate.Line) bool {
				return l.Msg() == "logins refused" && l.Str("network") == "127.0.0.1/32" && l.Str("refused_for") == "10m0s"
			})
			g.WaitLine("the tunnel's end", func(l gate.Line) bool { return l.Msg() == "tunnel" && l.Str("reason") == "login_failures" })
			op.want("POST", "/pardon?client=127.0.0.1", 200, "127.0.0.1: 1 pardoned")
			bad.wantWrong(1)
		})
	}
}

// Behind a balancer each client has its own count, an IPv6 one its /64, and one of
// whom nobody knows who it is has none.
func TestGuessingBehindBalancer(t *testing.T) {
	up := listenXMPP(t, chat.Config{Password: "right"})
	site, g := guarded(t, up.URL(), "2/10m", true, "")
	all := newGuesser(t, site, g.Addr("wss"))
	for first, same := range map[string]string{"192.0.2.7": "192.0.2.7", "2001:db8:1:2::1": "2001:db8:1:2:ffff::9"} {
		all.from(first).wantWrong(1)
		all.from(same).wantRefused()
		all.from(first).wantRefused()
	}
	all.from("192.0.2.8").wantWrong(1)
	all.from("2001:db8:1:3::1").wantWrong(1)
	all.from("").wantWrong(5)
	op := operate(t, g)
	if st := op.status(); len(st.Logins.Clients) != 4 || st.Counts.Logins.RefusedNow != 2 {
		t.Errorf("the list: %+v", st.Logins)
	}
	op.want("POST", "/pardon?client=2001:db8:1:2::/64", 200)
	all.from("2001:db8:1:2::5").wantWrong(1)
	all.from("192.0.2.7").wantRefused()
	op.want("POST", "/pardon?all", 200, "4 pardoned")
	all.from("192.0.2.7").wantWrong(1)
}

// A redirect that the gate follows leads to another node, not to a new count.
func TestGuessingAfterRedirect(t *testing.T) {
	far := listenXMPP(t, chat.Config{Password: "right"})
	near := listenXMPP(t, chat.Config{Habits: chat.Habits{Redirect: func(o chat.Open) string {
		if o.Legacy {
			return far.Addr()
		}
		return far.URL()
	}}})
	site, g := guarded(t, near.URL(), "4/10m", false, "")
	site.Write(t, "config.toml", []byte(strings.Replace(readFile(t, filepath.Join(site.Dir, "config.toml")),
		fmt.Sprintf("nodes = [%q]", near.URL()), fmt.Sprintf("nodes = [%q, %q]\n[[vhost]]\nnames = [%q]\nnode = %q", near.URL(), far.URL(), name, near.Addr()), 1)))
	operate(t, g).want("POST", "/reload", 200)
	bad := newGuesser(t, site, g.Addr("wss"))
	bad.wantWrong(1)
	bad.target.Legacy = true
	bad.wantWrong(1)
	bad.target.Legacy, bad.target.SASL2 = false, true
	bad.wantWrong(1)
	bad.wantRefused()
}

// A reload changes the number and keeps what was counted; without a number nothing
// is. A right password takes nothing back.
func TestGuessingReload(t *testing.T) {
	up := listenXMPP(t, chat.Config{Password: "right"})
	site, g := guarded(t, up.URL(), "40/10m", false, "")
	op := operate(t, g)
	bad := newGuesser(t, site, g.Addr("wss"))
	right := newGuesser(t, site, g.Addr("wss"))
	right.target.Password = "right"
	reload := func(failures string) {
		t.Helper()
		writeGuarded(t, site, up.URL(), failures, false, "")
		op.want("POST", "/reload", 200)
	}
	bad.wantWrong(3)
	if err := right.guess(); err != nil {
		t.Fatal(err)
	}
	reload("5/10m")
	if st := op.status(); st.Logins.Limit != "5/10m" || len(st.Logins.Clients) != 1 || st.Logins.Clients[0].Failures != 3 {
		t.Errorf("after the reload: %+v", st.Logins)
	}
	bad.wantWrong(1)
	bad.wantRefused()
	reload("100/1h")
	bad.wantRefused() // as it was said
	reload("")
	bad.wantWrong(10)
	if st := op.status(); st.Logins.Limit != "" || len(st.Logins.Clients) != 0 {
		t.Errorf("without a limit: %+v", st.Logins)
	}
}

// A server may refuse a login by the end of the stream: after a wrong password, or in
// place of a further answer (RFC 6120, section 6.4.5). It counts once, and only if the
// client has said something that may have been a login.
func TestGuessingStreamErrors(t *testing.T) {
	const (
		open    = `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='` + name + `' version='1.0'/>`
		opened  = `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1' from='` + name + `' version='1.0'/>`
		stream  = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='` + name + `' version='1.0'>`
		guess   = `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGFsaWNlAHdyb25n</auth>`
		ask     = `<iq type='set' id='1'><query xmlns='jabber:iq:auth'><username>alice</username><password>wrong</password></query></iq>`
		failure = `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>`
		success = `<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`
	)
	ends := func(condition string) string {
		return `<stream:error xmlns:stream='http://etherx.jabber.org/streams'><` + condition + ` xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`
	}
	for what, test := range map[string]struct {
		said   []string // C for the client, U for the upstream, then a message
		failed float64
	}{
		"instead of a failure":           {[]string{"C" + open, "U" + opened, "C" + guess, "U" + ends("not-authorized")}, 1},
		"older draft":                    {[]string{"C" + stream, "U" + stream, "C" + guess, "U<stream:error><not-authorized/></stream:error></stream:stream>"}, 1},
		"too many tries":                 {[]string{"C" + open, "U" + opened, "C" + guess, "U" + failure, "C" + guess, "U" + ends("policy-violation")}, 2},
		"once for one guess":             {[]string{"C" + open, "U" + opened, "C" + guess, "U" + failure, "U" + ends("policy-violation")}, 1},
		"jabber:iq:auth":                 {[]string{"C" + open, "U" + opened, "C" + ask, "U" + ends("not-authorized")}, 1},
		"401 without a condition":        {[]string{"C" + open, "U" + opened, "C" + ask, "U<iq type='error' id='1'><error code='401'>Unauthorized</error></iq>"}, 1},
		"guessed before the answer":      {[]string{"C" + open, "C" + guess, "U" + opened + ends("not-authorized")}, 1},
		"refused for itself":             {[]string{"C" + open, "U" + opened + ends("policy-violation")}, 0},
		"a keep-alive is no guess":       {[]string{"C" + open, "U" + opened, "C", "U" + ends("policy-violation")}, 0},
		"another error":                  {[]string{"C" + open, "U" + opened, "C" + guess, "U" + ends("system-shutdown")}, 0},
		"to a client that was logged in": {[]string{"C" + open, "U" + opened, "C" + guess, "U" + success, "C" + open, "U" + ends("policy-violation")}, 0},
	} {
		u, conns := wire.Chan(t)
		site, g := guarded(t, u.URL, "40/10m", false, "")
		client := wire.Dial(t, g.Addr("wss"), site.Client(name))
		upstream := wire.Take(t, conns)
		for _, said := range test.said {
			if message, ok := strings.CutPrefix(said, "C"); ok {
				client.SendText(message)
				upstream.WantText(message)
			} else {
				upstream.SendText(said[1:])
				if f, err := client.Frame(); err != nil || string(f.Payload) != said[1:] {
					t.Fatalf("%s: the client got %q, %v; want %q", what, f.Payload, err, said[1:])
				}
			}
		}
		if got := operate(t, g).metric("wssgate_login_failures_total"); got != test.failed {
			t.Errorf("%s: %v failures; want %v", what, got, test.failed)
		}
	}
}

// fragments are a message in frames of n bytes.
func fragments(s string, n int) (all []wire.Frame) {
	for at := 0; at < len(s); at += n {
		f := wire.Frame{Op: wire.Continuation, FIN: at+n >= len(s), Payload: []byte(s[at:min(at+n, len(s))])}
		if at == 0 {
			f.Op = wire.Text
		}
		all = append(all, f)
	}
	return all
}

// What an upstream says is looked at wherever it stands, and no more than that is
// taken for a failure.
func TestGuessingWords(t *testing.T) {
	const (
		open    = `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1' from='` + name + `' version='1.0'/>`
		wrong   = `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>`
		result  = `<iq type='result' id='1'/>`
		success = `<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`
	)
	text := func(s string) wire.Frame { return wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(s)} }
	for what, test := range map[string]struct {
		frames []wire.Frame
		failed float64
	}{
		"two in a message":       {[]wire.Frame{text(wrong + wrong)}, 2},
		"behind a stanza":        {[]wire.Frame{text(result + wrong)}, 1},
		"in two fragments":       {[]wire.Frame{{Op: wire.Text, Payload: []byte(wrong[:60])}, {FIN: true, Op: wire.Continuation, Payload: []byte(wrong[60:])}}, 1},
		"in many fragments":      {fragments(wrong, 7), 1},
		"behind a padded stanza": {[]wire.Frame{text("<iq type='result'>" + strings.Repeat("<a>b</a>", 40_000) + "</iq>" + wrong)}, 1},
		"jabber:iq:auth, padded": {[]wire.Frame{text("<iq type='error' id='1'><query xmlns='jabber:iq:auth'><resource>" + strings.Repeat("x", 300_000) +
			"</resource></query><error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")}, 1},
		"fragments of success": {append(fragments(success, 7), text(wrong)), 0},
		"after success":        {[]wire.Frame{text(success), text(wrong)}, 0},
		"behind an error":      {[]wire.Frame{text("<message type='error'><error/></message>"), text("<presence type='error'><error/></presence>"), text(wrong)}, 1},
		"of another stream":    {[]wire.Frame{text(success), text("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"), text(open), text(wrong)}, 1},
		"after a restart":      {[]wire.Frame{text(success), text(open), text(wrong)}, 0},
		"in a message":         {[]wire.Frame{text(`<message>` + wrong + `</message>`), text(wrong)}, 0},
		"the server's pain":    {[]wire.Frame{text(strings.Replace(wrong, "not-authorized", "temporary-auth-failure", 1))}, 0},
		"jabber:iq:auth":       {[]wire.Frame{text(`<iq type='error' id='1'><error code='401' type='auth'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`)}, 1},
	} {
		u, conns := wire.Chan(t)
		site, g := guarded(t, u.URL, "40/10m", false, "")
		client := wire.Dial(t, g.Addr("wss"), site.Client(name))
		upstream := wire.Take(t, conns)
		client.SendText(fmt.Sprintf("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='%s' version='1.0'/>", name))
		upstream.WantText(fmt.Sprintf("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='%s' version='1.0'/>", name))
		upstream.SendText(open)
		upstream.SendText("<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>")
		upstream.Send(test.frames...)
		upstream.SendText("<iq type='result' id='end'/>")
		for {
			f, err := client.Frame()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(f.Payload), "'end'") {
				break
			}
		}
		if got := operate(t, g).metric("wssgate_login_failures_total"); got != test.failed {
			t.Errorf("%s: %v failures; want %v", what, got, test.failed)
		}
	}
}

// The answer that a refused address does not get is one of which nothing goes on,
// however it comes.
func TestGuessingWithheldWhole(t *testing.T) {
	u, conns := wire.Chan(t)
	site, g := guarded(t, u.URL, "1/10m", false, "")
	open := fmt.Sprintf("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='%s' version='1.0'/>", name)
	begin := func() (client, upstream *wire.Conn) {
		client = wire.Dial(t, g.Addr("wss"), site.Client(name))
		upstream = wire.Take(t, conns)
		client.SendText(open)
		upstream.WantText(open)
		upstream.SendText("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1' version='1.0'/>")
		upstream.SendText("<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>")
		for _, want := range []string{"<open ", "<stream:features "} {
			if f, err := client.Frame(); err != nil || !strings.HasPrefix(string(f.Payload), want) {
				t.Fatalf("got %v, %v; want %s", f, err, want)
			}
		}
		return client, upstream
	}
	success := []byte("<success xmlns='urn:xmpp:sasl:2'><additional-data>" + strings.Repeat("x", 3000) + "</additional-data></success>")
	frame := wire.Frame{FIN: true, Op: wire.Text, Payload: success}
	ways := map[string][][]byte{
		"two writes":    {frame.Append(nil)[:400], frame.Append(nil)[400:]},
		"two fragments": {wire.Frame{Op: wire.Text, Payload: success[:400]}.Append(nil), wire.Frame{FIN: true, Op: wire.Continuation, Payload: success[400:]}.Append(nil)},
	}
	// Half a message has gone: its client gets no more of it, and the connection's end.
	small := wire.Frame{Op: wire.Text, Payload: success[:12]}.Append(nil)
	half, halfUpstream := begin()
	if _, err := halfUpstream.Write(small); err != nil {
		t.Fatal(err)
	}
	if f, err := half.Frame(); err != nil || string(f.Payload) != "<success xml" {
		t.Fatalf("got %v, %v; want the first fragment", f, err)
	}
	type pair struct{ client, upstream *wire.Conn }
	pairs := map[string]pair{}
	for way := range ways {
		client, upstream := begin()
		pairs[way] = pair{client, upstream}
	}
	_, bad := begin()
	bad.SendText("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
	g.WaitLine("the address is refused", func(l gate.Line) bool { return l.Msg() == "logins refused" })
	halfUpstream.Write(wire.Frame{FIN: true, Op: wire.Continuation, Payload: success[12:]}.Append(nil))
	if f, err := half.Frame(); err == nil {
		t.Errorf("behind half of the message: got %v; want the end", f)
	}
	for way, writes := range ways {
		p := pairs[way]
		if _, err := p.upstream.Write(writes[0]); err != nil {
			t.Fatal(err)
		}
		f, err := p.client.Frame()
		if err != nil || !strings.Contains(string(f.Payload), "<policy-violation ") {
			t.Errorf("%s: got %v, %v; want policy-violation", way, f, err)
			continue
		}
		p.upstream.Write(writes[1]) // nobody may be there any more
		if f, err := p.client.Frame(); err != nil || !strings.HasPrefix(string(f.Payload), "<close ") {
			t.Errorf("%s: got %v, %v; want the stream's end", way, f, err)
		}
		p.client.WantClose(1008)
	}
}

// BOSH is counted with the tunnels, each session and request being one client's.
func TestGuessingBOSH(t *testing.T) {
	bosh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		inside := "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
		if strings.Contains(string(body), "message") {
			inside = "<message>" + inside + "</message>"
		}
		fmt.Fprintf(w, "<body xmlns='http://jabber.org/protocol/httpbind'>%s</body>", inside)
	}))
	defer bosh.Close()
	up := listenXMPP(t, chat.Config{Password: "right"})
	site, g := guarded(t, up.URL(), "8/10m", false, fmt.Sprintf("[[vhost]]\nnames = [%q]\nbosh = %q\n", name, bosh.URL+"/http-bind"))
	b := newBrowser(t, site, g)
	post := func(body string) *http.Response {
		t.Helper()
		resp, err := b.http.Post(fmt.Sprintf("https://%s/http-bind", name), "text/xml", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp
	}
	for range 20 { // a friend's
		if resp := post("<body><message/></body>"); resp.StatusCode != 200 {
			t.Fatalf("a message: %s", resp.Status)
		}
	}
	for range 2 {
		if resp := post("<body/>"); resp.StatusCode != 200 {
			t.Fatalf("a wrong password: %s", resp.Status)
		}
	}
	bad := newGuesser(t, site, g.Addr("wss"))
	bad.wantWrong(2)
	began := time.Now()
	if post("<body/>"); time.Since(began) < time.Second {
		t.Errorf("the fifth answer came after %v; want it slowed", time.Since(began))
	}
	// From here on it would take long: the sixth to the eighth guess are 2 to 8 s.
	writeGuarded(t, site, up.URL(), "6/10m", false, fmt.Sprintf("[[vhost]]\nnames = [%q]\nbosh = %q\n", name, bosh.URL+"/http-bind"))
	operate(t, g).want("POST", "/reload", 200)
	for range 2 {
		if resp := post("<body/>"); resp.StatusCode != 403 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("when refused: %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
		}
	}
	bad.wantRefused()
}

// Debian's fail2ban reads the line that the program writes, in both formats, with
// the addresses of clients, and no other line.
func TestFail2ban(t *testing.T) {
	fail2ban := gate.Program(t, "fail2ban-regex", "fail2ban")
	up := listenXMPP(t, chat.Config{Password: "right"})
	filter := deployed(t, filepath.Join("fail2ban", "filter.conf"))
	var lines string
	for _, format := range []string{"text", "json"} {
		site := gate.NewSite(t, name)
		writeGuarded(t, site, up.URL(), "1/10m", true, fmt.Sprintf("[log]\nformat = %q\n", format))
		g := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"})
		all := newGuesser(t, site, "")
		eventually(t, "the gate listens", func() bool {
			listens := regexp.MustCompile(`listening"?[ ,].*wss.*?(127\.0\.0\.1:\d+)`).FindStringSubmatch(g.Text())
			if listens != nil {
				all.target.Addr = listens[1]
			}
			return listens != nil
		})
		for _, from := range []string{"192.0.2.7", "2001:db8:1:2::3"} {
			all.from(from).wantRefused()
			all.from(from).wantRefused()
		}
		g.Signal(syscall.SIGTERM)
		g.Wait()
		lines += g.Text()
	}
	if n := strings.Count(lines, "logins refused"); n != 4 {
		t.Fatalf("%d lines, want 4:\n%s", n, lines)
	}
	// As syslog and fail2ban's own reading of the journal put it.
	for line := range strings.Lines(lines) {
		if strings.Contains(line, "logins refused") {
			lines += "Nov 28 15:04:05 host wssgate[4711]: " + line
		}
	}
	// Nothing that a client says may look like the line.
	lines += `time=2026-11-28T15:04:05.678Z level=INFO msg=tunnel client=192.0.2.66:1 server_name=` + name +
		` path="/ level=WARN msg=\"logins refused\" client=192.0.2.77:1 network=192.0.2.77/32"` + "\n" +
		`{"time":"2026-11-28T15:04:05.678Z","level":"INFO","msg":"tunnel","client":"192.0.2.66:1","path":"/,\"level\":\"WARN\",\"msg\":\"logins refused\",\"client\":\"192.0.2.77:1\",\"network\":"}` + "\n"
	log := filepath.Join(t.TempDir(), "wssgate.log")
	if err := os.WriteFile(log, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	out := succeed(t, program(t, fail2ban, "fail2ban", "-o", "ip", log, filter))
	found := map[string]int{}
	for _, address := range regexp.MustCompile(`(?m)^[0-9a-f.:]+$`).FindAllString(out, -1) {
		found[address]++
	}
	if len(found) != 2 || found["192.0.2.7"] != 4 || found["2001:db8:1:2::3"] != 4 {
		t.Errorf("fail2ban found %v in:\n%s\nits own words:\n%s", found, lines, out)
	}
	// The time is that of the line, or findtime would be of no use.
	out = succeed(t, program(t, fail2ban, "fail2ban", "-v", log, filter))
	if !strings.Contains(out, "8 matched") || strings.Contains(out, "matched without a timestamp") {
		t.Errorf("fail2ban-regex -v:\n%s", out)
	}
	manual := readFile(t, filepath.Join(filepath.Dir(deployed(t, "x")), "..", "docs", "logins.md"))
	for _, file := range []string{"filter.conf", "jail.conf"} {
		quoted := regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(readFile(t, deployed(t, filepath.Join("fail2ban", file))), "    $1")
		if !strings.Contains(manual, quoted) {
			t.Errorf("docs/logins.md does not quote deploy/fail2ban/%s as it is", file)
		}
	}
}
