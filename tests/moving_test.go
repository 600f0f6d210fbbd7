package tests

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"wssgate/demo/chat"
	"wssgate/tests/internal/gate"
)

// movingNames are the names in the configurations of docs/moving.md.
var movingNames = []string{"example1.com", "example2.com"}

// The configurations of docs/moving.md say what it claims: through each of the
// three programs an XMPP login goes on both names, with each name's own
// certificate, and a third name gets none.
func TestMoving(t *testing.T) {
	doc := document(t, "docs/moving.md")
	for _, c := range []struct {
		info  string
		start startGate
	}{
		{"toml moved", startMoved},
		{"nginx", startNginx},
		{"haproxy", startHAProxy},
	} {
		t.Run(c.info, func(t *testing.T) {
			blocks := doc.blocks(c.info)
			if len(blocks) != 1 {
				t.Fatalf("docs/moving.md has %d blocks of %q; want one", len(blocks), c.info)
			}
			server := listenXMPP(t, chat.Config{Domains: movingNames, Habits: chat.Tigase()})
			site := gate.NewSite(t, movingNames...)
			config := blocks[0].text
			if strings.Count(config, "127.0.0.1:5290") == 0 {
				t.Fatal("the configuration does not name 127.0.0.1:5290")
			}
			config = strings.ReplaceAll(config, "127.0.0.1:5290", server.Addr())
			addr, _ := c.start(t, config, site, gate.FreeAddr(t))

			for _, name := range movingNames {
				ctx, cancel := context.WithTimeout(t.Context(), gate.Patience)
				defer cancel()
				client, err := chat.Login(ctx, chat.Target{URL: "wss://" + name + ":5291/", Addr: addr, TLS: site.Client(name)})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if !strings.Contains(client.JID, "@"+name+"/") {
					t.Errorf("logged in as %q; want a user of %s", client.JID, name)
				}
				client.Abort()
			}
			_, err := tls.Dial("tcp", addr, site.Client("example3.com"))
			if err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
				t.Errorf("example3.com: %v; want an alert", err)
			}
		})
	}
}

// A startGate starts a program with a configuration of docs/moving.md, and
// returns where it listens and what sends it a signal.
type startGate func(t *testing.T, config string, site *gate.Site, addr string) (listens string, signal func(os.Signal) error)

func startMoved(t *testing.T, config string, site *gate.Site, _ string) (string, func(os.Signal) error) {
	g := site.Start(t, config)
	return g.Addr("wss"), func(s os.Signal) error { g.Signal(s.(syscall.Signal)); return nil }
}

func startNginx(t *testing.T, config string, site *gate.Site, addr string) (string, func(os.Signal) error) {
	for _, name := range movingNames {
		pair := site.CA.Issue(name)
		site.Write(t, name+".pem", pair.ChainPEM())
		site.Write(t, name+".key", pair.KeyPEM())
	}
	config = strings.ReplaceAll(config, "/etc/ssl/", site.Dir+"/")
	site.Write(t, "nginx.conf", []byte(replaceAll(t, config, `listen 5291 `, "listen "+addr+" ")))
	return addr, startNginxOn(t, site, addr)
}

// startNginxOn starts nginx with the site's nginx.conf, which has it listen at
// addr, and returns what sends it a signal.
func startNginxOn(t *testing.T, site *gate.Site, addr string) func(os.Signal) error {
	t.Helper()
	config := readFile(t, filepath.Join(site.Dir, "nginx.conf"))
	// What Debian's package has from its own file or its build: where to write.
	head := "daemon off;\npid nginx.pid;\nerror_log stderr;\n"
	if os.Geteuid() == 0 {
		head += "user root;\n"
	}
	config = replaceAll(t, config, `http \{`, "http {\n  access_log off;\n  client_body_temp_path body; proxy_temp_path proxy;"+
		" fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n")
	site.Write(t, "nginx.conf", []byte(head+config))
	cmd := program(t, "nginx", "nginx", "-p", site.Dir, "-c", filepath.Join(site.Dir, "nginx.conf"), "-e", "stderr")
	gate.StartServer(t, cmd, new(gate.Output), addr)
	return cmd.Process.Signal
}

func startHAProxy(t *testing.T, config string, site *gate.Site, addr string) (string, func(os.Signal) error) {
	config = replaceAll(t, config, `bind :5291 `, "bind "+addr+" ")
	config = replaceAll(t, config, `/etc/haproxy/certs/`, filepath.Join(site.Dir, "certs"))
	site.Write(t, "haproxy.cfg", []byte(config))
	cmd := program(t, "haproxy", "haproxy", "-db", "-f", filepath.Join(site.Dir, "haproxy.cfg"))
	gate.StartServer(t, cmd, new(gate.Output), addr)
	return addr, cmd.Process.Signal
}

// What the README's table says of ends: the gate's clients get a Close frame
// when the XMPP server vanishes and when the gate is told to end, those of the
// others only lose their connection.
func TestReadmeEnds(t *testing.T) {
	moving := document(t, "docs/moving.md")
	for _, c := range []struct {
		info           string
		start          startGate
		vanishes, told uint16 // status codes; 0: none
	}{
		{"toml moved", startMoved, 1012, 1001},
		{"nginx", startNginx, 0, 0},
		{"haproxy", startHAProxy, 0, 0},
	} {
		for _, vanishes := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, server vanishes %v", c.info, vanishes), func(t *testing.T) {
				server := listenXMPP(t, chat.Config{Domains: movingNames, Habits: chat.Tigase()})
				site := gate.NewSite(t, movingNames...)
				config := strings.ReplaceAll(moving.blocks(c.info)[0].text, "127.0.0.1:5290", server.Addr())
				addr, signal := c.start(t, config, site, gate.FreeAddr(t))
				name := movingNames[0]
				client, err := chat.Login(t.Context(), chat.Target{URL: "wss://" + name + ":5291/", Addr: addr, TLS: site.Client(name), Timeout: gate.Patience})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Abort()
				want := c.told
				if vanishes {
					want = c.vanishes
					server.Close()
				} else if err := signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				for err == nil { // what is said in XMPP before
					_, err = client.Recv()
				}
				var got uint16
				if ce, ok := errors.AsType[*chat.CloseError](err); ok {
					got = uint16(ce.Code)
				}
				if os.IsTimeout(err) || got != want {
					t.Errorf("the client reads %v; want status code %d (0: none, and an end)", err, want)
				}
			})
		}
	}
}

// replaceAll replaces what must be there.
func replaceAll(t *testing.T, text, pattern, with string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	if !re.MatchString(text) {
		t.Fatalf("the configuration has no %q", pattern)
	}
	return re.ReplaceAllLiteralString(text, with)
}
