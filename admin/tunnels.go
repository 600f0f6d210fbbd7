package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"wssgate/access"
	"wssgate/human"
	"wssgate/proxy"
	"wssgate/xmpp"
)

// Rows of an answer with tunnels or clients: the default, and the maximum.
const (
	someRows = 100
	mostRows = 1000
)

// The widest networks of a command, in bits of the prefix: a mistake must not affect
// all clients.
const (
	widest4 = 16
	widest6 = 32
)

// parameters reads the query of a request, in which each parameter has one value. It
// keeps the first mistake.
type parameters struct {
	query url.Values
	err   error // the first mistake
}

func parametersOf(r *http.Request, known ...string) *parameters {
	p := &parameters{}
	p.query, p.err = url.ParseQuery(r.URL.RawQuery)
	for key, values := range p.query {
		switch {
		case !slices.Contains(known, key):
			p.fail("unknown parameter %q, want %s", key, strings.Join(known, ", "))
		case len(values) != 1:
			p.fail("%q appears %d times; it may appear once", key, len(values))
		case values[0] == "":
			p.fail("%s is empty", key)
		}
	}
	return p
}

func (p *parameters) fail(format string, values ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, values...)
	}
}

func (p *parameters) duration(key string) (d time.Duration) {
	if s := p.query.Get(key); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil || d < 0 {
			p.fail("%s %q is not a duration such as 90s, 15m or 36h", key, s)
		}
	}
	return d
}

func (p *parameters) number(key string, least, most, otherwise int64) int64 {
	s := p.query.Get(key)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		p.fail("%s %q is not a number between %d and %d", key, s, least, most)
	}
	return n
}

// network returns an address or a network; the zero value if there is none.
func (p *parameters) network(key string) (network netip.Prefix) {
	if s := p.query.Get(key); s != "" {
		var err error
		if network, err = access.ParseNetwork(s); err != nil {
			p.fail("%s %q %v", key, s, err)
		}
	}
	return network
}

// clients is network for a command, which must not include very many addresses.
func (p *parameters) clients(key string) netip.Prefix {
	network := p.network(key)
	widest := widest6
	if network.Addr().Is4() {
		widest = widest4
	}
	if network.IsValid() && network.Bits() < widest {
		p.fail("%s %s is wider than a /%d", key, network, widest)
	}
	return network
}

// filterParameters are the parameters of filter.
var filterParameters = []string{"id", "client", "vhost", "node", "domain", "older", "younger", "bytes"}

func (p *parameters) filter() proxy.TunnelFilter {
	f := proxy.TunnelFilter{
		ID: p.query.Get("id"), Client: p.network("client"), Vhost: p.query.Get("vhost"),
		Older: p.duration("older"), Younger: p.duration("younger"), Bytes: p.number("bytes", 0, 1<<62, 0),
	}
	node := p.query.Get("node")
	upstream, name, named := strings.Cut(node, "/") // as in parseDrain
	if f.Upstream, f.Node = upstream, name; node != "" && (upstream == "" || named && name == "") {
		p.fail("node %q is not UPSTREAM or UPSTREAM/NAME", node)
	}
	if s := p.query.Get("domain"); s != "" {
		var err error
		if f.Domain, err = xmpp.NormalDomain(s); err != nil {
			p.fail("domain %q is not a domain", s)
		}
	}
	return f
}

// refused answers a request that is invalid or not supported.
func refused(w http.ResponseWriter, err error, supported bool) bool {
	switch {
	case err != nil:
		writeJSON(w, http.StatusBadRequest, outcome{Result: err.Error()})
	case !supported:
		writeJSON(w, http.StatusNotImplemented, outcome{Result: ErrNotSupported.Error()})
	default:
		return false
	}
	return true
}

// serveTunnels lists tunnels, the oldest first, in parts.
func (s *Server) serveTunnels(w http.ResponseWriter, r *http.Request) {
	p := parametersOf(r, append([]string{"limit", "after", "sort"}, filterParameters...)...)
	q := proxy.TunnelQuery{TunnelFilter: p.filter(), After: p.query.Get("after"), Limit: int(p.number("limit", 1, mostRows, someRows))}
	switch order := p.query.Get("sort"); order {
	case "":
	case "bytes":
		q.Busiest = true
		if q.After != "" {
			p.fail("after does not go with sort")
		}
	default:
		p.fail("sort %q is not bytes", order)
	}
	if !refused(w, p.err, s.options.Tunnels != nil) {
		writeJSON(w, http.StatusOK, s.options.Tunnels(q))
	}
}

// Clients is the answer to GET /clients.
type Clients struct {
	Total   int                 `json:"total"` // addresses with tunnels
	Clients []proxy.ClientCount `json:"clients"`
}

// serveClients lists the client addresses with the most tunnels.
func (s *Server) serveClients(w http.ResponseWriter, r *http.Request) {
	p := parametersOf(r, "limit")
	limit := int(p.number("limit", 1, mostRows, someRows))
	if refused(w, p.err, s.options.Clients != nil) {
		return
	}
	var c Clients
	c.Total, c.Clients = s.options.Clients(limit)
	writeJSON(w, http.StatusOK, c)
}

// serveClose closes one tunnel, or those of one client address or network.
func (s *Server) serveClose(w http.ResponseWriter, r *http.Request) {
	p := parametersOf(r, "id", "client")
	f := proxy.TunnelFilter{ID: p.query.Get("id"), Client: p.clients("client")}
	scope := "tunnel " + f.ID
	if f.ID == "" {
		scope = "client " + networkText(f.Client)
	}
	if (f.ID == "") != f.Client.IsValid() {
		p.fail("id=ID or client=ADDRESS is required")
	}
	if refused(w, p.err, s.options.CloseTunnels != nil) {
		return
	}
	n := s.options.CloseTunnels(f)
	s.log.Info("close", "client", r.RemoteAddr, "scope", scope, "tunnels", n)
	if n == 0 {
		writeJSON(w, http.StatusNotFound, outcome{Result: scope + ": nothing is open"})
		return
	}
	writeJSON(w, http.StatusOK, outcome{OK: true, Result: scope + ": closing " + human.Count(n, "tunnel")})
}

// maxDenied is the longest ban. A restart forgets it in any case.
const maxDenied = 30 * 24 * time.Hour

// serveDeny bans an address or network for a while, or lifts the ban.
func (s *Server) serveDeny(w http.ResponseWriter, r *http.Request) {
	p := parametersOf(r, "client", "for")
	client, duration := p.clients("client"), p.duration("for")
	switch {
	case !client.IsValid() || !p.query.Has("for"):
		p.fail("client=ADDRESS and for=DURATION are required; for=0s lifts it")
	case duration > maxDenied:
		p.fail("for %v is longer than %v", duration, maxDenied)
	}
	if refused(w, p.err, s.options.Ban != nil) {
		return
	}
	scope := networkText(client)
	s.log.Info("deny", "client", r.RemoteAddr, "scope", scope, "refused_for", duration)
	rest, err := s.options.Ban(client, duration)
	still := stillDenied(client, rest)
	switch {
	case errors.Is(err, proxy.ErrNotBanned):
		writeJSON(w, http.StatusNotFound, outcome{Result: scope + ": " + err.Error() + still})
	case err != nil:
		writeJSON(w, http.StatusConflict, outcome{Result: scope + ": " + err.Error()})
	case duration == 0 && still != "":
		writeJSON(w, http.StatusOK, outcome{OK: true, Result: scope + ": lifted" + still})
	case duration == 0:
		writeJSON(w, http.StatusOK, outcome{OK: true, Result: scope + ": no longer denied"})
	default:
		writeJSON(w, http.StatusOK, outcome{OK: true, Result: fmt.Sprintf("%s: denied until %s", scope, time.Now().Add(duration).Format(time.DateTime))})
	}
}

// stillDenied returns the ban that still applies to a client whose ban was lifted:
// preferably one of the whole network, and the one that ends last. It is empty if
// there is none.
func stillDenied(client netip.Prefix, bans []access.Ban) (text string) {
	whole := false
	for _, ban := range bans { // ordered by their end
		how := "; part of it is still denied"
		if ban.Covers(client) {
			whole, how = true, "; still denied"
		} else if whole {
			continue
		}
		text = fmt.Sprintf("%s by %s until %s", how, networkText(ban.Network), ban.Until.Local().Format(time.DateTime))
	}
	return text
}

// traceWrite is the time limit for writing one line of a trace.
const traceWrite = 10 * time.Second

// serveTrace writes one JSON object per line for each event of a tunnel, until the
// tunnel ends or the client disconnects.
func (s *Server) serveTrace(w http.ResponseWriter, r *http.Request) {
	p := parametersOf(r, "id")
	id := p.query.Get("id")
	if id == "" {
		p.fail("id=ID is required")
	}
	if refused(w, p.err, s.options.Trace != nil) {
		return
	}
	control, encoder, begun := http.NewResponseController(w), json.NewEncoder(w), false
	encoder.SetEscapeHTML(false)
	err := s.options.Trace(r.Context(), id, func(l proxy.TraceLine) error {
		if !begun {
			begun = true
			s.log.Info("trace", "client", r.RemoteAddr, "scope", "tunnel "+id)
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		control.SetWriteDeadline(time.Now().Add(traceWrite))
		if err := encoder.Encode(l); err != nil {
			return err
		}
		return control.Flush()
	})
	switch {
	case begun || err == nil: // the client may have disconnected
	case errors.Is(err, proxy.ErrNoTunnel):
		writeJSON(w, http.StatusNotFound, outcome{Result: "tunnel " + id + ": " + err.Error()})
	default:
		writeJSON(w, http.StatusConflict, outcome{Result: err.Error()})
	}
}

// networkText returns a network of one address as that address.
func networkText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
