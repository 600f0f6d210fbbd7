package proxy

import (
	"context"
	"time"

	"wssgate/upstream"
)

// redial looks for an upstream for a tunnel that is open already: its domain,
// or a redirect, decided which. The driver gets the answer as a turn.
func (s *Server) redial(t *tunnel, dial func(context.Context) (*upstream.Conn, error)) {
	ctx, giveUp := context.WithCancel(s.ctx)
	t.greeting.giveUp = giveUp
	s.jobs.Go(func() {
		defer giveUp()
		began := time.Now()
		up, err := dial(ctx)
		d := s.driverOf(t)
		if err == nil {
			s.stats.dialled(up.Node, time.Since(began))
			if err = d.swap(t, up); err == nil {
				return
			}
			up.Conn.Close()
			up.Release()
		}
		d.do(t, func(w *turn) { t.dialFailed(w, err) })
	})
}

// ask has a tunnel's node say what it speaks. The driver gets a turn for it when
// that is known, or not to be known.
func (s *Server) ask(t *tunnel) {
	up := t.info.upstream
	r := &upstream.Request{ServerName: t.info.serverName, Host: t.info.host, RequestURI: t.info.path}
	s.jobs.Go(func() {
		up.Ask(s.ctx, r, func() { s.driverOf(t).do(t, t.answeredFor) })
	})
}

// driverOf returns the driver that has t.
func (s *Server) driverOf(t *tunnel) driver {
	if _, pumped := t.client.sock.raw.(*pumpedConn); pumped {
		return s.pumps
	}
	return s.driver
}
