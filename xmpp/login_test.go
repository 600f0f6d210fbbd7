package xmpp

import (
	"strings"
	"testing"
)

const (
	failed   = `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>`
	aborted  = `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><aborted/></failure>`
	succeeds = `<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>dj0=</success>`
	notAuth  = `<error code='401' type='auth'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`
)

// padding is a possible id of a client, which the server repeats.
var padding = strings.Repeat("/>x", maxLoginTag)

func failedWith(condition string) string {
	return `<failure xmlns="urn:ietf:params:xml:ns:xmpp-sasl"><` + condition + `/></failure>`
}

func streamError(condition string) string {
	return `<stream:error><` + condition + ` xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>no</text></stream:error>`
}

func inBody(s string) string {
	return `<body xmlns='http://jabber.org/protocol/httpbind' sid="a" xmlns:stream='http://etherx.jabber.org/streams'>` + s + `</body>`
}

// Input from servers, and the logins in it.
var logins = []struct {
	name          string
	in            string
	failed        int
	succeeded, is bool
}{
	// In the form of real servers.
	{"Prosody", `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/><text>Unable to authorize you with the authentication credentials you've sent.</text></failure>`, 1, false, false},
	{"ejabberd", `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/><text xml:lang='en'>Invalid username or password</text></failure>`, 1, false, false},
	{"Tigase", `<failure xmlns="urn:ietf:params:xml:ns:xmpp-sasl"><not-authorized/></failure>`, 1, false, false},
	{"SASL 2", `<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/><text>no</text></failure>`, 1, false, false},
	{"text before the condition", `<failure xmlns='urn:xmpp:sasl:2'><text>no</text><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>`, 1, false, false},
	{"a prefix", `<s:failure xmlns:s='urn:ietf:params:xml:ns:xmpp-sasl'><s:not-authorized/></s:failure>`, 1, false, false},
	{"white space", " \n<failure\n xmlns = 'urn:ietf:params:xml:ns:xmpp-sasl' >\n <not-authorized /> </failure >\n", 1, false, false},
	{"an XML declaration in front", `<?xml version='1.0'?>` + failed, 1, false, false},
	{"success", succeeds, 0, true, true},
	{"success, SASL 2", `<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@b</authorization-identifier></success>`, 0, true, true},
	{"features", features, 0, false, false},
	{"challenge", `<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cj1h</challenge>`, 0, false, false},

	// Conditions.
	{"account-disabled", failedWith("account-disabled"), 1, false, false},
	{"a condition of the server's own", failedWith("bad-auth"), 1, false, false},
	{"no condition", `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'></failure>`, 1, false, false},
	{"an empty one", `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`, 1, false, false},
	{"only text", `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><text>no</text></failure>`, 1, false, false},
	{"aborted", aborted, 0, false, false},
	{"credentials-expired", failedWith("credentials-expired"), 0, false, false},
	{"encryption-required", failedWith("encryption-required"), 0, false, false},
	{"incorrect-encoding", failedWith("incorrect-encoding"), 0, false, false},
	{"invalid-authzid", failedWith("invalid-authzid"), 0, false, false},
	{"invalid-mechanism", failedWith("invalid-mechanism"), 0, false, false},
	{"malformed-request", failedWith("malformed-request"), 0, false, false},
	{"mechanism-too-weak", failedWith("mechanism-too-weak"), 0, false, false},
	{"temporary-auth-failure", failedWith("temporary-auth-failure"), 0, false, false},

	// Several, and after other elements.
	{"two in a message", failed + failed, 2, false, false},
	{"one of two", aborted + failed, 1, false, false},
	{"behind a stanza", `<iq type='result' id='1'><query xmlns='jabber:iq:register'><username/></query></iq>` + failed, 1, false, false},
	{"behind features", features + failed, 1, false, false},
	{"failure, then success", failed + succeeds, 1, true, true},
	{"success, then failure", succeeds + failed, 0, true, true},
	{"older draft", `<?xml version='1.0'?>` + tigaseStream + features + failed, 1, false, false},
	{"older draft, the end", failed + `</stream:stream>`, 1, false, false},
	{"BOSH", inBody(failed), 1, false, false},
	{"BOSH, features in front", inBody(features + failed + failed), 2, false, false},
	{"BOSH, success", inBody(succeeds), 0, true, true},
	{"BOSH, nothing", `<body xmlns='http://jabber.org/protocol/httpbind'/>`, 0, false, false},
	{"BOSH, an apostrophe and a bracket in a value", `<body authid="a>b'c" xmlns='http://jabber.org/protocol/httpbind'>` + failed + `</body>`, 1, false, false},

	// jabber:iq:auth.
	{"iq auth", `<iq type='error' id='2'>` + notAuth, 1, false, false},
	{"iq auth, with the question", `<iq type='error' id='2'><query xmlns='jabber:iq:auth'><username>a</username></query>` + notAuth, 1, false, false},
	{"iq auth, a padded id", `<iq id='` + padding + `' type='error'>` + notAuth, 1, false, false},
	{"iq auth, a padded id that does not end", `<iq type='error' id='` + padding + `'>` + notAuth, 1, false, false},
	{"iq auth over BOSH, a padded id", inBody(`<iq id="` + padding + `" type="error"><query xmlns='jabber:iq:auth' x='` + padding + `'/>` + notAuth), 1, false, false},
	{"a padded answer that is no error", `<iq id='` + padding + `' type='result'><query xmlns='jabber:iq:auth'><username/></query></iq>`, 0, false, false},
	{"BOSH, behind a padded answer", inBody(`<iq id='` + padding + `' type='result'/>` + failed), 1, false, false},
	{"iq auth, without a condition", `<iq type='error' id='2'><error code='401'>Unauthorized</error></iq>`, 1, false, false},
	{"iq auth, an empty error", `<iq type='error' id='2'><query xmlns='jabber:iq:auth'/><error code="401"/></iq>` + failed, 2, false, false},
	{"iq auth, another code", `<iq type='error' id='2'><error code='406'>Not Acceptable</error></iq>`, 0, false, false},
	{"a code in a result", `<iq type='result' id='2'><error code='401'/></iq>`, 0, false, false},
	{"a code further inside", `<iq type='error' id='2'><x><error code='401'/></x></iq>`, 0, false, false},
	{"iq auth over BOSH, without a condition", inBody(`<iq type='error' id='2'><query xmlns='jabber:iq:auth'/><error code='401'>Unauthorized</error></iq>`), 1, false, false},
	{"another iq over BOSH, without a condition", inBody(`<iq type='error' id='2'><error code='401'>Unauthorized</error></iq>`), 0, false, false},
	{"a stream error, nothing was tried", streamError("not-authorized") + streamError("policy-violation"), 0, false, false},
	{"a stream error over BOSH", inBody(streamError("not-authorized")), 1, false, false},
	{"another stream error over BOSH", inBody(streamError("policy-violation")), 0, false, false},
	{"iq auth, something else", `<iq type='error' id='2'><error code='406'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`, 0, false, false},
	{"iq auth over BOSH", inBody(`<iq type='error' id='2'><query xmlns='jabber:iq:auth'/>` + notAuth), 1, false, false},
	{"another iq over BOSH", inBody(`<iq type='error' id='2'><pubsub xmlns='http://jabber.org/protocol/pubsub'/>` + notAuth), 0, false, false},

	// Not the server's own elements.
	{"inside a message", `<message><body>hi</body>` + failed + `</message>` + failed, 0, false, true},
	{"behind an error", `<message type='error' from="example1.com"><error/></message>` + failed, 1, false, false},
	{"behind a padded error", `<message id='` + padding + `' type='error'/>` + failed, 1, false, false},
	{"behind another error", `<presence from='a@b' type="error"><error/></presence>` + failed, 1, false, false},
	{"inside an error", `<message type='error'>` + failed + `</message>`, 0, false, false},
	{"BOSH, behind an error", inBody(`<message type='error'/>` + failed), 1, false, false},
	{"inside a presence", `<presence>` + failed + `</presence>`, 0, false, true},
	{"inside an iq", `<iq type='result'>` + failed + `</iq>`, 0, false, false},
	{"inside a request", `<iq type='set'>` + failed + `</iq>`, 0, false, true},
	{"BOSH, inside an iq", inBody(`<iq type='result'>` + failed + `</iq>`), 0, false, false},
	{"in CDATA", inBody(`<iq type='result'><x><![CDATA[ > </x></iq>` + failed + ` ]] ]>]]></x></iq>`), 0, false, false},
	{"in CDATA of the server's own", inBody(`<challenge><![CDATA[` + failed + `]]></challenge>`), 0, false, false},
	{"in a comment", `<!-- ` + failed + ` -->`, 0, false, false},
	{"in a value", `<iq type='result' id="` + failed + `"/>`, 0, false, false},
	{"escaped", `<challenge>&lt;failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></challenge>`, 0, false, false},
	{"another namespace", `<failure xmlns='urn:xmpp:sm:3'><not-authorized/></failure>`, 0, false, false},
	{"an end tag", `</failure>`, 0, false, false},
	{"text", `failure`, 0, false, false},
	{"nothing", ``, 0, false, false},
}

// The boundaries between pieces do not affect the result.
func TestLoginReader(t *testing.T) {
	for _, tt := range logins {
		for _, size := range []int{len(tt.in) + 1, 1, 2, 3, 7, 50} {
			var r LoginReader
			for rest := tt.in; rest != ""; {
				n := min(size, len(rest))
				r.Feed([]byte(rest[:n]))
				rest = rest[n:]
			}
			r.End()
			if r.Failed != tt.failed || r.Succeeded != tt.succeeded || r.In != tt.is {
				t.Errorf("%s, in pieces of %d: failed %d, succeeded %t, in %t; want %d, %t, %t",
					tt.name, size, r.Failed, r.Succeeded, r.In, tt.failed, tt.succeeded, tt.is)
			}
		}
	}
}

// Over BOSH an error without the question counts as a failure as often as the session
// has asked. An error with the question also uses up one of those; other answers do
// not.
func TestLoginReaderAsked(t *testing.T) {
	const (
		refused = `<iq type='error' id='2'>` + notAuth
		whole   = `<iq type='error' id='2'><query xmlns='jabber:iq:auth'/>` + notAuth
		other   = `<iq type='error' id='2'><error code='406'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`
		fields  = `<iq type='result' id='2'><query xmlns='jabber:iq:auth'><not-authorized/></query></iq>`
	)
	padded := `<iq id='` + padding + `' type='error'>` + notAuth
	for _, tt := range []struct {
		name                string
		in                  string
		asked, failed, left int
	}{
		{"a refusal", inBody(refused), 1, 1, 0},
		{"with a padded id", inBody(padded), 1, 1, 0},
		{"without a condition", inBody(`<iq type='error' id='2'><error code='401'>Unauthorized</error></iq>`), 1, 1, 0},
		{"with a code and a condition", inBody(refused), 2, 1, 1},
		{"a stream error", inBody(streamError("policy-violation")), 2, 1, 1},
		{"nobody asked", inBody(refused + padded), 0, 0, 0},
		{"more than were asked for", inBody(refused + padded + refused), 2, 2, 0},
		{"with the question", inBody(whole), 1, 1, 0},
		{"with the question, and nobody asked", inBody(whole), 0, 1, 0},
		{"one condition after the other", inBody(strings.Replace(refused, "</error>", "<not-authorized/></error>", 1)), 2, 1, 1},
		{"another error", inBody(other), 1, 0, 1},
		{"a result", inBody(`<iq type='result' id='2'/>` + fields), 1, 0, 1},
		{"behind a result", inBody(`<iq type='result' id='2'/>` + refused), 1, 1, 0},
		{"behind another error", inBody(other + refused), 1, 1, 0},
		{"behind a message that is an error", inBody(`<message type='error' id='2'/>` + refused), 1, 1, 0},
		{"after the login", inBody(`<presence/>` + refused), 1, 0, 1},
		{"SASL", inBody(failed), 1, 1, 1},
		{"inside a message", inBody(`<message type='error'>` + refused + `</message>`), 1, 0, 1},
	} {
		for _, size := range []int{len(tt.in), 1, 7} {
			left := tt.asked
			r := LoginReader{Asked: func() bool {
				if left == 0 {
					return false
				}
				left--
				return true
			}}
			for rest := tt.in; rest != ""; {
				n := min(size, len(rest))
				r.Feed([]byte(rest[:n]))
				rest = rest[n:]
			}
			r.End()
			if r.Failed != tt.failed || left != tt.left {
				t.Errorf("%s, in pieces of %d: failed %d, %d left; want %d, %d", tt.name, size, r.Failed, left, tt.failed, tt.left)
			}
		}
	}
}

// A stream error that refuses the client counts if the client may have tried to log in
// and has no other result.
func TestLoginReaderTried(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		failed   int
		tried    bool // afterwards
	}{
		{"RFC 7395", strings.Replace(streamError("not-authorized"), "error>", "error xmlns:stream='http://etherx.jabber.org/streams'>", 1), 1, false},
		{"older draft", streamError("not-authorized") + `</stream:stream>`, 1, false},
		{"another prefix", `<s:error xmlns:s='http://etherx.jabber.org/streams'><s:not-authorized/></s:error>`, 1, false},
		{"too many tries (RFC 6120, section 6.4.5)", streamError("policy-violation"), 1, false},
		{"BOSH", inBody(streamError("policy-violation")), 1, false},
		{"text in front", `<stream:error><text>no</text><not-authorized/></stream:error>`, 1, false},
		{"behind features", features + streamError("not-authorized"), 1, false},
		{"behind a failure", failed + streamError("policy-violation"), 1, false},
		{"behind an empty failure", `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>` + streamError("not-authorized"), 1, false},
		{"behind a failure that does not count", aborted + streamError("not-authorized"), 0, false},
		{"behind a challenge", `<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>` + streamError("not-authorized"), 1, false},
		{"two of them", streamError("not-authorized") + streamError("not-authorized"), 1, false},
		{"another condition", streamError("connection-timeout") + streamError("see-other-host"), 0, true},
		{"no condition", `<stream:error/><stream:error></stream:error><not-authorized/>`, 0, true},
		{"further inside", `<stream:error><x><not-authorized/></x></stream:error>`, 0, true},
		{"inside a stanza", `<iq type='result'>` + streamError("not-authorized") + `</iq>`, 0, true},
		{"an error of no stream", `<error xmlns='jabber:client'><not-authorized/></error>`, 0, true},
		{"behind success", succeeds + streamError("not-authorized"), 0, true},
	} {
		for _, size := range []int{len(tt.in), 1, 7} {
			r := LoginReader{Tried: true}
			for rest := tt.in; rest != ""; {
				n := min(size, len(rest))
				r.Feed([]byte(rest[:n]))
				rest = rest[n:]
			}
			r.End()
			if r.Failed != tt.failed || r.Tried != tt.tried {
				t.Errorf("%s, in pieces of %d: failed %d, tried %t; want %d, %t", tt.name, size, r.Failed, r.Tried, tt.failed, tt.tried)
			}
		}
	}
}

// A failure that is cut counts; a tag without an end uses a bounded amount of memory.
func TestLoginReaderCut(t *testing.T) {
	for _, s := range []string{`<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>`, `<failure xmlns='urn:ietf:par`, `<failure `} {
		var r LoginReader
		r.Feed([]byte(s))
		if r.End(); r.Failed != 1 {
			t.Errorf("%s: failed %d, want 1", s, r.Failed)
		}
	}
	var r LoginReader
	r.Feed([]byte("<failure x='"))
	for range 100 {
		r.Feed([]byte(strings.Repeat("x", 1000)))
	}
	if cap(r.cut) > 2*maxLoginTag {
		t.Errorf("%d bytes are kept of a tag, want at most %d", cap(r.cut), maxLoginTag)
	}
}

// A complete message causes no allocation.
func TestLoginReaderAllocates(t *testing.T) {
	message := []byte(features + failed)
	if n := testing.AllocsPerRun(100, func() {
		var r LoginReader
		r.Feed(message)
		r.End()
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// The boundaries between pieces do not affect the result, and nothing panics. The
// logins of a session add at most one failure each, and remove none.
func FuzzLoginReader(f *testing.F) {
	for _, tt := range logins {
		f.Add(tt.in, uint8(3))
	}
	f.Fuzz(func(t *testing.T, in string, size uint8) {
		if len(in) > maxLoginTag {
			return // a longer tag is cut where a piece ends
		}
		var whole, pieces, asked LoginReader
		whole.Feed([]byte(in))
		whole.End()
		for rest := in; rest != ""; {
			n := min(int(size)+1, len(rest))
			pieces.Feed([]byte(rest[:n]))
			rest = rest[n:]
		}
		pieces.End()
		if whole.Failed != pieces.Failed || whole.In != pieces.In || whole.Succeeded != pieces.Succeeded {
			t.Errorf("%q: whole %d %t, in pieces of %d: %d %t", in, whole.Failed, whole.In, size+1, pieces.Failed, pieces.In)
		}
		taken := 0
		asked.Asked = func() bool { taken++; return true }
		asked.Feed([]byte(in))
		asked.End()
		if asked.Failed < whole.Failed || asked.Failed > whole.Failed+taken || asked.In != whole.In {
			t.Errorf("%q: failed %d, in %t; where %d were asked for %d, %t", in, whole.Failed, whole.In, taken, asked.Failed, asked.In)
		}
	})
}
