package probe

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"hash"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Login is an account to log in with. Only clients that are logged in learn the server's
// version, whether it has XEP-0198, and which address it sees.
type Login struct {
	JID      string // bare
	Password string // as it is: not normalized (RFC 8265), so ASCII is best
}

// maxIterations bounds the work that a server may ask of SCRAM. Servers use 4,096 to
// 600,000.
const maxIterations = 2_000_000

// forwardedClient is the address that a login over ws:// claims in X-Forwarded-For
// (RFC 5737). A server that believes the gate believes it.
const forwardedClient = "192.0.2.1"

// jid is the JID of the Login; empty without one.
func (p *prober) jid() string {
	if p.Login == nil {
		return ""
	}
	return p.Login.JID
}

// login logs in, asks, and compares. It sends the password only where nobody can read
// it: never past a certificate that it does not trust.
func (p *prober) login(_ context.Context, s *Step) error {
	if slices.ContainsFunc(p.report.Steps, func(s Step) bool { return !s.OK() }) {
		return &Problem{Text: "not tried: the certificate is not trusted, so the password would not be safe"}
	}
	mechanism, err := p.authenticate()
	if err != nil {
		return err
	}
	s.Facts = append(s.Facts, p.Login.JID+" with "+mechanism)
	if err := p.openStream(); err != nil {
		return err
	}
	features, err := p.next()
	if err != nil {
		return err
	}
	if features.XMLName.Local != "features" {
		return &Problem{fmt.Sprintf("got <%s> after the login, want <stream:features>", features.XMLName.Local), ""}
	}
	o := read(features)
	p.judgeSession(o)
	if !o.bind {
		return nil
	}
	bound, err := p.ask("type='set'", "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>")
	if err != nil {
		return err
	}
	for _, child := range bound.Children {
		if child.XMLName.Local == "error" {
			return &Problem{"the server binds no resource: " + child.condition(), "does the account have as many sessions as it may? the server's log says more"}
		}
	}
	if answer, err := p.ask("type='get' to='"+quoted(p.Domain)+"'", "<query xmlns='jabber:iq:version'/>"); err != nil {
		return err
	} else if names := texts(answer.first(), "name"); len(names) > 0 {
		versions := append(texts(answer.first(), "version"), "")
		p.report.Server = recognize(names[0], versions[0], "its own word (XEP-0092)")
		s.Facts = append(s.Facts, "server "+names[0]+" "+versions[0])
	}
	return p.askAddress(s)
}

// askAddress asks which address the server sees (XEP-0279).
func (p *prober) askAddress(s *Step) error {
	var seen netip.Addr
	for _, inside := range []string{"<address xmlns='urn:xmpp:sic:1'/>", "<ip xmlns='urn:xmpp:sic:0'/>"} {
		answer, err := p.ask("type='get'", inside)
		if err != nil {
			return err
		}
		first := answer.first()
		for _, text := range append(texts(first, "ip"), strings.TrimSpace(first.Text)) {
			if addr, err := netip.ParseAddr(text); err == nil && !seen.IsValid() {
				seen = addr.Unmap()
			}
		}
		if seen.IsValid() {
			break
		}
	}
	if !seen.IsValid() {
		s.Facts = append(s.Facts, "the server does not say which address it sees (XEP-0279)")
		return nil
	}
	p.report.SeenAs = seen.String()
	s.Facts = append(s.Facts, "seen as "+seen.String())
	own := netip.MustParseAddrPort(p.conn.LocalAddr().String()).Addr().Unmap()
	switch {
	case seen.String() == forwardedClient:
	case p.url.Scheme == "ws":
		p.diagnose("forwarded-not-believed", "the server sees %s, not the address that X-Forwarded-For names: all clients of the gate share one address in its log, its limits and its bans", seen)
	case own.IsLoopback() && seen.IsLoopback():
		s.Notes = append(s.Notes, "on this machine's loopback that does not tell whether the server believes X-Forwarded-For: probe from another machine, or the server itself with ws://")
	case p.url.Scheme == "wss" && seen != own && isInner(seen.String()):
		p.diagnose("forwarded-not-believed", "the server sees %s, while this client comes from %s: all clients of the gate share one address in its log, its limits and its bans", seen, own)
	}
	return nil
}

// authenticate does SASL and returns the mechanism.
func (p *prober) authenticate() (mechanism string, err error) {
	node, _, _ := strings.Cut(p.Login.JID, "@")
	for _, m := range []string{"SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"} {
		if slices.Contains(p.sasl, m) {
			mechanism = m
			break
		}
	}
	var scram scramClient
	first := "\x00" + node + "\x00" + p.Login.Password
	switch mechanism {
	case "":
		return "", &Problem{"the server offers no mechanism that the probe has: SCRAM-SHA-512, -256, -1 or PLAIN", ""}
	case "PLAIN":
		if p.url.Scheme == "ws" && !isLoopbackConn(p.conn) {
			return "", &Problem{"not tried: only PLAIN is offered, and the connection is not encrypted", "probe from the server's own machine, or through the gate"}
		}
	default:
		scram = newSCRAM(mechanism, node, p.Login.Password)
		first = scram.first()
	}
	if err := p.send(fmt.Sprintf("<auth xmlns='%s' mechanism='%s'>%s</auth>", nsSASL, mechanism, base64.StdEncoding.EncodeToString([]byte(first)))); err != nil {
		return "", err
	}
	for {
		e, err := p.next()
		if err != nil {
			return "", err
		}
		data, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Text))
		switch e.XMLName.Local {
		case "success":
			if scram.proven || len(data) > 0 && scram.verify(string(data)) || mechanism == "PLAIN" {
				return mechanism, nil
			}
			return "", &Problem{"the server did not prove that it knows the password", "is this the right server?"}
		case "failure":
			return "", &Problem{"the login failed: " + e.condition(), "is the password in the file of -login right? the server's log says more"}
		case "challenge":
			var response string
			if !scram.verify(string(data)) {
				if response, err = scram.final(string(data)); err != nil {
					return "", err
				}
			}
			if err := p.send(fmt.Sprintf("<response xmlns='%s'>%s</response>", nsSASL, base64.StdEncoding.EncodeToString([]byte(response)))); err != nil {
				return "", err
			}
		default:
			return "", &Problem{fmt.Sprintf("got <%s> in a login", printable([]byte(e.XMLName.Local))), ""}
		}
	}
}

// condition is the name of an error's condition.
func (e element) condition() string {
	condition := e.XMLName.Local
	for _, child := range e.Children {
		if child.XMLName.Local != "text" {
			condition = child.XMLName.Local
		}
	}
	return printable([]byte(condition))
}

// ask sends an <iq/> with these attributes, and returns the answer, an error too.
func (p *prober) ask(attributes, inside string) (element, error) {
	id := rand.Text()
	if err := p.send("<iq xmlns='jabber:client' id='" + id + "' " + attributes + ">" + inside + "</iq>"); err != nil {
		return element{}, err
	}
	for range 64 { // what else comes: presence, pushes
		e, err := p.next()
		if err != nil || e.XMLName.Local == "iq" && e.ID == id {
			return e, err
		}
	}
	return element{}, &Problem{"the server does not answer an <iq/>", ""}
}

// quoted escapes an attribute's value.
func quoted(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

// A scramClient is a client's side of SCRAM (RFC 5802) without channel binding.
type scramClient struct {
	new       func() hash.Hash
	password  string
	bare      string // client-first-message-bare
	nonce     string
	signature []byte // expected of the server
	proven    bool
}

func newSCRAM(mechanism, user, password string) scramClient {
	hashes := map[string]func() hash.Hash{"SCRAM-SHA-1": sha1.New, "SCRAM-SHA-256": sha256.New, "SCRAM-SHA-512": sha512.New}
	c := scramClient{new: hashes[mechanism], password: password, nonce: rand.Text()}
	c.bare = "n=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(user) + ",r=" + c.nonce
	return c
}

// gs2 says that the probe has no channel binding.
const gs2 = "n,,"

func (c *scramClient) first() string { return gs2 + c.bare }

// final answers the server's first message.
func (c *scramClient) final(challenge string) (string, error) {
	var nonce, salt string
	var rounds int
	for field := range strings.SplitSeq(challenge, ",") {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "r":
			nonce = value
		case "s":
			salt = value
		case "i":
			rounds, _ = strconv.Atoi(value)
		}
	}
	raw, err := base64.StdEncoding.DecodeString(salt)
	if err != nil || !strings.HasPrefix(nonce, c.nonce) || rounds < 1 || rounds > maxIterations || c.new == nil {
		return "", &Problem{fmt.Sprintf("the server's SCRAM message %q makes no sense", printable([]byte(challenge))), ""}
	}
	key, err := pbkdf2.Key(c.new, c.password, raw, rounds, c.new().Size())
	if err != nil {
		return "", err
	}
	without := "c=" + base64.StdEncoding.EncodeToString([]byte(gs2)) + ",r=" + nonce
	message := c.bare + "," + challenge + "," + without
	client := c.mac(key, "Client Key")
	stored := c.new()
	stored.Write(client)
	proof := c.mac(stored.Sum(nil), message)
	subtle.XORBytes(proof, proof, client)
	c.signature = c.mac(c.mac(key, "Server Key"), message)
	return without + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}

// verify reports whether data is the server's final message, and the right one.
func (c *scramClient) verify(data string) bool {
	value, ok := strings.CutPrefix(data, "v=")
	if !ok || c.signature == nil {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(value)
	c.proven = err == nil && hmac.Equal(raw, c.signature)
	return c.proven
}

func (c *scramClient) mac(key []byte, message string) []byte {
	h := hmac.New(c.new, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
