package proxy

import (
	"sync/atomic"
	"time"

	"wssgate/upstream"
)

// tunnels is shared by all tunnels of a Server: the parts that they need while they are
// open, their counters, and their journal. It is safe for concurrent use.
type tunnels struct {
	access    *accessControl
	guard     *guard
	dialler   *dialler
	loops     *loops
	admission *admission // frees their places
	journal   *journal
	ids       *tunnelIDs

	vhosts byName[string, *vhostCount]
	closed [reasonCount]atomic.Int64
}

type vhostCount struct{ open, opened atomic.Int64 }

// newTunnel makes the tunnel of a client that got its 101. info.upstream is nil if the
// upstream will be dialled later or never.
func newTunnel(info *tunnelInfo, settings *tunnelSettings, client leg) *tunnel {
	return &tunnel{settings: settings, info: info, client: client, upstream: upstreamLeg(info.upstream)}
}

// open gives t a loop, which owns it from here. After an error, the caller
// closes both ends.
func (s *tunnels) open(t *tunnel) error {
	t.info.began = time.Now()
	t.shared, t.onDone = s, s.done
	count := s.vhost(t.info.vhost)
	count.open.Add(1)
	if err := s.loops.take(t); err != nil {
		count.open.Add(-1)
		return err
	}
	count.opened.Add(1)
	return nil
}

// done is the onDone of every tunnel. It runs in the loop, so it must not block; nor
// does the log.
func (s *tunnels) done(t *tunnel, _ time.Duration) {
	// Deferred, so that the place is freed even if one of these panics.
	defer s.admission.leave(t.info.key, t.info.elsewhere == "")
	defer s.vhost(t.info.vhost).open.Add(-1)
	defer t.giveUp()
	if t.tap != nil {
		defer t.tap.end(t.why)
	}
	if t.info.upstream != nil {
		defer t.info.upstream.Release()
	}
	s.closed[t.why].Add(1)
	s.journal.write(entry{
		info: t.info, why: t.why, code: t.code, err: t.lastError(), took: time.Since(t.info.began),
		bytesIn: t.client.bytes, bytesOut: t.upstream.bytes,
		framesIn: t.client.scan.frames, framesOut: t.upstream.scan.frames, tls: t.client.tls,
	})
}

func (s *tunnels) vhost(v *upstream.Vhost) *vhostCount {
	return s.vhosts.get(v.Name(), func() *vhostCount { return new(vhostCount) })
}
