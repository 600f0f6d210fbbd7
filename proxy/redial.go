package proxy

import (
	"context"
	"time"

	"wssgate/upstream"
)

// redial looks for an upstream for a tunnel that is open already: its domain,
// or a redirect, decided which. The driver gets the answer as a turn.
func (s *Server) redial(t *tunnel, dial func(context.Context) (*upstream.Conn, error)) {
	s.redials.Go(func() {
		began := time.Now()
		up, err := dial(s.ctx)
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

// driverOf returns the driver that has t.
func (s *Server) driverOf(t *tunnel) driver {
	if _, pumped := t.client.sock.raw.(*pumpedConn); pumped {
		return s.pumps
	}
	return s.driver
}
