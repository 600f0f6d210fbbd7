package tests

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/admin"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/hang"
	"wssgate/tests/internal/wire"
)

// onMount moves a file or folder of the site onto a file system that can hang, and
// leaves a link in its place.
func onMount(t *testing.T, site *gate.Site, what string) *hang.Mount {
	t.Helper()
	shown, path := t.TempDir(), filepath.Join(site.Dir, what)
	if err := os.Rename(path, filepath.Join(shown, what)); err != nil {
		t.Fatal(err)
	}
	m := hang.New(t, shown)
	if err := os.Symlink(filepath.Join(m.Dir, what), path); err != nil {
		t.Fatal(err)
	}
	return m
}

// hangs is the line that says that a file system does not answer.
func hangs(l gate.Line) bool { return strings.HasSuffix(l.Msg(), "the file system does not answer") }

func back(l gate.Line) bool { return strings.HasSuffix(l.Msg(), "the file system answers again") }

func says(msg string) func(gate.Line) bool { return func(l gate.Line) bool { return l.Msg() == msg } }

// finding reports whether there is one with all of these words.
func (o *operator) finding(words ...string) bool {
	o.t.Helper()
	return slices.ContainsFunc(o.status().Findings, func(f admin.Finding) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(f.What, w) })
	})
}

// A folder of certificates that hangs keeps nobody waiting: not clients, not a
// reload, not the end.
func TestCertificatesHang(t *testing.T) {
	u, conns := wire.Chan(t)
	site := gate.NewSite(t, name)
	m := onMount(t, site, "certs")
	g := site.Start(t, toUpstream(u.URL)+"[drain]\ntimeout = \"1s\"\n")
	o := operate(t, g)
	client := wire.Dial(t, g.Addr("wss"), site.Client(name))
	upstream := wire.Take(t, conns)
	works := func(client, upstream *wire.Conn) {
		t.Helper()
		client.SendText("<presence/>")
		upstream.WantText("<presence/>")
		upstream.SendText("<presence/>")
		client.WantText("<presence/>")
	}

	m.Hang()
	next := g.Mark()
	g.Signal(syscall.SIGHUP)
	line := next("the folder hangs", hangs)
	if file := line.Str("file"); !strings.HasPrefix(file, "certs") && !strings.HasPrefix(file, m.Dir) && !strings.HasPrefix(file, site.Dir) || line.Str("since") == "" {
		t.Errorf("the line has file %q, since %q", file, line.Str("since"))
	}
	next("the reload", says("reloaded"))
	o.want("GET", "/healthz", 200)
	o.want("GET", "/readyz", 200)
	if !o.finding("certificates", line.Str("file"), "has not answered since") || o.metric("wssgate_files_hanging") != 1 {
		t.Errorf("no finding names the folder: %+v", o.status().Findings)
	}
	works(client, upstream)
	other := wire.Dial(t, g.Addr("wss"), site.Client(name)) // a new client
	works(other, wire.Take(t, conns))
	o.want("POST", "/reload", 200)

	next = g.Mark()
	m.Resume()
	next("the folder is back", back)
	eventually(t, "no finding", func() bool { return !o.finding("has not answered") })
	site2 := site.CA.Issue("example2.test")
	shown, err := filepath.EvalSymlinks(filepath.Join(site.Dir, "certs"))
	if err != nil || os.WriteFile(strings.Replace(shown, m.Dir, m.Shows(), 1)+"/b.pem", site2.PEM(), 0o600) != nil {
		t.Fatal(shown, err)
	}
	o.want("POST", "/reload", 200)
	wire.DialTLS(t, g.Addr("wss"), site.Client("example2.test"))

	m.Hang()
	g.Signal(syscall.SIGHUP)
	g.Signal(syscall.SIGTERM)
	client.WantClose(1001)
	if status := g.Wait(); status != 0 && status != 3 { // 3: no client answers here
		t.Errorf("exit status %d; want 0 or 3", status)
	}
}

// A file that hangs by itself keeps no other one from being served, at the start and in
// a reload; it is named, and taken up when it answers.
func TestCertificateHangsAlone(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	site.Write(t, "certs/0.pem", site.CA.Issue("first.test").PEM())
	site.Write(t, "certs/zz.pem", site.CA.Issue("last.test").PEM())
	m := onMount(t, site, "certs")
	defer m.Resume()
	m.HangAlone("certs/0.pem")
	g := site.Start(t, toUpstream(u.URL))
	o := operate(t, g)
	line := g.WaitLine("the file hangs", hangs)
	if !strings.HasSuffix(line.Str("file"), "/0.pem") || line.Str("since") == "" {
		t.Errorf("the line has file %q, since %q", line.Str("file"), line.Str("since"))
	}
	for _, served := range []string{name, "last.test"} {
		wire.DialTLS(t, g.Addr("wss"), site.Client(served))
	}
	if !o.finding("/0.pem", "has not answered since") {
		t.Errorf("no finding names the file: %+v", o.status().Findings)
	}
	o.want("POST", "/reload", 200)
	next := g.Mark()
	m.Resume()
	next("the file is back", back)
	eventually(t, "the certificate is served", func() bool {
		return slices.ContainsFunc(o.status().Certificates, func(c admin.Certificate) bool { return c.Name == "first.test" })
	})
	wire.DialTLS(t, g.Addr("wss"), site.Client("first.test"))
}

// A folder that hangs from the start leaves the gate with listeners, a line in the
// log and a reason not to be ready, and is taken up when it answers.
func TestCertificatesHangAtStart(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	m := onMount(t, site, "certs")
	socket, heard := notifySocket(t)
	site.Config(t, toUpstream(u.URL)+vhosts(name))
	m.Hang()
	g := gate.Start(t, site.Dir, gate.Env("NOTIFY_SOCKET="+socket), gate.Env("WATCHDOG_USEC=200000"))
	o := operate(t, g)
	line := g.WaitLine("the folder hangs", hangs)
	o.want("GET", "/healthz", 200)
	o.want("GET", "/readyz", 503, "the file system has not answered since", line.Str("file"))
	for range 3 {
		heard("WATCHDOG=1")
	}
	m.Resume()
	eventually(t, "ready", func() bool { code, _ := o.ask("GET", "/readyz"); return code == 200 })
	client := wire.Dial(t, g.Addr("wss"), site.Client(name))
	client.SendText("x")
	client.WantText("x")
}

// While it hangs from the start on, the program ends at the first signal, and at the
// second at once.
func TestHangingStartEnds(t *testing.T) {
	u := wire.Echo(t)
	for _, signals := range []int{1, 2} {
		site := gate.NewSite(t, name)
		m := onMount(t, site, "certs")
		site.Config(t, toUpstream(u.URL))
		m.Hang()
		g := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"})
		eventually(t, "it looks at the folder, which it watches", func() bool {
			fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", g.PID()))
			return slices.ContainsFunc(fds, func(fd string) bool {
				to, _ := os.Readlink(fd)
				return strings.HasSuffix(to, "inotify")
			})
		})
		for range signals {
			g.Signal(syscall.SIGTERM)
		}
		// It may have got past the folder by then, and a second signal may come too late.
		if status := g.Wait(); status != 0 && (signals == 1 || status != 1) {
			t.Errorf("%d signals: status %d", signals, status)
		}
	}
}

// An ACME cache that hangs keeps neither certificates of the directory from being
// served nor a reload from its end.
func TestACMECacheHangs(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	if err := os.Mkdir(filepath.Join(site.Dir, "acme"), 0o700); err != nil {
		t.Fatal(err)
	}
	cached := site.CA.Issue("cached.test.example")
	site.Write(t, "acme/cached.test.example", append(cached.KeyPEM(), cached.ChainPEM()...))
	m := onMount(t, site, "acme")
	config := toUpstream(u.URL) + `
[drain]
timeout = "1s"

[acme]
names = ["cached.test.example"%s]
accept_terms = true
cache = "acme"
ca = "https://127.0.0.1:1/directory"
`
	site.Config(t, fmt.Sprintf(config, ""))
	m.Hang()
	g := gate.Start(t, site.Dir)
	o := operate(t, g)
	line := g.WaitLine("the cache hangs", hangs)
	if !strings.HasPrefix(line.Msg(), "acme: cache") {
		t.Errorf("the line says %q", line.Msg())
	}
	wire.Dial(t, g.Addr("wss"), site.Client(name))
	o.want("GET", "/readyz", 503, `no certificate for "cached.test.example"`)
	if !o.finding("acme: cache", "has not answered since") {
		t.Errorf("no finding names the cache: %+v", o.status().Findings)
	}
	site.Config(t, fmt.Sprintf(config, `, "other.test.example"`))
	o.want("POST", "/reload", 200)
	wire.Dial(t, g.Addr("wss"), site.Client(name))

	m.Resume()
	eventually(t, "the name of the cache is served", func() bool {
		_, body := o.ask("GET", "/readyz")
		return !strings.Contains(body, "cached.test.example")
	})
	wire.Dial(t, g.Addr("wss"), site.Client("cached.test.example"))
	m.Hang()
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 && status != 3 {
		t.Errorf("exit status %d; want 0 or 3", status)
	}
}

// What the configuration is read from may hang, be it the file itself or one that it
// names: a reload says so, changes nothing, and is done when the file is back.
func TestConfigurationHangs(t *testing.T) {
	u := wire.Echo(t)
	for _, what := range []string{"config.toml", "token", "ca.pem"} {
		t.Run(what, func(t *testing.T) {
			site := gate.NewSite(t, name)
			site.Write(t, "token", []byte("0123456789abcdef\n"))
			site.Write(t, "ca.pem", site.CA.RootPEM())
			site.Config(t, toUpstream(u.URL)+"[upstream.other]\nnodes = \"wss://127.0.0.1:1/\"\nca = \"ca.pem\"\n"+vhosts(name)+"[drain]\ntimeout = \"1s\"\n")
			data, err := os.ReadFile(filepath.Join(site.Dir, "config.toml"))
			if err != nil {
				t.Fatal(err)
			}
			site.Write(t, "config.toml", []byte(strings.Replace(string(data), "[listen]\n", "[listen]\nadmin_token_file = \"token\"\n", 1)))
			m := onMount(t, site, what)
			g := gate.Start(t, site.Dir)
			o := operate(t, g)
			o.token = "0123456789abcdef"
			m.Hang()
			next := g.Mark()
			g.Signal(syscall.SIGHUP)
			next("the file hangs", hangs)
			next("the reload changes nothing", says("reload: nothing was changed"))
			o.want("GET", "/healthz", 200)
			if !o.finding("configuration", what, "has not answered since") {
				t.Errorf("no finding names the file: %+v", o.status().Findings)
			}
			wire.Dial(t, g.Addr("wss"), site.Client(name))
			m.Resume()
			next("the reload after all", says("reloaded"))
			m.Hang()
			g.Signal(syscall.SIGHUP)
			g.Signal(syscall.SIGTERM)
			if status := g.Wait(); status != 0 && status != 3 {
				t.Errorf("exit status %d; want 0 or 3", status)
			}
		})
	}
}

// Files that close no door may hang when the gate starts: it listens and serves all that
// does not need them, says what hangs, and takes it up when it is back. Until then no
// handshake with the upstream succeeds. A certificate that the operator's CA did not
// issue is never accepted.
func TestStartWithoutFilesThatHang(t *testing.T) {
	for _, file := range []string{"ca.pem", "client.pem", "root.pem"} {
		t.Run(file, func(t *testing.T) {
			u := wire.Echo(t)
			site := gate.NewSite(t, name, "tls.test")
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &tls.Config{Certificates: []tls.Certificate{*site.CA.Issue("server.test").TLS()}, ClientAuth: tls.RequireAnyClientCert}
			behind := wire.Serve(t, tls.NewListener(ln, server), wire.EchoFrames)
			site.Write(t, "ca.pem", site.CA.RootPEM())
			site.Write(t, "root.pem", site.CA.RootPEM())
			pair := site.CA.Issue("gate.test")
			site.Write(t, "client.pem", pair.ChainPEM())
			site.Write(t, "client.key", pair.KeyPEM())
			site.Config(t, toUpstream(u.URL)+vhosts(name)+fmt.Sprintf(`
[upstream.tls]
nodes = "wss://%s/"
server_name = "server.test"
ca = "ca.pem"
client_certificate = "client.pem"
client_key = "client.key"

[[vhost]]
names = ["tls.test"]
upstream = "tls"

[acme]
names = ["cached.test.example"]
accept_terms = true
cache = "acme"
ca = "https://127.0.0.1:1/directory"
ca_root = "root.pem"
`, ln.Addr()))
			m := onMount(t, site, file)
			m.Hang()
			defer m.Resume()
			g := gate.Start(t, site.Dir)
			o := operate(t, g)
			line := g.WaitLine("the file hangs", hangs)
			if !strings.HasSuffix(line.Str("file"), file) || line.Str("since") == "" {
				t.Errorf("the line has file %q, since %q", line.Str("file"), line.Str("since"))
			}
			wire.Dial(t, g.Addr("wss"), site.Client(name))
			if !o.finding("configuration", file, "has not answered since") {
				t.Errorf("no finding names the file: %+v", o.status().Findings)
			}
			ask := func() int {
				c := wire.DialTLS(t, g.Addr("wss"), site.Client("tls.test"))
				defer c.Close()
				resp, _ := c.Answer(wire.Request("tls.test"))
				return resp.StatusCode
			}
			if file == "root.pem" {
				if code := ask(); code != 101 {
					t.Errorf("the upstream with its own files: status %d; want 101", code)
				}
			} else {
				g.WaitLine("the upstream is out", says("upstream: out until its file can be read"))
				if code := ask(); code < 500 || len(behind.Requests()) > 0 {
					t.Errorf("status %d and %d requests without its files; want none", code, len(behind.Requests()))
				}
			}
			o.want("POST", "/reload", 200) // what still hangs hinders nothing
			next := g.Mark()
			m.Resume()
			next("it is taken up", says("reloaded"))
			// The node's last error names the file until the node is asked again.
			eventually(t, "no finding", func() bool { return !o.finding("configuration", file) })
			eventually(t, "the upstream is used", func() bool { return ask() == 101 })
			if file == "root.pem" {
				g.WaitLine("the CA is asked", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "acme: no certificate obtained") })
			}
		})
	}
}

// What closes a door is waited for: without an access list nothing listens.
func TestStartWaitsForAccessList(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	site.Write(t, "deny.txt", []byte("192.0.2.0/24\n"))
	site.Config(t, toUpstream(u.URL)+"[access]\ndeny = [\"file:deny.txt\"]\n")
	m := onMount(t, site, "deny.txt")
	m.Hang()
	g := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"})
	g.WaitLine("the list hangs", hangs)
	if strings.Contains(g.Text(), "listening") {
		t.Errorf("it listens without its list:\n%s", g.Text())
	}
	m.Resume()
	wire.Dial(t, g.Addr("wss"), site.Client(name))
}

// A pipe that nobody writes to, as the configuration, is waited for until the first
// signal.
func TestConfigIsAPipe(t *testing.T) {
	site := gate.NewSite(t, name)
	if err := syscall.Mkfifo(filepath.Join(site.Dir, "config.toml"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"})
	g.WaitLine("it waits for the file", func(l gate.Line) bool {
		return strings.Contains(l.Text, "does not answer") && strings.Contains(l.Text, "config.toml")
	})
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// Files that are replaced by pipes, of all kinds that the gate reads, are refused by
// name; what was read before stays.
func TestFilesBecomePipes(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	site.Write(t, "ca.pem", site.CA.RootPEM())
	site.Config(t, toUpstream(u.URL)+"[upstream.other]\nnodes = \"wss://127.0.0.1:1/\"\nca = \"ca.pem\"\n"+vhosts(name))
	g := gate.Start(t, site.Dir)
	for _, file := range []string{site.CertFile(name), "ca.pem", "config.toml"} {
		path := filepath.Join(site.Dir, file)
		if err := syscall.Mkfifo(path+".new", 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		next := g.Mark()
		g.Signal(syscall.SIGHUP)
		next(file+" is refused", func(l gate.Line) bool {
			return strings.Contains(l.Text, "is a pipe or a device") && strings.Contains(l.Text, file)
		})
		wire.Dial(t, g.Addr("wss"), site.Client(name))
	}
}

// A standard error that nobody reads costs lines of the log, and nothing else.
func TestLogIsNotRead(t *testing.T) {
	u, conns := wire.Chan(t)
	site := gate.NewSite(t, name, "down.test")
	g := site.Start(t, toUpstream(u.URL)+"[upstream.down]\nnodes = \"ws://127.0.0.1:1/\"\n"+
		vhosts(name)+"[[vhost]]\nnames = [\"down.test\"]\nupstream = \"down\"\n")
	o := operate(t, g)
	addr := g.Addr("wss")
	before := len(g.Descriptors())
	hear := g.Deafen()
	for range 600 { // a pipe holds 64 KiB
		c := wire.DialTLS(t, addr, site.Client("down.test"))
		if resp, _ := c.Answer(wire.Request("down.test")); resp.StatusCode != 503 {
			t.Fatalf("status %s; want 503", resp.Status)
		}
		c.Close()
	}
	eventually(t, "standard error is full", func() bool { return !o.status().Log.Since.IsZero() })
	for range 10 {
		c := wire.DialTLS(t, addr, site.Client("down.test"))
		if resp, _ := c.Answer(wire.Request("down.test")); resp.StatusCode != 503 {
			t.Fatalf("status %s; want 503", resp.Status)
		}
		c.Close()
		// This one's first words make the gate ask its node what it speaks.
		client := wire.Dial(t, addr, site.Client(name))
		client.SendText("no xmpp")
		answer := wire.Take(t, conns)
		answer.SendText("hello")
		client.WantText("hello")
		client.Close()
	}
	o.want("GET", "/healthz", 200)
	o.want("POST", "/reload", 200)
	eventually(t, "no descriptor is left behind", func() bool { return len(g.Descriptors()) <= before+12 })
	g.Signal(syscall.SIGTERM)
	eventually(t, "it ends", func() bool { return g.Ended() })
	hear()
	if status := g.Wait(); status != 0 && status != 3 {
		t.Errorf("exit status %d; want 0 or 3", status)
	}
}

// A reader of standard error that is gone does not take the gate along.
func TestLogReaderIsGone(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name, "down.test")
	g := site.Start(t, toUpstream(u.URL))
	g.HangUp()
	for range 20 {
		g.Signal(syscall.SIGHUP) // each is a line
		c := wire.Dial(t, g.Addr("wss"), site.Client(name))
		c.SendText("x")
		c.WantText("x")
		c.Close()
	}
	o := operate(t, g)
	eventually(t, "lines are lost", func() bool { return o.metric("wssgate_log_lines_lost_total") > 0 })
}

// notifySocket is systemd's end of NOTIFY_SOCKET. Heard waits for a word.
func notifySocket(t *testing.T) (path string, heard func(word string)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func(word string) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(gate.Patience))
		for buf := make([]byte, 4096); ; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("systemd did not hear %s: %v", word, err)
			}
			if strings.Contains(string(buf[:n]), word) {
				return
			}
		}
	}
}
