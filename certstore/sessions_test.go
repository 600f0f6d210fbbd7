package certstore

import (
	"crypto/tls"
	"net"
	"testing"
)

// oneSession is a client's cache that gives the same session to every server,
// as no good client would.
type oneSession struct{ session *tls.ClientSessionState }

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool) { return c.session, c.session != nil }
func (c *oneSession) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.session = s
	}
}

// connect makes a handshake and reads one byte, behind which the tickets are.
func connect(server *tls.Config, client *tls.Config) (resumed bool, err error) {
	near, far := net.Pipe()
	defer near.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		conn := tls.Server(far, server)
		if conn.Handshake() == nil {
			conn.Write([]byte{1})
		}
	}()
	conn := tls.Client(near, client)
	_, err = conn.Read(make([]byte, 1))
	near.Close()
	<-done
	return conn.ConnectionState().DidResume, err
}

// A ticket is for the server name that it was issued under, in any spelling,
// and for no longer than there is a certificate for it.
func TestSessionsAreBoundToTheirName(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			d := newDir(t)
			d.put(t, "one.pem", ca.Issue("example1.com").PEM())
			d.put(t, "two.pem", ca.Issue("example2.com", "*.example1.com").PEM())
			s := d.open(t)
			bound := &tls.Config{GetCertificate: s.GetCertificate}
			BindSessions(bound, s.Has)
			free := &tls.Config{GetCertificate: s.GetCertificate}

			cache := &oneSession{}
			client := func(name string) *tls.Config {
				return &tls.Config{ServerName: name, InsecureSkipVerify: true, ClientSessionCache: cache, MinVersion: version, MaxVersion: version}
			}
			want := func(server *tls.Config, name string, want, refused bool) {
				t.Helper()
				kept := cache.session
				resumed, err := connect(server, client(name))
				if resumed != want || (err != nil) != refused {
					t.Errorf("%q: resumed %t, %v; want %t, refused %t", name, resumed, err, want, refused)
				}
				cache.session = kept // the first one, for the next row
			}
			if _, err := connect(free, client("example1.com")); err != nil {
				t.Fatal(err)
			}
			want(free, "example2.com", true, false) // what crypto/tls does: the reason for all this

			cache.session = nil
			if _, err := connect(bound, client("example1.com")); err != nil {
				t.Fatal(err)
			}
			want(bound, "example1.com", true, false)
			want(bound, "EXAMPLE1.com", true, false)
			want(bound, "example2.com", false, false)
			want(bound, "a.example1.com", false, false)
			want(bound, "example3.com", false, true)
			want(bound, "", false, true)
			want(free, "example1.com", false, false) // another Config has other keys

			d.remove(t, "one.pem")
			reload(t, s)
			want(bound, "example1.com", false, true)
		})
	}
}
