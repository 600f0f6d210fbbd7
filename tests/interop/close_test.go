package interop

import (
	"encoding/binary"
	"net"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A closeCase is what a page sends, and how its WebSocket ends then.
type closeCase struct {
	Text string `json:"text,omitempty"`
	Size int    `json:"size,omitempty"`

	code uint16
}

// A browser tells its page why a WebSocket ended, with the status code that the
// gate chose, and calls it a clean end: nobody is left with 1006 and a guess.
func TestBrowserCloseCodes(t *testing.T) {
	cases := []closeCase{
		{Text: "close, and leave TCP open", code: 1000},
		{Text: "die", code: 1012},
		{Text: "break the protocol", code: 1014},
		{Size: 1<<20 + 1, code: 1009},
		{code: 1001}, // nothing is sent: the gate is drained
	}
	site := gate.NewSite(t, "example1.test")
	g := site.Start(t, "[upstream.xmpp]\nnodes = [\""+wire.ListenWS(t, endAsTold).URL+"\"]\nxmpp = false\n")
	_, port, err := net.SplitHostPort(g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	host := net.JoinHostPort("example1.test", port)
	s := runScript(t, "close.mjs", site.CA.RootPEM(), map[string]any{
		"page": "https://" + host + "/", "service": "wss://" + host + "/", "cases": cases,
	})
	for _, tt := range cases {
		if tt.Text == "" && tt.Size == 0 {
			var waiting string
			s.next(&waiting)
			g.Signal(syscall.SIGTERM)
		}
		var got struct {
			Code   uint16
			Reason string
			Clean  bool
		}
		s.next(&got)
		if got.Code != tt.code || !got.Clean {
			t.Errorf("%q, %d bytes: closed with %d %q, clean %v; want %d, clean", tt.Text, tt.Size, got.Code, got.Reason, got.Clean, tt.code)
		}
	}
	s.end()
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// endAsTold is an upstream that ends in the way that the client asks for.
func endAsTold(c *wire.Conn) {
	f, err := wire.ReadFrame(c.R)
	if err != nil {
		return
	}
	switch string(f.Payload) {
	case "break the protocol":
		c.Write(wire.Frame{FIN: true, Op: wire.Text, Masked: true, Payload: []byte("masked")}.Append(nil))
	case "close, and leave TCP open":
		c.Write(wire.Frame{FIN: true, Op: wire.Close, Payload: binary.BigEndian.AppendUint16(nil, 1000)}.Append(nil))
	case "die":
		return
	}
	for err == nil { // until the gate closes
		_, err = wire.ReadFrame(c.R)
	}
}
