package acme

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A binaryGate is the built program where the CA looks for a gate.
type binaryGate struct {
	*testGate // looks at it; has no store of its own
	*gate.Gate
	site     *gate.Site
	upstream string
	ca       string // the lines of [acme] that say which
	admin    string // listen.admin
}

// newBinaryGate prepares a site whose names the CA finds at the addresses; the
// test opens them in the configuration.
func newBinaryGate(t *testing.T, p *pebble, at gateListeners, names ...string) *binaryGate {
	t.Helper()
	// Only the binary is to listen there.
	at.tls.Close()
	at.http.Close()
	for _, name := range names {
		p.Resolve(name, at.IP)
	}
	site := gate.NewSite(t)
	site.Write(t, "root.pem", p.https.RootPEM())
	return &binaryGate{
		testGate: &testGate{t: t, at: at, addr: at.tls.Addr().String(), cache: filepath.Join(site.Dir, "acme")},
		site:     site,
		upstream: wire.Echo(t).URL,
		ca:       fmt.Sprintf("ca = %q\nca_root = \"root.pem\"\naccept_terms = true\n", p.Directory),
	}
}

// config writes the configuration: addresses, and names to obtain.
func (g *binaryGate) config(wss, http, names string) {
	g.testGate.t.Helper()
	g.site.Write(g.testGate.t, "config.toml", fmt.Appendf(nil,
		"[listen]\nwss = %q\nhttp = [%s]\nadmin = %q\n\n[upstream.xmpp]\nnodes = [%q]\nxmpp = false\n\n%s[acme]\nnames = [%s]\n%s", wss, http, g.admin, g.upstream, gate.Timeouts, names, g.ca))
}

func (g *binaryGate) reload() {
	g.testGate.t.Helper()
	after := g.Mark()
	g.Signal(syscall.SIGHUP)
	after("the reload", func(l gate.Line) bool { return l.Msg() == "reloaded" })
}

// The program obtains a certificate by each challenge, and a WebSocket opens
// under it. Where the CA reaches only one of its listeners, that one is enough.
func TestBinaryObtains(t *testing.T) {
	const name = "chat.example.org"
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			p, all := newPebble(t, pebbleConfig{})
			g := newBinaryGate(t, p, all[0], name)
			switch challenge {
			case "tls-alpn-01":
				g.config(g.at.tls.Addr().String(), "", `"`+name+`"`)
			case "http-01":
				g.config("127.0.0.1:0", `"`+g.at.http.Addr().String()+`"`, `"`+name+`"`)
			}
			g.Gate = gate.Start(t, g.site.Dir)
			g.addr = g.Addr("wss")
			root := p.Root()
			g.obtains(name, root)
			config := g.site.Client(name)
			config.RootCAs = root
			c := wire.Dial(t, g.Addr("wss"), config)
			c.SendText("hello")
			c.WantText("hello")
			if n := p.Orders(); n != 1 && challenge == "tls-alpn-01" {
				t.Errorf("%d orders; want 1", n)
			}
		})
	}
}

// A reload turns ACME on, adds a name and takes one away, and turns it off; a
// tunnel under one of the certificates notices nothing. What is in the cache
// is not ordered again.
func TestBinaryReload(t *testing.T) {
	t.Parallel()
	p, all := newPebble(t, pebbleConfig{})
	const a, b = "a.example.org", "b.example.org"
	g := newBinaryGate(t, p, all[0], a, b)
	wss := g.addr
	g.config(wss, "", "")
	g.Gate = gate.Start(t, g.site.Dir)
	root := p.Root()
	refused := func(name string) {
		t.Helper()
		if _, err := g.leaf(name, root); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v; want unrecognized_name", name, err)
		}
	}
	refused(a)

	g.config(wss, "", `"`+a+`"`)
	g.reload()
	first := g.obtains(a, root)
	config := g.site.Client(a)
	config.RootCAs = root
	tunnel := wire.Dial(t, wss, config)

	g.config(wss, "", `"`+a+`", "`+b+`"`)
	g.reload()
	g.obtains(b, root)
	if leaf, err := g.leaf(a, root); err != nil || !leaf.Equal(first) {
		t.Errorf("%s has another certificate, or none: %v", a, err)
	}

	g.config(wss, "", `"`+b+`"`)
	g.reload()
	refused(a)
	if _, err := g.leaf(b, root); err != nil {
		t.Errorf("%s: %v", b, err)
	}

	// With another listener there is another way to validate: ACME begins anew,
	// from its cache.
	g.config(wss, `"`+g.at.http.Addr().String()+`"`, `"`+a+`", "`+b+`"`)
	g.reload()
	if leaf, err := g.leaf(a, root); err != nil || !leaf.Equal(first) {
		t.Errorf("%s is not served from the cache: %v", a, err)
	}

	g.config(wss, "", "")
	g.reload()
	refused(a)
	refused(b)
	tunnel.SendText("hello")
	tunnel.WantText("hello")
	if n := p.Orders(); n != 2 {
		t.Errorf("%d orders; want 2", n)
	}
}

// The program asks for a profile and a type of key; a profile that the CA does not
// have is answered with those it has.
func TestBinaryProfile(t *testing.T) {
	t.Parallel()
	const name = "chat.example.org"
	p, all := newPebble(t, pebbleConfig{ShortLived: true})
	g := newBinaryGate(t, p, all[0], name)
	which := g.ca
	g.ca = which + "profile = \"longlived\"\n"
	g.config(g.addr, "", `"`+name+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	g.WaitLine("the CA's profiles", func(l gate.Line) bool {
		err := l.Str("err")
		return strings.Contains(err, `profile "longlived": the CA offers "default" (for tests), "shortlived" (six days)`)
	})
	if n := p.Orders(); n != 0 {
		t.Errorf("%d orders; want none", n)
	}
	g.ca = which + "profile = \"shortlived\"\nkey_type = \"rsa\"\n"
	g.config(g.addr, "", `"`+name+`"`)
	g.reload()
	g.tryAgain(name)
	leaf := g.obtains(name, p.Root())
	if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); life != 6*24*time.Hour {
		t.Errorf("it lives for %v; want six days", life)
	}
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
		t.Errorf("its key is %T; want RSA", leaf.PublicKey)
	}
}

// Several names have one certificate. A list that changes while the program runs, and
// while it does not, is ordered anew; its names are served at any moment, under tunnels and
// handshakes. One name that the CA cannot validate is named.
func TestBinaryTogether(t *testing.T) {
	t.Parallel()
	p, all := newPebble(t, pebbleConfig{})
	const a, b, c, d = "a.example.org", "b.example.org", "c.example.org", "d.example.org"
	g := newBinaryGate(t, p, all[0], a, b, c)
	ca := g.ca
	lists := func(names string, more ...string) {
		g.ca = ca
		for _, list := range more {
			g.ca += "[[acme.certificate]]\nnames = [" + list + "]\n"
		}
		g.config(g.addr, "", names)
	}
	g.admin = gate.FreeAddr(t)
	lists(`"`+c+`"`, `"`+a+`", "`+b+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	root := p.Root()
	first, single := g.obtains(a, root), g.obtains(c, root)
	if leaf, err := g.leaf(b, root); err != nil || !leaf.Equal(first) || !slices.Equal(first.DNSNames, []string{a, b}) {
		t.Errorf("%s has %v, %v; want the certificate of %s", b, leaf, err, a)
	}
	if n := p.Orders(); n != 2 {
		t.Errorf("%d orders; want 2", n)
	}
	g.says("acme status", 0, a+" +1", c)
	lives := g.tunnel(b, root)

	p.Resolve(a, "127.0.0.99") // the new list has to wait
	p.Resolve(d, "127.0.0.99")
	lists("", `"`+c+`", "`+d+`", "`+a+`", "`+b+`"`)
	g.reload()
	_, text := g.refusal(c)
	for _, want := range []string{`order for "c.example.org" and 3 more: tls-alpn-01: `, "a.example.org: unauthorized: ", "d.example.org: unauthorized: "} {
		if !strings.Contains(text, want) {
			t.Errorf("%q; want %q in it", text, want)
		}
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			g.Signal(syscall.SIGKILL) // there is a tunnel
			g.Wait()
			g.Gate = gate.Start(t, g.site.Dir)
		}
		for name, want := range map[string]*x509.Certificate{a: first, b: first, c: single} {
			if leaf, err := g.leaf(name, root); err != nil || !leaf.Equal(want) {
				t.Errorf("restarted %v: %s has %v, %v; want the old one", restarted, name, leaf, err)
			}
		}
		if !restarted {
			lives()
		}
	}
	p.Resolve(a, g.at.IP)
	p.Resolve(d, g.at.IP)
	g.says("acme retry "+d, 0)
	next := g.obtains(c, root, single)
	for _, name := range []string{a, b, c, d} {
		if leaf, err := g.leaf(name, root); err != nil || !leaf.Equal(next) {
			t.Errorf("%s has %v, %v; want the new one", name, leaf, err)
		}
	}
}

// If the first CA is down, the second one is asked; the status says which CA a certificate
// is from. The next renewal asks the first again. A name that the first cannot validate is
// not taken to the second.
func TestBinaryFallback(t *testing.T) {
	t.Parallel()
	const name = "chat.example.org"
	first, all := newPebble(t, pebbleConfig{Later: true})
	second, others := newPebble(t, pebbleConfig{Later: true})
	for _, ln := range others {
		ln.tls.Close()
		ln.http.Close()
	}
	second.TLSPort, second.HTTPPort = first.TLSPort, first.HTTPPort
	second.start()
	g := newBinaryGate(t, first, all[0], name)
	second.Resolve(name, g.at.IP)
	g.site.Write(t, "root2.pem", second.https.RootPEM())
	g.ca += fmt.Sprintf("[[acme.fallback]]\nca = %q\nca_root = \"root2.pem\"\naccept_terms = true\n", second.Directory)
	g.admin = gate.FreeAddr(t)
	g.config(g.addr, "", `"`+name+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	from := func(p *pebble) {
		t.Helper()
		var names []struct{ CA string }
		if err := json.Unmarshal([]byte(g.says("acme status -json", 0)), &names); err != nil || len(names) != 1 || names[0].CA != p.Directory {
			t.Errorf("acme status -json: %+v, %v; want a certificate of %s", names, err, p.Directory)
		}
		g.says("acme status", 0, strings.TrimSuffix(strings.TrimPrefix(p.Directory, "https://"), "/dir"))
	}
	one := g.obtains(name, second.Root())
	g.WaitLine("the reason", func(l gate.Line) bool {
		return l.Msg() == "acme: certificate of a fallback CA" && l.Str("ca") == second.Directory && strings.Contains(l.Str("err"), "connection refused")
	})
	from(second)

	first.start()
	g.says("acme renew "+name, 0)
	two := g.obtains(name, first.Root(), one)
	from(first)

	first.Resolve(name, "127.0.0.99")
	g.says("acme renew "+name, 0)
	if _, text := g.refusal(name); !strings.Contains(text, "unauthorized") {
		t.Errorf("%q; want the first CA's words", text)
	}
	if leaf, err := g.leaf(name, first.Root()); err != nil || !leaf.Equal(two) || second.Orders() != 1 {
		t.Errorf("%v, %v, %d orders at the second CA; want the old certificate, and no order more", leaf, err, second.Orders())
	}

	first.stop()
	g.says("acme retry "+name, 0)
	three := g.obtains(name, second.Root(), one)
	g.says("acme rollover", 1, "has a new key at "+second.Directory+", but not at the other CAs", "connection refused")
	g.says("acme revoke "+name+" -reason superseded", 0, "is revoked")
	g.obtains(name, second.Root(), one, three)
}

// Of several chains the one to the preferred root is served; a root that the CA does not
// offer costs no certificate.
func TestBinaryChain(t *testing.T) {
	t.Parallel()
	const a, b = "a.example.org", "b.example.org"
	p, all := newPebble(t, pebbleConfig{Later: true})
	p.env = append(p.env, "PEBBLE_ALTERNATE_ROOTS=2")
	p.start()
	data, err := p.get("https://" + p.mgmt + "/roots/2")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	other, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(other)
	g := newBinaryGate(t, p, all[0], a, b)
	ca := g.ca
	g.ca += fmt.Sprintf("preferred_chain = %q\n", other.Subject.CommonName)
	g.config(g.addr, "", `"`+a+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	g.obtains(a, pool)
	if _, err := g.leaf(a, p.Root()); err == nil {
		t.Error("a client that trusts the default root accepts it; are the roots alike?")
	}

	g.ca = ca + "preferred_chain = \"No Such Root\"\n"
	g.config(g.addr, "", `"`+b+`"`)
	after := g.Mark()
	g.reload()
	g.obtains(b, p.Root())
	after("what the CA offers", func(l gate.Line) bool {
		return strings.HasPrefix(l.Msg(), "acme: no chain to the preferred issuer") && strings.Contains(l.Str("err"), other.Subject.CommonName)
	})
}
