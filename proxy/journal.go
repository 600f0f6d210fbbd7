package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/upstream"
	"wssgate/xmpp"
)

// tunnelInfo is what the log says about a tunnel besides its counts.
type tunnelInfo struct {
	id         tunnelID
	client     netip.AddrPort
	key        clientKey
	suspect    clientKey // what its failed logins are counted by; invalid: they are not
	serverName string
	host, path string
	vhost      *upstream.Vhost
	domain     string         // `to` of its stream; "" while that has none
	upstream   *upstream.Conn // nil while there is none
	began      time.Time

	server    *Server
	request   *upstream.Request // for another dial, while the greeting may need one
	elsewhere string            // the URL that this client is sent to; mostly ""
}

// names notes the domain of a stream's start tag. Mostly it is another name of the
// tunnel's, and then costs no memory of its own.
func (i *tunnelInfo) names(tag *xmpp.Open) {
	domain, err := tag.Domain()
	switch {
	case err != nil:
		i.domain = ""
	case domain == i.serverName:
		i.domain = i.serverName
	default:
		i.domain = strings.Clone(domain)
	}
}

// tunnelDone is each tunnel's onDone. It runs in the loop, so it does not wait:
// neither does the log.
func (s *Server) tunnelDone(t *tunnel, _ time.Duration) {
	// Deferred, so that a panic in one of these keeps no place from being given back.
	defer s.left(t.info.key, t.info.elsewhere == "")
	defer s.stats.vhost(t.info.vhost).open.Add(-1)
	defer t.giveUp()
	if t.tap != nil {
		defer t.tap.end(t.why)
	}
	if t.info.upstream != nil {
		defer t.info.upstream.Release()
	}
	s.stats.closed[t.why].Add(1)
	s.journal.write(entry{
		info: t.info, why: t.why, code: t.code, err: t.lastError(), took: time.Since(t.info.began),
		bytesIn: t.client.bytes, bytesOut: t.upstream.bytes,
		framesIn: t.client.scan.frames, framesOut: t.upstream.scan.frames,
	})
}

// node is the names of the node that the stream was on last, and of its
// upstream; empty where it was on none.
func (i *tunnelInfo) node() (upstream, node string) {
	if i.upstream == nil {
		return "", ""
	}
	return i.upstream.Node.Upstream(), i.upstream.Node.Name()
}

// entry is one finished tunnel.
type entry struct {
	info                *tunnelInfo
	why                 reason
	code                uint16
	err                 error
	took                time.Duration
	bytesIn, bytesOut   int64
	framesIn, framesOut int64
}

// A journal writes one line for each finished tunnel, or for one of so many. It may
// be used by several goroutines.
type journal struct {
	log    *slog.Logger
	sample atomic.Int64 // one of so many lines is written

	mu   sync.Mutex
	skip int64 // lines to leave out before the next one
}

func (j *journal) write(e entry) {
	i := e.info
	level := e.level()
	if level == slog.LevelInfo && !j.sampled() {
		return
	}
	group, node := i.node()
	attrs := []slog.Attr{
		slog.String("id", i.id.String()), slog.Any("client", i.client), slog.String("server_name", i.serverName), slog.String("host", i.host),
		slog.String("path", i.path), slog.String("vhost", i.vhost.Name()), slog.String("upstream", group), slog.String("node", node),
		slog.Duration("duration", e.took.Round(time.Millisecond)),
		slog.Int64("bytes_in", e.bytesIn), slog.Int64("bytes_out", e.bytesOut),
		slog.Int64("frames_in", e.framesIn), slog.Int64("frames_out", e.framesOut),
		slog.Int("code", int(e.code)), slog.String("reason", e.why.String()),
	}
	if e.err != nil {
		attrs = append(attrs, slog.String("err", e.err.Error()))
	}
	j.log.LogAttrs(context.Background(), level, "tunnel", attrs...)
}

// level is how loud a tunnel's end is told.
func (e *entry) level() slog.Level {
	switch e.why {
	case reasonSlowClient, reasonFlood, reasonBadGateway, reasonUpstreamGone, reasonUpstreamStuck, reasonDialFailed:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// sampled reports whether the next line is one that is written.
func (j *journal) sampled() bool {
	n := j.sample.Load()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.skip = min(j.skip, n-1); j.skip > 0 { // n may be less than it was
		j.skip--
		return false
	}
	j.skip = n - 1
	return true
}
