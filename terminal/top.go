package terminal

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"wssgate/admin"
	"wssgate/human"
	"wssgate/proxy"
)

// ANSI sequences for the whole screen (ECMA-48; the alternate screen is from xterm, and
// widely supported).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	goHome      = "\x1b[H"
	endLine     = "\x1b[K"
	endScreen   = "\x1b[J"
)

// candidates is the number of clients that Top reads, those with most bytes. The ones
// among them whose bytes grow most between two looks are the busiest.
const candidates = 1000

// Top shows the gate's activity, updated after each interval, until ctx ends, which is
// not an error. If stdout is not a terminal, it prints one look, with the rates of one
// interval.
func (g *Gate) Top(ctx context.Context, stdout io.Writer, interval time.Duration) error {
	f, terminal := stdout.(*os.File)
	terminal = terminal && isTerminalFile(f)
	before, err := g.look(ctx)
	if err != nil {
		return err
	}
	if terminal {
		io.WriteString(stdout, enterScreen)
		defer io.WriteString(stdout, leaveScreen)
	}
	var failed error
	for tick := time.NewTicker(interval); ; {
		if terminal {
			columns, lines, _ := size(f)
			if err := paintScreen(stdout, before, failed, interval, columns, lines); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
		now, err := g.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if failed = err; err == nil {
			now.since(before)
			before = now
		}
		if !terminal {
			if err == nil {
				s := newScreen(stdout)
				s.top(now, interval, 20)
				err = s.err
			}
			return err
		}
	}
}

// paintScreen draws a look over the previous one, cut to the size of the terminal.
func paintScreen(w io.Writer, l *look, failed error, interval time.Duration, columns, lines int) error {
	columns, lines = cmp.Or(columns, 80), cmp.Or(lines, 24)
	var text bytes.Buffer
	s := &screen{w: &text, colour: newScreen(w).colour}
	s.top(l, interval, lines)
	if failed != nil {
		text.Reset()
		s.printf("%s\n\nThe last answer is from %s.\n", s.paint(bad, failed.Error()), l.status.Now.Local().Format(time.TimeOnly))
	}
	out := bytes.NewBufferString(goHome)
	for i, line := range bytes.Split(bytes.TrimRight(text.Bytes(), "\n"), []byte("\n")) {
		if i == lines-1 { // the last line stays empty; otherwise the screen would scroll
			break
		}
		out.Write(cutLine(line, columns))
		out.WriteString(endLine + "\r\n")
	}
	out.WriteString(endScreen)
	_, err := w.Write(out.Bytes())
	return err
}

// cutLine cuts a line to the columns, but keeps all colours.
func cutLine(line []byte, columns int) (out []byte) {
	width, escape := 0, false
	for _, r := range string(line) {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		case width == columns:
			continue
		default:
			width++
		}
		out = append(out, string(r)...)
	}
	return out
}

// A look is the state of a gate at one time.
type look struct {
	status  admin.Status
	clients admin.Clients

	rates bool // the fields below are valid: there was a previous look
	per   rates
	busy  []busyClient
}

// rates are per second.
type rates struct{ full, resumed, failed, framesIn, framesOut, bytesIn, bytesOut, closed, loops float64 }

// A busyClient is a client with its bytes per second.
type busyClient struct {
	proxy.ClientCount
	in, out float64
}

func (g *Gate) look(ctx context.Context) (*look, error) {
	l := &look{}
	if err := g.get(ctx, "/status", nil, &l.status); err != nil {
		return nil, err
	}
	err := g.get(ctx, "/clients", url.Values{"limit": {strconv.Itoa(candidates)}}, &l.clients)
	for _, c := range l.clients.Clients {
		l.busy = append(l.busy, busyClient{ClientCount: c})
	}
	return l, err
}

// since computes the rates.
func (l *look) since(before *look) {
	seconds := l.status.Now.Sub(before.status.Now).Seconds()
	if seconds <= 0 || l.status.Started != before.status.Started {
		return
	}
	l.rates = true
	now, then := &l.status.Counts, &before.status.Counts
	rate := func(now, then int64) float64 { return float64(max(now-then, 0)) / seconds }
	shakes := func(c *proxy.Counts) (full, resumed, failed int64) {
		for _, h := range c.Handshakes {
			switch h.Result {
			case proxy.HandshakeFull:
				full += h.N
			case proxy.HandshakeResumed:
				resumed += h.N
			case proxy.HandshakeSilent, proxy.HandshakeChallenge:
			default:
				failed += h.N
			}
		}
		return full, resumed, failed
	}
	closes := func(c *proxy.Counts) (n int64) {
		for _, v := range c.Closed {
			n += v
		}
		return n
	}
	full, resumed, failed := shakes(now)
	fullThen, resumedThen, failedThen := shakes(then)
	l.per = rates{
		full: rate(full, fullThen), resumed: rate(resumed, resumedThen), failed: rate(failed, failedThen),
		framesIn: rate(now.FramesIn, then.FramesIn), framesOut: rate(now.FramesOut, then.FramesOut),
		bytesIn: rate(now.BytesIn, then.BytesIn), bytesOut: rate(now.BytesOut, then.BytesOut),
		closed: rate(closes(now), closes(then)),
		loops:  (now.Lag.Sum - then.Lag.Sum).Seconds() / seconds / float64(max(now.Loops, 1)),
	}
	known := map[string]proxy.ClientCount{}
	for _, c := range before.clients.Clients {
		known[c.Client] = c
	}
	for i := range l.busy {
		c := &l.busy[i]
		if then, ok := known[c.Client]; ok { // the bytes of a tunnel that ended are no longer included
			c.in, c.out = rate(c.BytesIn, then.BytesIn), rate(c.BytesOut, then.BytesOut)
		}
	}
	slices.SortStableFunc(l.busy, func(a, b busyClient) int { return cmp.Compare(b.in+b.out, a.in+a.out) })
}

// top prints a look in about so many lines.
func (s *screen) top(l *look, interval time.Duration, lines int) {
	st := &l.status
	s.printf("%s\n", s.paint(soft, fmt.Sprintf("%s   %s, every %v, Ctrl-C ends", headline(st), st.Now.Local().Format(time.TimeOnly), interval)))
	s.verdictLine(st)
	perSecond := func(v float64, text func(int64) string) string {
		if !l.rates {
			return "…"
		}
		return text(int64(v+0.5)) + "/s"
	}
	count := func(n int64) string { return human.Number(n) }
	s.printf("tunnels     %s of %s connections, %s closed\n", human.Number(st.Tunnels), human.Number(int64(st.Counts.Limit)), perSecond(l.per.closed, count))
	s.printf("handshakes  %s full, %s resumed, %s failed\n", perSecond(l.per.full, count), perSecond(l.per.resumed, count), perSecond(l.per.failed, count))
	s.printf("traffic     in %s, %s frames; out %s, %s frames\n", perSecond(l.per.bytesIn, human.Bytes), perSecond(l.per.framesIn, count),
		perSecond(l.per.bytesOut, human.Bytes), perSecond(l.per.framesOut, count))
	s.printf("loops       %.0f %% busy; memory %s\n", 100*l.per.loops, human.Bytes(st.Memory.Used))
	// The remaining lines: a third for each table, and the unused ones for clients.
	left := max(lines-14, 6)
	vhosts := slices.Clone(st.Vhosts)
	slices.SortStableFunc(vhosts, func(a, b admin.Vhost) int { return cmp.Compare(b.Tunnels, a.Tunnels) })
	var rows [][]cell
	for _, v := range vhosts[:min(len(vhosts), left/3)] {
		rows = append(rows, []cell{{human.Cell(v.Name), bold}, {human.Number(v.Tunnels), plain}, {human.Number(v.Opened), plain}})
	}
	s.section("Vhosts", st.VhostsTotal, []string{"NAME", " TUNNELS", " OPENED"}, rows)
	rows = nil
	for _, u := range st.Upstreams {
		for _, n := range u.Nodes[:min(len(u.Nodes), max(left/3-len(rows), 0))] {
			rows = append(rows, []cell{{human.Cell(u.Name + "/" + n.Name), bold}, {human.Number(int64(n.Tunnels)), plain}, {n.State, statePaint[n.State]}})
		}
	}
	s.section("Nodes", len(rows), []string{"NODE", " TUNNELS", "STATE"}, rows)
	rows = nil
	for _, c := range l.busy[:min(len(l.busy), left/3)] {
		rows = append(rows, []cell{{cmp.Or(c.Client, "unix sockets"), bold}, {human.Number(int64(c.Tunnels)), plain}, {perSecond(c.in, human.Bytes), plain},
			{perSecond(c.out, human.Bytes), plain}, {human.Bytes(c.Bytes()), plain}})
	}
	s.section("Busiest clients", l.clients.Total, []string{"CLIENT", " TUNNELS", " IN", " OUT", " TOTAL"}, rows)
}
