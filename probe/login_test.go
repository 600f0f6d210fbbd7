package probe

import (
	"bufio"
	"encoding/base64"
	"net"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// talk is a prober whose server answers each message with those that answer returns. The
// connection is not encrypted, and not on the loopback.
func talk(t *testing.T, scheme, password string, answer func(message string) []string) *prober {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	go func() {
		for {
			f, err := ws.ReadFrame(server)
			if err != nil {
				return
			}
			for _, text := range answer(string(ws.UnmaskFrameInPlace(f).Payload)) {
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
