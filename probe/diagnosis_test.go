package probe

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
)

// codes are what was diagnosed.
func codes(r *Report) (all []string) {
	for _, d := range r.Diagnoses {
		all = append(all, d.Code)
	}
	return all
}

const (
	scramAndPlain = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism></mechanisms>"
	plainAlone    = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>"
	sasl2         = "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-1</mechanism><inline>%s</inline></authentication>"
	bind2         = "<bind xmlns='urn:xmpp:bind:0'><inline/></bind>"
	fast          = "<fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-NONE</mechanism></fast>"
)

func limits(n int) string {
	return fmt.Sprintf("<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>%d</max-bytes></limits>", n)
}

// What a server offers is diagnosed, and what is well is not.
func TestDiagnoses(t *testing.T) {
	full := fmt.Sprintf(sasl2, bind2+fast)
	for _, tt := range []struct {
		name  string
		offer string
		opts  Options
		want  string // codes
	}{
		{"SCRAM and PLAIN", scramAndPlain, Options{}, ""},
		{"all that is new", scramAndPlain + full + limits(1<<20), Options{}, ""},
		{"SASL 2 alone", full, Options{}, ""},
		{"ANONYMOUS alone", "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>ANONYMOUS</mechanism></mechanisms>", Options{}, ""},
		{"STARTTLS that may be left out", scramAndPlain + "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", Options{}, ""},
		{"PLAIN", plainAlone, Options{}, "scram-missing"},
		{"nothing", "<ver xmlns='urn:xmpp:features:rosterver'/>", Options{}, "insecure-stream"},
		{"STARTTLS is required", scramAndPlain + "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>", Options{}, "insecure-stream"},
		{"-PLUS", "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism><mechanism>SCRAM-SHA-1-PLUS</mechanism></mechanisms>", Options{}, "channel-binding"},
		{"a limit above the gate's", scramAndPlain + limits(10<<20), Options{}, "limits-mismatch"},
		{"a limit below a raised one", scramAndPlain + limits(10<<20), Options{Message: 16 << 20}, ""},
		{"a limit above a lowered one", scramAndPlain + limits(256<<10), Options{Message: 64 << 10}, "limits-mismatch"},
		{"no number", scramAndPlain + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>-1x</max-bytes></limits>", Options{}, ""},
		{"too long a number", scramAndPlain + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>99999999999999999999</max-bytes></limits>", Options{}, ""},
		{"SASL 2 without FAST", scramAndPlain + fmt.Sprintf(sasl2, bind2), Options{}, "fast-missing"},
		{"SASL 2 without FAST in a version without", scramAndPlain + fmt.Sprintf(sasl2, bind2), Options{Server: "prosody/0.12.3"}, ""},
		{"SASL 2 without FAST in a version without a number", scramAndPlain + fmt.Sprintf(sasl2, bind2), Options{Server: "prosody/trunk nightly build 17"}, "fast-missing"},
		{"SASL 2 without Bind 2", scramAndPlain + fmt.Sprintf(sasl2, fast), Options{}, "bind2-missing"},
		{"ejabberd without SASL 2", scramAndPlain, Options{Server: "ejabberd/24.12-3"}, "sasl2-missing"},
		{"an old ejabberd", scramAndPlain, Options{Server: "ejabberd/23.01"}, ""},
		{"an ejabberd of unknown age", scramAndPlain, Options{Server: "ejabberd"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			habits := chat.Tigase()
			habits.Offer = tt.offer
			addr := gate(t, chat.Config{Habits: habits}, nil)
			tt.opts.URL, tt.opts.Domain = "ws://"+addr+"/", "example1.com"
			r := run(t, addr, tt.opts)
			if got := strings.Join(codes(r), " "); got != tt.want || !r.OK {
				t.Errorf("ok = %v, diagnoses %q; want true, %q\n%+v", r.OK, got, tt.want, r)
			}
		})
	}
}

// A server that offers SASL 2 only to a stream with a from is asked with one.
func TestFromBringsSASL2(t *testing.T) {
	var asked atomic.Int32
	habits := chat.Habits{Offer: scramAndPlain}
	cfg := chat.Config{Habits: habits, OnFrame: func(_ *chat.Peer, _ ws.Header, payload []byte) {
		if strings.Contains(string(payload), " from='probe@example1.com'") {
			asked.Add(1)
		}
	}}
	addr := gate(t, cfg, nil)
	run(t, addr, Options{URL: "ws://" + addr + "/", Domain: "example1.com"})
	if asked.Load() != 0 {
		t.Errorf("a server that is not known got a from, which Tigase redirects")
	}
	run(t, addr, Options{URL: "ws://" + addr + "/", Domain: "example1.com", Server: "ejabberd"})
	if n := asked.Load(); n != 1 {
		t.Errorf("an ejabberd got %d streams with a from; want 1", n)
	}
}

// After a login the probe knows more. It sends no password to a server whose certificate
// it does not trust.
func TestLogin(t *testing.T) {
	alice := &Login{"alice@example1.com", "secret"}
	for _, tt := range []struct {
		name  string
		cfg   chat.Config
		tls   *tls.Config
		login *Login
		steps string
		text  string // of the login's problem
		codes string
	}{
		{"well", chat.Config{Password: "secret"}, good(), alice, "connect tls certificate websocket stream features login discovery", "", "scram-missing discovery-missing"},
		{"without XEP-0198", chat.Config{Habits: chat.Habits{NoResumption: true}}, good(), alice, "connect tls certificate websocket stream features login discovery", "", "sm-missing scram-missing discovery-missing"},
		{"wrong password", chat.Config{Password: "other"}, good(), alice, "connect tls certificate websocket stream features login! discovery", "the login failed: not-authorized", "scram-missing discovery-missing"},
		{"wrong certificate", chat.Config{}, with(other.Issue("example1.com")), alice, "connect tls certificate! websocket stream features login!", "certificate is not trusted", "scram-missing"},
		{"no mechanism", chat.Config{Habits: chat.Habits{Offer: "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"}}, good(), alice,
			"connect tls certificate websocket stream features login! discovery", "no mechanism", "discovery-missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sent := make(chan string, 16)
			tt.cfg.OnFrame = func(_ *chat.Peer, _ ws.Header, payload []byte) {
				if strings.HasPrefix(string(payload), "<auth ") {
					sent <- string(payload)
				}
			}
			r := run(t, gate(t, tt.cfg, tt.tls), Options{Login: tt.login})
			if steps(r) != tt.steps || strings.Join(codes(r), " ") != tt.codes {
				t.Errorf("steps = %s, codes %s; want %s, %s\n%+v", steps(r), codes(r), tt.steps, tt.codes, r.Steps)
			}
			for _, s := range r.Steps {
				if s.Name == "login" && (!s.OK()) != (tt.text != "") || s.Name == "login" && !s.OK() && !strings.Contains(s.Problems[0].Text, tt.text) {
					t.Errorf("problems = %+v; want %q", s.Problems, tt.text)
				}
			}
			if strings.Contains(tt.text, "not trusted") && len(sent) > 0 {
				t.Errorf("the password was sent: %s", <-sent)
			}
		})
	}
}

// SCRAM is that of RFC 5802 (section 5) and RFC 7677 (section 3).
func TestSCRAM(t *testing.T) {
	for _, tt := range []struct{ mechanism, nonce, first, final, last string }{
		{"SCRAM-SHA-1", "fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
			"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="},
		{"SCRAM-SHA-256", "rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
	} {
		c := newSCRAM(tt.mechanism, "user", "pencil")
		c.nonce = tt.nonce
		c.bare = "n=user,r=" + tt.nonce
		final, err := c.final(tt.first)
		if err != nil || final != tt.final {
			t.Errorf("%s: %q, %v; want %q", tt.mechanism, final, err, tt.final)
		}
		if !c.verify(tt.last) {
			t.Errorf("%s: %q is not taken for the server's proof", tt.mechanism, tt.last)
		}
		if c.verify("v="+base64.StdEncoding.EncodeToString([]byte("wrong"))) || c.proven {
			t.Errorf("%s: a wrong proof is taken", tt.mechanism)
		}
	}
	for _, bad := range []string{"", "r=x,s=eA==,i=4096", "r=abcd,s=?,i=4096", "r=abcd,s=eA==,i=0", "r=abcd,s=eA==,i=999999999999", "r=abcd,s=eA==,i=99999999"} {
		c := newSCRAM("SCRAM-SHA-1", "user", "pencil")
		c.nonce = "abc"
		if final, err := c.final(bad); err == nil {
			t.Errorf("%q is answered with %q", bad, final)
		}
	}
}

// The documents of XEP-0156 are read as clients do.
func TestDiscovery(t *testing.T) {
	xrd := func(urls ...string) string {
		var b strings.Builder
		for _, u := range urls {
			fmt.Fprintf(&b, "<Link rel='urn:xmpp:alt-connections:websocket' href='%s'/>", u)
		}
		return "<?xml version='1.0'?><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>" + b.String() + "</XRD>"
	}
	const ours = "wss://example1.com:5291/"
	for _, tt := range []struct {
		name, xrd, json, cors string
		want                  string
	}{
		{"both", xrd(ours), `{"links":[{"rel":"urn:xmpp:alt-connections:websocket","href":"` + ours + `"}]}`, "*", ""},
		{"XRD alone", xrd(ours), "", "*", ""},
		{"our origin", xrd(ours), "", "https://wssgate-probe.invalid", ""},
		{"another path", xrd(ours + "xmpp-websocket"), "", "*", ""},
		{"one of several", xrd("wss://t2.example1.com/", ours), "", "*", ""},
		{"no CORS", xrd(ours), "", "", "discovery-no-cors"},
		{"CORS for another", xrd(ours), "", "https://example9.com", "discovery-no-cors"},
		{"another URL", xrd("wss://example1.com:5443/ws"), "", "*", "discovery-other-url"},
		{"without TLS", xrd("ws://example1.com:5291/"), "", "*", "discovery-other-url"},
		{"none", xrd(), "", "*", "discovery-missing"},
		{"no document", "", "", "*", "discovery-missing"},
		{"garbage", "<XRD", "{", "*", "discovery-missing"},
		{"a redirect", "https://example1.com/elsewhere", "", "*", ""},
		{"a redirect without TLS", "http://example1.com/elsewhere", "", "*", "discovery-missing"},
		{"a redirect to another host", "https://www.example1.com/elsewhere", "", "*", "discovery-missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := chat.New(chat.Config{Habits: chat.Habits{Offer: scramAndPlain}})
			t.Cleanup(func() { server.Close() })
			web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body := map[string]string{"/.well-known/host-meta": tt.xrd, "/.well-known/host-meta.json": tt.json}[r.URL.Path]
				switch {
				case r.Header.Get("Upgrade") != "":
					serveChat(w, r, server)
				case body == "" && r.URL.Path != "/elsewhere":
					http.NotFound(w, r)
				case strings.HasPrefix(body, "http"):
					http.Redirect(w, r, body, http.StatusFound)
				default:
					if tt.cors != "" {
						w.Header().Set("Access-Control-Allow-Origin", tt.cors)
					}
					io.WriteString(w, cmp.Or(body, xrd(ours)))
				}
			}))
			web.TLS = good()
			web.StartTLS()
			t.Cleanup(web.Close)
			r := run(t, web.Listener.Addr().String(), Options{})
			if got := strings.Join(codes(r), " "); got != tt.want || !r.OK {
				t.Errorf("ok = %v, diagnoses %q; want true, %q\n%+v", r.OK, got, tt.want, r.Diagnoses)
			}
		})
	}
}

// serveChat hands a request on to a server, as if there were no web server.
func serveChat(w http.ResponseWriter, r *http.Request, server *chat.Server) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	var head strings.Builder
	fmt.Fprintf(&head, "GET %s HTTP/1.1\r\nHost: %s\r\n", r.URL.RequestURI(), r.Host)
	r.Header.Write(&head)
	server.ServeConn(&begun{conn, io.MultiReader(strings.NewReader(head.String()+"\r\n"), conn)})
}

// A begun conn has been read from.
type begun struct {
	net.Conn
	r io.Reader
}

func (b *begun) Read(p []byte) (int, error) { return b.r.Read(p) }

// The opening handshake's faults have codes, beside their words.
func TestHandshakeCodes(t *testing.T) {
	answer := func(status, body string) chat.Config {
		return rude(chat.AtRequest, chat.HTTP(status, body), chat.FIN)
	}
	location := func(to string) chat.Config {
		return rude(chat.AtRequest, []byte("HTTP/1.1 302 Found\r\nLocation: "+to+"\r\nContent-Length: 0\r\n\r\n"), chat.FIN)
	}
	seeOther := func(to string) chat.Config {
		return chat.Config{Habits: chat.Habits{Redirect: func(chat.Open) string { return to }}}
	}
	for what, tt := range map[string]struct {
		cfg  chat.Config
		want string
	}{
		"404":                  {answer("404 Not Found", "x"), "wrong-path"},
		"200":                  {answer("200 OK", "welcome"), "wrong-path"},
		"Prosody's 404":        {answer("404 Not Found", "<p class=\"extra\">Unknown host: x</p>"), "http-host-unknown"},
		"403":                  {answer("403 Forbidden", "x"), "origin-refused"},
		"501":                  {answer("501 Not Implemented", "x"), "wrong-subprotocol"},
		"Tigase's 400":         {rude(chat.AtRequest, chat.BadRequest, chat.FIN), "wrong-subprotocol"},
		"no subprotocol":       {chat.Config{Habits: chat.Habits{NoSubprotocol: true}}, "wrong-subprotocol"},
		"a TLS port":           {answer("400 Bad Request", "The plain HTTP request was sent to HTTPS port"), "wrong-scheme"},
		"503":                  {answer("503 Full", "x"), ""},
		"redirect to a host":   {location("http://xmpp-1/"), "inner-redirect"},
		"redirect outside":     {location("https://example9.com/"), ""},
		"see-other-uri":        {seeOther("ws://t2.example1.com:5290/"), "inner-redirect"},
		"see-other-uri, wss":   {seeOther("wss://10.0.0.2:5290/"), "inner-redirect"},
		"see-other-uri, there": {seeOther("wss://t2.example1.com:5291/"), ""},
		"another domain":       {chat.Config{Domains: []string{"example2.com"}}, "host-unknown"},
	} {
		addr := gate(t, tt.cfg, nil)
		r := run(t, addr, Options{URL: "ws://" + addr + "/", Domain: "example1.com"})
		if got := strings.Join(codes(r), " "); r.OK || got != tt.want {
			t.Errorf("%s: ok = %v, %q; want false, %q", what, r.OK, got, tt.want)
		}
	}
}

// A known server has its own settings named, and an unknown one those of all.
func TestFixes(t *testing.T) {
	addr := gate(t, chat.Config{Habits: chat.Habits{Offer: plainAlone}}, nil)
	servers := func(name string) (all []string) {
		r := run(t, addr, Options{URL: "ws://" + addr + "/", Domain: "example1.com", Server: name})
		for _, f := range r.Diagnoses[0].Fixes {
			all = append(all, f.Server)
			if f.File == "" || f.Line == "" {
				t.Errorf("%+v; want a file and a line", f)
			}
		}
		return all
	}
	if got := servers("Prosody/13.0.1"); !slices.Equal(got, []string{"prosody"}) {
		t.Errorf("fixes for %q; want prosody's", got)
	}
	if got := servers(""); len(got) != 5 {
		t.Errorf("fixes for %q; want all five", got)
	}
	if _, err := Run(t.Context(), Options{URL: "wss://example1.com/", Server: "jabberd2"}, nil); err == nil {
		t.Error("a server without fixes is accepted")
	}
	if _, err := Run(t.Context(), Options{URL: "wss://example1.com/", Login: &Login{JID: "alice@example2.com"}}, nil); err == nil {
		t.Error("a login at another domain is accepted")
	}
	for code, all := range remedies {
		for _, r := range all {
			if settingsIn[r.server] == "" || r.server != "wssgate" && !slices.Contains(Servers, r.server) {
				t.Errorf("%s: no file for %q", code, r.server)
			}
		}
	}
}

// Each code stands in the documents, and each of the documents is a code.
func TestCodesDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Diagnoses of `wssgate probe`\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllStringSubmatch(section, -1) {
		documented[m[1]] = true
		if remedies[m[1]] == nil {
			t.Errorf("docs/troubleshooting.md has %q, which is no code", m[1])
		}
	}
	for code := range remedies {
		if !documented[code] {
			t.Errorf("docs/troubleshooting.md does not have %q", code)
		}
	}
}

func TestVersion(t *testing.T) {
	for s, want := range map[string][2]int{"24.12-3+deb13u2": {24, 12}, "13.0.1": {13, 0}, "0.12.3": {0, 12}, "25": {25, 0}, "24.02": {24, 2}} {
		if major, minor, ok := version(s); !ok || [2]int{major, minor} != want {
			t.Errorf("version(%q) = %d, %d, %v; want %v", s, major, minor, ok, want)
		}
	}
	for _, s := range []string{"", "trunk nightly build 17", "x.1"} {
		if _, _, ok := version(s); ok {
			t.Errorf("version(%q) is one", s)
		}
	}
}

func TestInner(t *testing.T) {
	for target, want := range map[string]bool{
		"ws://t2.example1.com:5290/": true, "wss://t2.example1.com:5291/": false, "wss://10.0.0.2/": true, "wss://[::1]:1/": true,
		"wss://xmpp-1:5291/": true, "10.0.0.2:5290": true, "t2.example1.com:5290": false, "xmpp-1": true, "wss://a.cluster.local/": true,
		"wss://192.0.2.7/": false, "fd00::1": true, "wss://xmpp.default.svc.cluster.local.:1/": true,
	} {
		if got := isInner(target); got != want {
			t.Errorf("isInner(%q) = %v; want %v", target, got, want)
		}
	}
}
