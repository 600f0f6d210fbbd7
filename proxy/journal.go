package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// entry is one finished tunnel.
type entry struct {
	info                *tunnelInfo
	why                 reason
	code                uint16
	err                 error
	took                time.Duration
	bytesIn, bytesOut   int64
	framesIn, framesOut int64
	tls                 *tls.Conn // of the client; nil in tests
}

// A journal writes one line to the log for each finished tunnel, or for one in sample.
// It is safe for concurrent use.
type journal struct {
	log    *slog.Logger
	sample atomic.Int64 // one line in this many is written; 0 and 1: every line

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
	if e.tls != nil {
		s := e.tls.ConnectionState()
		attrs = append(attrs, slog.String("tls", tls.VersionName(s.Version)), slog.String("cipher_suite", tls.CipherSuiteName(s.CipherSuite)),
			slog.String("alpn", s.NegotiatedProtocol), slog.Bool("resumed", s.DidResume), slog.Bool("ech", s.ECHAccepted))
	}
	if e.err != nil {
		attrs = append(attrs, slog.String("err", e.err.Error()))
	}
	j.log.LogAttrs(context.Background(), level, "tunnel", attrs...)
}

// level is the log level of a finished tunnel.
func (e *entry) level() slog.Level {
	switch e.why {
	case reasonSlowClient, reasonFlood, reasonBadGateway, reasonUpstreamGone, reasonUpstreamStuck, reasonDialFailed:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// sampled reports whether the next line is written.
func (j *journal) sampled() bool {
	n := j.sample.Load()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.skip = min(j.skip, n-1); j.skip > 0 { // a reload may have made n smaller
		j.skip--
		return false
	}
	j.skip = n - 1
	return true
}
