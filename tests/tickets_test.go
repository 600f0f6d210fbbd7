package tests

import (
	"crypto/tls"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// tickets is a client's session cache that offers the last session to every
// server name, as no honest client would.
type tickets struct{ last *tls.ClientSessionState }

func (c *tickets) Get(string) (*tls.ClientSessionState, bool) { return c.last, c.last != nil }
func (c *tickets) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.last = s
	}
}

// A client that comes back resumes its session, under both versions of TLS.
// What it can't do is carry a session of one server name to another: that is no
// way into another vhost, nor past the refusal of an unknown name.
func TestSessionTickets(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			site := gate.NewSite(t, "example1.test", "example2.test")
			g := site.Start(t, toUpstream(wire.Echo(t).URL))
			cache := &tickets{}
			dial := func(serverName string) (*tls.ConnectionState, error) {
				config := &tls.Config{ServerName: serverName, InsecureSkipVerify: true, ClientSessionCache: cache, MaxVersion: version}
				conn, err := tls.Dial("tcp", g.Addr("wss"), config)
				if err != nil {
					return nil, err
				}
				c := wire.NewConn(t, conn, true)
				c.Upgrade(wire.Request(serverName)) // reads the ticket on the way
				defer conn.Close()
				state := conn.ConnectionState()
				return &state, nil
			}

			if state, err := dial("example1.test"); err != nil || state.DidResume {
				t.Fatalf("first connection: %v, resumed", err)
			}
			if state, err := dial("example1.test"); err != nil || !state.DidResume {
				t.Errorf("second connection: %v, not resumed", err)
			}
			state, err := dial("example2.test")
			if err != nil {
				t.Fatal(err)
			}
			if got := state.PeerCertificates[0].DNSNames[0]; state.DidResume || got != "example2.test" {
				t.Errorf("with a session of example1.test at example2.test: resumed %v, certificate for %q", state.DidResume, got)
			}
			if _, err := dial("example1.test"); err != nil {
				t.Fatal(err)
			}
			if _, err := dial("unknown.test"); err == nil {
				t.Error("with a session of example1.test at unknown.test: got in")
			}
			// The share of returns that were cheap can be read off.
			v, o := strings.TrimPrefix(tls.VersionName(version), "TLS "), operate(t, g)
			full := o.metric(`wssgate_handshakes_total{result="full",version="` + v + `"}`)
			resumed := o.metric(`wssgate_handshakes_total{result="resumed",version="` + v + `"}`)
			if full != 3 || resumed != 1 { // the last ticket was of the other name
				t.Errorf("metrics count %v full handshakes and %v resumed; want 3 and 1", full, resumed)
			}
		})
	}
}
