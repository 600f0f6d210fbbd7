package web

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A judge records its calls, and returns fixed results.
type judge struct {
	told         []int
	slow, banned time.Duration // for answers
	refused      time.Duration // for requests
}

func (j *judge) LoginsRefused(*http.Request) time.Duration { return j.refused }
func (j *judge) LoginsEnded(_ *http.Request, failed int) (slow, banned time.Duration) {
	j.told = append(j.told, failed)
	return j.slow, j.banned
}

func judged(j *judge) func(*Options) { return func(o *Options) { o.Logins = j } }

const (
	boshFailure = `<body xmlns='http://jabber.org/protocol/httpbind'><failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure></body>`
	boshSuccess = `<body xmlns='http://jabber.org/protocol/httpbind'><success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></body>`
)

// Failed logins in answers are counted, whole or in pieces, and the answers are passed
// on unchanged; messages with the same text are not counted.
func TestBOSHLogins(t *testing.T) {
	long := "<body xmlns='http://jabber.org/protocol/httpbind'><challenge>" + strings.Repeat("x", 100_000) + "</challenge>" + strings.TrimPrefix(boshFailure, "<body xmlns='http://jabber.org/protocol/httpbind'>")
	for _, test := range []struct {
		name, body string
		piece      int // 0: with a Content-Length
		told       int // number of calls
	}{
		{"a failure", boshFailure, 0, 1},
		{"a failure in pieces", boshFailure, 10, 1},
		{"behind much else", long, 0, 1},
		{"behind much else, in pieces", long, 5000, 1},
		{"success", boshSuccess, 0, 1},
		{"nothing", `<body xmlns='http://jabber.org/protocol/httpbind'/>`, 0, 0},
		{"empty", ``, 0, 0},
		{"no XMPP", `failure`, 0, 0},
		{"in a message", strings.NewReplacer("<failure", "<message><failure", "</failure>", "</failure></message>").Replace(boshFailure), 0, 0},
	} {
		j := &judge{}
		g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
			for rest := test.body; rest != ""; {
				n := len(rest)
				if test.piece > 0 {
					n = min(n, test.piece)
				}
				io.WriteString(w, rest[:n])
				rest = rest[n:]
				if test.piece > 0 {
					w.(http.Flusher).Flush()
				}
			}
		}, judged(j))
		if resp, body := g.do("POST", boshPath, strings.NewReader("<body/>")); resp.StatusCode != 200 || body != test.body {
			t.Errorf("%s: %s, %d bytes; want 200 and %d", test.name, resp.Status, len(body), len(test.body))
		}
		if len(j.told) != test.told {
			t.Errorf("%s: the judge was told %v; want it told %d times", test.name, j.told, test.told)
		}
	}
}

// A stream error that refuses the client counts if the request may have a login in it;
// not-authorized counts in any request, because the login may be in another.
func TestBOSHLoginsStreamErrors(t *testing.T) {
	const sasl = `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGFsaWNlAHdyb25n</auth>`
	for _, test := range []struct {
		name, condition, stanzas string
		failed                   int
	}{
		{"SASL", "policy-violation", sasl, 1},
		{"SASL 2", "policy-violation", `<authenticate xmlns='urn:xmpp:sasl:2'/>`, 1},
		{"jabber:iq:auth", "policy-violation", iqAuth, 1},
		{"with a character reference", "policy-violation", `<auth xmlns='urn&#58;ietf:params:xml:ns:xmpp-sasl'/>`, 1},
		{"no login", "policy-violation", `<message/>`, 0},
		{"another request's login", "not-authorized", ``, 1},
		{"another condition", "system-shutdown", sasl, 0},
	} {
		j := &judge{}
		g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "<body "+boshNS+" xmlns:stream='http://etherx.jabber.org/streams' type='terminate' condition='remote-stream-error'><stream:error><"+
				test.condition+" xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></body>")
		}, judged(j), roomy)
		g.do("POST", boshPath, strings.NewReader(ofSession("a", test.stanzas)))
		if failed := len(j.told); failed != test.failed || failed > 0 && j.told[0] != 1 {
			t.Errorf("%s, %s: the judge was told %v; want %d", test.name, test.condition, j.told, test.failed)
		}
	}
}

// An answer with the result of a login does not reach a refused address, and its
// requests do not reach the server.
func TestBOSHLoginsRefused(t *testing.T) {
	asked := 0
	for _, answer := range []string{boshFailure, boshSuccess} {
		j := &judge{banned: 90*time.Second + 1}
		g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { asked++; io.WriteString(w, answer) }, judged(j))
		for i := range 2 {
			resp, body := g.do("POST", boshPath, strings.NewReader("<body/>"))
			if resp.StatusCode != http.StatusForbidden || resp.Header.Get("Retry-After") != "91" || strings.Contains(body, "<body") {
				t.Errorf("request %d: %s, Retry-After %q, %q; want 403", i, resp.Status, resp.Header.Get("Retry-After"), body)
			}
			j.refused = j.banned
		}
	}
	if asked != 2 {
		t.Errorf("the server got %d requests; want the first of each two", asked)
	}
}

// A slowed client waits for its answer.
func TestBOSHLoginsSlow(t *testing.T) {
	j := &judge{slow: 50 * time.Millisecond}
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, boshFailure) }, judged(j))
	began := time.Now()
	if resp, body := g.do("POST", boshPath, strings.NewReader("<body/>")); resp.StatusCode != 200 || body != boshFailure {
		t.Errorf("%s %q; want the answer", resp.Status, body)
	}
	if took := time.Since(began); took < j.slow {
		t.Errorf("the answer came after %v; want at least %v", took, j.slow)
	}
}

// The server must send answers without a coding, whether logins are counted or not,
// because redirects must be hidden as well.
func TestBOSHLoginsCoding(t *testing.T) {
	for _, read := range []bool{true, false} {
		var got http.Header
		edits := []func(*Options){}
		if read {
			edits = append(edits, judged(&judge{}))
		}
		g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { got = r.Header }, edits...)
		g.do("POST", boshPath, strings.NewReader("<body/>"), "Accept-Encoding", "gzip", "Accept-Charset", "utf-16")
		if got.Get("Accept-Encoding") != "identity" || got.Get("Accept-Charset") != "" {
			t.Errorf("answers are read: %t; the server got Accept-Encoding %q, Accept-Charset %q", read, got.Get("Accept-Encoding"), got.Get("Accept-Charset"))
		}
	}
}
