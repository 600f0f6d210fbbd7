package proxy

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"wssgate/demo/chat"
)

// Silent clients do not block others, even if few handshakes may run. They use a unix
// socket, because on TCP the kernel would first hold them back.
func TestSilentClientsKeepNobodyOut(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL(), func(o *Options) {
		o.Settings.Handshakes = 1
		o.Settings.HandshakeTimeout = time.Minute
	})
	path := filepath.Join(t.TempDir(), "gate")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	const silent = 3 * comingFactor
	for range silent {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for deadline := time.Now().Add(patience); g.Connections() < silent; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d silent clients accepted; want all %d", g.Connections(), silent)
		}
	}
	g.dial()
	ln.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}
