package proxy

import (
	"context"
	"sync"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

// A dialler finds upstreams for clients, and measures how long that takes. Its methods
// are safe for concurrent use.
type dialler struct {
	loops    *loops
	panicked panicFunc
	ctx      context.Context // ends when Shutdown's deadline passes
	cancel   context.CancelFunc
	jobs     sync.WaitGroup // dials of tunnels
	job      func(f func()) // runs f as one of them, in a goroutine of its own

	took byName[[2]string, *histogram] // by upstream and node
}

func newDialler(loops *loops, panicked panicFunc) *dialler {
	d := &dialler{loops: loops, panicked: panicked}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.job = d.jobs.Go
	return d
}

// first dials for a client whose opening handshake waits. The caller owns the result.
func (d *dialler) first(vhost *upstream.Vhost, request *upstream.Request) (*upstream.Conn, error) {
	began := time.Now()
	up, err := vhost.Dial(d.ctx, request)
	if err == nil {
		d.measured(up.Node, time.Since(began))
	}
	return up, err
}

// again dials for an open tunnel whose node its domain or a redirect determines. The
// loop gets the result as a turn: tunnel.dialled or tunnel.dialFailed.
func (d *dialler) again(t *tunnel, dial func(context.Context, *upstream.Request) (*upstream.Conn, error)) {
	request := t.info.request // the loop forgets it when the tunnel ends
	ctx, giveUp := context.WithCancel(d.ctx)
	t.greeting.giveUp = giveUp
	d.job(func() {
		defer giveUp()
		defer func() {
			if cause := recover(); cause != nil {
				d.panicked(panics.Tunnel, cause)
				d.loops.lose(t)
			}
		}()
		began := time.Now()
		up, err := dial(ctx, request)
		if err == nil {
			owned := false
			defer func() {
				if !owned {
					letGo(up)
				}
			}()
			d.measured(up.Node, time.Since(began))
			if err = d.loops.swap(t, up); err == nil {
				owned = true
				return
			}
		}
		d.loops.do(t, func(w *turn) { t.dialFailed(w, err) })
	})
}

// measured records how long a node took to answer with 101.
func (d *dialler) measured(n *upstream.Node, took time.Duration) {
	d.took.get([2]string{n.Upstream(), n.Name()}, newHistogram).add(took)
}

// letGo closes an upstream that no tunnel owns; up may be nil.
func letGo(up *upstream.Conn) {
	if up != nil {
		up.Conn.Close()
		up.Release()
	}
}
