package upstream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"wssgate/panics"
	"wssgate/xmpp"
)

const (
	// maxProbeBytes is the maximum size of a node's input up to its stream features.
	maxProbeBytes = 64 << 10

	// farewell is how long a probe waits for the node's Close frame.
	farewell = time.Second

	probeAgent = "wssgate (health probe)"
)

// probe acts like a client: it does a real opening handshake and, if a domain is
// configured, opens a stream up to its features. It closes the stream properly, because
// Tigase keeps a dropped one for a minute.
func (n *Node) probe(ctx context.Context, a *address) (err error) {
	defer func() { // an unexpected answer must not crash the gate
		if cause := recover(); cause != nil {
			panics.Caught(n.group.env.log, panics.Probe, cause, "upstream", n.group.name, "node", n.name)
			err = fmt.Errorf("probe: %v", cause)
		}
	}()
	h := n.group.health
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()

	loc := n.loc
	if h.Path != "" {
		loc.uri = h.Path
	}
	host, err := xmpp.NormalDomain(h.Domain)
	if err != nil {
		host = h.Domain
	}
	p, err := n.prober(ctx, a, &loc, &Request{Host: host, RequestURI: "/"})
	if h, ok := errors.AsType[*HandshakeError](err); ok && loc.uri == "" && h.Status >= 400 && h.Status < 500 {
		return nil // it is alive; only clients know the right path
	}
	if h, ok := errors.AsType[*HandshakeError](err); ok && h.Status == http.StatusNotFound && n.group.health.Domain == "" {
		h.Hint = "a server that checks Host may not serve " + strconv.Quote(loc.authority) + "; set health.domain, which the probe then sends as Host"
	}
	if err != nil {
		return err
	}
	defer p.close()
	if h.Domain != "" {
		if err := p.wantFeatures(h.Domain); err != nil {
			return err
		}
	}
	p.sayGoodbye(farewell)
	return nil
}

// A prober is a minimal WebSocket client.
type prober struct {
	ctx    context.Context // when it ends, the conn's deadline is set to the past
	conn   net.Conn
	frames *bufio.Reader // of at most maxProbeBytes
	stream bool          // <open/> was sent
	stop   func() bool   // stops following ctx
}

// prober dials a and does the opening handshake, with the gate as the client.
func (n *Node) prober(ctx context.Context, a *address, loc *NodeURL, r *Request) (*prober, error) {
	r.Subprotocol, r.UserAgent = "xmpp", probeAgent
	key := NewKey()
	request, err := r.appendRequest(nil, loc, n.group.hostOfNode, key)
	if err != nil {
		return nil, err
	}
	raw, err := a.dial(ctx, n.group)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", a.addr, bare(err))
	}
	header := n.proxyHeader(netip.AddrPort{}, netip.AddrPort{}, raw)
	conn, rest, err := n.open(ctx, raw, header, request, key, r.Subprotocol)
	if err != nil {
		return nil, err
	}
	p := &prober{ctx: ctx, conn: conn, frames: bufio.NewReader(io.LimitReader(io.MultiReader(bytes.NewReader(rest), conn), maxProbeBytes))}
	p.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return p, nil
}

func (p *prober) close() {
	p.stop()
	p.conn.Close()
}

// answerTags are the elements that end the wait, with any prefix.
var (
	answerTags = regexp.MustCompile(`<(?:[\w.-]+:)?(features|error|close)[\s/>]`)
	condition  = regexp.MustCompile(`<([a-z-]+)[^>]*xmlns=["']urn:ietf:params:xml:ns:xmpp-streams["']`)
)

// openStream opens a stream (RFC 7395, section 3.4).
func (p *prober) openStream(domain string) error {
	var to strings.Builder
	xml.EscapeText(&to, []byte(domain))
	open := `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="` + to.String() + `" version="1.0"/>`
	if err := p.send(ws.NewTextFrame([]byte(open))); err != nil {
		return fmt.Errorf("probe: open a stream to %q: %w", domain, bare(err))
	}
	p.stream = true
	return nil
}

// wantFeatures opens a stream and waits for its features.
func (p *prober) wantFeatures(domain string) error {
	if err := p.openStream(domain); err != nil {
		return err
	}
	var text []byte
	for {
		op, payload, err := p.receive()
		switch {
		case err != nil:
			return fmt.Errorf("probe: no features of a stream to %q: %w", domain, bare(err))
		case op == ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			return fmt.Errorf("probe: stream to %q: Close %d %q, want features", domain, code, reason)
		case op.IsControl():
			continue
		}
		text = append(text, payload...)
		m := answerTags.FindSubmatchIndex(text)
		if m == nil {
			continue
		}
		rest := text[m[0]:]
		switch word := string(text[m[2]:m[3]]); {
		case word == "features":
			return nil
		case bytes.Contains(rest, []byte("see-other-")):
			return nil // it is alive, and redirects to another node
		case word == "close":
			return fmt.Errorf("probe: stream to %q: closed, want features", domain)
		default:
			what := "stream error"
			if c := condition.FindSubmatch(rest); c != nil {
				what = string(c[1])
			}
			return fmt.Errorf("probe: stream to %q: %s, want features", domain, what)
		}
	}
}

// sayGoodbye closes the stream and the WebSocket and waits for the answer, so that
// unread data does not turn our FIN into a reset. The caller closes TCP.
func (p *prober) sayGoodbye(patience time.Duration) {
	p.conn.SetReadDeadline(time.Now().Add(patience))
	if p.ctx.Err() != nil {
		return // this deadline is not the one that ctx set
	}
	var frames []ws.Frame
	if p.stream {
		frames = append(frames, ws.NewTextFrame([]byte(`<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`)))
	}
	if p.send(append(frames, ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))...) != nil {
		return
	}
	for {
		if op, _, err := p.receive(); err != nil || op == ws.OpClose {
			return
		}
	}
}

// send writes frames, masked, at once.
func (p *prober) send(frames ...ws.Frame) error {
	var b bytes.Buffer
	for _, f := range frames {
		ws.MustWriteFrame(&b, ws.MaskFrameInPlace(f))
	}
	_, err := p.conn.Write(b.Bytes())
	return err
}

// receive reads one frame. The reader's own limit bounds the payload; memory grows with
// what arrives, not with the declared length.
func (p *prober) receive() (ws.OpCode, []byte, error) {
	h, err := ws.ReadHeader(p.frames)
	if err != nil {
		return 0, nil, err
	}
	if h.Masked {
		return 0, nil, errors.New("masked frame from a server")
	}
	payload, err := io.ReadAll(io.LimitReader(p.frames, h.Length))
	if err == nil && int64(len(payload)) < h.Length {
		err = io.ErrUnexpectedEOF
	}
	return h.OpCode, payload, err
}
