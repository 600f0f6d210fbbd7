package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"wssgate/ports"
)

// The most addresses that one Dial tries. If a cluster is down, clients must not
// multiply; and a 4xx from two nodes is the client's fault.
const (
	maxTries    = 8
	maxRefusals = 2
)

// A Conn is a connection to a node after its 101. Its deadlines are cleared.
type Conn struct {
	Conn    net.Conn // closed by the caller
	Node    *Node
	Address string // the IP address and port, or the socket path
	Rest    []byte // bytes after the 101; they belong to the tunnel

	address  *address
	released atomic.Bool
}

// Release removes the tunnel from the node's count. It does not close Conn. Call it
// when the tunnel ends; a second call does nothing.
func (c *Conn) Release() {
	if c.released.CompareAndSwap(false, true) {
		c.address.release()
	}
}

// A DialError is the reason why no node accepted the stream. Its text has the upstream
// and the result of each try, in one line.
type DialError struct {
	Upstream   string
	Status     int           // for the client: 502, 503 or 504; 400 for a request that can't be forwarded
	RetryAfter time.Duration // for Retry-After; 0: don't send it
	Ours       bool          // this machine lacks ports, descriptors or memory to reach a node
	Causes     []error       // one for each try, in their order
}

func (e *DialError) Error() string {
	text := fmt.Sprintf("upstream %q: ", e.Upstream)
	for i, err := range e.Causes {
		if i > 0 {
			text += "; "
		}
		text += err.Error()
	}
	return text
}

// Unwrap returns all causes, for errors.Is and errors.As.
func (e *DialError) Unwrap() []error { return e.Causes }

// Hint suggests to the operator what to check, or is "".
func (e *DialError) Hint() string {
	for _, ours := range []bool{true, false} {
		for _, err := range e.Causes {
			if hint := hintOf(err); hint != "" && isOurs(err) == ours {
				return hint
			}
		}
	}
	return ""
}

func hintOf(err error) string {
	if h, ok := errors.AsType[*HandshakeError](err); ok {
		return h.Hint
	}
	var ours interface {
		error
		Hint() string
	}
	switch {
	case errors.As(err, &ours):
		return ours.Hint()
	case errors.Is(err, syscall.EINVAL):
		return `can the addresses in "source" of the upstream reach it? 127.0.0.1 reaches this machine only`
	case errors.Is(err, syscall.EMFILE):
		return "raise the limit of open files of this process"
	case errors.Is(err, syscall.ENFILE):
		return "raise fs.file-max: the machine has no file descriptor left"
	}
	return ""
}

// hintAttr is the log attribute for an error's hint. If there is none, it is the empty
// Attr, which handlers omit.
func hintAttr(err error) slog.Attr {
	if hint := hintOf(err); hint != "" {
		return slog.String("hint", hint)
	}
	return slog.Attr{}
}

// Reasons for having nothing to dial, or for failed dials.
var (
	ErrDrained   = errors.New("accepts no new streams: it is draining")
	ErrNoAddress = errors.New("no address")
)

// Dial connects to a node of v's upstream and completes the opening handshake. It tries
// one address after the other, within the upstream's dial timeout in total. The error
// is a *DialError. ctx applies to the dial only; it has no effect on the connection
// once Dial has returned.
func (v *Vhost) Dial(ctx context.Context, r *Request) (*Conn, error) {
	return v.group.dial(ctx, r, func(n *Node) (use, second bool) {
		if v.node == "" || v.node == n.name {
			return true, false
		}
		return v.fallback, true
	}, v.group.nodes)
}

// Follow is Dial for n, the node that a redirect to address means, as NodeByAddress
// returned it. If n accepts no streams, the redirect is lost; see LoseRedirect.
func (v *Vhost) Follow(ctx context.Context, address string, n *Node, r *Request) (*Conn, error) {
	c, err := n.group.dial(ctx, r, func(*Node) (use, second bool) { return true, false }, []*Node{n})
	if err != nil && ctx.Err() == nil {
		lost := LostRedirect{Address: address, Why: fmt.Sprintf("which is node %q: the gate can't connect to it", n.name),
			Do: "see the state of that node on the status page"}
		if n.server.drained.Load() {
			lost.Why = fmt.Sprintf("which is node %q: it is draining", n.name)
			lost.Do = "take the node out of the cluster of the XMPP servers before it is drained here, or end its drain"
		}
		v.group.noteLost(lost, n)
	}
	return c, err
}

func (g *group) dial(parent context.Context, r *Request, use func(*Node) (use, second bool), nodes []*Node) (*Conn, error) {
	ctx, cancel := context.WithTimeout(parent, g.dialTimeout)
	defer cancel()
	c := choice{balance: g.balance, client: r.Client.Addr(), random: g.env.random}
	fail := &failure{group: g, parent: parent}
	var nowhere []candidate // nodes without a known address
	for _, n := range nodes {
		ok, second := use(n)
		switch {
		case !ok:
		case n.server.drained.Load():
			fail.add(n, ErrDrained)
		case !c.add(candidate{node: n, second: second}):
			nowhere = append(nowhere, candidate{node: n, second: second})
		}
	}
	for tries, refusals := 0, 0; tries < maxTries && refusals < maxRefusals && ctx.Err() == nil; {
		e, ok := c.next(time.Now())
		if !ok {
			if len(nowhere) == 0 {
				break
			}
			// Nothing else is left: now wait for DNS.
			e, nowhere = nowhere[0], nowhere[1:]
			select {
			case <-e.node.server.answered:
			case <-ctx.Done():
			}
			if !c.add(e) {
				fail.add(e.node, e.node.server.noAddress())
				e.node.server.askAgain()
			}
			continue
		}
		conn, err := e.try(ctx, r, len(c.left)+len(nowhere) > 0)
		if err == nil {
			return conn, nil
		}
		if parent.Err() != nil {
			fail.add(e.node, context.Cause(parent))
			break
		}
		fail.add(e.node, err)
		if errors.Is(err, errRequest) {
			break
		}
		if !errors.Is(err, errFull) {
			tries++
		}
		if isRefusal(err) {
			refusals++
		}
	}
	return nil, fail.err()
}

// try reserves, dials and records the result for one candidate.
func (e candidate) try(ctx context.Context, r *Request, more bool) (*Conn, error) {
	start := time.Now()
	deadline, _ := ctx.Deadline()
	limit := deadline.Sub(start)
	if more {
		limit /= 2 // leave time for the next one
	}
	wait, err := e.reserve(start, e.node.limits, limit*3/4) // a turn that leaves no time for the dial is useless
	if err != nil {
		return nil, &busyError{err, wait}
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			e.dropped()
			return nil, ctx.Err()
		}
		start = time.Now()
		limit = deadline.Sub(start)
		if more {
			limit /= 2
		}
	}
	attempt, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	returned := false
	defer func() {
		if !returned { // after a panic
			e.dropped()
		}
	}()
	conn, rest, err := e.node.connect(attempt, e.address, r)
	returned = true
	now := time.Now()
	if err != nil && isTimeout(err) {
		err = fmt.Errorf("%w (after %v)", err, roughly(now.Sub(start)))
	}
	env := e.node.group.env
	switch {
	case err == nil:
		if e.worked(now, now.Sub(start)) {
			env.log.Info("upstream address is back in service", "upstream", e.node.group.name, "node", e.node.name, "address", e.addr)
		}
		return &Conn{Conn: conn, Node: e.node, Address: e.addr, Rest: rest, address: e.address}, nil
	case !e.blames(err, ctx, limit):
		e.dropped()
	default:
		if e.broke(now, err, env.random()) {
			log := env.log.With("upstream", e.node.group.name, "node", e.node.name, "address", e.addr)
			log.Warn("upstream address is out of service", "err", err, hintAttr(err))
		}
		e.node.server.askAgain()
	}
	return nil, err
}

// blames reports whether a failed try counts against the address. It does not if the
// client is the cause: a client that disconnected, or requested something that the
// server does not serve, must not take a node out for others.
func (e candidate) blames(err error, ctx context.Context, limit time.Duration) bool {
	if errors.Is(err, errRequest) || errors.Is(ctx.Err(), context.Canceled) || isOurs(err) {
		return false
	}
	if isTimeout(err) && limit < min(time.Second, e.node.group.dialTimeout/4) {
		return false // it hardly had a chance
	}
	return !isRefusal(err)
}

// isOurs reports whether this process or machine lacks something.
func isOurs(err error) bool {
	if _, ok := errors.AsType[*ports.UsedUpError](err); ok {
		return true
	}
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// isRefusal reports whether the node refused only this request.
func isRefusal(err error) bool {
	h, ok := errors.AsType[*HandshakeError](err)
	return ok && h.Status >= 400 && h.Status < 500 && h.Status != http.StatusTooManyRequests
}
