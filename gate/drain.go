package gate

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"wssgate/config"
	"wssgate/listen"
	"wssgate/panics"
	"wssgate/proxy"
	"wssgate/upstream"
	"wssgate/xmpp"
)

// drainNodes starts to drain the nodes that cfg takes out of service, and ends
// the drains of those that it puts back. The drain of a node that is no longer
// in cfg continues, but does not wait for the node to return.
func (g *gate) drainNodes(cfg *config.Config) {
	for target, out := range nodesOf(cfg) {
		switch stop, was := g.takenOut[target]; {
		case out && !was:
			tunnels, stop := g.server.StartDrain(target, proxy.Pacing{Timeout: cfg.Drain.Timeout, Pace: cfg.Drain.Pace})
			g.takenOut[target] = stop
			g.log.Info("drain", "upstream", target.Upstream, "node", target.Node, "tunnels", tunnels)
		case !out && was:
			stop()
			delete(g.takenOut, target)
			g.log.Info("drain stopped", "upstream", target.Upstream, "node", target.Node)
		}
	}
}

// nodesOf yields all nodes, and whether the configuration takes each one out of
// service.
func nodesOf(c *config.Config) iter.Seq2[proxy.Target, bool] {
	return func(yield func(proxy.Target, bool) bool) {
		for name, u := range c.Upstream {
			for _, n := range u.Nodes {
				if !yield(proxy.Target{Upstream: name, Node: n.Name}, n.Drain) {
					return
				}
			}
		}
	}
}

// drain sends clients away and then stops everything.
func (g *gate) drain() error {
	g.console.leaves(g.server.Connections(), g.cfg.Drain.Timeout)
	g.log.Info("drain", "connections", g.server.Connections(), "timeout", g.cfg.Drain.Timeout)
	g.notify.Stopping(fmt.Sprintf("draining %d connections", g.server.Connections()), g.cfg.Drain.Timeout+stopPatience)
	defer g.notify.KeepAlive()()
	return g.stop()
}

// stopPatience bounds everything that follows the drain itself.
const stopPatience = plainPatience + settlePatience

// pacing returns the settings in [drain].
func (g *gate) pacing() proxy.Pacing {
	p := proxy.Pacing{Timeout: g.cfg.Drain.Timeout, Pace: g.cfg.Drain.Pace}
	if redirect := g.cfg.Drain.Redirect; len(redirect) > 0 {
		p.Redirect = func(v *upstream.Vhost, host string) string { return elsewhere(redirect, v, host) }
	}
	return p
}

// elsewhere chooses the URL for a client of a vhost during a drain. It is one
// of drain.redirect or, for "nodes", a node's public URL. It is never the one
// that leads to this gate: the client would come straight back.
func elsewhere(redirect []string, vhost *upstream.Vhost, host string) string {
	here, _ := xmpp.ParseTarget("wss://" + host)
	var urls []string
	for _, url := range redirect {
		if url != "nodes" {
			urls = append(urls, url)
			continue
		}
		for _, public := range vhost.PublicURLs(false) {
			if there, err := xmpp.ParseTarget(public); err == nil && there.Address("") != here.Address("") {
				urls = append(urls, public)
			}
		}
	}
	if len(urls) == 0 {
		return ""
	}
	return urls[rand.IntN(len(urls))]
}

// plainPatience is how long a drain waits for the answers to plain requests.
const plainPatience = 5 * time.Second

// stop stops everything, in the order in which a connection needs it.
func (g *gate) stop() error {
	var err error
	g.watch.Set(false)
	g.access.set(nil)
	g.cfg.Leave(nil)
	if g.reloading != nil {
		go panics.Catch(panics.Reload, func() { (<-g.gathered).abandon(g) }) // when it has been gathered
	}
	if g.opening {
		go panics.Catch(panics.Listener, func() { listen.CloseReady((<-g.late).unix) })
	}
	if g.acme != nil {
		g.serving.Go(func() { panics.Catch(panics.ACME, g.acme.close) }) // a CA can no longer reach this gate, so orders do not wait for one
	}
	if g.server != nil {
		pacing := g.pacing()
		if pacing.Redirect == nil { // otherwise new clients must be redirected
			began := time.Now()
			g.handOver(min(settlePatience, pacing.Timeout/2))
			pacing.Timeout = max(0, pacing.Timeout-time.Since(began))
		}
		g.serving.Go(func() {
			panics.Catch(panics.HTTP, func() { g.plain.shutdown(min(pacing.Timeout, plainPatience)) })
		})
		// The context that SIGTERM ended cannot be used here.
		err = g.server.Shutdown(context.Background(), pacing)
		g.console.close() // the last listener, because it shows the drain's progress
		g.accepting.Wait()
		g.memory.Close()
	}
	g.serving.Wait()
	if g.site != nil {
		g.site.Close()
	}
	if g.upstreams != nil {
		g.upstreams.Close()
	}
	g.ech.close()
	if g.store != nil {
		g.store.Close()
	}
	return err
}
