package terminal

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"wssgate/admin"
	"wssgate/human"
)

// ACME prints the names with certificates from a CA.
func (g *Gate) ACME(ctx context.Context, stdout io.Writer, asJSON bool) error {
	var st admin.Status
	if err := g.get(ctx, "/status", nil, &st); err != nil {
		return err
	}
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(st.ACME)
	}
	s := newScreen(stdout)
	for _, p := range st.ACMEFiles {
		s.printf("%s\n", s.paint(bad, human.Line(p.Err)))
	}
	if len(st.ACME) == 0 {
		s.printf("no certificates are obtained from a CA: acme.names is empty, and there is no [[acme.certificate]]\n")
		return s.err
	}
	s.acme(&st)
	return s.err
}

// acmePaint is the colour of a name's state.
var acmePaint = map[string]string{"valid": good, "ordering": work, "elsewhere": work, "waiting": warn, "expired": bad}

// acmeTitle is what a certificate is called in a table.
func acmeTitle(n admin.ACMEName) string {
	if len(n.Names) > 1 {
		return fmt.Sprintf("%s +%d", n.Name, len(n.Names)-1)
	}
	return n.Name
}

// acmeHost is what a CA is called in a table.
func acmeHost(ca string) string {
	if u, err := url.Parse(ca); err == nil && u.Host != "" {
		return u.Host
	}
	return "-"
}

func (s *screen) acme(st *admin.Status) {
	var rows [][]cell
	for _, n := range st.ACME {
		left := "-"
		if !n.NotAfter.IsZero() {
			left = human.Short(n.NotAfter.Sub(st.Now))
		}
		state := cell{n.State, acmePaint[n.State]}
		if n.Revoked && n.State == "valid" {
			state = cell{"revoked", bad}
		}
		rows = append(rows, []cell{{human.Cell(acmeTitle(n)), bold}, state, {left, plain}, {human.Cell(acmeHost(n.CA)), plain}, {in(n.NextTry.Sub(st.Now)), plain}, {human.Number(int64(n.Failures)), plain}})
	}
	s.table([]string{"NAME", "STATE", " LEFT", "FROM", " NEXT TRY", " FAILURES"}, rows)
	for _, n := range st.ACME {
		if n.Revoked {
			s.printf("%s %s\n", s.paint(bad, human.Cell(n.Name)+":"), "has been revoked on request; it is served until there is another certificate")
		}
		if n.Err != "" {
			s.printf("%s %s\n", s.paint(bad, human.Cell(n.Name)+":"), human.Line(n.Err))
		}
		if r := n.Renewal; r.Explanation != "" {
			s.printf("%s: the CA wants the renewal from %s to %s: %s\n", human.Cell(n.Name), r.Start.Format(time.RFC3339), r.End.Format(time.RFC3339), human.Line(r.Explanation))
		}
	}
}

// in formats the time until an event.
func in(d time.Duration) string {
	if d <= 0 {
		return "now"
	}
	return human.Short(d)
}

// ACMEDo asks the gate to renew, retry or revoke the certificate of a name, with a
// reason, to give the "account" a new key, or for "all" DNS records.
func (g *Gate) ACMEDo(ctx context.Context, do, name, reason string) (string, error) {
	query := url.Values{do: {name}}
	if reason != "" {
		query.Set("reason", reason)
	}
	said, err := g.order(ctx, "/acme", query)
	if err != nil {
		return "", err
	}
	if do == "rollover" || do == "dns-records" { // is done
		return said, nil
	}
	return fmt.Sprintf("%s; \"wssgate acme status\" shows the progress", said), nil
}
