package tests

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// besideHTTP is for Site.ConfigAt: a listener for plain HTTP beside that for wss.
const besideHTTP = "[\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\""

// dialFrom connects from an address of loopback.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: gate.Patience}
	conn, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(4 * gate.Patience))
	return conn
}

// statusFrom asks plain HTTP from an address, and returns 0 where the connection is
// closed without an answer.
func statusFrom(t *testing.T, from, addr, path string) int {
	t.Helper()
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext},
		Timeout:   gate.Patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = name
	resp, err := client.Do(r)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("from %s: %v; want an answer or the connection's end", from, err)
		}
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A list keeps clients out of wss and plain HTTP; its file is read again when it
// changes, a bad one leaves what was in force and is a finding, and a reload takes
// another list.
func TestAccess(t *testing.T) {
	site := gate.NewSite(t, name)
	deny := func(text string) { site.Write(t, "deny.txt", []byte(text)) }
	deny("127.0.0.2\n")
	config := toUpstream(wire.Echo(t).URL) + "[access]\nallow = \"127.0.0.0/24\"\ndeny = \"file:deny.txt\"\n[log]\nlevel = \"info\"\n"
	site.ConfigAt(t, besideHTTP, config)
	g := gate.Start(t, site.Dir)
	handshake := func(from string) error {
		conn := dialFrom(t, from, g.Addr("wss"))
		return tls.Client(conn, site.Client(name)).Handshake()
	}
	closed := func(from string) func() bool { return func() bool { return handshake(from) != nil } }
	open := func(from string) func() bool { return func() bool { return handshake(from) == nil } }
	if closed("127.0.0.1")() || open("127.0.0.2")() || open("127.0.1.1")() {
		t.Errorf("127.0.0.1: %v; 127.0.0.2: %v; 127.0.1.1: %v; want only the first let in", handshake("127.0.0.1"), handshake("127.0.0.2"), handshake("127.0.1.1"))
	}
	for from, want := range map[string]int{"127.0.0.1": 308, "127.0.0.2": 0, "127.0.1.1": 403} {
		if got := statusFrom(t, from, g.Addr("http"), "/"); got != want {
			t.Errorf("plain HTTP from %s: %d; want %d", from, got, want)
		}
	}
	deny("127.0.0.3\n")
	eventually(t, "the changed list is in force", func() bool { return open("127.0.0.2")() && closed("127.0.0.3")() })
	mark := g.Mark()
	deny("127.0.0.3\n127.0.0.\n")
	mark("the bad list is told", func(l gate.Line) bool {
		return strings.HasPrefix(l.Msg(), "access list") && strings.Contains(l.Str("err"), "line 2")
	})
	if open("127.0.0.3")() || closed("127.0.0.2")() {
		t.Error("a bad list is not without effect")
	}
	if text := fetch(t, "http://"+g.Addr("admin")+"/status"); !strings.Contains(text, `deny.txt\": line 2: \"127.0.0.\" is not a network; its previous contents are in force`) {
		t.Errorf("no finding about the bad list in %.600s", text)
	}
	// A list that has gone is not an empty one, and the other way round.
	mark = g.Mark()
	if err := os.Remove(filepath.Join(site.Dir, "deny.txt")); err != nil {
		t.Fatal(err)
	}
	mark("the list that has gone is told", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "access list") && l.Str("err") != "" })
	if open("127.0.0.3")() {
		t.Error("a list that has gone is not without effect")
	}
	deny("")
	eventually(t, "the empty list is in force", open("127.0.0.3"))
	if text := fetch(t, "http://"+g.Addr("admin")+"/status"); strings.Contains(text, "its previous contents are in force") {
		t.Errorf("a finding about a good list in %.600s", text)
	}
	metrics := fetch(t, "http://"+g.Addr("admin")+"/metrics")
	if strings.Contains(metrics, `wssgate_connections_refused_total{limit="access"} 0`) || !strings.Contains(metrics, `limit="access"`) {
		t.Error("what the lists keep out is not counted")
	}
	if strings.Contains(g.Text(), "connection refused") {
		t.Error("what the lists keep out is logged one by one")
	}
	deny("")
	site.ConfigAt(t, besideHTTP, strings.Replace(config, "127.0.0.0/24", "127.0.0.0/8", 1))
	g.Signal(syscall.SIGHUP)
	eventually(t, "the reload is in force", func() bool { return open("127.0.1.1")() && open("127.0.0.3")() })
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A vhost's list is its own: its clients get 403, on the WebSocket, BOSH and a
// document, and those of another vhost nothing of it.
func TestAccessVhost(t *testing.T) {
	bosh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer bosh.Close()
	site := gate.NewSite(t, name, "example2.test")
	g := site.Start(t, toUpstream(wire.Echo(t).URL)+`
[[vhost]]
names = ["`+name+`"]
bosh = "`+bosh.URL+`/http-bind"
access.deny = "127.0.0.2"
[[vhost]]
names = ["example2.test"]
`)
	get := func(from, server, path, more string) int {
		t.Helper()
		conn := tls.Client(dialFrom(t, from, g.Addr("wss")), site.Client(server))
		resp, _ := wire.NewConn(t, conn, true).Answer(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, server, more))
		return resp.StatusCode
	}
	const upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"
	for _, tt := range []struct {
		from, server, path, more string
		want                     int
	}{
		{"127.0.0.2", name, "/", upgrade, 403},
		{"127.0.0.2", name, "/http-bind", "", 403},
		{"127.0.0.2", name, "/.well-known/host-meta", "", 403},
		{"127.0.0.1", name, "/http-bind", "", 200},
		{"127.0.0.1", name, "/.well-known/host-meta", "", 200},
		{"127.0.0.2", "example2.test", "/.well-known/host-meta", "", 200},
	} {
		if got := get(tt.from, tt.server, tt.path, tt.more); got != tt.want {
			t.Errorf("%s%s from %s = %d; want %d", tt.server, tt.path, tt.from, got, tt.want)
		}
	}
}

// Who says nothing on plain HTTP, to the operator, or on a connection that was kept
// for BOSH, takes no descriptor that a client needs, and nobody's turn.
func TestIdleTakeNothing(t *testing.T) {
	bosh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer bosh.Close()
	site := gate.NewSite(t, name)
	site.ConfigAt(t, besideHTTP, toUpstream(wire.Echo(t).URL)+`
[[vhost]]
names = ["`+name+`"]
bosh = "`+bosh.URL+`/http-bind"
`)
	g := gate.Start(t, site.Dir, gate.Descriptors(128))
	for range 100 {
		dialFrom(t, "127.0.0.2", g.Addr("http"))
		dialFrom(t, "127.0.0.2", g.Addr("admin"))
	}
	// More than there are places for: each is answered, the oldest that are kept go.
	for range 60 {
		conn := tls.Client(dialFrom(t, "127.0.0.2", g.Addr("wss")), site.Client(name))
		if resp, _ := wire.NewConn(t, conn, true).Answer("GET /http-bind HTTP/1.1\r\nHost: " + name + "\r\n\r\n"); resp.StatusCode != 200 {
			t.Fatalf("BOSH: %s", resp.Status)
		}
	}
	if got := statusFrom(t, "127.0.0.1", g.Addr("http"), "/"); got != 308 {
		t.Errorf("plain HTTP beside 100 silent connections: %d; want 308", got)
	}
	tunnel := wire.Dial(t, g.Addr("wss"), site.Client(name))
	tunnel.SendText("here")
	tunnel.WantText("here")
	if text := fetch(t, "http://"+g.Addr("admin")+"/healthz"); text != "ok\n" {
		t.Errorf("/healthz = %q", text)
	}
	if n := len(g.Descriptors()); n >= 128 {
		t.Errorf("%d descriptors are open; want some to spare", n)
	}
	for _, word := range []string{"too many open files", "panic"} {
		if strings.Contains(g.Text(), word) {
			t.Errorf("the log has %q", word)
		}
	}
}

// An access list that is bad is a mistake of the configuration: check tells all of
// them, and nothing starts.
func TestAccessMistakes(t *testing.T) {
	site := gate.NewSite(t, name)
	site.Write(t, "deny.txt", []byte("192.0.2.0/24\nnonsense\n"))
	site.Config(t, toUpstream("ws://127.0.0.1:1/")+"[access]\nallow = \"10.1.0.0/8\"\ndeny = [\"file:deny.txt\", \"file:missing.txt\"]\n")
	g := gate.Run(t, site.Dir, []string{"check", "-offline", "-config", filepath.Join(site.Dir, "config.toml")})
	if status := g.Wait(); status != 2 {
		t.Errorf("exit status %d; want 2", status)
	}
	for _, want := range []string{`"10.1.0.0/8" has bits set beyond its prefix length; write "10.0.0.0/8"`, `line 2: "nonsense" is not a network`, `missing.txt": no such file`} {
		if !strings.Contains(g.Text(), want) {
			t.Errorf("check does not say %q:\n%s", want, g.Text())
		}
	}
}
