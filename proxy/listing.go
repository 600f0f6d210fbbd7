package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"wssgate/fair"
)

// A TunnelFilter selects tunnels. The zero value of a field selects all.
type TunnelFilter struct {
	ID             string
	Client         netip.Prefix  // the client's address is in it
	Vhost          string        // by its configured name
	Upstream, Node string        // Node only with Upstream
	Domain         string        // `to` of the stream, in its normal form
	Older, Younger time.Duration // the least and the greatest age
	Bytes          int64         // the least number of bytes, both directions together
}

// matches reports whether f selects t; now is the wall clock. Call it in t's loop.
func (f *TunnelFilter) matches(t *tunnel, now time.Time) bool {
	i := t.info
	switch {
	case f.ID != "" && f.ID != i.id.String(),
		f.Client.IsValid() && !f.Client.Contains(i.client.Addr()),
		f.Vhost != "" && f.Vhost != i.vhost.Name(),
		f.Domain != "" && f.Domain != i.domain,
		f.Older > 0 && now.Sub(i.began) < f.Older,
		f.Younger > 0 && now.Sub(i.began) > f.Younger,
		t.client.bytes+t.upstream.bytes < f.Bytes:
		return false
	}
	if f.Upstream == "" {
		return true
	}
	group, node := i.node()
	return f.Upstream == group && (f.Node == "" || f.Node == node)
}

// A Tunnel describes an open tunnel at the time of the listing.
type Tunnel struct {
	ID       string         `json:"id"`
	Client   netip.AddrPort `json:"client"` // "" for a client of a unix socket
	Vhost    string         `json:"vhost"`
	Host     string         `json:"host"`     // of the opening handshake's request
	Domain   string         `json:"domain"`   // `to` of its stream; "" if it is missing or invalid
	Upstream string         `json:"upstream"` // "" while there is none
	Node     string         `json:"node"`
	Began    time.Time      `json:"began"`
	Silent   time.Duration  `json:"silent_ns"` // since the client's last sign of life

	// In is from the client, Out is to it. Bytes are those of WebSocket, without TLS.
	BytesIn   int64 `json:"bytes_in"`
	BytesOut  int64 `json:"bytes_out"`
	FramesIn  int64 `json:"frames_in"`
	FramesOut int64 `json:"frames_out"`
	Waiting   int64 `json:"waiting"` // bytes that its ends have not taken yet

	// Closing is the reason of a close in progress; "" while the tunnel is open.
	Closing string `json:"closing"`

	number tunnelID
}

// Bytes returns the bytes of both directions.
func (t *Tunnel) Bytes() int64 { return t.BytesIn + t.BytesOut }

// describe returns t without the text of its ID, which would allocate. Call it in t's
// loop.
func (t *tunnel) describe(now time.Duration) Tunnel {
	i := t.info
	group, node := i.node()
	out := Tunnel{
		number: i.id, Client: i.client, Vhost: i.vhost.Name(), Host: i.host, Domain: i.domain, Upstream: group, Node: node,
		Began: i.began, Silent: max(now-t.heard, 0), Waiting: t.backlog(false),
		BytesIn: t.client.bytes, BytesOut: t.upstream.bytes, FramesIn: t.client.scan.frames, FramesOut: t.upstream.scan.frames,
	}
	if t.why != reasonNone {
		out.Closing = t.why.String()
	}
	return out
}

// A TunnelQuery asks for one page of the tunnels.
type TunnelQuery struct {
	TunnelFilter
	Limit   int    // rows, at least 1
	After   string // only tunnels that opened after the one with this ID; not with Busiest
	Busiest bool   // the most bytes first; otherwise the oldest first
}

// A TunnelList is an answer to a TunnelQuery.
type TunnelList struct {
	Open    int      `json:"open"`    // all open tunnels
	Matched int      `json:"matched"` // by the filter, on all pages
	Tunnels []Tunnel `json:"tunnels"`
	Next    string   `json:"next"` // After for the next page; "": this is the last one
}

// tunnels is Server.Tunnels.
func (d *loops) tunnels(q TunnelQuery) TunnelList {
	before := func(a, b Tunnel) int { return cmp.Compare(a.number, b.number) }
	if q.Busiest {
		before = func(a, b Tunnel) int {
			return cmp.Or(cmp.Compare(b.Bytes(), a.Bytes()), cmp.Compare(a.number, b.number))
		}
	}
	after, _ := parseTunnelID(q.After)
	limit := max(q.Limit, 1)
	list, more, now := TunnelList{Tunnels: []Tunnel{}}, false, time.Now()
	cut := func() {
		slices.SortFunc(list.Tunnels, before)
		if len(list.Tunnels) > limit {
			list.Tunnels, more = list.Tunnels[:limit], true
		}
	}
	d.survey(func(t *tunnel, clock time.Duration) {
		list.Open++
		if !q.matches(t, now) {
			return
		}
		list.Matched++
		if !q.Busiest && t.info.id <= after {
			return
		}
		if list.Tunnels = append(list.Tunnels, t.describe(clock)); len(list.Tunnels) > 2*limit {
			cut()
		}
	})
	cut()
	for i := range list.Tunnels {
		list.Tunnels[i].ID = list.Tunnels[i].number.String()
	}
	if more && !q.Busiest {
		list.Next = list.Tunnels[limit-1].ID
	}
	return list
}

// A ClientCount counts the open tunnels of one client address.
type ClientCount struct {
	Client   string `json:"client"` // an IPv4 address, or the /64 of an IPv6 one; "" for unix sockets
	Tunnels  int    `json:"tunnels"`
	BytesIn  int64  `json:"bytes_in"` // of those tunnels, since they opened
	BytesOut int64  `json:"bytes_out"`
	Frames   int64  `json:"frames"`
}

// Bytes returns the bytes of both directions.
func (c *ClientCount) Bytes() int64 { return c.BytesIn + c.BytesOut }

// clients is Server.Clients.
func (d *loops) clients(limit int) (total int, busiest []ClientCount) {
	counts := map[netip.Addr]*ClientCount{}
	d.survey(func(t *tunnel, _ time.Duration) {
		owner := fair.Owner(t.info.client.Addr())
		c := counts[owner]
		if c == nil {
			c = &ClientCount{}
			counts[owner] = c
		}
		c.Tunnels++
		c.BytesIn += t.client.bytes
		c.BytesOut += t.upstream.bytes
		c.Frames += t.client.scan.frames + t.upstream.scan.frames
	})
	busiest = make([]ClientCount, 0, len(counts))
	for owner, c := range counts {
		switch {
		case !owner.IsValid():
		case owner.Is6():
			c.Client = netip.PrefixFrom(owner, 64).String()
		default:
			c.Client = owner.String()
		}
		busiest = append(busiest, *c)
	}
	slices.SortFunc(busiest, func(a, b ClientCount) int {
		return cmp.Or(cmp.Compare(b.Bytes(), a.Bytes()), cmp.Compare(a.Client, b.Client))
	})
	return len(busiest), busiest[:min(len(busiest), limit)]
}

// closeTunnels is Server.CloseTunnels.
func (d *loops) closeTunnels(f TunnelFilter) (n int) {
	d.visit(func(t *tunnel, w *turn) {
		if !t.done && f.matches(t, time.Now()) {
			t.end(w, reasonOperator, w.now+closeTimeout)
			n++
		}
	})
	return n
}
