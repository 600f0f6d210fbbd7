package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
	"wssgate/internal/leaktest"
	"wssgate/upstream"
	"wssgate/xmpp"

	"github.com/gobwas/ws"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var (
	ca    = minica.NewCA("probe test CA")
	other = minica.NewCA("somebody else's CA")
)

// gate is an XMPP server behind TLS on 127.0.0.1; what the hello gets is up to
// config.
func gate(t *testing.T, cfg chat.Config, config *tls.Config) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	s := chat.New(cfg)
	s.Start(ln)
	t.Cleanup(func() { s.Close() })
	return addr
}

// rude is a server that says these bytes at a moment, and then ends so.
func rude(when chat.Moment, b []byte, then chat.Ending) chat.Config {
	return chat.Config{Rude: chat.Outburst{When: when, Bytes: b, Then: then}}
}

func with(pair *minica.Pair) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{*pair.TLS()}}
}

func good() *tls.Config { return with(ca.Issue("example1.com")) }

// run probes wss://example1.com:5291/ at addr.
func run(t *testing.T, addr string, opts Options) *Report {
	t.Helper()
	if opts.URL == "" {
		opts.URL = "wss://example1.com:5291/"
	}
	if opts.Connect == "" {
		opts.Connect = addr
	}
	if opts.RootCAs == nil {
		opts.RootCAs = ca.Pool()
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Minute // only a broken program makes a test wait that long
	}
	var seen []Step
	r, err := Run(t.Context(), opts, func(s Step) { seen = append(seen, s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != len(r.Steps) {
		t.Errorf("each was called %d times, want once for each of %d steps", len(seen), len(r.Steps))
	}
	return r
}

// steps names the steps of a report, failed ones with "!".
func steps(r *Report) string {
	var all []string
	for _, s := range r.Steps {
		if s.OK() {
			all = append(all, s.Name)
		} else {
			all = append(all, s.Name+"!")
		}
	}
	return strings.Join(all, " ")
}

const allSteps = "connect tls certificate websocket stream features discovery"

func TestAllIsWell(t *testing.T) {
	for name, habits := range map[string]chat.Habits{"polite": {}, "tigase": chat.Tigase()} {
		t.Run(name, func(t *testing.T) {
			addr := gate(t, chat.Config{Domains: []string{"example1.com"}, Habits: habits},
				with(ca.Intermediate("R1").Issue("example1.com", "*.example1.com")))
			r := run(t, addr, Options{})
			if steps(r) != allSteps || !r.OK {
				t.Fatalf("steps = %s; %+v", steps(r), r.Steps)
			}
			if r.Address != addr || r.ServerName != "example1.com" || r.TLS.Protocol != "TLS 1.3" || r.TLS.Group != "X25519MLKEM768" ||
				r.Subprotocol != "xmpp" || r.StreamFrom != "example1.com" || !slices.Equal(r.Mechanisms, []string{"ANONYMOUS", "PLAIN"}) {
				t.Errorf("report = %+v", r)
			}
			c := r.Certificate
			if !slices.Equal(c.Names, []string{"example1.com", "*.example1.com"}) || c.Issuer != "R1" || c.Key != "ECDSA P-256" ||
				!slices.Equal(c.Chain, []string{"example1.com", "R1"}) || c.DaysLeft != 89 {
				t.Errorf("certificate = %+v", c)
			}
		})
	}
}

// The upstream itself may be probed, without TLS.
func TestPlain(t *testing.T) {
	addr := gate(t, chat.Config{Habits: chat.Tigase()}, nil)
	r := run(t, addr, Options{URL: "ws://" + addr, Domain: "example1.com"})
	if got, want := steps(r), "connect websocket stream features"; got != want || !r.OK {
		t.Errorf("steps = %s, want %s", got, want)
	}
}

func TestIPv6(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	s := chat.New(chat.Config{})
	s.Start(tls.NewListener(ln, with(ca.Issue("::1"))))
	defer s.Close()
	r, err := Run(t.Context(), Options{URL: "wss://" + ln.Addr().String() + "/", RootCAs: ca.Pool(), Domain: "example1.com"}, nil)
	if err != nil || !r.OK || r.ServerName != "" || !strings.HasPrefix(r.Address, "[::1]:") {
		t.Errorf("report = %+v, %v", r, err)
	}
}

// Each fault is named in plain words, with a hint, at its step.
func TestFaults(t *testing.T) {
	expired := minica.Spec{Names: []string{"example1.com"}, NotBefore: time.Now().AddDate(0, 0, -90), NotAfter: time.Now().Add(-12*24*time.Hour - time.Hour)}
	future := minica.Spec{Names: []string{"example1.com"}, NotBefore: time.Now().Add(24 * time.Hour)}
	leafOnly := with(ca.Intermediate("R1").Issue("example1.com"))
	leafOnly.Certificates[0].Certificate = leafOnly.Certificates[0].Certificate[:1]
	silent := rude(chat.AtRequest, nil, chat.Silence)
	seeOther := chat.Tigase()
	seeOther.Redirect = func(chat.Open) string { return "ws://t2.example1.com:5290/" }

	const short = 300 * time.Millisecond // for a server that says nothing
	for _, tt := range []struct {
		name    string
		cfg     chat.Config
		tls     *tls.Config
		timeout time.Duration
		steps   string
		text    string // in the first problem
		hint    string
	}{
		{"certificate for another name", chat.Config{}, with(ca.Issue("example2.com", "www.example2.com")), 0,
			"connect tls certificate! websocket stream features", `certificate is for "example2.com", "www.example2.com", not for "example1.com"`, "wssgate certs"},
		{"unknown authority", chat.Config{}, with(other.Intermediate("R9").Issue("example1.com")), 0,
			"connect tls certificate! websocket stream features", `unknown authority "somebody else's CA"`, "-ca FILE"},
		{"intermediate missing", chat.Config{}, leafOnly, 0,
			"connect tls certificate! websocket stream features", `unknown authority "R1", and the server sent the leaf alone`, "full chain"},
		{"self-signed", chat.Config{}, with(minica.SelfSigned(minica.Spec{Names: []string{"example1.com"}})), 0,
			"connect tls certificate! websocket stream features", "self-signed", "Tigase"},
		{"expired", chat.Config{}, with(ca.IssueSpec(expired)), 0,
			"connect tls certificate! websocket stream features", "certificate expired " + expired.NotAfter.Format(time.DateOnly) + ", 12 days ago", "renew"},
		{"not yet valid", chat.Config{}, with(ca.IssueSpec(future)), 0,
			"connect tls certificate! websocket stream features", "not valid before " + future.NotBefore.UTC().Format(time.DateOnly), "clock"},
		{"unrecognized_name", chat.Config{}, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}, 0,
			"connect tls!", `alert unrecognized_name: the server has no certificate for "example1.com"`, "wssgate certs"},
		{"internal_error", chat.Config{}, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("x") }}, 0,
			"connect tls!", "alert internal_error", "log"},
		{"no TLS 1.2 or 1.3", chat.Config{}, &tls.Config{Certificates: good().Certificates, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, 0,
			"connect tls!", "protocol_version", ""},
		{"plain port", chat.Config{Rude: chat.Outburst{When: chat.AtAccept, Bytes: chat.BadRequest, Then: chat.FIN}}, nil, 0,
			"connect tls!", "plain HTTP, not TLS", "ws://example1.com:5291/"},
		{"garbage instead of TLS", rude(chat.AtAccept, chat.Garbage, chat.FIN), nil, 0,
			"connect tls!", "not TLS", "ws://"},
		{"FIN instead of TLS", rude(chat.AtAccept, nil, chat.FIN), nil, 0,
			"connect tls!", "closed the connection without a word", "limit"},
		{"reset instead of 101", rude(chat.AtRequest, nil, chat.RST), good(), 0,
			"connect tls certificate websocket!", "reset the connection", "log"},
		{"silence instead of TLS", rude(chat.AtAccept, nil, chat.Silence), nil, short,
			"connect tls!", "within TIMEOUT", "TLS"},
		{"silence instead of 101", silent, good(), short,
			"connect tls certificate websocket!", "within TIMEOUT", "upstream"},
		{"garbage instead of 101", rude(chat.AtRequest, chat.Garbage, chat.FIN), good(), 0,
			"connect tls certificate websocket!", "to the opening handshake, want HTTP/1.1", "another service"},
		{"half of a 101", rude(chat.AtRequest, chat.HalfUpgrade, chat.FIN), good(), 0,
			"connect tls certificate websocket!", "of an opening handshake, then: unexpected EOF", "log"},
		{"404", rude(chat.AtRequest, chat.HTTP("404 Not Found", "<html><h1>\nno such path\n</h1>"), chat.FIN), good(), 0,
			"connect tls certificate websocket!", "answered 404 Not Found to the opening handshake, want 101: no such path", "path"},
		{"502", rude(chat.AtRequest, chat.HTTP("502 Bad Gateway", "502 Bad Gateway\n\n\x1b[31mupstream\n"), chat.FIN), good(), 0,
			"connect tls certificate websocket!", "want 101: ·[31mupstream", "[upstream]"},
		{"redirect", rude(chat.AtRequest, []byte("HTTP/1.1 302 Found\r\nLocation: https://example9.com/\r\nContent-Length: 0\r\n\r\n"), chat.FIN), good(), 0,
			"connect tls certificate websocket!", "302 Found", "https://example9.com/"},
		{"Tigase's 400", rude(chat.AtRequest, chat.BadRequest, chat.FIN), good(), 0,
			"connect tls certificate websocket!", "answered 400 Bad request", "subprotocol"},
		{"wrong accept key", rude(chat.AtRequest, []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"), chat.FIN), good(), 0,
			"connect tls certificate websocket!", "which does not match our key", "cache"},
		{"no Upgrade in the 101", rude(chat.AtRequest, []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive\r\n\r\n"), chat.FIN), good(), 0,
			"connect tls certificate websocket!", `101 with Upgrade ""`, "headers"},
		{"a folded line in the 101", rude(chat.AtRequest, []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade, x\r\n Sec-WebSocket-Accept: x\r\n\r\n"), chat.FIN), good(), 0,
			"connect tls certificate websocket!", `bad header`, "headers"},
		{"no subprotocol", chat.Config{Habits: chat.Habits{NoSubprotocol: true}}, good(), 0,
			"connect tls certificate websocket!", `without a subprotocol, want "xmpp"`, "XMPP"},
		{"unknown domain", chat.Config{Domains: []string{"example2.com"}}, good(), 0,
			"connect tls certificate websocket stream features!", "stream error host-unknown", "-domain"},
		{"cluster redirect", chat.Config{Habits: seeOther}, good(), 0,
			"connect tls certificate websocket stream features!", `redirects to "ws://t2.example1.com:5290/"`, "public_url"},
		{"silence instead of a stream", rude(chat.AtFirstFrame, nil, chat.Silence), good(), short,
			"connect tls certificate websocket stream!", "within TIMEOUT", "silent"},
		{"FIN instead of a stream", rude(chat.AtFirstFrame, nil, chat.FIN), good(), 0,
			"connect tls certificate websocket stream!", "closed the connection", ""},
		{"half a frame", rude(chat.AtFirstFrame, chat.HalfFrame, chat.FIN), good(), 0,
			"connect tls certificate websocket stream!", "closed the connection", ""},
		{"masked frame", rude(chat.AtFirstFrame, chat.Masked, chat.FIN), good(), 0,
			"connect tls certificate websocket stream!", "breaks RFC 6455", ""},
		{"huge frame", rude(chat.AtFirstFrame, chat.HugeLength, chat.Silence), good(), 0,
			"connect tls certificate websocket stream!", "a frame of 9223372036854775807 bytes", ""},
		{"negative length", rude(chat.AtFirstFrame, chat.NegativeLength, chat.Silence), good(), 0,
			"connect tls certificate websocket stream!", "significant bit", ""},
		{"an echo is no XMPP", chat.Config{Echo: true}, good(), 0,
			"connect tls certificate websocket stream features!", "", ""},
		{"no XML", rude(chat.AtFirstFrame, ws.MustCompileFrame(ws.NewTextFrame([]byte("hello"))), chat.FIN), good(), 0,
			"connect tls certificate websocket stream!", `sent "hello", which is not an XML`, "RFC 7395"},
		{"Close 1012", rude(chat.AtFirstFrame, ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1012, "upstream gone"))), chat.FIN), good(), 0,
			"connect tls certificate websocket stream!", "closed the WebSocket with 1012: upstream gone", "XMPP server"},
		{"Close without code", rude(chat.AtFirstFrame, []byte{0x88, 0}, chat.FIN), good(), 0,
			"connect tls certificate websocket stream!", "without a status code", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.name == "an echo is no XMPP" { // our own <open/> comes back, and no features do
				tt.timeout = short
			}
			addr := gate(t, tt.cfg, tt.tls)
			r := run(t, addr, Options{Timeout: tt.timeout})
			for 0 < tt.timeout && tt.timeout < time.Minute && steps(r) != tt.steps {
				tt.timeout *= 2 // too short for the steps before
				r = run(t, addr, Options{Timeout: tt.timeout})
			}
			tt.text = strings.Replace(tt.text, "TIMEOUT", tt.timeout.String(), 1)
			if r.OK || steps(r) != tt.steps {
				t.Errorf("ok = %v, steps = %s; want %s\n%+v", r.OK, steps(r), tt.steps, r.Steps)
			}
			var first Problem
			for _, s := range r.Steps {
				if !s.OK() {
					first = s.Problems[0]
					break
				}
			}
			if !strings.Contains(first.Text, tt.text) {
				t.Errorf("problem = %q, want %q in it", first.Text, tt.text)
			}
			if tt.hint != "" && !strings.Contains(first.Hint, tt.hint) {
				t.Errorf("hint = %q, want %q in it", first.Hint, tt.hint)
			}
		})
	}
}

// A certificate may be wrong in more than one way; all are named.
func TestAllFaultsOfACertificate(t *testing.T) {
	pair := other.IssueSpec(minica.Spec{Names: []string{"example2.com"}, NotBefore: time.Now().AddDate(0, 0, -90), NotAfter: time.Now().Add(-time.Hour)})
	r := run(t, gate(t, chat.Config{}, with(pair)), Options{})
	problems := r.Steps[2].Problems
	if len(problems) != 3 {
		t.Errorf("problems = %+v; want name, expiry, authority", problems)
	}
}

func TestSoonExpiring(t *testing.T) {
	pair := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().Add(50 * time.Hour)})
	r := run(t, gate(t, chat.Config{}, with(pair)), Options{})
	if notes := r.Steps[2].Notes; !r.OK || len(notes) != 1 || notes[0] != "expires in 2 days: renew it now" {
		t.Errorf("ok = %v, notes = %q", r.OK, notes)
	}
}

func TestConnectFaults(t *testing.T) {
	const addr = "127.0.0.1:1"
	r := run(t, addr, Options{})
	if p := r.Steps[0].Problems; len(p) != 1 || p[0].Text != addr+" refused the connection" {
		t.Errorf("problems = %+v", p)
	}
	r = run(t, "name.invalid:5291", Options{})
	if p := r.Steps[0].Problems; len(p) != 1 || !strings.Contains(p[0].Text, `"name.invalid"`) {
		t.Errorf("problems = %+v", p)
	}
}

// Over ws:// it is the XMPP server that is asked, and no hint is about the gate.
func TestHintsOfAnUpstream(t *testing.T) {
	direct := func(cfg chat.Config) string { return "ws://" + gate(t, cfg, nil) + "/" }
	for url, want := range map[string]string{
		"ws://127.0.0.1:1/": "is the XMPP server running",
		direct(rude(chat.AtRequest, chat.HTTP("502 Bad Gateway", "x"), chat.FIN)): "this is a proxy",
		direct(rude(chat.AtRequest, chat.HTTP("404 Not Found", "x"), chat.FIN)):   "is the path",
		direct(rude(chat.AtRequest, chat.HTTP("503 Full", "x"), chat.FIN)):        "the XMPP server takes no more",
		direct(chat.Config{Domains: []string{"example2.com"}}):                    "the XMPP server does not serve",
	} {
		r := run(t, strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/"), Options{URL: url, Domain: "example1.com"})
		last := r.Steps[len(r.Steps)-1]
		if len(last.Problems) != 1 || !strings.Contains(last.Problems[0].Hint, want) || strings.Contains(last.Problems[0].Hint, "gate") {
			t.Errorf("%s: %+v; want a hint with %q and nothing about a gate", url, last.Problems, want)
		}
	}
}

// A domain that the gate itself refuses is not the XMPP server's to serve.
func TestWhoRefusedTheDomain(t *testing.T) {
	words := "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example1.com' id='1' version='1.0'/>"
	refusal := "<stream:error xmlns:stream='http://etherx.jabber.org/streams'><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>" + xmpp.NotTakenHere + "</text></stream:error>"
	frames := bytes.Join([][]byte{ws.MustCompileFrame(ws.NewTextFrame([]byte(words))), ws.MustCompileFrame(ws.NewTextFrame([]byte(refusal)))}, nil)
	r := run(t, gate(t, rude(chat.AtFirstFrame, frames, chat.Silence), good()), Options{})
	last := r.Steps[len(r.Steps)-1]
	if len(last.Problems) != 1 || !strings.Contains(last.Problems[0].Hint, "the gate refused") {
		t.Errorf("%+v; want a hint that the gate refused", last.Problems)
	}
}

// A redirect that the gate lost is named, whichever way it is told.
func TestLostRedirect(t *testing.T) {
	words := "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example1.com' id='1' version='1.0'/>"
	told := xmpp.Stream{Opened: true}.Error(xmpp.RemoteConnectionFailed, xmpp.NotReachableHere)
	frame := func(text string) []byte { return ws.MustCompileFrame(ws.NewTextFrame([]byte(text))) }
	for what, frames := range map[string][]byte{
		"three messages": bytes.Join([][]byte{frame(words), frame(string(told[0])), frame(string(told[1]))}, nil),
		"one message":    frame(words + string(told[0]) + "\n" + string(told[1])),
		"a Close frame":  append(frame(words), ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1014, xmpp.NotReachableHere)))...),
	} {
		r := run(t, gate(t, rude(chat.AtFirstFrame, frames, chat.Silence), good()), Options{})
		last := r.Steps[len(r.Steps)-1]
		if len(last.Problems) != 1 || !strings.Contains(last.Problems[0].Hint, "a node that the gate does not know") {
			t.Errorf("%s: %+v; want a hint of the redirect", what, last.Problems)
		}
	}
}

// Features in the message of the opening are not waited for.
func TestElementsInOneMessage(t *testing.T) {
	words := "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example1.com' id='1' version='1.0'/> " +
		"<stream:features xmlns:stream='http://etherx.jabber.org/streams'><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>\n"
	r := run(t, gate(t, rude(chat.AtFirstFrame, ws.MustCompileFrame(ws.NewTextFrame([]byte(words))), chat.Silence), good()), Options{})
	if !r.OK || !slices.Equal(r.Mechanisms, []string{"PLAIN"}) {
		t.Errorf("%+v; want all well", r)
	}
}

// A port that speaks the other of ws and wss is named.
func TestOtherScheme(t *testing.T) {
	html := httptest.NewTLSServer(http.NotFoundHandler()) // answers as servers in Go do
	defer html.Close()
	nginx := chat.HTTP("400 Bad Request", "<html><center>The plain HTTP request was sent to HTTPS port</center></html>")
	ours := chat.HTTP("400 Bad Request", "400 Bad Request\n\nThis port requires TLS. Use https:// or wss://")
	for what, c := range map[string]struct{ url, addr string }{
		"ws to Go":              {"ws://example1.com:5290/x", html.Listener.Addr().String()},
		"ws to nginx":           {"ws://example1.com:5290/x", gate(t, rude(chat.AtRequest, nginx, chat.FIN), nil)},
		"ws to the gate":        {"ws://example1.com:5290/x", gate(t, rude(chat.AtRequest, ours, chat.FIN), nil)},
		"ws to an alert":        {"ws://example1.com:5290/x", gate(t, rude(chat.AtRequest, []byte("\x15\x03\x01\x00\x02\x02\x46"), chat.FIN), nil)},
		"ws to a FIN":           {"ws://example1.com:5290/x", gate(t, rude(chat.AtRequest, nil, chat.FIN), nil)},
		"wss to an XMPP server": {"wss://example1.com:5290/x", gate(t, chat.Config{Habits: chat.Tigase()}, nil)},
		"wss to HTTP":           {"wss://example1.com:5290/x", gate(t, rude(chat.AtAccept, chat.BadRequest, chat.FIN), nil)},
		"wss to a FIN":          {"wss://example1.com:5290/x", gate(t, rude(chat.AtAccept, nil, chat.FIN), nil)},
	} {
		timeout := time.Duration(0)
		if what == "wss to an XMPP server" || what == "ws to a FIN" { // which say nothing, to TLS at least
			timeout = time.Second
		}
		r := run(t, c.addr, Options{URL: c.url, Timeout: timeout})
		want := "probe wss://example1.com:5290/x"
		if strings.HasPrefix(what, "wss") {
			want = "probe ws://example1.com:5290/x"
		}
		last := r.Steps[len(r.Steps)-1]
		if len(last.Problems) != 1 || !strings.Contains(last.Problems[0].Hint, want) {
			t.Errorf("%s: %s, %+v; want %q", what, last.Name, last.Problems, want)
		}
	}
}

// What the probe says of a 101 is what a tunnel says.
func TestSameVerdict(t *testing.T) {
	const head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\nSec-WebSocket-Protocol: xmpp\r\n"
	edit := func(old, new string) string { return strings.Replace(head, old, new, 1) + "\r\n" }
	for what, answer := range map[string]string{
		"Tigase's":             head + "\r\n",
		"two Connection lines": edit("Connection: Upgrade", "Connection: keep-alive\r\nConnection: Upgrade"),
		"a list":               edit("Connection: Upgrade", "Connection: keep-alive,\tupgrade"),
		"another reason":       edit("Switching Protocols", "Web Socket"),
		"no reason":            edit(" Switching Protocols", ""),
		"a body of none":       edit("Upgrade:", "Content-Length: 0\r\nUpgrade:"),
		"a frame behind it":    head + "\r\n\x89\x00",
		"two Upgrades":         edit("Upgrade:", "Upgrade: websocket\r\nUpgrade:"),
		"two keys":             edit("Upgrade:", "Sec-WebSocket-Accept: KEY\r\nUpgrade:"),
		"two subprotocols":     edit("xmpp", "xmpp\r\nSec-WebSocket-Protocol: xmpp"),
		"HTTP/1.0":             edit("HTTP/1.1", "HTTP/1.0"),
		"bare LF":              strings.ReplaceAll(head, "\r\n", "\n") + "\n",
		"one bare LF":          edit("websocket\r\n", "websocket\n"),
		"a folded line":        edit("Upgrade: websocket", "Upgrade:\r\n websocket"),
		"a blank in a name":    edit("Upgrade:", "Upgrade :"),
		"upper-case":           edit("Protocol: xmpp", "Protocol: XMPP"),
		"extensions":           edit("Upgrade:", "Sec-WebSocket-Extensions: \r\nUpgrade:"),
		"chunks":               edit("Upgrade:", "Transfer-Encoding: chunked\r\nUpgrade:"),
		"100 first":            "HTTP/1.1 100 Continue\r\n\r\n" + head + "\r\n",
		"200":                  "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"17 KiB":               edit("Upgrade:", "X: "+strings.Repeat("x", 17<<10)+"\r\nUpgrade:"),
	} {
		addr := answering(t, answer)
		table, err := upstream.New(upstream.Options{Upstreams: []upstream.GroupOptions{{Name: "u", Nodes: []upstream.NodeOptions{{URL: "ws://" + addr + "/"}}}},
			Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		v, err := table.Routes().Lookup("example1.com")
		if err != nil {
			t.Fatal(err)
		}
		conn, tunnel := v.Dial(t.Context(), &upstream.Request{Host: "example1.com", RequestURI: "/", Subprotocol: "xmpp"})
		if tunnel == nil {
			conn.Conn.Close()
			conn.Release()
		}
		table.Close()
		r := run(t, addr, Options{URL: "ws://" + addr + "/", Domain: "example1.com"})
		if step := r.Steps[1]; step.OK() != (tunnel == nil) {
			t.Errorf("%s: the probe says %+v, a tunnel %v", what, step.Problems, tunnel)
		}
	}
}

// answering is a server that says the same to each request, with the right key.
func answering(t *testing.T, answer string) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				io.WriteString(conn, strings.ReplaceAll(answer, "KEY", upstream.AcceptKey(req.Header.Get("Sec-WebSocket-Key"))))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return ln.Addr().String()
}

// An IP address is no server name, and the gate wants one.
func TestNoServerName(t *testing.T) {
	addr := gate(t, chat.Config{}, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }})
	r := run(t, addr, Options{URL: "wss://" + addr + "/"})
	if p := r.Steps[1].Problems; len(p) != 1 || !strings.Contains(p[0].Text, "an IP address is not one") || !strings.Contains(p[0].Hint, "-connect "+addr) {
		t.Errorf("problems = %+v", p)
	}
	// A server that has a certificate for everybody has none for an address.
	r = run(t, gate(t, chat.Config{}, good()), Options{URL: "wss://127.0.0.1/", Domain: "example1.com"})
	if p := r.Steps[2].Problems; len(p) != 1 || !strings.Contains(p[0].Hint, "wss://NAME/ with -connect 127.0.0.1") {
		t.Errorf("problems = %+v", p)
	}
}

// A web server without an upgrade answers 200, or whatever it has.
func TestWebServer(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<p>Welcome!</p>") }))
	s.TLS = good()
	s.StartTLS()
	defer s.Close()
	r := run(t, s.Listener.Addr().String(), Options{})
	p := r.Steps[3].Problems
	if len(p) != 1 || !strings.HasSuffix(p[0].Text, "answered 200 OK to the opening handshake, want 101: Welcome!") {
		t.Errorf("problems = %+v", p)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := gate(t, chat.Config{Rude: chat.Outburst{When: chat.AtRequest, Then: chat.Silence}}, good())
	r, err := Run(ctx, Options{URL: "wss://example1.com", Connect: addr, RootCAs: ca.Pool()}, func(s Step) {
		if s.Name == "certificate" {
			time.AfterFunc(10*time.Millisecond, cancel)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if last := r.Steps[len(r.Steps)-1]; last.Name != "websocket" || last.Problems[0].Text != "interrupted" {
		t.Errorf("last step = %+v", last)
	}
}

// What Options mean: default ports, IPv6, other alphabets, -connect.
func TestPrepare(t *testing.T) {
	for _, tt := range []struct{ url, connect, addr, want, domain string }{
		{"wss://example1.com", "", "example1.com:443", "wss://example1.com/", "example1.com"},
		{"ws://example1.com/xmpp-websocket", "", "example1.com:80", "ws://example1.com/xmpp-websocket", "example1.com"},
		{"example1.com:5291", "", "example1.com:5291", "wss://example1.com:5291/", "example1.com"},
		{"wss://[2001:db8::1]", "", "[2001:db8::1]:443", "wss://[2001:db8::1]/", "2001:db8::1"},
		{"wss://[::1]:5291/?x", "", "[::1]:5291", "wss://[::1]:5291/?x", "::1"},
		{"wss://Bücher.example:5291/", "", "xn--bcher-kva.example:5291", "wss://xn--bcher-kva.example:5291/", "Bücher.example"},
		{"wss://example1.com.:5291/", "", "example1.com:5291", "wss://example1.com:5291/", "example1.com"},
		{"wss://example1.com:5291/", "127.0.0.1:1", "127.0.0.1:1", "wss://example1.com:5291/", "example1.com"},
		{"wss://example1.com:5291/", "127.0.0.1", "127.0.0.1:5291", "wss://example1.com:5291/", "example1.com"},
		{"wss://example1.com/", "::1", "[::1]:443", "wss://example1.com/", "example1.com"},
		{"wss://example1.com/", "[::1]", "[::1]:443", "wss://example1.com/", "example1.com"},
	} {
		p := &prober{Options: Options{URL: tt.url, Connect: tt.connect}, report: &Report{}}
		if err := p.prepare(); err != nil || p.addr != tt.addr || p.report.URL != tt.want || p.Domain != tt.domain {
			t.Errorf("%q -connect %q = %s, %s, %s, %v; want %s, %s, %s", tt.url, tt.connect, p.addr, p.report.URL, p.Domain, err, tt.addr, tt.want, tt.domain)
		}
	}
	for _, bad := range []string{"", "https://example1.com/", "wss://", "wss://:5291/", "wss://a b/", "wss://u@example1.com/", "wss://-.-/", "wss://example1.com:x/", "wss://example1.com/#x"} {
		if _, err := Run(t.Context(), Options{URL: bad}, nil); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: err = %v, want ErrUsage", bad, err)
		}
	}
}

// The JSON is for machines: names and numbers that stay.
func TestJSON(t *testing.T) {
	r := run(t, gate(t, chat.Config{}, good()), Options{})
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		OK          bool
		Certificate struct{ Days_left int }
		Steps       []struct {
			Step     string
			MS       float64
			Problems []struct{ Problem, Hint string }
		}
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !got.OK || got.Certificate.Days_left != 89 || len(got.Steps) != 7 || got.Steps[5].Step != "features" || got.Steps[5].MS <= 0 {
		t.Errorf("%s = %+v", b, got)
	}
}

// Whatever a server sends, a terminal gets printable text.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "\x1b[2Jx": "·[2Jx", "a\xff\u202eb": "a··b",
		strings.Repeat("é", 200): strings.Repeat("é", 119) + "…",
	} {
		if got := printable([]byte(in)); got != want {
			t.Errorf("printable(%q) = %q; want %q", in, got, want)
		}
	}
}

func ExampleRun() {
	_, err := Run(context.Background(), Options{URL: "https://example1.com/"}, nil)
	fmt.Println(err)
	// Output: usage: "https://example1.com/": scheme "https" is not wss or ws
}

// Names below .localhost are this machine, whatever DNS says.
func TestLoopback(t *testing.T) {
	for addr, want := range map[string]string{
		"example1.localhost:5291":  "127.0.0.1:5291",
		"Example1.LOCALHOST.:5291": "127.0.0.1:5291",
		"localhost:443":            "127.0.0.1:443",
		"example1.com:5291":        "",
		"notlocalhost:5291":        "",
		"[::1]:5291":               "",
	} {
		if got, _ := loopback(addr); got != want {
			t.Errorf("loopback(%q) = %q; want %q", addr, got, want)
		}
	}
}
