package terminal

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"strconv"
	"time"

	"wssgate/admin"
	"wssgate/human"
	"wssgate/proxy"
)

// page is the number of tunnels per request.
const page = 1000

// A Listing configures Tunnels. Filter is the query of GET /tunnels.
type Listing struct {
	Filter url.Values
	Limit  int  // tunnels; 0: all
	JSON   bool // one object per line
}

// Tunnels prints tunnels, the oldest first, and then their number. It holds one part of
// the answer in memory at a time.
func (g *Gate) Tunnels(ctx context.Context, stdout, stderr io.Writer, l Listing) error {
	s, encoder := newScreen(stdout), json.NewEncoder(stdout)
	query := url.Values{}
	for key, values := range l.Filter {
		query[key] = values
	}
	shown := 0
	for {
		limit := page
		if l.Limit > 0 {
			limit = min(limit, l.Limit-shown)
		}
		query.Set("limit", strconv.Itoa(limit))
		var list proxy.TunnelList
		if err := g.get(ctx, "/tunnels", query, &list); err != nil {
			return err
		}
		shown += len(list.Tunnels)
		if l.JSON {
			for i := range list.Tunnels {
				if err := encoder.Encode(&list.Tunnels[i]); err != nil {
					return err
				}
			}
		} else if len(list.Tunnels) > 0 {
			s.tunnels(list.Tunnels)
		}
		if s.err != nil {
			return s.err
		}
		if list.Next == "" || l.Limit > 0 && shown >= l.Limit {
			if !l.JSON { // standard output remains a table
				out := newScreen(stderr)
				out.printf("%d shown, %d match, %d open\n", shown, list.Matched, list.Open)
			}
			return nil
		}
		query.Set("after", list.Next)
	}
}

func (s *screen) tunnels(list []proxy.Tunnel) {
	now := time.Now()
	var rows [][]cell
	for i := range list {
		t := &list[i]
		state := cell{"open", good}
		if t.Closing != "" {
			state = cell{t.Closing, work}
		}
		node := "-"
		if t.Upstream != "" {
			node = t.Upstream + "/" + t.Node
		}
		rows = append(rows, []cell{{t.ID, bold}, {clientText(t), plain}, {human.Cell(t.Vhost), plain}, {human.Cell(t.Domain), plain}, {human.Cell(node), plain},
			{human.Short(now.Sub(t.Began)), plain}, {human.Short(t.Silent), plain}, {human.Bytes(t.BytesIn), plain}, {human.Bytes(t.BytesOut), plain}, state})
	}
	s.table([]string{"ID", "CLIENT", "VHOST", "DOMAIN", "NODE", " AGE", " SILENT", " IN", " OUT", "STATE"}, rows)
}

func clientText(t *proxy.Tunnel) string {
	if !t.Client.IsValid() {
		return "unix socket"
	}
	return t.Client.String()
}

// CloseTunnel asks the gate to close one tunnel.
func (g *Gate) CloseTunnel(ctx context.Context, id string) (string, error) {
	return g.order(ctx, "/close", url.Values{"id": {id}})
}

// CloseClient asks the gate to close the tunnels of an address or network.
func (g *Gate) CloseClient(ctx context.Context, client string) (string, error) {
	return g.order(ctx, "/close", url.Values{"client": {client}})
}

// Deny temporarily denies the clients of an address or network, and prints the gate's
// answer; a duration of zero lifts the ban. If closes is true, it closes their tunnels
// afterwards: if they were closed first, the clients would reconnect before the ban.
func (g *Gate) Deny(ctx context.Context, stdout io.Writer, client string, duration time.Duration, closes bool) error {
	s := newScreen(stdout)
	said, err := g.order(ctx, "/deny", url.Values{"client": {client}, "for": {duration.String()}})
	if err != nil {
		return err
	}
	s.printf("%s\n", said)
	if duration == 0 {
		return s.err
	}
	n, err := g.open(ctx, client)
	switch {
	case err != nil:
		return err
	case n == 0:
	case !closes:
		s.printf("%s open; \"wssgate close -client %s\" closes them\n", human.Count(n, "tunnel"), client)
	default:
		if said, err = g.CloseClient(ctx, client); err == nil {
			s.printf("%s\n", said)
		} else if n, again := g.open(ctx, client); again != nil || n > 0 {
			return err
		} // otherwise they have ended in the meantime
	}
	return s.err
}

// open returns the number of tunnels of an address or network.
func (g *Gate) open(ctx context.Context, client string) (int, error) {
	var list proxy.TunnelList
	err := g.get(ctx, "/tunnels", url.Values{"client": {client}, "limit": {"1"}}, &list)
	return list.Matched, err
}

// Denied prints the bans by Deny.
func (g *Gate) Denied(ctx context.Context, stdout io.Writer) error {
	var st admin.Status
	if err := g.get(ctx, "/status", nil, &st); err != nil {
		return err
	}
	s := newScreen(stdout)
	if len(st.Denied) == 0 {
		s.printf("no temporary bans; [access] has the permanent rules\n")
		return s.err
	}
	s.denied(&st)
	return s.err
}

func (s *screen) denied(st *admin.Status) {
	var rows [][]cell
	for _, ban := range st.Denied {
		network := ban.Network.String()
		if ban.Network.IsSingleIP() {
			network = ban.Network.Addr().String()
		}
		rows = append(rows, []cell{{network, bold}, {human.Short(ban.Until.Sub(st.Now)), plain}, {ban.Until.Local().Format(time.DateTime), plain}})
	}
	s.table([]string{"ADDRESS", " LEFT", "UNTIL"}, rows)
}
