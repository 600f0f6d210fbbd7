package tests

import (
	"net"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// SIGTERM says goodbye to every client with Close 1001; when all have answered
// the program ends with status 0. It does not matter that the upstream leaves
// its TCP open.
func TestDrain(t *testing.T) {
	u, conns := wire.Chan(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(u.URL))
	var clients, upstreams []*wire.Conn
	for range 5 {
		clients = append(clients, wire.Dial(t, g.Addr("wss"), site.Client(name)))
		upstreams = append(upstreams, wire.Take(t, conns))
	}
	g.Signal(syscall.SIGTERM)
	for _, c := range clients {
		c.WantClose(1001)
	}
	for _, c := range clients {
		c.Send(wire.CloseFrame(true, 1001, ""))
		c.WantEnd()
	}
	for _, u := range upstreams {
		wire.WantEOF(t, u.R, u.Conn)
	}
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// Without tunnels a drain is over at once.
func TestDrainIdle(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// SIGINT is SIGTERM, for those who start it in a terminal.
func TestDrainInterrupt(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	g.Signal(syscall.SIGINT)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// The goodbye waits for the end of the frame that is under way.
func TestDrainBetweenFrames(t *testing.T) {
	g, client, upstream := open(t, "")
	f := wire.Frame{FIN: true, Op: wire.Text, Payload: payload(20_000)}
	whole := upstream.Bytes(f)
	upstream.Write(whole[:10_000])
	if _, err := client.R.Peek(1); err != nil { // the first part has come
		t.Fatal(err)
	}
	g.Signal(syscall.SIGTERM)
	eventually(t, "a new connection is refused", func() bool { return !accepts(g) })
	upstream.Write(whole[10_000:])
	client.Want(f)
	client.WantClose(1001)
	client.Send(wire.CloseFrame(true, 1001, ""))
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// What a client sends before it has seen the goodbye still arrives.
func TestDrainLastWords(t *testing.T) {
	g, client, upstream := open(t, "")
	g.Signal(syscall.SIGTERM)
	client.WantClose(1001)
	client.SendText("last words")
	upstream.WantText("last words")
	client.Send(wire.CloseFrame(true, 1001, ""))
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// Nobody new gets in during a drain, and who does not answer the goodbye is
// closed at the deadline: exit status 3.
func TestDrainDeadline(t *testing.T) {
	g, client, upstream := open(t, "[drain]\ntimeout = \"500ms\"\n")
	g.Signal(syscall.SIGTERM)
	client.WantClose(1001)
	if accepts(g) {
		t.Error("a connection was accepted during the drain")
	}
	if status := g.Wait(); status != 3 {
		t.Errorf("exit status %d; want 3", status)
	}
	client.WantGone()
	wire.WantEOF(t, upstream.R, upstream.Conn)
}

// A second signal ends the program at once.
func TestDrainTwice(t *testing.T) {
	g, client, _ := open(t, "[drain]\ntimeout = \"10m\"\n")
	g.Signal(syscall.SIGTERM)
	client.WantClose(1001)
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 1 {
		t.Errorf("exit status %d; want 1", status)
	}
}

func accepts(g *gate.Gate) bool {
	conn, err := net.Dial("tcp", g.Addr("wss"))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
