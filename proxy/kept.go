package proxy

import (
	"net"
	"time"

	"wssgate/fair"
)

// keptConns are connections of the pages that wait for a further request. They have
// their places only while nobody else needs them: where limits are reached, the
// client that has most of them loses its oldest. The Server's mutex guards it.
type keptConns struct {
	of fair.Set[net.Conn]
	at map[net.Conn]*fair.Entry[net.Conn]
}

// keep notes that a connection, which has its deadline, waits for a further request.
func (s *Server) keep(conn net.Conn, key clientKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept.at == nil {
		s.kept.at = map[net.Conn]*fair.Entry[net.Conn]{}
	}
	s.kept.at[conn] = s.kept.of.Add(key.Addr, conn)
}

func (k *keptConns) remove(conn net.Conn) {
	if e := k.at[conn]; e != nil {
		k.of.Remove(e)
		delete(k.at, conn)
	}
}

// giveUp ends a connection's wait; nil is none, and then it reports false. The
// connection says goodbye by itself, so that for a moment there is one more than
// the limit.
func (k *keptConns) giveUp(e *fair.Entry[net.Conn]) bool {
	if e == nil {
		return false
	}
	k.remove(e.Value)
	e.Value.SetReadDeadline(time.Unix(1, 0))
	return true
}
