package terminal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"wssgate/human"
	"wssgate/proxy"
)

// maxTraceLine is the maximum length of a line of a trace in bytes.
const maxTraceLine = 64 << 10

// Trace prints the events of a tunnel until the tunnel or ctx ends, which is not an
// error.
func (g *Gate) Trace(ctx context.Context, stdout io.Writer, id string, asJSON bool) error {
	asking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(patience, func() { cancel(context.DeadlineExceeded) })
	resp, err := g.ask(asking, http.MethodGet, "/trace", url.Values{"id": {id}})
	if err != nil {
		if ctx.Err() == nil && asking.Err() != nil { // regardless of the transport's error
			return g.unreachable(context.Cause(asking))
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return g.decode(resp, http.StatusOK, nil)
	}
	late.Stop()
	s, ended := newScreen(stdout), false
	lines := bufio.NewScanner(resp.Body)
	for lines.Buffer(nil, maxTraceLine); lines.Scan() && s.err == nil; {
		var l proxy.TraceLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			break // the answer was cut off
		}
		ended = ended || l.End != ""
		if asJSON {
			s.printf("%s\n", lines.Bytes())
		} else {
			s.trace(&l)
		}
	}
	switch {
	case s.err != nil:
		return s.err
	case ended || ctx.Err() != nil:
		return nil
	}
	why := "it was not read for 10 s, or the gate ended"
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		why = fmt.Sprintf("a line has more than %d bytes: is this the gate?", maxTraceLine)
	}
	return &Error{fmt.Sprintf("the trace by the gate at %q was cut off: %s", g.address, why), "", false}
}

// senders has the output for each sender of frames.
var senders = map[string]cell{"client": {"client   >", work}, "upstream": {"upstream <", good}, "gate": {"gate     <", warn}}

func (s *screen) trace(l *proxy.TraceLine) {
	at := s.paint(soft, l.At.Local().Format("15:04:05.000"))
	if l.Dropped > 0 {
		s.printf("%s  %s\n", at, s.paint(bad, fmt.Sprintf("%s left out: they came too fast", human.Count(l.Dropped, "frame"))))
	}
	switch {
	case l.Tunnel != nil:
		s.printf("%s  tunnel %s: %s, %s to %s/%s, open for %s\n", at, l.Tunnel.ID, clientText(l.Tunnel), human.Cell(l.Tunnel.Domain),
			human.Cell(l.Tunnel.Upstream), human.Cell(l.Tunnel.Node), human.Short(l.At.Sub(l.Tunnel.Began)))
		return
	case l.End != "":
		s.printf("%s  %s\n", at, s.paint(bold, "ended: "+l.End))
		return
	}
	text := l.Opcode
	if !l.Fin {
		text += ", more to come"
	}
	text += fmt.Sprintf(", %d bytes", l.Length)
	if l.Code != 0 {
		text += fmt.Sprintf(", code %d", l.Code)
	}
	from := senders[l.From]
	s.printf("%s  %s  %s", at, s.paint(from.paint, from.text), text)
	if l.Shape != "" {
		s.printf("  %s", human.Line(l.Shape))
	}
	if l.Cut {
		s.printf(" (more)")
	}
	s.printf("\n")
}
