package acme

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// start runs the program with a cache folder, its own where cache is "".
func (g *binaryGate) start(cache string, names ...string) {
	g.testGate.t.Helper()
	if cache != "" {
		g.cache = cache
		g.ca = fmt.Sprintf("cache = %q\n", cache) + g.ca
	}
	g.config(g.addr, `"`+g.at.http.Addr().String()+`"`, `"`+strings.Join(names, `", "`)+`"`)
	g.Gate = gate.Start(g.testGate.t, g.site.Dir)
}

// ends stops the program as an init system does.
func (g *binaryGate) ends() {
	g.testGate.t.Helper()
	g.Signal(syscall.SIGTERM)
	g.Signal(syscall.SIGTERM)
	g.Wait()
}

// certs returns what "wssgate certs" prints; it must end with the status.
func (g *binaryGate) certs(status int, args ...string) string {
	g.testGate.t.Helper()
	binary, err := gate.Build(false)
	if err != nil {
		g.testGate.t.Fatal(err)
	}
	cmd := exec.Command(binary, append([]string{"certs"}, args...)...)
	cmd.Dir = g.site.Dir
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != status {
		g.testGate.t.Errorf("wssgate certs: %v; want status %d\n%s", err, status, out)
	}
	return string(out)
}

// tunnel opens a WebSocket and returns what checks that it lives.
func (g *binaryGate) tunnel(name string, root *x509.CertPool) (lives func()) {
	config := g.site.Client(name)
	config.RootCAs = root
	c := wire.Dial(g.testGate.t, g.addr, config)
	return func() {
		g.testGate.t.Helper()
		c.SendText("still here")
		c.WantText("still here")
	}
}

// The program's first weeks: the CA is down at the start, wants an external
// account and refuses nonces; a certificate from the directory serves
// meanwhile; the back-off outlives a restart. What the cache holds is for nobody
// else's eyes.
func TestBinaryLife(t *testing.T) {
	t.Parallel()
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	p, all := newPebble(t, pebbleConfig{Later: true, Nonces: 30, EAB: map[string]string{"kid-1": key}})
	const name, alone = "chat.example.org", "alone.example.org"
	g := newBinaryGate(t, p, all[0], name, alone)
	g.site.Write(t, "eab", []byte(key+"\n"))
	g.ca += "eab_key_id = \"kid-1\"\neab_key_file = \"eab\"\n"
	ours := g.site.CA.IssueSpec(minica.Spec{Names: []string{name}, NotAfter: time.Now().AddDate(0, 0, 10)})
	g.site.Certify(t, name, ours)
	began := time.Now()
	g.start("", name, alone)

	for _, n := range []string{name, alone} {
		if failures, text := g.refusal(n); failures > 1+int(time.Since(began)/time.Minute) || !strings.Contains(text, "account: ") || !strings.Contains(text, "connection refused") {
			t.Errorf("%s: %d failures, %q; want one and the network's words", n, failures, text)
		}
	}
	if leaf, err := g.leaf(name, g.site.CA.Pool()); err != nil || !leaf.Equal(ours.Cert) {
		t.Errorf("without the CA: %v; want the directory's certificate", err)
	}
	if _, err := g.leaf(alone, g.site.CA.Pool()); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name without a certificate: %v; want unrecognized_name", err)
	}
	if out := g.certs(1, "-within", "14d"); !strings.Contains(out, "acme: "+alone+": waiting, ") || !strings.Contains(out, ", next try ") || !strings.Contains(out, "connection refused") {
		t.Errorf("wssgate certs prints %s\nwant the failure and its reason", out)
	}

	state := filepath.Join(g.cache, alone+"+state")
	before, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	g.ends()
	p.start()
	root := p.Root()
	g.start("", name, alone)
	time.Sleep(3 * time.Second) // in which an order would have come
	if after, err := os.ReadFile(state); err != nil || !bytes.Equal(before, after) || p.Orders() != 0 {
		t.Errorf("after a restart: %d orders, %v, record\n%s\nwant none, and the record as it was:\n%s", p.Orders(), err, after, before)
	}
	g.tryNow(name)
	g.tryNow(alone)
	g.obtains(name, root)
	g.obtains(alone, root)
	if out := g.certs(0); !strings.Contains(out, "chosen: before certs/chat.example.org.pem: expires later") {
		t.Errorf("wssgate certs prints %s\nwant the CA's certificate before the directory's", out)
	}

	if n := p.Orders(); n != 2 {
		t.Errorf("%d orders; want 2", n)
	}
	wantModes(t, g.cache)
	if strings.Contains(g.Text(), key) {
		t.Error("the key of the external account is in the log")
	}
}

// wantModes checks that nobody else can read a cache.
func wantModes(t *testing.T, cache string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = fs.ModeDir | 0o700
		} else {
			files++
		}
		if info.Mode() != want {
			t.Errorf("%s: mode %v; want %v", path, info.Mode(), want)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files in the cache, %v", files, err)
	}
}

// Renewals of the program under a tunnel and under handshakes that come all the
// time.
func TestBinaryRenews(t *testing.T) {
	t.Parallel()
	p, all := newPebble(t, pebbleConfig{Validity: 20})
	const name = "chat.example.org"
	g := newBinaryGate(t, p, all[0], name)
	g.start("", name)
	root := p.Root()
	leaves := []*x509.Certificate{g.obtains(name, root)}
	lives := g.tunnel(name, root)
	for len(leaves) < 3 {
		leaf, err := g.leaf(name, root)
		if err != nil {
			t.Fatalf("a handshake after %d certificates: %v", len(leaves), err)
		}
		if !leaf.Equal(leaves[len(leaves)-1]) {
			leaves = append(leaves, leaf)
		}
		lives()
		time.Sleep(5 * time.Millisecond)
	}
}

// Two programs on one cache order each name once, serve the same certificates,
// and when one is deleted order it anew, with another key.
func TestBinaryTwoGates(t *testing.T) {
	t.Parallel()
	p, all := newPebble(t, pebbleConfig{Listeners: 2})
	names := []string{"a.example.org", "b.example.org", "c.example.org"}
	cache := filepath.Join(t.TempDir(), "shared")
	second := newBinaryGate(t, p, all[1], names...)
	first := newBinaryGate(t, p, all[0])
	second.start(cache, names...) // the CA finds this one
	first.start(cache, names...)
	root := p.Root()
	var leaves []*x509.Certificate
	for _, name := range names {
		leaf := first.obtains(name, root)
		if other := second.obtains(name, root); !other.Equal(leaf) {
			t.Errorf("%s: gates serve %v and %v", name, leaf.SerialNumber, other.SerialNumber)
		}
		leaves = append(leaves, leaf)
	}
	if n := p.Orders(); n != len(names) {
		t.Errorf("%d orders; want %d", n, len(names))
	}
	lives := first.tunnel(names[0], root)
	deleteFromCache(t, first.testGate, names[0])
	leaf := first.obtains(names[0], root, leaves...)
	if leaf.PublicKey.(*ecdsa.PublicKey).Equal(leaves[0].PublicKey) {
		t.Error("the key is the same")
	}
	lives()
	if other := second.obtains(names[0], root, leaves...); !other.Equal(leaf) {
		t.Errorf("after the deletion gates serve %v and %v", leaf.SerialNumber, other.SerialNumber)
	}
	if n := p.Orders(); n != len(names)+1 {
		t.Errorf("%d orders; want one more", n)
	}
	wantModes(t, cache)
	for _, g := range []*binaryGate{first, second} {
		var list struct{ ACME []struct{ State string } }
		out := g.certs(0, "-json")
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.ACME) != len(names) || list.ACME[0].State != "valid" {
			t.Errorf("wssgate certs -json: %v\n%s", err, out)
		}
	}
}
