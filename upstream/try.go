package upstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"wssgate/panics"
)

// A NodeError is the reason why a node can't be used.
type NodeError struct {
	Upstream string
	URL      string // as configured
	Err      error  // of each of its addresses
	Hint     string // what to check, or ""
}

// TryNodes probes every address of every node once, all at the same time, and returns
// the failures, in the order of o. It skips nodes with Drain set. No probe takes longer
// than patience, regardless of Health. The error is that of [Prepare].
func TryNodes(ctx context.Context, o Options, patience time.Duration) ([]NodeError, error) {
	r, err := Prepare(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, g := range r.groups {
		g.health.Timeout = patience
	}
	var nodes []*Node
	for n := range r.nodes() {
		if !n.drain {
			nodes = append(nodes, n)
		}
	}
	failed := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if err := panics.Catch(panics.Probe, func() { failed[i] = n.try(ctx) }); err != nil {
				failed[i] = err
			}
		})
	}
	wg.Wait()
	var list []NodeError
	for i, err := range failed {
		if err != nil {
			list = append(list, NodeError{nodes[i].group.name, nodes[i].loc.url, err, hintOf(err)})
		}
	}
	return list, nil
}

// try probes all addresses of a node that is in no Table.
func (n *Node) try(ctx context.Context) error {
	n.server = newServer(n, false)
	defer n.server.leavePlaces()
	var places []endpoint
	var err error
	if n.server.setFixed(n) {
		places = *n.server.endpoints.Load()
	} else {
		places, err = n.resolve(ctx, nil)
	}
	errs := make([]error, len(places), len(places)+1)
	var wg sync.WaitGroup
	for i, e := range places {
		wg.Go(func() { panics.Catch(panics.Probe, func() { errs[i] = n.probe(ctx, e.address) }) })
	}
	wg.Wait()
	return errors.Join(append(errs, err)...)
}
