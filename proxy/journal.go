package proxy

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"wssgate/upstream"
)

// tunnelInfo is what the log says about a tunnel besides its counts.
type tunnelInfo struct {
	client     netip.AddrPort
	key        clientKey
	serverName string
	host, path string
	vhost      *upstream.Vhost
	upstream   *upstream.Conn
	began      time.Time
}

func newTunnel(c *clientConn, req *request, vhost *upstream.Vhost, up *upstream.Conn, rest []byte) *tunnel {
	t := &tunnel{
		settings: &c.set.tunnel,
		info: &tunnelInfo{
			client: c.client, key: c.key,
			serverName: c.tls.ConnectionState().ServerName,
			host:       req.host, path: req.path,
			vhost: vhost, upstream: up, began: time.Now(),
		},
		client:   leg{sock: c.sock, tls: c.tls, held: rest, scan: scanner{fromClient: true, limit: c.set.Message}},
		upstream: leg{held: up.Rest},
	}
	up.Rest = nil
	switch conn := up.Conn.(type) {
	case *sock:
		t.upstream.sock = conn
	case *tls.Conn:
		t.upstream.tls, t.upstream.sock = conn, conn.NetConn().(*sock)
	default:
		t.upstream.sock = &sock{conn: conn}
	}
	return t
}

// tunnelDone is each tunnel's onDone. It runs in the driver, so it does not
// wait: the log line goes to the journal.
func (s *Server) tunnelDone(t *tunnel, _ time.Duration) {
	t.info.upstream.Release()
	s.stats.vhost(t.info.vhost).open.Add(-1)
	s.stats.closed[t.why].Add(1)
	s.journal.add(entry{
		info: t.info, why: t.why, code: t.code, err: t.lastError(),
		bytesIn: t.client.bytes, bytesOut: t.upstream.bytes,
		framesIn: t.client.scan.frames, framesOut: t.upstream.scan.frames,
	})
	s.left(t.info.key)
}

// entry is one finished tunnel.
type entry struct {
	info                *tunnelInfo
	why                 reason
	code                uint16
	err                 error
	bytesIn, bytesOut   int64
	framesIn, framesOut int64
}

// A journal writes one line for each finished tunnel, in a goroutine of its
// own: standard error may be a pipe that nobody empties, and the event loop
// must not wait for it. Lines that wait are as many as tunnels that ended.
type journal struct {
	log  *slog.Logger
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	waiting []entry
	closed  bool
}

func newJournal(log *slog.Logger) *journal {
	j := &journal{log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go j.writeLines()
	return j
}

func (j *journal) add(e entry) {
	j.mu.Lock()
	j.waiting = append(j.waiting, e)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// close writes what waits, and ends the goroutine.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
	<-j.done
}

func (j *journal) writeLines() {
	defer close(j.done)
	for range j.wake {
		j.mu.Lock()
		entries, closed := j.waiting, j.closed
		j.waiting = nil
		j.mu.Unlock()
		for _, e := range entries {
			j.write(e)
		}
		if closed {
			return
		}
	}
}

func (j *journal) write(e entry) {
	i := e.info
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.Any("client", i.client), slog.String("server_name", i.serverName), slog.String("host", i.host),
		slog.String("path", i.path), slog.String("vhost", i.vhost.Name()), slog.String("upstream", i.upstream.Node.Name()),
		slog.Duration("duration", time.Since(i.began).Round(time.Millisecond)),
		slog.Int64("bytes_in", e.bytesIn), slog.Int64("bytes_out", e.bytesOut),
		slog.Int64("frames_in", e.framesIn), slog.Int64("frames_out", e.framesOut),
		slog.Int("code", int(e.code)), slog.String("reason", e.why.String()),
	}
	if e.err != nil {
		attrs = append(attrs, slog.String("err", e.err.Error()))
	}
	switch e.why {
	case reasonSlowClient, reasonBadGateway, reasonUpstreamGone, reasonUpstreamStuck:
		level = slog.LevelWarn
	}
	j.log.LogAttrs(nil, level, "tunnel", attrs...)
}
