package tests

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A form is one of the configurations that a site goes back and forth between.
// They differ in the certificate, in the path that is served and in its upstream.
type form struct {
	word string
	pair *minica.Pair
	up   *wire.Upstream
}

func newForms(t *testing.T, site *gate.Site, words ...string) []*form {
	var all []*form
	for _, word := range words {
		f := &form{word, site.CA.Issue(name), wire.Echo(t)}
		if err := os.Mkdir(filepath.Join(site.Dir, word), 0o755); err != nil {
			t.Fatal(err)
		}
		site.Write(t, filepath.Join(word, name+".pem"), f.pair.PEM())
		all = append(all, f)
	}
	return all
}

func (f *form) config(t *testing.T, site *gate.Site) {
	site.Write(t, "config.toml", fmt.Appendf(nil, `[listen]
wss = "127.0.0.1:0"
admin = ""
%s
[certificates]
directory = %q
[upstream.%s]
nodes = [%q]
[[vhost]]
names = [%q]
path = "/%s"
`, gate.Timeouts, f.word, f.word, f.up.URL, name, f.word))
}

// of returns the form that a connection has the certificate of.
func of(forms []*form, conn *tls.Conn) *form {
	for _, f := range forms {
		if bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, f.pair.Cert.Raw) {
			return f
		}
	}
	return nil
}

func (f *form) request() string { return wire.RequestLine("GET /"+f.word+" HTTP/1.1", name) }

// A reload swaps certificates and routes in one step: a client gets the
// certificate and the route of one configuration, whenever it comes, and however
// long it takes from its handshake to its request.
func TestReloadIsOneStep(t *testing.T) {
	site := gate.NewSite(t)
	forms := newForms(t, site, "one", "two")
	forms[0].config(t, site)
	g := gate.Start(t, site.Dir)
	addr, config := g.Addr("wss"), site.Client(name)
	reload := func(f *form) {
		t.Helper()
		f.config(t, site)
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		if l := wait("the reload", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "reload") }); l.Msg() != "reloaded" {
			t.Fatal(l.Text)
		}
	}

	hands := wire.DialTLS(t, addr, config) // shaken, and no more
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	reload(forms[1])
	hands.Upgrade(forms[0].request())
	if before, after := len(forms[0].up.Requests()), len(forms[1].up.Requests()); before != 1 || after != 0 {
		t.Errorf("%d requests at the upstream of the certificate, %d at the other; want 1 and 0", before, after)
	}
	late := tls.Client(silent, config)
	c := wire.NewConn(t, late, true)
	if err := late.Handshake(); err != nil {
		t.Fatal(err)
	}
	if of(forms, late) != forms[1] {
		t.Error("a ClientHello after the reload was answered with the certificate of before")
	}
	c.Upgrade(forms[1].request())

	stop := make(chan struct{})
	var clients sync.WaitGroup
	came := make([]int, 4)
	for i := range came {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				raw, err := tls.Dial("tcp", addr, config)
				if err != nil {
					t.Error(err)
					return
				}
				f := of(forms, raw)
				if err := wire.NewConn(t, raw, true).TryUpgrade(f.request()); err != nil {
					t.Errorf("with the certificate of %q: %v", f.word, err)
				}
				raw.Close()
				came[i]++
			}
		})
	}
	for i := range 30 {
		reload(forms[i%2])
	}
	close(stop)
	clients.Wait()
	t.Logf("30 reloads, clients came %v times", came)
}
