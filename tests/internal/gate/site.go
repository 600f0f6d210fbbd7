package gate

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wssgate/demo/minica"
)

// A Site is what an operator has before the program starts: a directory with
// config.toml and certs/, and the CA that the clients trust.
type Site struct {
	Dir string
	CA  *minica.CA
}

// Timeouts is a [timeouts] table for clients that are a test's: they go on, and answer
// Pings, when the test comes to it, which on a busy machine may be later than a gate
// waits for a browser.
const Timeouts = `[timeouts]
ping = "10m"
handshake = "2m"
request = "2m"
`

// NewSite makes a site with a certificate of its own for each name.
func NewSite(tb testing.TB, names ...string) *Site {
	tb.Helper()
	s := &Site{Dir: tb.TempDir(), CA: minica.NewCA("wssgate test root")}
	if err := os.Mkdir(filepath.Join(s.Dir, "certs"), 0o755); err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		s.Certify(tb, name, s.CA.Issue(name))
	}
	return s
}

// Certify puts the pair into certs/ under the name, replacing what was there
// the way deployment tools do: a new file renamed over the old one.
func (s *Site) Certify(tb testing.TB, name string, pair *minica.Pair) {
	tb.Helper()
	s.Write(tb, s.CertFile(name), pair.PEM())
}

// CertFile returns the file of the name's certificate, relative to Dir.
func (s *Site) CertFile(name string) string {
	return filepath.Join("certs", strings.Replace(name, "*", "_", 1)+".pem")
}

// Write replaces the file, whose name is relative to Dir, in one step.
func (s *Site) Write(tb testing.TB, name string, data []byte) {
	tb.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

// Client returns what a client of the site needs to reach serverName.
func (s *Site) Client(serverName string) *tls.Config {
	return &tls.Config{ServerName: serverName, RootCAs: s.CA.Pool()}
}

// Start runs the program on a config.toml made of rest and of a [listen] and a
// [certificates] table, and returns when it listens.
func (s *Site) Start(tb testing.TB, rest string, opts ...Option) *Gate {
	tb.Helper()
	s.Config(tb, rest)
	return Start(tb, s.Dir, opts...)
}

// Config writes config.toml as Start does.
func (s *Site) Config(tb testing.TB, rest string) {
	tb.Helper()
	s.ConfigAt(tb, "127.0.0.1:0", rest)
}

// ConfigAt is Config with the address to listen on for wss, or a list of them in
// TOML.
func (s *Site) ConfigAt(tb testing.TB, wss, rest string) {
	tb.Helper()
	if !strings.HasPrefix(wss, "[\"") {
		wss = strconv.Quote(wss)
	}
	const head = `[listen]
wss = %s
admin = "127.0.0.1:0"

[certificates]
directory = "certs"

`
	if !strings.Contains(rest, "[timeouts]") {
		rest = Timeouts + "\n" + rest
	}
	s.Write(tb, "config.toml", []byte(fmt.Sprintf(head, wss)+rest))
}
