package chat

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gobwas/ws"
)

// A Target says whom a Client reaches, how, and as whom.
type Target struct {
	URL        string         // "wss://example1.com:5291/" or ws://
	Addr       string         // connect here instead of the URL's host
	RootCAs    *x509.CertPool // nil: the system's
	ServerName string         // TLS server name; default: the URL's host
	TLS        *tls.Config    // the base of the TLS configuration, for what the fields above do not say

	Subprotocols []string    // default: xmpp; an empty list, not nil: none
	Header       http.Header // added to the opening handshake, names as they are written; "Host" replaces the URL's

	Domain   string // `to` of the stream; default: the URL's host
	From     string // `from` of the stream; empty: none
	Legacy   bool   // the older draft's framing
	User     string // PLAIN as this user; empty: ANONYMOUS
	Password string
	SASL2    bool   // XEP-0388 instead of RFC 6120, for PLAIN
	Resource string // empty: the server's choice

	// Timeout bounds each step and each read. Default: 10 s; negative: none.
	Timeout time.Duration
	// NetDial replaces net.Dialer. The conn passes to the Client.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Client is one WebSocket, and perhaps an XMPP stream on it. Reading methods
// may be used by one goroutine at a time, writing ones by another.
type Client struct {
	Conn     net.Conn       // TLS where the URL says so; for tests that need the bytes
	Reader   *bufio.Reader  // over Conn; it may hold bytes that came already
	Response *http.Response // the answer to the opening handshake
	Features string         // the last <stream:features>
	JID      string         // full JID, once bound
	ResumeID string         // XEP-0198, after EnableResume

	target  Target
	domain  string
	pending []string // came while something else was awaited
}

// A CloseError is a Close frame from the server.
type CloseError struct {
	Code   ws.StatusCode // 1005: the frame had none
	Reason string
}

func (e *CloseError) Error() string { return fmt.Sprintf("closed with %d %q", e.Code, e.Reason) }

// A StatusError is an answer other than 101 to the opening handshake.
type StatusError struct {
	Response *http.Response
	Body     string // up to 4 KiB
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("answered %s: %.80q", e.Response.Status, e.Body)
}

// Dial connects, does TLS and the opening handshake, and opens no stream.
// After an error nothing is left open.
func Dial(ctx context.Context, t Target) (*Client, error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, err
	}
	addr := t.Addr
	if addr == "" {
		port := u.Port()
		if port == "" {
			port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
		}
		addr = net.JoinHostPort(u.Hostname(), port)
	}
	dial := t.NetDial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	if d := t.timeout(); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	nc, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &Client{Conn: nc, target: t, domain: t.Domain}
	if c.domain == "" {
		c.domain = u.Hostname()
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = c.shake(ctx, u)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (t Target) timeout() time.Duration {
	if t.Timeout == 0 {
		return 10 * time.Second
	}
	return max(t.Timeout, 0)
}

// shake does TLS and the opening handshake.
func (c *Client) shake(ctx context.Context, u *url.URL) error {
	t := c.target
	if u.Scheme == "wss" {
		config := &tls.Config{}
		if t.TLS != nil {
			config = t.TLS.Clone()
		}
		if t.RootCAs != nil {
			config.RootCAs = t.RootCAs
		}
		if config.ServerName == "" {
			config.ServerName = u.Hostname()
		}
		if t.ServerName != "" {
			config.ServerName = t.ServerName
		}
		tc := tls.Client(c.Conn, config)
		if err := tc.HandshakeContext(ctx); err != nil {
			return err
		}
		c.Conn = tc
	}
	c.Reader = bufio.NewReaderSize(c.Conn, 4096)

	key := rand.Text()[:16]
	key = base64.StdEncoding.EncodeToString([]byte(key))
	if _, err := c.Conn.Write(t.request(u, key)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.Reader, &http.Request{Method: "GET"})
	if err != nil {
		return fmt.Errorf("answer to the opening handshake: %w", err)
	}
	c.Response = resp
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return &StatusError{resp, string(body)}
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != base64.StdEncoding.EncodeToString(sum[:]) {
		return fmt.Errorf("Sec-WebSocket-Accept %q is not for our key", got)
	}
	return nil
}

// request returns the opening handshake, header names as the RFC writes them.
func (t Target) request(u *url.URL, key string) []byte {
	host := u.Host
	if h := t.Header.Get("Host"); h != "" {
		host = h
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", u.RequestURI(), host)
	fmt.Fprintf(&b, "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n", key)
	subprotocols := t.Subprotocols
	if subprotocols == nil {
		subprotocols = []string{"xmpp"}
	}
	if len(subprotocols) > 0 {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", strings.Join(subprotocols, ", "))
	}
	for name, values := range t.Header {
		for _, value := range values {
			if name != "Host" {
				fmt.Fprintf(&b, "%s: %s\r\n", name, value)
			}
		}
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// Login is Dial, then stream, SASL, stream, bind.
func Login(ctx context.Context, t Target) (*Client, error) {
	c, err := Dial(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, step := range []func() error{c.OpenStream, c.Authenticate, c.OpenStream, c.Bind} {
		if err := step(); err != nil {
			c.Abort()
			return nil, err
		}
	}
	return c, nil
}

// OpenStream opens the stream and reads its features. A stream error is an
// error that names its condition.
func (c *Client) OpenStream() error {
	from := attr("from", c.target.From)
	opening, want := "<open"+attr("xmlns", nsFraming)+attr("to", c.domain)+from+" version='1.0'/>", "open"
	if c.target.Legacy {
		opening, want = "<?xml version='1.0'?><stream:stream"+attr("xmlns", nsClient)+attr("xmlns:stream", nsStreams)+
			attr("to", c.domain)+from+" version='1.0'>", "stream"
	}
	if err := c.Send(opening); err != nil {
		return err
	}
	e, err := c.element()
	if err != nil {
		return err
	}
	if e.Name != want {
		return fmt.Errorf("stream: got %q, want <%s>", e.Raw, want)
	}
	if e, err = c.element(); err != nil {
		return err
	}
	if e.Name != "features" {
		return fmt.Errorf("stream: %s", describe(e))
	}
	c.Features = e.Raw
	return nil
}

// describe says in words what a stream error or a redirect is.
func describe(e *Element) string {
	if other := e.Attr("see-other-uri"); other != "" {
		return "see-other-uri " + other
	}
	if e.Name == "error" {
		return strings.TrimSpace("error " + e.first().Name + " " + e.first().Text)
	}
	return fmt.Sprintf("got %q", e.Raw)
}

// Authenticate does SASL: PLAIN where Target has a user, else ANONYMOUS. It may be
// called again after a failure. A stream error is an error that names its
// condition.
func (c *Client) Authenticate() error {
	auth := "<auth" + attr("xmlns", nsSASL) + attr("mechanism", "ANONYMOUS") + "/>"
	if c.target.User != "" {
		response := base64.StdEncoding.EncodeToString([]byte("\x00" + c.target.User + "\x00" + c.target.Password))
		auth = "<auth" + attr("xmlns", nsSASL) + attr("mechanism", "PLAIN") + ">" + response + "</auth>"
		if c.target.SASL2 {
			auth = "<authenticate" + attr("xmlns", nsSASL2) + attr("mechanism", "PLAIN") + "><initial-response>" + response + "</initial-response></authenticate>"
		}
	}
	if err := c.Send(auth); err != nil {
		return err
	}
	e, err := c.element()
	switch {
	case err != nil:
	case e.Name == "failure":
		err = fmt.Errorf("SASL: %s", e.first().Name)
	case e.Name != "success":
		err = fmt.Errorf("stream: %s", describe(e))
	}
	return err
}

// Bind binds a resource and learns the JID.
func (c *Client) Bind() error {
	resource := ""
	if c.target.Resource != "" {
		resource = "<resource>" + Escape(c.target.Resource) + "</resource>"
	}
	e, err := c.Request("set", "", "<bind"+attr("xmlns", nsBind)+">"+resource+"</bind>")
	if err != nil {
		return err
	}
	if c.JID = e.Child("bind").ChildText("jid"); c.JID == "" {
		return fmt.Errorf("bind: got %q", e.Raw)
	}
	return nil
}

// EnableResume turns XEP-0198 on.
func (c *Client) EnableResume() error {
	if err := c.Send("<enable" + attr("xmlns", nsSM) + " resume='true'/>"); err != nil {
		return err
	}
	e, err := c.await(func(e *Element) bool { return e.Space == nsSM && (e.Name == "enabled" || e.Name == "failed") })
	if err == nil && e.Name == "failed" {
		err = errors.New("enable: failed")
	}
	if err == nil {
		c.ResumeID = e.Attr("id")
	}
	return err
}

// Resume takes over the stream of that id, instead of Bind. h is how many
// stanzas came on it.
func (c *Client) Resume(id string, h int) error {
	if err := c.Send(fmt.Sprintf("<resume xmlns='%s' previd='%s' h='%d'/>", nsSM, Escape(id), h)); err != nil {
		return err
	}
	e, err := c.element()
	if err == nil && e.Name != "resumed" {
		err = fmt.Errorf("resume: %s %s", e.Name, e.first().Name)
	}
	return err
}

// Request sends an iq and waits for its answer. Other stanzas that come
// meanwhile are kept for Recv. An answer of type error is an error.
func (c *Client) Request(typ, to, payload string) (*Element, error) {
	id := rand.Text()[:8]
	if err := c.Send("<iq" + attr("xmlns", nsClient) + attr("type", typ) + attr("to", to) + attr("id", id) + ">" + payload + "</iq>"); err != nil {
		return nil, err
	}
	e, err := c.await(func(e *Element) bool { return e.Name == "iq" && e.Attr("id") == id })
	if err == nil && e.Attr("type") == "error" {
		err = fmt.Errorf("iq: %s", e.Child("error").first().Name)
	}
	return e, err
}

// await reads until an element is wanted and keeps the others for Recv.
func (c *Client) await(wanted func(*Element) bool) (*Element, error) {
	kept := c.pending
	c.pending = nil
	defer func() { c.pending = append(kept, c.pending...) }()
	for {
		text, err := c.Recv()
		if err != nil {
			return nil, err
		}
		e, err := Parse(text)
		if err != nil {
			return nil, err
		}
		if wanted(e) {
			return e, nil
		}
		if e.Name == "error" && e.Space == nsStreams || e.Name == "error" && e.Space == "" {
			return nil, fmt.Errorf("stream: %s", describe(e))
		}
		kept = append(kept, text)
	}
}

// element reads one element.
func (c *Client) element() (*Element, error) {
	text, err := c.Recv()
	if err != nil {
		return nil, err
	}
	e, err := Parse(text)
	if errors.Is(err, errUnfinished) {
		err = nil
	}
	return e, err
}

// Message sends a chat message.
func (c *Client) Message(to, body string) error {
	return c.Send("<message" + attr("xmlns", nsClient) + attr("to", to) + " type='chat'><body>" + Escape(body) + "</body></message>")
}

// ReadMessage returns the next message stanza and drops what comes before it.
func (c *Client) ReadMessage() (*Element, error) {
	for {
		e, err := c.element()
		if err != nil || e.Name == "message" {
			return e, err
		}
	}
}

// Close ends the stream, then the WebSocket, and closes the conn. It does not
// wait for the server.
func (c *Client) Close() error {
	if c.Features != "" {
		if c.target.Legacy {
			c.Send("</stream:stream>")
		} else {
			c.Send("<close" + attr("xmlns", nsFraming) + "/>")
		}
	}
	c.WriteFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	return c.Conn.Close()
}

// Abort closes the conn and says nothing.
func (c *Client) Abort() error {
	if tc, ok := c.Conn.(*tls.Conn); ok {
		return tc.NetConn().Close()
	}
	return c.Conn.Close()
}
