package probe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"unicode"

	"github.com/gobwas/ws"

	"wssgate/upstream"
	"wssgate/xmpp"
)

const (
	maxBody    = 4 << 10   // bytes read of a refusal's body
	maxMessage = 256 << 10 // bytes; features of the largest servers have 2 KiB
)

// open does the opening handshake. The header names are spelled as in the RFC
// and all goes in one write, for Tigase's sake. What comes back is read as a tunnel's
// upstream is.
func (p *prober) open(_ context.Context, s *Step) error {
	key := upstream.NewKey()
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"+
		"Origin: %s\r\nUser-Agent: wssgate-probe\r\n",
		p.url.RequestURI(), p.url.Host, key, p.origin())
	request, err := p.appendForwarded(request)
	if err != nil {
		return err
	}
	heard := &hearing{Conn: p.conn}
	rest, err := upstream.OpeningHandshake(heard, append(request, "\r\n"...), key, "xmpp")
	line, _, _ := strings.Cut(string(heard.got), "\r\n")
	if _, status, isHTTP := strings.Cut(line, " "); isHTTP && strings.HasPrefix(line, "HTTP/") {
		p.report.Status = printable([]byte(status))
	}
	if err != nil {
		return p.noUpgrade(err, heard)
	}
	p.report.Subprotocol = "xmpp"
	s.Facts = append(s.Facts, p.report.Status+", subprotocol xmpp")
	p.br = bufio.NewReader(io.MultiReader(bytes.NewReader(rest), p.conn))
	return nil
}

// origin is that of a web page at the URL.
func (p *prober) origin() string {
	return map[string]string{"wss": "https", "ws": "http"}[p.url.Scheme] + "://" + p.url.Host
}

// appendForwarded appends the header fields that a node gets from the gate, because a
// server may offer logins to those alone that have them. A gate replaces a client's.
func (p *prober) appendForwarded(b []byte) ([]byte, error) {
	if p.url.Scheme != "ws" {
		return b, nil
	}
	client := netip.MustParseAddrPort(forwardedClient + ":0")
	if addr, ok := p.conn.LocalAddr().(*net.TCPAddr); ok && p.Login == nil {
		client = addr.AddrPort()
	}
	return (&upstream.Request{Client: client, Host: p.url.Host}).AppendForwarded(b)
}

// A hearing keeps what is read.
type hearing struct {
	net.Conn
	got []byte
}

func (h *hearing) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.got = append(h.got, b[:n]...)
	return n, err
}

// noUpgrade says why there was no 101, or not the one that was asked for.
func (p *prober) noUpgrade(err error, heard *hearing) error {
	h, ok := errors.AsType[*upstream.HandshakeError](err)
	switch {
	case !ok:
		return err
	case h.Status != 0 && h.Status != http.StatusSwitchingProtocols:
		return p.refused(h, heard)
	case len(heard.got) > 0 && (heard.got[0] == 0x15 || heard.got[0] == 0x16):
		p.wrongScheme()
		return &Problem{"the answer is TLS, not HTTP", p.tryOther()}
	case len(heard.got) == 0 && h.Err == nil:
		return io.EOF
	case len(heard.got) == 0, h.Err != nil && isTimeout(h.Err):
		return err
	}
	if h.Status == http.StatusSwitchingProtocols && strings.Contains(h.What, "subprotocol") {
		p.diagnose("wrong-subprotocol", "the server does not select the subprotocol \"xmpp\": it is another WebSocket, or something on the way removed the header")
	}
	hint := h.Hint
	switch {
	case !strings.HasPrefix("HTTP/", string(heard.got[:min(len(heard.got), 5)])):
		hint = "is this another service's port?"
	case hint == "" && h.Status != 0:
		hint = "something on the way may have changed the headers, or a cache answered"
	case hint == "":
		hint = "the server's log may say why"
	}
	return &Problem{printable([]byte(h.Error())), hint}
}

// wrongScheme diagnoses a port that speaks the other of ws and wss.
func (p *prober) wrongScheme() {
	p.diagnose("wrong-scheme", "%s speaks the other of ws and wss than %s", p.addr, p.url.Scheme)
}

// tryOther is the hint that the port may speak the other scheme.
func (p *prober) tryOther() string {
	other := *p.url
	if p.url.Scheme == "ws" {
		other.Scheme = "wss"
		return "the port speaks TLS: probe " + other.String()
	}
	other.Scheme = "ws"
	return "does the port speak plain ws://? then probe " + other.String()
}

// refused explains an answer other than 101. How it was read says what it is; its body
// is for people.
func (p *prober) refused(h *upstream.HandshakeError, heard *hearing) *Problem {
	var body []byte
	var location string
	answer := bufio.NewReader(io.MultiReader(bytes.NewReader(heard.got), p.conn))
	if resp, err := http.ReadResponse(answer, &http.Request{Method: http.MethodGet}); err == nil {
		body, _ = io.ReadAll(io.LimitReader(resp.Body, maxBody))
		location = resp.Header.Get("Location")
	}
	problem := &Problem{Text: printable([]byte(h.Error()))}
	if line := firstLine(string(body), p.report.Status); line != "" {
		problem.Text += ": " + line
	}
	switch h.Status {
	case 400:
		problem.Hint = "Tigase says so where the subprotocol \"xmpp\" is missing; something on the way may have removed a header"
	case 401, 407:
		problem.Hint = p.either("something in front of the gate requires a login", "the XMPP server, or something in front of it, requires a login")
	case 403:
		problem.Hint = p.either("the vhost's origins do not allow ours, or something in front forbids it", "the XMPP server does not allow our Origin or our address")
	case 404:
		problem.Hint = "is the path " + `"/xmpp-websocket"` + p.either(", or does no [[vhost]] name this server name?", "?")
	case 405, 426, 200:
		problem.Hint = p.either("a web server answered: the upgrade is not passed on to the gate", "a web server answered: WebSockets have another path or port")
	case 421:
		problem.Hint = p.either("host and server name belong to different vhosts", "the XMPP server does not know this host")
	case 429, 503:
		problem.Hint = p.either("the gate is full, draining, or has no upstream at the moment; see its log", "the XMPP server takes no more at the moment; see its log")
	case 502:
		problem.Hint = p.either("the gate does not reach the XMPP server in [upstream], or got another answer from it than 101: the gate's log has it, and so has a probe of the node, ws://…, from the gate's machine", "this is a proxy that does not reach the XMPP server")
	case 504:
		problem.Hint = p.either("the XMPP server does not answer the gate", "this is a proxy, and the XMPP server does not answer it")
	}
	switch {
	case p.url.Scheme == "ws" && h.Status == 400 && speaksTLS(body):
		problem.Hint = p.tryOther()
		p.wrongScheme()
	case location != "" && isInner(location):
		p.diagnose("inner-redirect", "the server answers with a redirect to %q, which clients can't reach or which has no TLS", printable([]byte(location)))
	case h.Status == 400 || h.Status == 501:
		p.diagnose("wrong-subprotocol", "the server does not get or take the subprotocol \"xmpp\"")
	case h.Status == 403:
		p.diagnose("origin-refused", "the server does not take clients of this origin, %s", p.origin())
	case h.Status == 404 && bytes.Contains(body, []byte("Unknown host")): // Prosody
		p.diagnose("http-host-unknown", "the server has no web host %q", p.url.Host)
	case h.Status == 404 || h.Status == 405 || h.Status == 426 || h.Status == 200:
		p.diagnose("wrong-path", "the server has no WebSocket at %s", p.url.Path)
	}
	if location != "" {
		problem.Hint = "it redirects to " + printable([]byte(location)) + ", which no WebSocket client follows"
	}
	return problem
}

// speaksTLS reports whether a refusal says that the port wants TLS, as the gate's does,
// nginx's, and that of servers in Go.
func speaksTLS(body []byte) bool {
	return bytes.Contains(body, []byte("TLS")) || bytes.Contains(body, []byte("HTTPS"))
}

// firstLine returns the first line of a body that says something besides the
// status, tags left out.
func firstLine(body, status string) string {
	var text strings.Builder
	inTag := false
	for _, r := range body {
		switch {
		case r == '<':
			inTag = true
		case r == '>' && inTag:
			inTag = false
		case !inTag:
			text.WriteRune(r)
		}
	}
	for line := range strings.Lines(text.String()) {
		if line = strings.TrimSpace(line); line != "" && line != status {
			return printable([]byte(line))
		}
	}
	return ""
}

// printable makes what a server sent safe for a terminal, and short.
func printable(b []byte) string {
	s := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '·'
		}
		return r
	}, string(bytes.ToValidUTF8(b, []byte("·"))))
	if runes := []rune(s); len(runes) > 120 {
		return string(runes[:119]) + "…"
	}
	return s
}

// send sends a text frame.
func (p *prober) send(text string) error {
	return ws.WriteFrame(p.conn, ws.MaskFrame(ws.NewTextFrame([]byte(text))))
}

// receive returns the next message. Pings are answered; a Close frame is a
// Problem.
func (p *prober) receive() ([]byte, error) {
	var message []byte
	fragmented := false
	for {
		h, err := ws.ReadHeader(p.br)
		if err != nil {
			return nil, err
		}
		state := ws.StateClientSide
		if fragmented {
			state = state.Set(ws.StateFragmented)
		}
		if err := ws.CheckHeader(h, state); err != nil {
			return nil, err
		}
		if h.Length > maxMessage-int64(len(message)) {
			return nil, &Problem{fmt.Sprintf("a frame of %d bytes where a stream opens", h.Length), ""}
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(p.br, payload); err != nil {
			return nil, err
		}
		switch h.OpCode {
		case ws.OpPing:
			if err := ws.WriteFrame(p.conn, ws.MaskFrame(ws.NewPongFrame(payload))); err != nil {
				return nil, err
			}
		case ws.OpPong:
		case ws.OpClose:
			return nil, p.closed(payload)
		default:
			message = append(message, payload...)
			if fragmented = !h.Fin; !fragmented {
				return message, nil
			}
		}
	}
}

// closed explains a Close frame.
func (p *prober) closed(payload []byte) *Problem {
	if len(payload) < 2 {
		return &Problem{"the server closed the WebSocket without a status code", ""}
	}
	code, reason := ws.ParseCloseFrameData(payload)
	problem := &Problem{Text: fmt.Sprintf("the server closed the WebSocket with %d", code)}
	if reason != "" {
		problem.Text += ": " + printable([]byte(reason))
	}
	switch code {
	case 1001:
		problem.Hint = "it is going away: a drain is under way"
	case 1008:
		problem.Hint = p.either("against the gate's rules: is the domain allowed for this vhost? try -domain", "against the XMPP server's rules; its log may say which")
	case 1012:
		problem.Hint = p.either("the XMPP server behind the gate went away or restarts", "the XMPP server restarts")
	case 1014:
		problem.Hint = p.either("the gate can't go on with the XMPP server behind it; its log says why", "")
		if reason == xmpp.NotReachableHere {
			problem.Hint = lostHint
			p.lost()
		}
	}
	return problem
}
