// Package acme runs gates against Pebble, Let's Encrypt's CA for tests, as a
// process of its own that looks names up in a DNS server of ours and validates
// on loopback.
package acme

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) {
	if err := buildPebble(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Set("test.parallel", "8") // they mostly wait for the CA; -parallel overrides it
	leaktest.Main(m)
}

// Each challenge gives a certificate that clients of TLS 1.3 accept.
func TestObtain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config gateConfig
	}{
		{"tls-alpn-01", gateConfig{}},
		{"http-01", gateConfig{NoTLS: true, HTTP: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, at := newPebble(t, pebbleConfig{Nonces: 5})
			names := []string{"chat.example.org", "xn--bcher-kva.example"}
			for _, name := range names {
				p.Resolve(name, at[0].IP)
			}
			tt.config.Names = []string{"chat.example.org", "Bücher.example"}
			g := startGate(t, p, at[0], tt.config)
			root := p.Root()
			for _, name := range names {
				leaf := g.obtains(name, root)
				if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok {
					t.Errorf("%s: key is %T; want ECDSA", name, leaf.PublicKey)
				}
			}
			if n := p.Orders(); n != 2 {
				t.Errorf("%d orders; want 2", n)
			}
			if _, err := g.leaf("other.example.org", root); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("a name that is not configured: %v; want unrecognized_name", err)
			}
		})
	}
}

// Authorizations that the CA remembers make an order ready at once.
func TestAuthorizationsUsedAgain(t *testing.T) {
	t.Parallel()
	p, at := newPebble(t, pebbleConfig{Reuse: 100})
	p.Resolve("chat.example.org", at[0].IP)
	g := startGate(t, p, at[0], gateConfig{Names: []string{"chat.example.org"}})
	root := p.Root()
	first := g.obtains("chat.example.org", root)
	p.Resolve("chat.example.org", "127.0.0.99") // would not validate again
	deleteFromCache(t, g, "chat.example.org")
	g.obtains("chat.example.org", root, first)
}

// A CA that wants an account bound to one of its own is given what it asks for;
// a wrong key is refused in the CA's words, without the key in them.
func TestExternalAccountBinding(t *testing.T) {
	t.Parallel()
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	p, at := newPebble(t, pebbleConfig{EAB: map[string]string{"kid-1": key}})
	p.Resolve("chat.example.org", at[0].IP)
	names := []string{"chat.example.org"}
	mac, err := base64.RawURLEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	ok := startGate(t, p, at[0], gateConfig{Names: names, EABKID: "kid-1", EABKey: mac})
	ok.obtains(names[0], p.Root())

	other := listenGates(t, 2)
	wrong := startGate(t, p, other[0], gateConfig{Names: names, EABKID: "kid-1", EABKey: []byte("not the key")})
	if _, text := wrong.refusal(names[0]); !strings.Contains(text, "account: unauthorized: ") || strings.Contains(text, "not the key") {
		t.Errorf("wrong key: %q; want the CA's words", text)
	}
	none := startGate(t, p, other[1], gateConfig{Names: names})
	if _, text := none.refusal(names[0]); !strings.Contains(text, "account: externalAccountRequired: ") {
		t.Errorf("no key: %q; want the CA's words", text)
	}
}

// Half of all good nonces refused: nobody notices.
func TestRefusedNonces(t *testing.T) {
	t.Parallel()
	p, at := newPebble(t, pebbleConfig{Nonces: 50})
	var names []string
	for i := range 4 {
		names = append(names, fmt.Sprintf("n%d.example.org", i))
		p.Resolve(names[i], at[0].IP)
	}
	g := startGate(t, p, at[0], gateConfig{Names: names})
	root := p.Root()
	for _, name := range names {
		g.obtains(name, root)
	}
	// Each refusal makes the client ask for a fresh one.
	if n := strings.Count(p.log.String(), "HEAD /nonce-plz"); n < 5 {
		t.Errorf("%d nonces asked for; were any refused?", n)
	}
	if n := p.Orders(); n != len(names) {
		t.Errorf("%d orders; want %d", n, len(names))
	}
}

// A validation that fails is told in the CA's words, each attempt's; the name is
// refused as any unknown one, others do not suffer, and it comes when its cause
// is mended.
func TestValidationFails(t *testing.T) {
	t.Parallel()
	began := time.Now()
	p, at := newPebble(t, pebbleConfig{Blocked: []string{"blocked.example.org"}})
	p.Resolve("bad.example.org", "127.0.0.99") // nobody is there
	p.Resolve("good.example.org", at[0].IP)
	g := startGate(t, p, at[0], gateConfig{Names: []string{"bad.example.org", "nowhere.example.org", "blocked.example.org", "good.example.org"}, HTTP: true})
	root := p.Root()
	g.obtains("good.example.org", root)
	failures, text := g.refusal("bad.example.org")
	for _, want := range []string{
		`acme: order for "bad.example.org": tls-alpn-01: unauthorized: Failed to connect to 127.0.0.99:`,
		`; http-01: connection: `, "connection refused",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("bad.example.org: %q; want %q in it", text, want)
		}
	}
	if most := 1 + int(time.Since(began)/time.Minute); failures > most {
		t.Errorf("%d failures; want %d at the most: the next try is a minute away", failures, most)
	}
	if _, text := g.refusal("nowhere.example.org"); !strings.Contains(text, "nowhere.example.org") || !strings.Contains(text, "resol") {
		t.Errorf("nowhere.example.org: %q; want what the CA says about its DNS", text)
	}
	if _, text := g.refusal("blocked.example.org"); !strings.Contains(text, "rejectedIdentifier: ") || strings.Contains(text, "http-01") {
		t.Errorf("blocked.example.org: %q; want the CA's policy, asked once", text)
	}
	if _, err := g.leaf("bad.example.org", root); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("bad.example.org: %v; want unrecognized_name", err)
	}
	p.Resolve("bad.example.org", at[0].IP)
	g.tryNow("bad.example.org")
	g.obtains("bad.example.org", root)
}

// A CA that is down at start, comes, dies, and comes back as one that forgot all
// accounts. What was obtained is served throughout, and after a restart.
func TestCADownAtStart(t *testing.T) {
	t.Parallel()
	p, at := newPebble(t, pebbleConfig{Later: true, Listeners: 2})
	name := "chat.example.org"
	p.Resolve(name, at[0].IP)
	g := startGate(t, p, at[0], gateConfig{Names: []string{name}})
	if _, text := g.refusal(name); !strings.Contains(text, "account: ") || !strings.Contains(text, "connection refused") {
		t.Errorf("%q; want the network's words", text)
	}
	p.start()
	root := p.Root()
	g.tryNow(name)
	first := g.obtains(name, root)
	p.stop()
	if leaf, err := g.leaf(name, root); err != nil || !leaf.Equal(first) {
		t.Errorf("without the CA: %v, %v; want the certificate", leaf, err)
	}
	again := startGate(t, p, at[1], gateConfig{Names: []string{name}, Cache: g.cache})
	if leaf, err := again.leaf(name, root); err != nil || !leaf.Equal(first) {
		t.Errorf("a second gate without the CA: %v, %v; want the certificate from the cache", leaf, err)
	}
	again.acme.Close()

	p.start()
	deleteFromCache(t, g, name)
	g.obtains(name, p.Root()) // this CA knows no account, so that the gate has a new one
}

// A certificate that is deleted from the cache is obtained anew, with another
// key, and the old one is served until then.
func TestDeletedFromCache(t *testing.T) {
	t.Parallel()
	p, at := newPebble(t, pebbleConfig{})
	name := "chat.example.org"
	p.Resolve(name, at[0].IP)
	g := startGate(t, p, at[0], gateConfig{Names: []string{name}})
	root := p.Root()
	first := g.obtains(name, root)
	deleteFromCache(t, g, name)
	second := g.obtains(name, root, first)
	if first.PublicKey.(*ecdsa.PublicKey).Equal(second.PublicKey) {
		t.Error("the key is the same")
	}
}

// deleteFromCache deletes a certificate that a gate has obtained.
func deleteFromCache(t *testing.T, g *testGate, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(g.cache, name)); err != nil {
		t.Fatal(err)
	}
}

// Two renewals under live connections: none is lost, new ones get the new
// certificate, and no handshake fails at any moment.
func TestRenewalUnderLiveConnections(t *testing.T) {
	t.Parallel()
	p, at := newPebble(t, pebbleConfig{Validity: 20})
	name := "chat.example.org"
	p.Resolve(name, at[0].IP)
	g := startGate(t, p, at[0], gateConfig{Names: []string{name}})
	root := p.Root()
	certs := []*x509.Certificate{g.obtains(name, root)}

	stop := make(chan struct{})
	var wg sync.WaitGroup
	var trips, handshakes atomic.Int64
	for i := range 20 {
		conn, err := g.dial(name, root)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer conn.Close()
			r := bufio.NewReader(conn)
			for n := 0; ; n++ {
				if err := echo(conn, r, fmt.Sprintf("%d.%d", i, n)); err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				trips.Add(1)
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	wg.Go(func() {
		for {
			if _, err := g.leaf(name, root); err != nil {
				t.Errorf("handshake %d: %v", handshakes.Load(), err)
			}
			handshakes.Add(1)
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	for range 2 {
		certs = append(certs, g.obtains(name, root, certs...))
	}
	close(stop)
	wg.Wait()
	t.Logf("%d round trips on 20 connections, %d handshakes, %d certificates", trips.Load(), handshakes.Load(), len(certs))
	if p.Orders() < 3 {
		t.Errorf("%d orders; want 3 or more", p.Orders())
	}
}

// Two gates on one cache make one order for each name and renewal, though the CA
// always asks the wrong one, and serve the same certificates.
func TestTwoGates(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config gateConfig
	}{
		{"tls-alpn-01", gateConfig{}},
		{"http-01", gateConfig{NoTLS: true, HTTP: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, at := newPebble(t, pebbleConfig{Listeners: 2})
			tt.config.Cache = filepath.Join(t.TempDir(), "shared")
			// The first gate alone orders these; the CA finds the second.
			tt.config.Names = []string{"a.example.org", "b.example.org", "c.example.org"}
			for _, name := range tt.config.Names {
				p.Resolve(name, at[1].IP)
			}
			second := startGate(t, p, at[1], tt.config)
			first := startGate(t, p, at[0], tt.config)
			root := p.Root()
			var old []*x509.Certificate
			for round := 1; round <= 2; round++ {
				for _, name := range tt.config.Names {
					leaf := first.obtains(name, root, old...)
					if other := second.obtains(name, root, old...); !other.Equal(leaf) {
						t.Errorf("%s: gates serve %v and %v", name, leaf.SerialNumber, other.SerialNumber)
					}
					old = append(old, leaf)
				}
				if got, want := p.Orders(), round*len(tt.config.Names); got != want {
					t.Errorf("round %d: %d orders; want %d", round, got, want)
				}
				// Now whoever does not order is asked: each gate at least once.
				for i, name := range tt.config.Names {
					p.Resolve(name, at[i%2].IP)
					if round == 1 {
						deleteFromCache(t, first, name)
					}
				}
			}
		})
	}
}
