package tests

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// Over limits.connections a newcomer is let go; those inside notice nothing,
// and who leaves makes room.
func TestLimitConnections(t *testing.T) {
	for _, key := range []string{"connections", "per_client"} {
		t.Run(key, func(t *testing.T) {
			site := gate.NewSite(t, name)
			g := site.Start(t, toUpstream(wire.Echo(t).URL)+fmt.Sprintf("[limits]\n%s = 2\n", key))
			one := wire.Dial(t, g.Addr("wss"), site.Client(name))
			two := wire.Dial(t, g.Addr("wss"), site.Client(name))
			if conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(name)); err == nil {
				conn.Close()
				t.Errorf("a third connection got in")
			}
			two.SendText("still here")
			two.WantText("still here")
			one.Conn.Close()
			eventually(t, "there is room for a third", func() bool {
				conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(name))
				if err != nil {
					return false
				}
				conn.Close()
				return true
			})
		})
	}
}

// A gate that runs out of descriptors lives on, whether it counts them itself
// or was told to take more connections than there are: its tunnels go on, and
// newcomers get in when others have left.
func TestLimitDescriptors(t *testing.T) {
	for _, connections := range []int{0, 10_000} {
		t.Run(fmt.Sprintf("connections = %d", connections), func(t *testing.T) {
			site := gate.NewSite(t, name)
			g := site.Start(t, toUpstream(wire.Echo(t).URL)+fmt.Sprintf("[limits]\nconnections = %d\n", connections), gate.Descriptors(128))
			tunnel := wire.Dial(t, g.Addr("wss"), site.Client(name))

			var flood []net.Conn
			for range 200 {
				conn, err := net.Dial("tcp", g.Addr("wss"))
				if err != nil {
					t.Fatal(err)
				}
				flood = append(flood, conn)
			}
			tunnel.SendText("still here")
			tunnel.WantText("still here")
			for _, conn := range flood {
				conn.Close()
			}
			eventually(t, "newcomers get in again", func() bool {
				conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(name))
				if err != nil {
					return false
				}
				defer conn.Close()
				return wire.NewConn(t, conn, true).TryUpgrade(wire.Request(name)) == nil
			})
		})
	}
}
