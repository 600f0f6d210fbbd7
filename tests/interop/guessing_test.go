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

// A boshClient speaks BOSH with a Prosody behind a gate that refuses an address after
// three failed logins.
type boshClient struct {
	t      *testing.T
	client *http.Client
	gate   *gate.Gate
	domain string
}

func newBOSHClient(t *testing.T, domain, url string) *boshClient {
	t.Helper()
	bosh := strings.NewReplacer("ws://", "http://", "/xmpp-websocket", "/http-bind")
	site := gate.NewSite(t, domain)
	g := site.Start(t, fmt.Sprintf("[upstream.prosody]\nnodes = [%q]\n\n[[vhost]]\nnames = [%q]\nbosh = %q\n\n[limits]\nlogin_failures = \"3/10m\"\n",
		url, domain, bosh.Replace(url)))
	transport := &http.Transport{TLSClientConfig: site.Client(domain), DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&tls.Dialer{Config: site.Client(domain)}).DialContext(ctx, "tcp", g.Addr("wss"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &boshClient{t, &http.Client{Transport: transport, Timeout: patience}, g, domain}
}

// post sends a body, from any goroutine. The status is 0 where there is no answer.
func (c *boshClient) post(body string) (int, string) {
	c.t.Helper()
	resp, err := c.client.Post("https://"+c.domain+"/http-bind", "text/xml; charset=utf-8", strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Error(err)
		return 0, ""
	}
	return resp.StatusCode, string(answer)
}

// session begins a session, and returns its sid, and what was answered.
func (c *boshClient) session() (sid string, code int, answer string) {
	c.t.Helper()
	code, answer = c.post("<body rid='1' to='" + c.domain + "' hold='1' wait='1' ver='1.6' xml:lang='en' xmpp:version='1.0' xmlns='http://jabber.org/protocol/httpbind' xmlns:xmpp='urn:xmpp:xbosh'/>")
	if code != http.StatusOK {
		return "", code, answer
	}
	m := regexp.MustCompile(`\bsid=['"]([^'"]+)`).FindStringSubmatch(answer)
	if m == nil {
		c.t.Fatalf("no session: %s", answer)
	}
	return m[1], code, answer
}

// say sends a session's request.
func (c *boshClient) say(sid string, rid int, stanzas string) (int, string) {
	c.t.Helper()
	return c.post(fmt.Sprintf("<body rid='%d' sid='%s' xmlns='http://jabber.org/protocol/httpbind'>%s</body>", rid, sid, stanzas))
}

// The same over BOSH, as Prosody's mod_bosh writes it.
func TestGuessingBOSHProsody(t *testing.T) {
	const domain = "example1.test"
	c := newBOSHClient(t, domain, startProsody(t, domain))
	guess := func(password string) (int, string) {
		t.Helper()
		sid, code, answer := c.session()
		if code != http.StatusOK {
			return code, answer
		}
		response := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00" + password))
		return c.say(sid, 2, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"+response+"</auth>")
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

// Likewise by jabber:iq:auth, with Prosody's mod_legacyauth, which does not repeat the
// question; and however the guesser writes it.
func TestGuessingIQAuthProsody(t *testing.T) {
	const domain = "example1.test"
	const namespace = "jabber:iq:auth"
	prosody := runProsody(t, "modules_enabled = { \"legacyauth\" }\nc2s_require_encryption = false\nallow_unencrypted_plain_auth = true\n", domain)
	fields := func(password string) string {
		return "<username>alice</username><password>" + password + "</password><resource>guess</resource>"
	}
	ask := func(id, namespace, fields string) string {
		return "<iq type='set' id='" + id + "'><query xmlns='" + namespace + "'>" + fields + "</query></iq>"
	}
	wrong := fields("wrong")
	for _, test := range []struct {
		name  string
		first string // what the guesser says before
		guess string
	}{
		{"as it should be", "<iq type='get' id='1'><query xmlns='jabber:iq:auth'><username>alice</username></query></iq>", ask("2", namespace, wrong)},
		{"with a padded id", "", ask(strings.Repeat("x/&gt;&apos;", 1000), namespace, wrong)},
		{"with an id that others have", "", "<iq type='get' id='1'><query xmlns='jabber:iq:auth'/></iq>" + ask("1", namespace, wrong)},
		{"with a character reference", "", ask("1", "jabber&#58;iq:&#x61;uth", wrong)},
		{"with a prefix", "", "<iq type='get' id='1' xmlns:a='jabber:iq:auth'><a:query>" + strings.NewReplacer("</", "</a:", "<", "<a:").Replace(wrong) + "</a:query></iq>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newBOSHClient(t, domain, prosody.url)
			guess := func(stanzas string) (int, string) {
				t.Helper()
				sid, code, answer := c.session()
				if code != http.StatusOK {
					return code, answer
				}
				rid := 2
				if test.first != "" {
					if code, answer := c.say(sid, rid, test.first); code != http.StatusOK || !strings.Contains(answer, "<resource/>") {
						t.Errorf("the first question: %d %s; want the fields", code, answer)
					}
					rid++
				}
				return c.say(sid, rid, stanzas)
			}
			for range 2 {
				if code, answer := guess(test.guess); code != http.StatusOK || !strings.Contains(answer, "<not-authorized ") {
					t.Errorf("a guess: %d %s; want not-authorized", code, answer)
				}
				if code, answer := guess(ask("2", namespace, fields(passwordOf(domain)))); code != http.StatusOK || !strings.Contains(answer, "type='result'") {
					t.Errorf("the right password: %d %s; want a result", code, answer)
				}
			}
			for range 2 {
				if code, answer := guess(test.guess); code != http.StatusForbidden {
					t.Errorf("a guess too many: %d %s; want 403", code, answer)
				}
			}
		})
	}

	// The answer comes to a request that was there before the guess.
	t.Run("beside a request that waits", func(t *testing.T) {
		c := newBOSHClient(t, domain, prosody.url)
		for _, want := range []int{http.StatusOK, http.StatusOK, http.StatusForbidden} {
			sid, _, _ := c.session()
			held := make(chan int)
			go func() {
				code, _ := c.say(sid, 2, "")
				held <- code
			}()
			guess, _ := c.say(sid, 3, ask("1", namespace, wrong))
			if before := <-held; before != want && guess != want {
				t.Errorf("answers %d and %d; want %d", before, guess, want)
			}
		}
	})

	// A guess that the gate could not find does not reach the server.
	t.Run("unreadable", func(t *testing.T) {
		c := newBOSHClient(t, domain, prosody.url)
		for name, write := range map[string]func(body string) string{
			"UTF-16": utf16,
			"a document type": func(s string) string {
				return "<!DOCTYPE body [<!ENTITY a 'jabber:iq:auth'>]>" + strings.Replace(s, namespace, "&a;", 1)
			},
			"a comment":   func(s string) string { return strings.Replace(s, "<iq", "<!-- --><iq", 1) },
			"two bodies":  func(s string) string { return "<body/>" + s },
			"an encoding": func(s string) string { return "<?xml version='1.0' encoding='iso-8859-1'?>" + s },
		} {
			sid, _, _ := c.session()
			body := fmt.Sprintf("<body rid='2' sid='%s' xmlns='http://jabber.org/protocol/httpbind'>%s</body>", sid, ask("1", namespace, wrong))
			if code, answer := c.post(write(body)); code != http.StatusOK || !strings.Contains(answer, `condition="bad-request"`) {
				t.Errorf("%s: %d %s; want bad-request", name, code, answer)
			}
			if code, answer := c.say(sid, 2, ask("1", namespace, fields(passwordOf(domain)))); code != http.StatusOK || !strings.Contains(answer, "type='result'") {
				t.Errorf("%s: %d %s afterwards; want a session to which nothing has happened", name, code, answer)
			}
		}
	})

	// Errors that others send to somebody who logged in that way are none of his.
	t.Run("errors of others", func(t *testing.T) {
		c := newBOSHClient(t, domain, prosody.url)
		login := func(resource string) (sid string) {
			sid, _, _ = c.session()
			right := strings.Replace(fields(passwordOf(domain)), ">guess<", ">"+resource+"<", 1)
			if code, answer := c.say(sid, 2, ask("1", namespace, right)); code != http.StatusOK || !strings.Contains(answer, "type='result'") {
				t.Fatalf("the right password: %d %s; want a result", code, answer)
			}
			if code, answer := c.say(sid, 3, "<presence/>"); code != http.StatusOK || !strings.Contains(answer, "<presence ") {
				t.Fatalf("presence: %d %s; want the same", code, answer)
			}
			return sid
		}
		victim, friend := login("victim"), login("friend")
		const refusal = "<iq type='error' id='1' to='alice@" + domain + "/victim'><error type='auth'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
		c.say(victim, 4, "") // the friend's presence
		c.say(friend, 4, strings.Repeat(refusal, 5)+"<iq type='get' id='2'><query xmlns='jabber:iq:roster'/></iq>")
		if code, answer := c.say(victim, 5, ""); code != http.StatusOK || strings.Count(answer, "<not-authorized ") != 5 {
			t.Errorf("the victim got %d %s; want the errors", code, answer)
		}
		login("victim2")
	})
}

// utf16 writes ASCII as UTF-16, with a byte order mark.
func utf16(s string) string {
	out := []byte{0xfe, 0xff}
	for _, b := range []byte(s) {
		out = append(out, 0, b)
	}
	return string(out)
}
