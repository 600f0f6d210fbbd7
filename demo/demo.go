// Package demo is what `wssgate demo` puts around the gate so that it can be
// tried on one machine without a network: a CA, certificates for two vhosts, a
// small XMPP server on loopback, a configuration, and a page that is an XMPP
// client.
//
// It starts no gate: the caller serves the configuration file with Page as the
// answer to plain requests. Nothing here is for production.
package demo

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
)

// Names are the vhosts: browsers and curl take names below .localhost to
// loopback without asking DNS (RFC 6761, section 6.3).
var Names = []string{"example1.localhost", "example2.localhost"}

// Options say what to set up. The zero value is the default demo.
type Options struct {
	Listen   string // HOST:PORT of the gate; empty: "127.0.0.1:5291"
	Upstream string // ws:// URL of a real XMPP server; empty: one of our own
	Dir      string // where the files go, kept at the end; empty: a temporary one, removed
}

// A Demo is set up and waits for its gate. Close ends it.
type Demo struct {
	Dir      string // holds ca.pem, config.toml and certs/
	CA       string // file name of the root
	Config   string // file name of the configuration
	Listen   string // as in Options
	Upstream string // the URL that the gate forwards to

	keep   bool
	server *chat.Server // nil where the upstream is a real one
}

// FreeAddress returns addr with the port that the kernel gave for port 0, or
// says why the gate could not listen there.
func FreeAddress(addr string) (string, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	defer ln.Close()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return net.JoinHostPort(host, port), err
}

// Start writes the files and starts the XMPP server. Where Dir has a CA and
// certificates of an earlier demo that are still good, they stay, so that a
// browser that trusts the CA goes on doing so.
func Start(opts Options) (_ *Demo, err error) {
	d := &Demo{Dir: opts.Dir, Listen: opts.Listen, Upstream: opts.Upstream, keep: opts.Dir != ""}
	if d.Listen == "" {
		d.Listen = "127.0.0.1:5291"
	}
	if _, _, err := net.SplitHostPort(d.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if !d.keep {
		if d.Dir, err = os.MkdirTemp("", "wssgate-demo-"); err != nil {
			return nil, err
		}
	}
	if d.Dir, err = filepath.Abs(d.Dir); err != nil {
		return nil, err
	}
	d.CA, d.Config = filepath.Join(d.Dir, "ca.pem"), filepath.Join(d.Dir, "config.toml")
	if err := os.MkdirAll(filepath.Join(d.Dir, "certs"), 0o700); err != nil {
		return nil, err
	}
	if !d.certificatesAreGood() {
		if err := d.writeCertificates(); err != nil {
			return nil, err
		}
	}
	if d.Upstream == "" {
		if d.server, err = chat.Listen(chat.Config{Domains: Names}); err != nil {
			return nil, err
		}
		d.Upstream = d.server.URL()
	}
	return d, d.writeConfig()
}

// Close stops the XMPP server and removes the files, unless they were to stay.
// The gate should have ended before.
func (d *Demo) Close() error {
	if d.server != nil {
		d.server.Close()
	}
	if d.keep || d.Dir == "" {
		return nil
	}
	return os.RemoveAll(d.Dir)
}

func (d *Demo) certFile(name string) string { return filepath.Join(d.Dir, "certs", name+".pem") }

// certificatesAreGood reports whether every name has a certificate of the CA
// in Dir that lasts another day.
func (d *Demo) certificatesAreGood() bool {
	root, err := os.ReadFile(d.CA)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(root) {
		return false
	}
	for _, name := range Names {
		pair, err := tls.LoadX509KeyPair(d.certFile(name), d.certFile(name))
		if err != nil {
			return false
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: time.Now().Add(24 * time.Hour)}); err != nil {
			return false
		}
	}
	return true
}

// writeCertificates makes a CA, whose key nobody keeps, and a certificate for
// each name. It overwrites nothing but files of its own names.
func (d *Demo) writeCertificates() error {
	ca := minica.NewCA("wssgate demo CA")
	if err := os.WriteFile(d.CA, ca.RootPEM(), 0o644); err != nil {
		return err
	}
	for _, name := range Names {
		if err := os.WriteFile(d.certFile(name), ca.Issue(name).PEM(), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const configMark = "# written by wssgate demo"

// writeConfig writes the configuration that the gate is to serve.
func (d *Demo) writeConfig() error {
	switch old, err := os.ReadFile(d.Config); {
	case err == nil && !strings.HasPrefix(string(old), configMark):
		return fmt.Errorf("%s is not the demo's: it stays as it is, choose another directory", d.Config)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// TOML's basic strings have the escapes that %q writes for these values.
	config := configMark + "\n" + fmt.Sprintf(`
[listen]
wss   = %q
admin = ""

[certificates]
directory = "certs"

[upstream.demo]
nodes = %q

[drain]
timeout = "3s"
`, d.Listen, d.Upstream)
	return os.WriteFile(d.Config, []byte(config), 0o600)
}

// Guide says what to try, for a gate of that program name.
func (d *Demo) Guide(program string) string {
	host, port, _ := net.SplitHostPort(d.Listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	at := net.JoinHostPort(host, port)
	a, b := Names[0], Names[1]
	upstream := "a small XMPP server of the demo's own"
	if d.server == nil {
		upstream = "yours; it must serve both domains with ANONYMOUS logins, or add ?domain=NAME to the address of the page"
	}
	var w strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	line("The gate stands at %s, with a certificate for each of two vhosts.", at)
	line("Behind it: %s (%s).", d.Upstream, upstream)
	line("")
	line("In a browser: a page that is an XMPP client. The browser warns of a CA that it")
	line("does not know: go on, or import the CA's certificate below as an authority.")
	line("")
	line("  https://%s:%s/", a, port)
	line("  https://%s:%s/", b, port)
	line("  %s", d.CA)
	line("")
	line("In another terminal, the opening handshake of a WebSocket:")
	line("")
	line(`  curl -i -N --http1.1 --max-time 2 --cacert %s --connect-to ::%s \`, quote(d.CA), at)
	line(`    -H 'Upgrade: websocket' -H 'Connection: Upgrade' -H 'Sec-WebSocket-Version: 13' \`)
	line(`    -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' -H 'Sec-WebSocket-Protocol: xmpp' \`)
	line(`    https://%s:%s/`, a, port)
	line("")
	line("Two names, two certificates; a third one is refused (alert unrecognized_name):")
	line("")
	for _, name := range []string{a, b, "example3.localhost"} {
		line(`  openssl s_client -connect %s -servername %s -CAfile %s -brief </dev/null`, at, name, quote(d.CA))
	}
	line("")
	line("The way of a client, step by step:")
	line("")
	line("  %s probe wss://%s:%s/ -connect %s -ca %s", quote(program), a, port, at, quote(d.CA))
	line("")
	if d.keep {
		line("Ctrl-C ends it. The files in %s stay.", d.Dir)
	} else {
		line("Ctrl-C ends it and removes the files.")
	}
	return w.String()
}

// quote makes a word safe for a shell where it needs that.
func quote(word string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:,@", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !safe(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
