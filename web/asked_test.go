package web

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each session can take as many logins as it has asked for, and only its own.
func TestAskedLogins(t *testing.T) {
	a := newAskedLogins()
	address := netip.MustParseAddr("192.0.2.1")
	take := func(sid string, want bool) {
		t.Helper()
		if got := a.take(sid); got != want {
			t.Errorf("take(%q) = %t; want %t", sid, got, want)
		}
	}
	take("a", false)
	for _, n := range []int{1, 2} {
		if !a.add("a", address, n) || !a.add("b", address, 1) {
			t.Fatal("no room")
		}
	}
	for _, want := range []bool{true, true, true, false} {
		take("a", want)
	}
	take("A", false)
	take("", false)
	a.touch("a")
	a.touch("b")
	take("b", true)
	a.drop("b")
	a.drop("b")
	take("b", false)
	if len(a.sessions) != 0 || a.used.Len() != 0 {
		t.Errorf("%d sessions, %d in order; want none", len(a.sessions), a.used.Len())
	}
}

// A session keeps its place until it has sent no request for askedIdle. Before that no
// other session gets it, of the same address or of another.
func TestAskedLoginsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAskedLogins()
		addresses := 0
		// fill lets a new address ask until there is no room, and returns the number of
		// logins.
		fill := func() (room int) {
			addresses++
			address := netip.AddrFrom4([4]byte{192, 0, 2, byte(addresses)})
			for a.add(fmt.Sprint(addresses, " ", room), address, 1) {
				room++
			}
			if !a.add(fmt.Sprint(addresses, " ", 0), address, 1) && room > 0 {
				t.Error("a session that has asked may not ask again")
			}
			return room
		}
		for range askedShare {
			if got, want := fill(), askedSessions/askedShare; got != want {
				t.Fatalf("an address asked in %d sessions; want %d", got, want)
			}
		}
		if got := fill(); got != 0 {
			t.Errorf("all is taken, and another address asked in %d sessions", got)
		}
		time.Sleep(askedIdle - time.Second)
		a.touch("1 1")
		if got := fill(); got != 0 {
			t.Errorf("before any is idle another address asked in %d sessions", got)
		}
		time.Sleep(time.Second)
		if got, want := fill(), askedSessions/askedShare; got != want {
			t.Errorf("all but one are idle: another address asked in %d sessions; want %d", got, want)
		}
		for sid, want := range map[string]bool{"1 1": true, "1 2": false, "8 0": false} {
			if got := a.take(sid); got != want {
				t.Errorf("take(%q) = %t; want %t", sid, got, want)
			}
		}
		if len(a.sessions) != a.used.Len() {
			t.Errorf("%d sessions, %d in order", len(a.sessions), a.used.Len())
		}
	})
}

const (
	boshNS  = `xmlns='http://jabber.org/protocol/httpbind'`
	iqAuth  = `<iq type='set' id='1'><query xmlns='jabber:iq:auth'><username>a</username></query></iq>`
	refusal = `<iq type='error' id='1'><error type='auth'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`
)

func ofSession(sid, stanzas string) string {
	return fmt.Sprintf("<body %s sid='%s' rid='2'>%s</body>", boshNS, sid, stanzas)
}

func roomy(o *Options) { o.MaxBody = 1 << 20 }

// A refused jabber:iq:auth is counted in any answer of its session, even without a
// mark, and once for each login that the session asked for. Similar errors in other
// sessions, or after a login, are not counted.
func TestBOSHIQAuth(t *testing.T) {
	type exchange struct{ request, answer string }
	get := `<iq type='get' id='1'><query xmlns='jabber:iq:auth'/></iq>`
	result := `<iq type='result' id='1'/>`
	for _, test := range []struct {
		name   string
		said   []exchange // stanzas, after "SID "
		failed int
	}{
		{"at once", []exchange{{"a " + iqAuth, refusal}}, 1},
		{"later", []exchange{{"a " + iqAuth, ""}, {"a ", ""}, {"a ", refusal}}, 1},
		{"twice for one", []exchange{{"a " + iqAuth, refusal + refusal}, {"a ", refusal}}, 1},
		{"several", []exchange{{"a " + iqAuth + iqAuth, ""}, {"a " + iqAuth, refusal}, {"a ", refusal + refusal + refusal}}, 3},
		{"behind a result of the same id", []exchange{{"a " + get + iqAuth, result + refusal}}, 1},
		{"of another session", []exchange{{"a " + iqAuth, ""}, {"b ", refusal}, {"A ", refusal}}, 0},
		{"nobody asked", []exchange{{"a <iq/>", refusal}}, 0},
		{"text", []exchange{{"a <message><body>jabber:iq:auth</body></message>", refusal}}, 0},
		{"with a character reference", []exchange{{"a " + strings.Replace(iqAuth, ":", "&#x3A;", 1), refusal}}, 1},
		{"long", []exchange{{"a " + iqAuth + "<x>" + strings.Repeat("y", longAsk) + "</x>" + iqAuth, ""}, {"a ", refusal + refusal}}, 2},
		{"padded", []exchange{{"a " + strings.Replace(iqAuth, "id='1'", "id='"+strings.Repeat("y", longAsk)+"'", 1), refusal}}, 1},
		{"long without a login", []exchange{{"a <x>" + strings.Repeat("y", longAsk) + "</x>", refusal}}, 0},
		{"in", []exchange{{"a " + get + get + iqAuth, result}, {"a ", `<presence/>`}, {"a ", refusal}}, 0},
		{"in by SASL", []exchange{{"a " + iqAuth + `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`, `<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`}, {"a ", refusal}}, 0},
		{"not in by an error", []exchange{{"a " + iqAuth, `<message type='error'/>`}, {"a ", refusal}}, 1},
	} {
		j := &judge{}
		var answers []string
		g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "<body "+boshNS+">"+answers[0]+"</body>")
			answers = answers[1:]
		}, judged(j), roomy)
		for _, e := range test.said {
			answers = []string{e.answer}
			sid, stanzas, _ := strings.Cut(e.request, " ")
			if resp, body := g.do("POST", boshPath, strings.NewReader(ofSession(sid, stanzas))); resp.StatusCode != 200 || !strings.Contains(body, e.answer) {
				t.Errorf("%s: %s %q; want %q", test.name, resp.Status, body, e.answer)
			}
		}
		failed := 0
		for _, n := range j.told {
			failed += n
		}
		if failed != test.failed {
			t.Errorf("%s: the judge was told %v; want %d", test.name, j.told, test.failed)
		}
	}
}

// The answer that refuses a login may have begun before the client asks.
func TestBOSHIQAuthBegun(t *testing.T) {
	j := &judge{}
	asked := make(chan bool)
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "jabber:iq:auth") {
			close(asked)
			return
		}
		io.WriteString(w, "<body "+boshNS+">")
		w.(http.Flusher).Flush()
		<-asked
		io.WriteString(w, refusal+"</body>")
	}, judged(j), roomy)
	g.web.Client().Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
	answer := make(chan string)
	begun := make(chan bool)
	go func() {
		r, _ := http.NewRequestWithContext(t.Context(), "POST", g.web.URL+boshPath, strings.NewReader(ofSession("a", "")))
		r.Host = "example.com"
		resp, err := g.web.Client().Do(r)
		close(begun)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-begun
	g.do("POST", boshPath, strings.NewReader(ofSession("a", iqAuth)))
	if got := <-answer; !strings.Contains(got, refusal) || len(j.told) != 1 {
		t.Errorf("answer %q, the judge was told %v; want the refusal, counted", got, j.told)
	}
}

// A request that the server may read differently from the gate does not reach the
// server if logins are counted. Otherwise it does.
func TestBOSHIQAuthUnread(t *testing.T) {
	asked := 0
	server := func(w http.ResponseWriter, r *http.Request) { asked++ }
	whole := ofSession("a", iqAuth)
	for _, test := range []struct {
		name, method, query, body string
		header                    []string
		want                      string // a condition or a status; empty: the request reaches the server
	}{
		{"a login", "POST", "", whole, nil, ""},
		{"a query", "POST", "?x=y", whole, nil, ""},
		{"a page", "GET", "?x=y", "", nil, ""},
		{"a body in the query", "POST", "?%3Cbody%20sid='a'/%3E", ofSession("a", ""), nil, "403"},
		{"no end", "POST", "", strings.TrimSuffix(whole, "</body>"), nil, ""},
		{"a message with a comment", "POST", "", ofSession("a", "<message/><!-- -->"), nil, ""},
		{"a wrong charset, but no login", "POST", "", ofSession("a", ""), []string{"Content-Type", "text/xml; charset=iso-8859-1"}, ""},
		{"a wrong charset", "POST", "", whole, []string{"Content-Type", "text/xml; charset=iso-8859-1"}, "415"},
		{"a coding", "POST", "", whole, []string{"Content-Encoding", "x"}, "415"},
		{"before the session", "POST", "", fmt.Sprintf("<body %s to='a' rid='1'>%s</body>", boshNS, iqAuth), nil, "bad-request"},
		{"long, before the session", "POST", "", fmt.Sprintf("<body %s to='a' rid='1'>%s%*s</body>", boshNS, iqAuth, longAsk, ""), nil, "bad-request"},
		{"an empty sid", "POST", "", ofSession("", iqAuth), nil, "bad-request"},
		{"two sids", "POST", "", strings.Replace(whole, "sid", "sid='b' sid", 1), nil, "bad-request"},
		{"two sids, no login", "POST", "", strings.Replace(ofSession("a", ""), "sid", "sid='b' sid", 1), nil, "bad-request"},
		{"two bodies", "POST", "", ofSession("b", "") + whole, nil, "bad-request"},
		{"a comment", "POST", "", ofSession("a", "<!-- -->"+iqAuth), nil, "bad-request"},
		{"a document type", "POST", "", "<!DOCTYPE a [<!ENTITY a 'jabber:iq:auth'>]>" + whole, nil, "bad-request"},
		{"UTF-16", "POST", "", "\xfe\xff" + strings.Join(strings.Split(whole, ""), "\x00"), nil, "bad-request"},
		{"an encoding", "POST", "", "<?xml version='1.0' encoding='utf-7'?>" + whole, nil, "bad-request"},
		{"no XML", "POST", "", "hello", nil, ""},
		{"no XML, coded", "POST", "", "hello", []string{"Content-Encoding", "x"}, "bad-request"},
		{"no UTF-8", "POST", "", "hello\xff", nil, "bad-request"},
		{"a tag without an end", "POST", "", "hello <", nil, "bad-request"},
		{"big-endian UTF-16 of no tag", "POST", "", "\x00h\x00i", nil, "bad-request"},
		{"in a query", "GET", "?%3Cbody%20sid='a'/%3E", "", nil, "403"},
		{"in a query that is none", "GET", "?%3Cbody%20sid='a'/%3E%", "", nil, "403"},
	} {
		for _, judging := range []bool{true, false} {
			edits := []func(*Options){roomy}
			want := ""
			if judging {
				edits, want = append(edits, judged(&judge{})), test.want
			}
			g := newBOSHGate(t, server, edits...)
			asked = 0
			resp, body := g.do(test.method, boshPath+test.query, strings.NewReader(test.body), test.header...)
			switch {
			case want == "" && (resp.StatusCode != 200 || asked != 1):
				t.Errorf("%s, judging %t: %s %q; want the server's answer", test.name, judging, resp.Status, body)
			case want != "" && (asked > 0 || !strings.Contains(resp.Status+body, want)):
				t.Errorf("%s: the server was asked %d times, %s %q; want %s", test.name, asked, resp.Status, body, want)
			}
		}
	}
}

// An address with its full share of sessions with open logins gets no further one. Its
// other requests, and logins in sessions that have asked before, are passed on.
func TestBOSHIQAuthRoom(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {}, judged(&judge{}), roomy)
	for i := range askedSessions / askedShare {
		g.site.asked.add(fmt.Sprint(i), netip.MustParseAddr("127.0.0.1"), 1)
	}
	for _, test := range []struct {
		sid, stanzas string
		want         int
	}{
		{"new", iqAuth, 503}, {"new", "<iq/>", 200}, {"1", iqAuth, 200},
	} {
		resp, _ := g.do("POST", boshPath, strings.NewReader(ofSession(test.sid, test.stanzas)))
		if resp.StatusCode != test.want || (resp.Header.Get("Retry-After") != "") != (test.want == 503) {
			t.Errorf("%s, %s: %s, Retry-After %q; want %d", test.sid, test.stanzas, resp.Status, resp.Header.Get("Retry-After"), test.want)
		}
	}
}
