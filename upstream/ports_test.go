package upstream

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/ports"
)

// If one node has no ports, the operator and the client learn that, regardless of
// failures of the others; no node is taken out, and health probes do not fail because
// of it.
func TestPortsUsedUp(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, c := range []struct {
		name    string
		other   error // from the second node
		drained bool  // the second node
		ours    bool
	}{
		{"the other works", nil, false, false},
		{"the other lacks them as well", &ports.UsedUpError{}, false, true},
		{"the other refuses", refused, false, true},
		{"the other drains", nil, true, true},
		{"the other is silent", os.ErrDeadlineExceeded, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := &xmppNode{}
				nodes := newCluster(x.peer, at2)
				tab := table(t, Options{
					Upstreams: []GroupOptions{{Name: "tigase", Balance: "hash", Nodes: []NodeOptions{
						{Name: "t1", URL: "ws://" + at1}, {Name: "t2", URL: "ws://" + at2, Drain: c.drained},
					}, Health: HealthOptions{Interval: 10 * time.Second}}},
					Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
						switch {
						case address == at1:
							return nil, &ports.UsedUpError{}
						case c.other != nil:
							return nil, c.other
						}
						return nodes.dial(ctx, network, address)
					},
				})
				v, err := tab.Routes().Lookup("x")
				if err != nil {
					t.Fatal(err)
				}
				conn, err := v.Dial(t.Context(), request)
				if err == nil {
					conn.Conn.Close()
					conn.Release()
				}
				if (err != nil) != c.ours {
					t.Fatalf("dial: %v", err)
				}
				if de, ok := err.(*DialError); ok {
					if !de.Ours || de.Status != 503 || de.RetryAfter == 0 || de.Hint() != ports.Hint || !strings.Contains(de.Error(), "no source port is left") {
						t.Errorf("ours %t, %d, Retry-After %v, hint %q, %v", de.Ours, de.Status, de.RetryAfter, de.Hint(), de)
					}
				}
				if tab.PortsUsedUp() != c.ours {
					t.Errorf("PortsUsedUp = %t; want %t", tab.PortsUsedUp(), c.ours)
				}
				time.Sleep(2 * time.Minute)
				s := tab.Status()[0].Nodes[0]
				if s.State != StateUp || s.Addresses[0].PortsUsedUp.IsZero() {
					t.Errorf("t1 is %s, ports used up at %v", s.State, s.Addresses[0].PortsUsedUp)
				}
			})
		})
	}
}
