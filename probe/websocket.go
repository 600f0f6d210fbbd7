package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"github.com/gobwas/ws"
)

const (
	maxBody    = 4 << 10   // bytes read of a refusal's body
	maxMessage = 256 << 10 // bytes; features of the largest servers have 2 KiB
)

// open does the opening handshake. The header names are spelled as in the RFC
// and all goes in one write, for Tigase's sake.
func (p *prober) open(_ context.Context, s *Step) error {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	scheme := map[string]string{"wss": "https", "ws": "http"}[p.url.Scheme]
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"+
		"Origin: %s://%s\r\nUser-Agent: wssgate-probe\r\n\r\n",
		p.url.RequestURI(), p.url.Host, key, scheme, p.url.Host)
	if _, err := io.WriteString(p.conn, request); err != nil {
		return err
	}
	if head, err := p.br.Peek(5); err != nil && len(head) == 0 {
		return err
	} else if string(head) != "HTTP/" {
		return &Problem{fmt.Sprintf("answered %q to the opening handshake, which is no HTTP", printable(head)), "is this another service's port?"}
	}
	resp, err := http.ReadResponse(p.br, &http.Request{Method: http.MethodGet})
	if err != nil && !isTimeout(err) {
		return &Problem{fmt.Sprintf("the answer to the opening handshake is broken or cut short: %s", printable([]byte(err.Error()))), "the server's log may say why"}
	} else if err != nil {
		return err
	}
	p.report.Status = printable([]byte(resp.Status))
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return p.refused(resp)
	}
	s.Facts = append(s.Facts, p.report.Status)
	h := resp.Header
	if !strings.EqualFold(h.Get("Upgrade"), "websocket") || !strings.EqualFold(h.Get("Connection"), "Upgrade") {
		return &Problem{fmt.Sprintf("101 with Upgrade %q and Connection %q, want \"websocket\" and \"Upgrade\"", printable([]byte(h.Get("Upgrade"))), printable([]byte(h.Get("Connection")))),
			"something on the way may have changed the headers"}
	}
	if extensions := h.Get("Sec-WebSocket-Extensions"); extensions != "" {
		return &Problem{fmt.Sprintf("extension %q, which was not offered", printable([]byte(extensions))), ""}
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got := h.Get("Sec-WebSocket-Accept"); got != base64.StdEncoding.EncodeToString(sum[:]) {
		return &Problem{fmt.Sprintf("Sec-WebSocket-Accept is %q, which does not fit our key", printable([]byte(got))), "a cache between here and there?"}
	}
	p.report.Subprotocol = printable([]byte(h.Get("Sec-WebSocket-Protocol")))
	switch p.report.Subprotocol {
	case "xmpp":
		s.Facts[0] += ", subprotocol xmpp"
		return nil
	case "":
		return &Problem{"no subprotocol agreed on, want \"xmpp\"", "browsers fail such a connection; is there an XMPP server at this path?"}
	}
	return &Problem{fmt.Sprintf("subprotocol %q, which was not offered; want \"xmpp\"", p.report.Subprotocol), ""}
}

// refused explains an answer other than 101.
func (p *prober) refused(resp *http.Response) *Problem {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	problem := &Problem{Text: fmt.Sprintf("answered %s to the opening handshake, want 101", printable([]byte(resp.Status)))}
	if line := firstLine(string(body), resp.Status); line != "" {
		problem.Text += ": " + line
	}
	switch resp.StatusCode {
	case 400:
		problem.Hint = "Tigase says so where the subprotocol \"xmpp\" is missing; something on the way may have removed a header"
	case 401, 407:
		problem.Hint = p.either("something in front of the gate wants a login", "the XMPP server, or something in front of it, wants a login")
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
		problem.Hint = p.either("the gate does not reach the XMPP server; is it running, and is its address right in [upstream]?", "this is a proxy that does not reach the XMPP server")
	case 504:
		problem.Hint = p.either("the XMPP server does not answer the gate", "this is a proxy, and the XMPP server does not answer it")
	}
	if to := resp.Header.Get("Location"); to != "" {
		problem.Hint = "it redirects to " + printable([]byte(to)) + ", which no WebSocket client follows"
	}
	return problem
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
	}
	return problem
}
