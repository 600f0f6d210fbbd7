package tests

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/internal/xmpptest"
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
		start func(t *testing.T, config string, site *gate.Site, addr string) (addrNow string)
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
			server := listenXMPP(t, xmpptest.Config{Domains: movingNames, Habits: xmpptest.Tigase()})
			site := gate.NewSite(t, movingNames...)
			config := blocks[0].text
			if strings.Count(config, "127.0.0.1:5290") == 0 {
				t.Fatal("the configuration does not name 127.0.0.1:5290")
			}
			config = strings.ReplaceAll(config, "127.0.0.1:5290", server.Addr())
			addr := c.start(t, config, site, net.JoinHostPort("127.0.0.1", freePort(t)))

			for _, name := range movingNames {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				client, err := xmpptest.Login(ctx, xmpptest.Target{URL: "wss://" + name + ":5291/", Addr: addr, TLS: site.Client(name)})
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

func startMoved(t *testing.T, config string, site *gate.Site, _ string) string {
	return site.Start(t, config).Addr("wss")
}

func startNginx(t *testing.T, config string, site *gate.Site, addr string) string {
	for _, name := range movingNames {
		pair := site.CA.Issue(name)
		site.Write(t, name+".pem", pair.ChainPEM())
		site.Write(t, name+".key", pair.KeyPEM())
	}
	config = strings.ReplaceAll(config, "/etc/ssl/", site.Dir+"/")
	config = replaceAll(t, config, `listen 5291 `, "listen "+addr+" ")
	// What Debian's package has from its own file or its build: where to write.
	head := "daemon off;\npid nginx.pid;\nerror_log stderr;\n"
	if os.Geteuid() == 0 {
		head += "user root;\n"
	}
	config = replaceAll(t, config, `http \{`, "http {\n  access_log off;\n  client_body_temp_path body; proxy_temp_path proxy;"+
		" fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n")
	site.Write(t, "nginx.conf", []byte(head+config))
	serveOther(t, program(t, "nginx", "nginx", "-p", site.Dir, "-c", filepath.Join(site.Dir, "nginx.conf"), "-e", "stderr"), addr)
	return addr
}

func startHAProxy(t *testing.T, config string, site *gate.Site, addr string) string {
	config = replaceAll(t, config, `bind :5291 `, "bind "+addr+" ")
	config = replaceAll(t, config, `/etc/haproxy/certs/`, filepath.Join(site.Dir, "certs"))
	site.Write(t, "haproxy.cfg", []byte(config))
	serveOther(t, program(t, "haproxy", "haproxy", "-db", "-f", filepath.Join(site.Dir, "haproxy.cfg")), addr)
	return addr
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

// serveOther runs somebody else's server until the test ends, and returns when
// it accepts.
func serveOther(t *testing.T, cmd *exec.Cmd, addr string) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("%s:\n%s", cmd, out.String())
		}
	})
	for deadline := time.Now().Add(gate.Patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", cmd, err, out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("%s does not accept: %w", cmd, err))
		}
	}
}
