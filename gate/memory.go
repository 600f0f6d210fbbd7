package gate

import (
	"wssgate/admin"
	"wssgate/config"
	"wssgate/memory"
)

// guardMemory applies limits.memory at the start and at each reload.
func (g *gate) guardMemory(cfg *config.Config) {
	there := memory.Available()
	limit := int64(cfg.Limits.Memory)
	if cfg.Limits.Memory == config.MemoryDefault {
		limit = there.Default()
	}
	soft := memory.LimitGo(limit, there)
	attrs := []any{"limit", limit, "soft", soft, "cgroup", there.Cgroup, "machine", there.Machine}
	switch {
	case limit > there.Least() && there.Least() > 0:
		g.log.Warn("limits.memory exceeds the memory available: the system may kill the gate before it sheds load", attrs...)
	case g.memory == nil || g.memory.State().Limit != limit:
		g.log.Info("memory limit", attrs...)
	}
	if g.memory != nil {
		g.memory.SetLimit(limit)
		return
	}
	g.memory = memory.Start(memory.Options{
		Limit: limit,
		Short: func(s memory.Shortage) { g.server.SetShort(s >= memory.Short, s >= memory.Dire) },
		Shed: func(bytes int64, sockets, atOnce bool) (out memory.Shed) {
			patience := memory.ShedPatience
			if atOnce {
				patience = 0
			}
			out.Tunnels, out.Requests, out.Bytes = g.server.Shed(bytes, sockets, patience)
			return out
		},
		Braked: g.server.Braked,
		Log:    g.log,
	})
}

// adminMemory converts the state of the Guard to admin's type.
func (g *gate) adminMemory() admin.Memory {
	s := g.memory.State()
	m := admin.Memory{
		Bytes: memory.OfGo(), Limit: memory.GoLimit(), Used: s.Used, Max: s.Limit,
		Short: s.Short, ShedTunnels: s.Shed.Tunnels, ShedRequests: s.Shed.Requests,
	}
	if !s.Since.IsZero() {
		m.Since = &s.Since
	}
	if !s.Until.IsZero() {
		m.Until = &s.Until
	}
	return m
}
