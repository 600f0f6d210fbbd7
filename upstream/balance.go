package upstream

import (
	"hash/fnv"
	"io"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Values of GroupOptions.Balance.
const (
	balanceLeast  = "least"
	balanceRandom = "random"
	balanceHash   = "hash"
)

// A candidate is an address that one Dial may try.
type candidate struct {
	node *Node
	endpoint
	second bool // a fallback for the pinned node
}

// A choice returns the candidates of one Dial, best first, each once.
type choice struct {
	balance string
	client  netip.Addr
	random  func() float64
	left    []candidate
}

// add adds all addresses of c.node. It reports false if none is known.
func (c *choice) add(e candidate) bool {
	places := e.node.endpoints()
	for _, e.endpoint = range places {
		c.left = append(c.left, e)
	}
	return len(places) > 0
}

// tier decides first: addresses that work, then the pinned node, then SRV priority.
type tier struct {
	out, second bool
	priority    uint16
}

func (t tier) before(u tier) bool {
	if t.out != u.out {
		return !t.out
	}
	if t.second != u.second {
		return !t.second
	}
	return t.priority < u.priority
}

// A runner is a candidate of the best tier.
type runner struct {
	index  int     // in choice.left
	weight float64 // never 0
	load   int
}

// next removes and returns the currently best candidate.
func (c *choice) next(now time.Time) (candidate, bool) {
	if len(c.left) == 0 {
		return candidate{}, false
	}
	best := tier{out: true, second: true, priority: math.MaxUint16}
	var runners []runner
	for i, e := range c.left {
		s := e.balanceState(now)
		t := tier{s.out, e.second, e.priority}
		if best.before(t) {
			continue
		}
		if t.before(best) {
			best, runners = t, runners[:0]
		}
		runners = append(runners, runner{i, e.node.weight * e.share * s.warmth, s.load})
	}
	var i int
	switch c.balance {
	case balanceRandom:
		i = pick(runners, c.random())
	case balanceHash:
		if !c.client.IsValid() {
			i = c.lesser(runners) // all clients without an address would go to one place
			break
		}
		i = c.highest(runners)
	default:
		i = c.lesser(runners)
	}
	e := c.left[runners[i].index]
	c.left = slices.Delete(c.left, runners[i].index, runners[i].index+1)
	return e, true
}

// lesser draws two different runners by weight and returns the one with less load for
// its weight. Two are enough for an even load. Unlike choosing the least loaded of all,
// this does not send a whole storm of clients to one node.
func (c *choice) lesser(runners []runner) int {
	a := pick(runners, c.random())
	if len(runners) == 1 {
		return a
	}
	rest := slices.Delete(slices.Clone(runners), a, a+1)
	b := pick(rest, c.random())
	if b >= a {
		b++
	}
	if float64(runners[b].load)/runners[b].weight < float64(runners[a].load)/runners[a].weight {
		return b
	}
	return a
}

// pick returns the index of the runner at point r of [0,1), which the runners share by
// weight.
func pick(runners []runner, r float64) int {
	var sum float64
	for _, n := range runners {
		sum += n.weight
	}
	r *= sum
	for i, n := range runners {
		if r -= n.weight; r < 0 {
			return i
		}
	}
	return len(runners) - 1
}

// highest is weighted rendezvous hashing: each place draws a number from the client's
// address and its own name, and the highest wins. So removing a place moves only its
// own clients, and all gates agree.
func (c *choice) highest(runners []runner) int {
	best, top := 0, math.Inf(-1)
	for i, n := range runners {
		e := c.left[n.index]
		if score := -n.weight / math.Log(draw(c.client, e.node.name, e.addr)); score > top {
			best, top = i, score
		}
	}
	return best
}

// draw returns a number in (0,1) that depends only on its arguments.
func draw(client netip.Addr, node, addr string) float64 {
	h := fnv.New64a()
	b, _ := client.Unmap().WithZone("").MarshalBinary()
	h.Write(b)
	io.WriteString(h, "\x00"+node+"\x00"+addr)
	// The last bytes hardly change FNV's high bits; mix them (splitmix64).
	x := h.Sum64()
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return (float64(x>>11) + 0.5) / (1 << 53)
}
