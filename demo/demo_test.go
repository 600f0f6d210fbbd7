package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// The page loads nothing from anywhere, and its policy allows exactly what it
// has inside.
func TestPage(t *testing.T) {
	get := func(method, path string) *http.Response {
		w := httptest.NewRecorder()
		Page().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Result()
	}
	resp := get("GET", "/")
	var body bytes.Buffer
	body.ReadFrom(resp.Body)
	if resp.StatusCode != 200 || body.String() != page || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("GET / = %s, %v, %d bytes", resp.Status, resp.Header, body.Len())
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'; ", "connect-src 'self'; ", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Count(policy, "'sha256-") != 2 {
		t.Errorf("policy %q; want two hashes and nothing unsafe", policy)
	}
	for _, tag := range []string{"<style", "<script"} {
		if n := strings.Count(page, tag); n != 1 {
			t.Errorf("%d of %s>, want the one whose hash is in the policy", n, tag)
		}
	}
	if m := regexp.MustCompile(`(?i)(src|href|action)="?(https?:)?//|@import|url\(|\sstyle=|\son[a-z]+=`).FindString(page); m != "" {
		t.Errorf("the page has %q, which loads something or which its policy forbids", m)
	}
	if resp := get("HEAD", "/"); resp.StatusCode != 200 || resp.ContentLength != int64(len(page)) {
		t.Errorf("HEAD / = %s, %d bytes; want 200, %d", resp.Status, resp.ContentLength, len(page))
	}
	if resp := get("GET", "/favicon.ico"); resp.StatusCode != 404 {
		t.Errorf("GET /favicon.ico = %s, want 404", resp.Status)
	}
	if resp := get("POST", "/"); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST / = %s, want 405", resp.Status)
	}
}

// A temporary demo has all that a gate needs, and leaves nothing behind.
func TestTemporary(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	d, err := Start(Options{Listen: "127.0.0.1:5291"})
	if err != nil {
		t.Fatal(err)
	}
	roots := pool(t, d)
	for _, name := range Names {
		pair, err := tls.LoadX509KeyPair(d.certFile(name), d.certFile(name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		c, err := chat.Login(ctx, chat.Target{URL: d.Upstream, Domain: name})
		cancel()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Abort()
	}
	for _, secret := range []string{d.certFile(Names[0]), d.Config, d.Dir} {
		if info, err := os.Stat(secret); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v; want it for its owner only", secret, info.Mode(), err)
		}
	}
	d.Close()
	if _, err := os.Stat(d.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", d.Dir, err)
	}
}

func pool(t *testing.T, d *Demo) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(d.CA)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("%s: %v", d.CA, err)
	}
	return roots
}

// A directory that was named stays, and its CA with it as long as it is good.
func TestKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	start := func() (root []byte) {
		d, err := Start(Options{Dir: dir, Upstream: "ws://127.0.0.1:5290/"})
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		root, err = os.ReadFile(d.CA)
		if err != nil {
			t.Fatal(err)
		}
		return root
	}
	first := start()
	if !bytes.Equal(start(), first) {
		t.Error("a good CA was replaced")
	}
	config, err := os.ReadFile(filepath.Join(dir, "config.toml"))
	if err != nil || !strings.Contains(string(config), `nodes = "ws://127.0.0.1:5290/"`) {
		t.Errorf("config.toml = %s, %v", config, err)
	}
	stale := minica.NewCA("another").Issue(Names[1])
	if err := os.WriteFile(filepath.Join(dir, "certs", Names[1]+".pem"), stale.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(start(), first) {
		t.Error("certificates of two CAs were left as they are")
	}

	mine := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(mine, []byte("# my own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "is not the demo's") {
		t.Errorf("err = %v, want a refusal to overwrite config.toml", err)
	}
	if b, _ := os.ReadFile(mine); string(b) != "# my own\n" {
		t.Errorf("config.toml is now %q", b)
	}
}

func TestStartFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []Options{{Listen: "5291"}, {Dir: filepath.Join(file, "below")}} {
		if d, err := Start(opts); err == nil {
			d.Close()
			t.Errorf("Start(%+v): err = nil", opts)
		}
	}
	if entries, err := fs.ReadDir(os.DirFS(filepath.Dir(file)), "."); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// The guide's lines are for a shell, whatever the directory is called.
func TestGuide(t *testing.T) {
	d := &Demo{Dir: "/tmp/it's here", CA: "/tmp/it's here/ca.pem", Listen: "[::]:6000", Upstream: "ws://127.0.0.1:1/"}
	guide := d.Guide("./wssgate")
	for _, want := range []string{
		"  https://example1.localhost:6000/\n  https://example2.localhost:6000/\n",
		`--cacert '/tmp/it'\''s here/ca.pem' --connect-to ::127.0.0.1:6000 \`,
		`openssl s_client -connect 127.0.0.1:6000 -servername example3.localhost -CAfile '/tmp/it'\''s here/ca.pem'`,
		`./wssgate probe wss://example1.localhost:6000/ -connect 127.0.0.1:6000 -ca '/tmp/it'\''s here/ca.pem'`,
		"it must serve both domains",
		"removes the files",
	} {
		if !strings.Contains(guide, want) {
			t.Errorf("guide lacks %q:\n%s", want, guide)
		}
	}
	d.Listen = "[::1]:5291"
	if guide := d.Guide("wssgate"); !strings.Contains(guide, "-connect [::1]:5291 ") {
		t.Errorf("guide = %s", guide)
	}
}
