package admin

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
)

// Memory is what the process has, in bytes.
type Memory struct {
	Bytes     int64 `json:"bytes"`      // from the system and not given back
	Limit     int64 `json:"limit"`      // of Go's runtime (GOMEMLIMIT); 0: none
	PerTunnel int64 `json:"per_tunnel"` // Bytes shared out among the tunnels; 0: no tunnels
}

func readMemory() Memory {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	m := Memory{Bytes: int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		m.Limit = limit
	}
	return m
}

// among shares the memory out among tunnels.
func (m Memory) among(tunnels int64) Memory {
	if tunnels > 0 {
		m.PerTunnel = m.Bytes / tunnels
	}
	return m
}
