package proxy

import (
	"context"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

// redial looks for an upstream for a tunnel that is open already: its domain,
// or a redirect, decided which. The loop gets the answer as a turn.
func (s *Server) redial(t *tunnel, dial func(context.Context, *upstream.Request) (*upstream.Conn, error)) {
	request := t.info.request // which the loop forgets when the tunnel ends
	ctx, giveUp := context.WithCancel(s.ctx)
	t.greeting.giveUp = giveUp
	s.job(func() {
		defer giveUp()
		defer func() {
			if cause := recover(); cause != nil {
				s.panicked(panics.Tunnel, cause)
				s.loops.lose(t)
			}
		}()
		began := time.Now()
		up, err := dial(ctx, request)
		if err == nil {
			owned := false
			defer func() {
				if !owned {
					up.Conn.Close()
					up.Release()
				}
			}()
			s.stats.dialled(up.Node, time.Since(began))
			if err = s.loops.swap(t, up); err == nil {
				owned = true
				return
			}
		}
		s.loops.do(t, func(w *turn) { t.dialFailed(w, err) })
	})
}
