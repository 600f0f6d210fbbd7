package proxy

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"wssgate/sampling"
)

// A BalancerTrouble is a disagreement between a load balancer and the gate about the
// PROXY protocol, which locks out all clients behind that balancer.
type BalancerTrouble struct {
	Count int        `json:"count"` // connections since First; 0: no trouble in the last minutes
	First time.Time  `json:"first"`
	Last  time.Time  `json:"last"`
	Peer  netip.Addr `json:"peer"`  // of the last one
	Err   string     `json:"error"` // of the last one
}

// troubleFor is how long a trouble is remembered after its last connection.
const troubleFor = 10 * time.Minute

// balancerTrouble counts one kind of trouble. The zero value is ready. Methods are safe
// for concurrent use.
type balancerTrouble struct {
	line sampling.Line
	mu   sync.Mutex
	BalancerTrouble
}

func (t *balancerTrouble) note(log *slog.Logger, peer netip.Addr, err, hint string) {
	t.mu.Lock()
	now := time.Now()
	if now.Sub(t.Last) >= troubleFor {
		t.BalancerTrouble = BalancerTrouble{First: now}
	}
	t.Count++
	t.Last, t.Peer, t.Err = now, peer, err
	t.mu.Unlock()
	t.line.Warn(log, "connection closed: the load balancer and listen.proxy_protocol disagree", "client", peer, "err", err, "hint", hint)
}

func (t *balancerTrouble) recent(now time.Time) BalancerTrouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.Last) >= troubleFor {
		return BalancerTrouble{}
	}
	return t.BalancerTrouble
}

// Hints for the troubles.
const (
	ProxyHeaderHint     = "have the balancer send a PROXY header (in HAProxy: send-proxy-v2), or remove its network from listen.proxy_protocol"
	ProxyUnexpectedHint = "if this is your load balancer, add its network to listen.proxy_protocol, or turn the PROXY protocol off there"
)
