package admin

import "time"

// Memory is the memory of the process, in bytes.
type Memory struct {
	Bytes     int64 `json:"bytes"`      // that Go's runtime has obtained from the system and not returned
	Limit     int64 `json:"limit"`      // of Go's runtime; 0: none
	PerTunnel int64 `json:"per_tunnel"` // Bytes divided by the tunnels; 0: no tunnels

	Used         int64      `json:"used"`          // what counts against Max
	Max          int64      `json:"max"`           // limits.memory; 0: none
	Short        bool       `json:"short"`         // new clients are refused
	Since        *time.Time `json:"since"`         // last time when that began; nil: never
	Until        *time.Time `json:"until"`         // when that ended; nil while it continues
	ShedTunnels  int        `json:"shed_tunnels"`  // ended because of it, since the start
	ShedRequests int        `json:"shed_requests"` // of BOSH, likewise
}

// among divides the memory among tunnels.
func (m Memory) among(tunnels int64) Memory {
	if tunnels > 0 {
		m.PerTunnel = m.Bytes / tunnels
	}
	return m
}

func (s *Server) memory() Memory {
	if s.options.Memory == nil {
		return Memory{}
	}
	return s.options.Memory()
}
