package upstream

import (
	"time"

	"wssgate/ports"
)

// A room is the use of the source ports at one time.
type room struct {
	ports int            // ephemeral ports of one source; 0: unknown
	load  map[string]int // tunnels and dials by IP address and port
}

// room counts the connections to all addresses of the newest Routes.
func (t *Table) room() *room {
	r := &room{ports: ports.Count(), load: map[string]int{}}
	seen := map[*address]bool{}
	for n := range t.routes.Load().nodes() {
		for _, e := range n.endpoints() {
			if e.place == nil && !seen[e.address] {
				seen[e.address] = true
				r.load[e.addr] += e.balanceState(time.Time{}).load
			}
		}
	}
	return r
}

// share returns the share of the ports in use from g's sources to a.
func (r *room) share(g *group, a *address) float64 {
	most := r.ports * ports.Sources(g.sources, a.addr)
	if a.place != nil || most == 0 {
		return 0
	}
	return float64(r.load[a.addr]) / float64(most)
}

// PortsUsedUp reports whether no node can be dialled now, because no source port is left
// for any address that is in service.
func (t *Table) PortsUsedUp() bool {
	now := time.Now()
	short := false
	for n := range t.routes.Load().nodes() {
		if n.Leaving() || n.server.drained.Load() {
			continue
		}
		for _, e := range n.endpoints() {
			switch {
			case e.balanceState(now).out:
			case e.place != nil || !e.ports.Short(now):
				return false
			default:
				short = true
			}
		}
	}
	return short
}
