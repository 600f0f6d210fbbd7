package terminal

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"wssgate/admin"
	"wssgate/human"
)

// Status prints the content of the gate's page. well is true if the gate is ready and
// no finding is an error.
func (g *Gate) Status(ctx context.Context, stdout io.Writer, asJSON bool) (well bool, err error) {
	var raw json.RawMessage
	if err := g.get(ctx, "/status", nil, &raw); err != nil {
		return false, err
	}
	var st admin.Status
	if err := json.Unmarshal(raw, &st); err != nil {
		return false, g.unreachable(err)
	}
	well = st.Ready && st.FindingsTotal[admin.LevelError] == 0
	if asJSON {
		_, err = fmt.Fprintf(stdout, "%s\n", raw)
		return well, err
	}
	s := newScreen(stdout)
	s.status(&st)
	return well, s.err
}

func (s *screen) status(st *admin.Status) {
	s.printf("%s\n", s.paint(soft, headline(st)))
	s.verdict(st)
	s.printf("\n")
	s.totals(st)
	for _, d := range st.Drains {
		s.printf("%s\n", s.paint(work, drainLine(st, &d)))
	}
	s.vhosts(st)
	s.nodes(st)
	s.certificates(st)
	s.unserved(st)
	s.logins(st)
	if len(st.Denied) > 0 {
		s.printf("\n%s\n", s.paint(bold, "Temporarily denied"))
		s.denied(st)
	}
	for _, e := range st.Reload.Errors {
		s.printf("%s %s\n", s.paint(bad, "last reload:"), human.Line(e))
	}
	if len(st.Warnings) > 0 {
		s.printf("\n%s\n", s.paint(bold, "Last warnings"))
	}
	for _, w := range st.Warnings[:min(len(st.Warnings), 5)] {
		s.printf("  %s ago  %s\n", human.Short(st.Now.Sub(w.Last)), human.Line(w.Text))
	}
}

// headline identifies the gate.
func headline(st *admin.Status) string {
	return fmt.Sprintf("wssgate %s at %s, %s, up for %s", st.Version, st.Host, st.Config, human.Duration(st.Now.Sub(st.Started)))
}

func drainLine(st *admin.Status, d *admin.Drain) string {
	if !d.Begins.IsZero() {
		return fmt.Sprintf("drain of %s begins in %s: not ready until then, but clients are accepted", human.Cell(d.Scope), human.Short(d.Begins.Sub(st.Now)))
	}
	return fmt.Sprintf("draining %s: %d of %d left, since %s", human.Cell(d.Scope), d.Left, d.Total, human.Short(st.Now.Sub(d.Since)))
}

// verdictLine prints the state of the gate.
func (s *screen) verdictLine(st *admin.Status) {
	how, text := good, "all is well"
	switch errors, warnings := st.FindingsTotal[admin.LevelError], st.FindingsTotal[admin.LevelWarn]; {
	case st.Drain != nil:
		how, text = work, drainLine(st, st.Drain)
	case errors > 0:
		how, text = bad, human.Count(errors, "error")
	case !st.Ready:
		how, text = bad, "not ready"
	case warnings > 0:
		how, text = warn, human.Count(warnings, "warning")
	}
	s.printf("%s\n", s.paint(how+";"+bold, text))
}

// verdict prints the state of the gate and what needs attention.
func (s *screen) verdict(st *admin.Status) {
	s.verdictLine(st)
	for _, why := range st.NotReady {
		s.printf("  not ready: %s\n", human.Line(why))
	}
	for _, f := range st.Findings {
		how := warn
		if f.Level == admin.LevelError {
			how = bad
		}
		s.printf("  %s %s\n    hint: %s\n", s.paint(how, f.Level+":"), human.Line(f.What), human.Line(f.Do))
	}
}

func (s *screen) totals(st *admin.Status) {
	c := &st.Counts
	s.printf("tunnels      %s; %s of %s connections\n", human.Number(st.Tunnels), human.Number(int64(c.Connections)), human.Number(int64(c.Limit)))
	s.printf("traffic      %s in, %s out; %s frames\n", human.Bytes(c.BytesIn), human.Bytes(c.BytesOut), human.Number(c.FramesIn+c.FramesOut))
	memory := fmt.Sprintf("memory       %s", human.Bytes(st.Memory.Used))
	if st.Memory.Max > 0 {
		memory += " of " + human.Bytes(st.Memory.Max)
	}
	s.printf("%s\n", memory)
	s.printf("listening    %s\n", strings.Join(st.Listeners, " "))
}

func (s *screen) vhosts(st *admin.Status) {
	var rows [][]cell
	for _, v := range st.Vhosts {
		certificate := cell{"none: clients are refused", bad}
		switch {
		case v.Certificate != nil:
			certificate = timeLeft(v.Certificate, st.Now)
		case v.Name == "*":
			certificate = cell{human.Count(st.CertificatesTotal, "certificate"), plain}
		case v.Gone:
			certificate = cell{"no longer configured", soft}
		}
		to := v.Upstream
		if v.Node != "" {
			to += "/" + v.Node
		}
		rows = append(rows, []cell{{human.Cell(v.Name), bold}, {human.Number(v.Tunnels), plain}, {human.Number(v.Opened), plain}, {human.Cell(to), plain}, certificate})
	}
	s.section("Vhosts", st.VhostsTotal, []string{"NAME", " TUNNELS", " OPENED", "UPSTREAM", "CERTIFICATE"}, rows)
}

// section prints a table with a title, or nothing if there are no rows.
func (s *screen) section(title string, total int, headings []string, rows [][]cell) {
	if len(rows) == 0 {
		return
	}
	if total > len(rows) {
		title += fmt.Sprintf(", %d of %d", len(rows), total)
	}
	s.printf("\n%s\n", s.paint(bold, title))
	s.table(headings, rows)
}

func timeLeft(c *admin.Certificate, now time.Time) cell {
	left := c.NotAfter.Sub(now)
	switch {
	case left <= 0:
		return cell{"expired " + human.Duration(-left) + " ago", bad}
	case left < min(3*24*time.Hour, c.NotAfter.Sub(c.NotBefore)/12):
		return cell{human.Duration(left) + " left", bad}
	case left < min(14*24*time.Hour, c.NotAfter.Sub(c.NotBefore)/6):
		return cell{human.Duration(left) + " left", warn}
	}
	return cell{human.Duration(left) + " left", good}
}

// statePaint is the colour of a node's state.
var statePaint = map[string]string{"up": good, "warming": good, "draining": work, "out": bad, "no address": bad}

func (s *screen) nodes(st *admin.Status) {
	var rows [][]cell
	for _, u := range st.Upstreams {
		for _, n := range u.Nodes {
			rows = append(rows, []cell{{human.Cell(u.Name + "/" + n.Name), bold}, {n.State, statePaint[n.State]}, {human.Number(int64(n.Tunnels)), plain},
				{human.Number(int64(n.Dials)), plain}, {human.Number(int64(n.Failures)), plain}, {human.Cell(n.LastError), soft}})
		}
	}
	s.section("Upstream nodes", len(rows), []string{"NODE", "STATE", " TUNNELS", " DIALS", " FAILURES", "LAST ERROR"}, rows)
}

// certificates prints the certificates that expire first, if there are no vhosts to
// show them.
func (s *screen) certificates(st *admin.Status) {
	if len(st.Vhosts) != 1 || st.Vhosts[0].Name != "*" {
		return
	}
	var rows [][]cell
	for _, c := range st.Certificates[:min(len(st.Certificates), 10)] {
		source := c.File
		if c.Source == "acme" {
			source = "ACME"
		}
		rows = append(rows, []cell{{human.Cell(c.Name), bold}, timeLeft(&c, st.Now), {human.Cell(source), plain}})
	}
	s.section("Certificates", st.CertificatesTotal, []string{"NAME", "TIME LEFT", "FROM"}, rows)
}

func (s *screen) unserved(st *admin.Status) {
	var rows [][]cell
	for _, n := range st.Unserved {
		rows = append(rows, []cell{{human.Cell(n.Name), bold}, {human.Number(int64(n.Count)), plain}, {human.Short(st.Now.Sub(n.Last)) + " ago", plain}})
	}
	s.section("Names without a certificate that clients ask for", len(rows), []string{"NAME", " HANDSHAKES", "LAST"}, rows)
}

func (s *screen) logins(st *admin.Status) {
	var rows [][]cell
	for _, c := range st.Logins.Clients[:min(len(st.Logins.Clients), 10)] {
		state := cell{"counted", plain}
		if c.Refused {
			state = cell{"refused for " + human.Short(c.Until.Sub(st.Now)), bad}
		}
		rows = append(rows, []cell{{c.Network, bold}, {human.Number(int64(c.Failures)), plain}, state})
	}
	s.section("Failed logins", len(st.Logins.Clients), []string{"ADDRESS", " FAILURES", "STATE"}, rows)
}

// Reload asks the gate to read its configuration again.
func (g *Gate) Reload(ctx context.Context) (string, error) { return g.order(ctx, "/reload", nil) }

// A DrainOrder says what to drain: one of Vhost, Node, All, or with none of them the whole
// gate, which then ends.
type DrainOrder struct {
	Vhost string
	Node  string // UPSTREAM/NAME
	All   bool
	Stop  bool          // end that drain
	After time.Duration // begin so much later, and be not ready until then
	Wait  bool          // until the last tunnel has ended
}

func (d DrainOrder) query() url.Values {
	query := url.Values{}
	switch {
	case d.Vhost != "":
		query.Set("vhost", d.Vhost)
	case d.Node != "":
		query.Set("node", d.Node)
	case d.All:
		query.Set("all", "1")
	}
	if d.Stop {
		query.Set("stop", "1")
	}
	if d.After != 0 {
		query.Set("after", d.After.String())
	}
	return query
}

// Drain asks the gate to start or stop a drain. If the order is to wait it returns when
// the last tunnel has ended, and an error if the drain was stopped first.
func (g *Gate) Drain(ctx context.Context, d DrainOrder) (string, error) {
	o, err := g.post(ctx, "/drain", d.query())
	if err != nil || !d.Wait {
		return o.Result, err
	}
	for {
		var st admin.Status
		if err := g.get(ctx, "/status", nil, &st); err != nil {
			return "", err
		}
		i := slices.IndexFunc(st.Drains, func(drain admin.Drain) bool { return drain.Scope == o.Scope })
		switch {
		case i < 0:
			return "", &Error{Text: o.Scope + ": the drain was stopped"}
		case st.Drains[i].Begins.IsZero() && st.Drains[i].Left == 0:
			return o.Scope + ": drained", nil
		}
		select {
		case <-time.After(waitPause):
		case <-ctx.Done():
			return "", g.unreachable(ctx.Err())
		}
	}
}

// waitPause is the time between two looks at a drain.
const waitPause = 250 * time.Millisecond
