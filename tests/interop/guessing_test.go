package interop

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// Real clients try a wrong password at a real server, one after the other, until
// the gate refuses their address; somebody from there who knows his password is
// kept out as well. After a pardon he is in, without anybody touching his client.
func TestGuessingProsody(t *testing.T) {
	const domain = "example1.test"
	url := startProsody(t, domain)
	for _, kind := range []string{"strophe", "xmpp.js"} {
		t.Run(kind, func(t *testing.T) {
			site := gate.NewSite(t, domain)
			g := site.Start(t, fmt.Sprintf("[upstream.prosody]\nnodes = [%q]\n\n[limits]\nlogin_failures = \"4/10m\"\n", url))
			_, port, err := net.SplitHostPort(g.Addr("wss"))
			if err != nil {
				t.Fatal(err)
			}
			service := "wss://" + net.JoinHostPort(domain, port) + "/"
			alice, full := login(t, site, kind, service, "alice@"+domain, nil)

			guess := func(answered func(event) bool, code int) {
				t.Helper()
				guesser := visit(t, site, kind, service, "alice@"+domain, map[string]any{"password": "wrong"})
				if answered != nil {
					guesser.want("received", answered)
				}
				if code != 0 {
					guesser.want("closed", func(e event) bool { return e.Code == code })
				}
				guesser.script.stdin.Close()
			}
			for range 3 {
				guess(func(e event) bool { return strings.Contains(e.Data, "<not-authorized/>") }, 0)
			}
			guess(func(e event) bool { return strings.Contains(e.Data, "<policy-violation ") }, 1008)
			guess(nil, 1006)
			late := visit(t, site, kind, service, "alice@"+domain, nil)
			late.want("closed", func(e event) bool { return e.Code == 1006 })
			alice.says(full, "still here")
			alice.hears(full, "still here")

			resp, err := http.Post("http://"+g.Addr("admin")+"/pardon?client=127.0.0.1", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("POST /pardon: %s", resp.Status)
			}
			late.online()
		})
	}
}

// The same over BOSH, as Prosody's mod_bosh writes it.
func TestGuessingBOSHProsody(t *testing.T) {
	const domain = "example1.test"
	bosh := strings.NewReplacer("ws://", "http://", "/xmpp-websocket", "/http-bind")
	url := startProsody(t, domain)
	site := gate.NewSite(t, domain)
	g := site.Start(t, fmt.Sprintf("[upstream.prosody]\nnodes = [%q]\n\n[[vhost]]\nnames = [%q]\nbosh = %q\n\n[limits]\nlogin_failures = \"3/10m\"\n",
		url, domain, bosh.Replace(url)))
	transport := &http.Transport{TLSClientConfig: site.Client(domain), DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&tls.Dialer{Config: site.Client(domain)}).DialContext(ctx, "tcp", g.Addr("wss"))
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	post := func(body string) (int, string) {
		t.Helper()
		resp, err := client.Post("https://"+domain+"/http-bind", "text/xml; charset=utf-8", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}
	guess := func(password string) (int, string) {
		t.Helper()
		code, answer := post("<body rid='1' to='" + domain + "' hold='1' wait='5' ver='1.6' xml:lang='en' xmpp:version='1.0' xmlns='http://jabber.org/protocol/httpbind' xmlns:xmpp='urn:xmpp:xbosh'/>")
		if code != http.StatusOK {
			return code, answer
		}
		sid := regexp.MustCompile(`\bsid=['"]([^'"]+)`).FindStringSubmatch(answer)
		if sid == nil {
			t.Fatalf("no session: %s", answer)
		}
		response := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00" + password))
		return post("<body rid='2' sid='" + sid[1] + "' xmlns='http://jabber.org/protocol/httpbind'><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + response + "</auth></body>")
	}
	for range 2 {
		if code, answer := guess("wrong"); code != http.StatusOK || !strings.Contains(answer, "not-authorized") {
			t.Errorf("a guess: %d %s; want not-authorized", code, answer)
		}
		if code, answer := guess(passwordOf(domain)); code != http.StatusOK || !strings.Contains(answer, "<success ") {
			t.Errorf("the right password: %d %s; want success", code, answer)
		}
	}
	for range 2 {
		if code, answer := guess("wrong"); code != http.StatusForbidden {
			t.Errorf("a guess too many: %d %s; want 403", code, answer)
		}
	}
}
