package probe

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
)

// talk is a prober whose server answers each message with those that answer returns. The
// connection is not encrypted, and not on the loopback.
func talk(t *testing.T, scheme, password string, answer func(message string) []string) *prober {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	go func() {
		for {
			h, err := ws.ReadHeader(server)
			if err != nil {
				return
			}
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(server, payload); err != nil {
				return
			}
			ws.Cipher(payload, h.Mask, 0)
			for _, text := range answer(string(payload)) {
				if ws.WriteFrame(server, ws.NewTextFrame([]byte(text))) != nil {
					return
				}
			}
		}
	}()
	return &prober{Options: Options{Domain: "example1.com", Login: &Login{"alice@example1.com", password}}, report: &Report{},
		url: &url.URL{Scheme: scheme, Host: "example1.com"}, conn: client, br: bufio.NewReader(client)}
}

// The password goes out in clear only where nobody else can read it.
func TestPlainIsNotSentInClear(t *testing.T) {
	p := talk(t, "ws", "secret", func(message string) []string {
		t.Errorf("%q was sent", message)
		return []string{"<failure xmlns='" + nsSASL + "'><not-authorized/></failure>"}
	})
	p.sasl = []string{"PLAIN"}
	if _, err := p.authenticate(); err == nil || !strings.Contains(err.Error(), "not encrypted") {
		t.Errorf("PLAIN over ws://: %v; want a refusal", err)
	}
}

// With SCRAM, a server that does not prove that it knows the password is not believed.
func TestSCRAMWantsProof(t *testing.T) {
	nonce := regexp.MustCompile(`,r=(.*)$`)
	for name, last := range map[string]string{"no proof": "", "a wrong one": "v=d3Jvbmc=", "an error": "e=invalid-proof"} {
		success := "<success xmlns='" + nsSASL + "'>" + base64Text(last) + "</success>"
		for _, challenged := range []bool{true, false} {
			p := talk(t, "ws", "secret", func(message string) []string {
				if challenged && strings.HasPrefix(message, "<auth ") {
					first := nonce.FindStringSubmatch(unbase64Text(t, message))[1]
					return []string{"<challenge xmlns='" + nsSASL + "'>" + base64Text("r="+first+"x,s=c2FsdA==,i=1") + "</challenge>"}
				}
				return []string{success}
			})
			p.sasl = []string{"SCRAM-SHA-256", "PLAIN"}
			if mechanism, err := p.authenticate(); err == nil || !strings.Contains(err.Error(), "did not prove") {
				t.Errorf("%s, challenged: %v: logged in with %q, %v; want a refusal", name, challenged, mechanism, err)
			}
		}
	}
}

// A server that binds no resource is not asked further, and its reason is told.
func TestBindRefused(t *testing.T) {
	id := regexp.MustCompile(` id='([^']*)'`)
	p := talk(t, "wss", "secret", func(message string) []string {
		switch {
		case strings.HasPrefix(message, "<auth "):
			return []string{"<success xmlns='" + nsSASL + "'/>"}
		case strings.HasPrefix(message, "<open "):
			return []string{"<open xmlns='" + nsFraming + "' from='example1.com' id='x' version='1.0'/>",
				"<stream:features xmlns:stream='http://etherx.jabber.org/streams'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"}
		case strings.Contains(message, "xmpp-bind"):
			return []string{"<iq xmlns='jabber:client' type='error' id='" + id.FindStringSubmatch(message)[1] + "'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>" +
				"<error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>too many</text></error></iq>"}
		}
		t.Errorf("%q was sent", message)
		return []string{"<close xmlns='" + nsFraming + "'/>"}
	})
	p.sasl = []string{"PLAIN"}
	if err := p.login(t.Context(), &Step{}); err == nil || err.Error() != "the server binds no resource: resource-constraint" {
		t.Errorf("login: %v; want resource-constraint", err)
	}
}

func base64Text(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// unbase64Text is what an element holds in base64.
func unbase64Text(t *testing.T, message string) string {
	_, text, _ := strings.Cut(message, ">")
	text, _, _ = strings.Cut(text, "<")
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Errorf("%q: %v", message, err)
	}
	return string(raw)
}

// Over ws:// a server gets what it gets from the gate, and over wss:// the gate gets
// nothing that it would replace. With a login the client's address is one to recognize.
func TestForwardedAsByTheGate(t *testing.T) {
	names := []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"}
	for _, tt := range []struct {
		scheme string
		login  *Login
		want   []string
	}{
		{"ws", nil, []string{"127.0.0.1", "https", "example1.com:5290", `for=127.0.0.1;host="example1.com:5290";proto=https`}},
		{"ws", &Login{"alice@example1.com", "secret"}, []string{"192.0.2.1", "https", "example1.com:5290", `for=192.0.2.1;host="example1.com:5290";proto=https`}},
		{"wss", nil, []string{"", "", "", ""}},
	} {
		var tlsConfig *tls.Config
		if tt.scheme == "wss" {
			tlsConfig = good()
		}
		got := make(chan []string, 8)
		cfg := chat.Config{OnFrame: func(peer *chat.Peer, _ ws.Header, _ []byte) {
			var all []string
			for _, name := range names {
				all = append(all, strings.Join(peer.Header(name), ","))
			}
			select {
			case got <- all:
			default:
			}
		}}
		run(t, gate(t, cfg, tlsConfig), Options{URL: tt.scheme + "://example1.com:5290/", Login: tt.login})
		if got := <-got; !slices.Equal(got, tt.want) {
			t.Errorf("%s, login %v: %q; want %q", tt.scheme, tt.login != nil, got, tt.want)
		}
	}
}

// A port that only closes a plain connection is asked for TLS, under a name below
// .localhost too.
func TestPortIsAskedForTLS(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for first := true; ; first = false {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if first {
				conn.Read(make([]byte, 4096))
			} else {
				tls.Server(conn, good()).Handshake()
			}
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	r, err := Run(t.Context(), Options{URL: "ws://example1.localhost:" + port + "/", Timeout: time.Minute}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last := r.Steps[len(r.Steps)-1]; strings.Join(codes(r), " ") != "wrong-scheme" || last.OK() || !strings.HasPrefix(last.Problems[0].Hint, "the port speaks TLS") {
		t.Errorf("diagnoses %q, %+v; want wrong-scheme", codes(r), last)
	}
	ln.Close()
	<-done
}
