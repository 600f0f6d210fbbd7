package tests

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wssgate/proxy"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A desk is where an operator sits: the directory of a gate's configuration.
type desk struct {
	t      *testing.T
	dir    string
	binary string
}

func sit(t *testing.T, dir string) *desk {
	t.Helper()
	binary, err := gate.Build(true)
	if err != nil {
		t.Fatal(err)
	}
	return &desk{t, dir, binary}
}

// run runs a command and returns its exit status and what it prints.
func (d *desk) run(args ...string) (status int, stdout, stderr string) {
	d.t.Helper()
	var out, err bytes.Buffer
	cmd := exec.Command(d.binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, &out, &err
	var exit *exec.ExitError
	if e := cmd.Run(); errors.As(e, &exit) {
		status = exit.ExitCode()
	} else if e != nil {
		d.t.Fatal(e)
	}
	return status, out.String(), err.String()
}

// want runs a command line, and wants a status and words in what it prints.
func (d *desk) want(line string, status int, words ...string) string {
	d.t.Helper()
	got, stdout, stderr := d.run(strings.Fields(line)...)
	if got != status {
		d.t.Errorf("wssgate %s = %d %q %q; want %d", line, got, stdout, stderr, status)
	}
	for _, w := range words {
		if !strings.Contains(stdout+stderr, w) {
			d.t.Errorf("wssgate %s: %q %q; want %q in it", line, stdout, stderr, w)
		}
	}
	return stdout
}

// tunnels lists tunnels.
func (d *desk) tunnels(line string) (list []proxy.Tunnel) {
	d.t.Helper()
	decoder := json.NewDecoder(strings.NewReader(d.want("tunnels -json "+line, 0)))
	for decoder.More() {
		var t proxy.Tunnel
		if err := decoder.Decode(&t); err != nil {
			d.t.Fatal(err)
		}
		list = append(list, t)
	}
	return list
}

// terminalSite is a gate with one vhost, an echo behind it, and the admin listener as
// listen says.
func terminalSite(t *testing.T, listen string) (*gate.Site, *gate.Gate, *desk) {
	t.Helper()
	site := gate.NewSite(t, name)
	site.Write(t, "token", []byte("0123456789abcdef\n"))
	site.Write(t, "config.toml", []byte("[listen]\nwss = \"127.0.0.1:0\"\n"+listen+gate.Timeouts+toUpstream(wire.Echo(t).URL)+vhosts(name)))
	return site, gate.Start(t, site.Dir), sit(t, site.Dir)
}

const unixAdmin = "admin = \"unix:admin.sock\"\n"

// The operator looks at a gate, lists its tunnels and closes them, by a unix socket and
// by TCP with a token.
func TestTerminal(t *testing.T) {
	for name, listen := range map[string]string{
		"unix socket": unixAdmin,
		"TCP":         fmt.Sprintf("admin = \"127.0.0.1:%d\"\nadmin_token_file = \"token\"\n", gate.FreePort(t)),
	} {
		t.Run(name, func(t *testing.T) { lookAndClose(t, listen) })
	}
}

func lookAndClose(t *testing.T, listen string) {
	site, g, d := terminalSite(t, listen)
	d.want("status", 0, "all is well", name, "Upstream nodes", "xmpp/")
	if _, stdout, _ := d.run("status", "-json"); !json.Valid([]byte(stdout)) || !strings.Contains(stdout, `"counts"`) {
		t.Errorf("status -json prints %q", stdout)
	}
	d.want("tunnels", 0, "0 open")

	var clients []*wire.Conn
	for range 3 {
		c := wire.Dial(t, g.Addr("wss"), site.Client(name))
		c.SendText("hello")
		c.WantText("hello")
		clients = append(clients, c)
	}
	list := d.tunnels("-client 127.0.0.0/8 -vhost " + name + " -node xmpp -younger 1d -bytes 8")
	if len(list) != 3 {
		t.Fatalf("%d tunnels listed; want 3", len(list))
	}
	d.want("tunnels -sort bytes -limit 2", 0, list[0].ID, "2 shown, 3 match, 3 open")
	if n := len(d.tunnels("-domain other.test")); n != 0 {
		t.Errorf("%d tunnels to a domain that nobody named", n)
	}

	d.want("close "+list[0].ID, 0, "closing 1 tunnel")
	closed := clients[0] // the oldest first
	closed.WantClose(1008)
	closed.Send(wire.CloseFrame(true, 1008, ""))
	line := g.WaitLine("the tunnel's end", func(l gate.Line) bool { return l.Msg() == "tunnel" })
	if line.Str("id") != list[0].ID || line.Str("reason") != "operator" || line.Str("code") != "1008" {
		t.Errorf("the log has %s; want id %s, operator and 1008", line.Text, list[0].ID)
	}
	d.want("close "+list[0].ID, 1, "nothing is open")
	d.want("close -client 127.0.0.1", 0, "closing 2 tunnels")
	clients[1].WantClose(1008)
	clients[2].WantClose(1008)

	d.want("close", 2, "is required")
	d.want("close a b", 2, "is required")
	d.want("close -client 127.0.0.0/8", 2, "wider than a /16")
	d.want("tunnels -client nonsense", 2, `client "nonsense" is not a network`)
	d.want("tunnels -bytes much", 2, "is not a size")
}

// Drain and reload are the commands of the admin listener.
func TestTerminalDrainAndReload(t *testing.T) {
	site, g, d := terminalSite(t, unixAdmin)
	d.want("drain", 2, "one of -vhost, -node, -all and -end is required")
	d.want("drain -all -end", 2)
	d.want("drain -end -stop", 2)
	d.want("drain -vhost other.test", 1, "vhost other.test: not configured")
	d.want("drain -all", 0, "all vhosts: drain begun")
	d.want("status", 1, "not ready", "all vhosts are draining")
	d.want("drain -all -stop", 0, "accepts clients again")
	d.want("status", 0)
	d.want("reload", 0, "reloaded")

	good := readFile(t, filepath.Join(site.Dir, "config.toml"))
	site.Write(t, "config.toml", []byte(good+"\n[limits]\nconections = 3\n"))
	d.want("reload", 1, "nothing was changed", `unknown key "conections"`)
	d.want("status", 1, "last reload:", "conections") // the file of the gate at hand has a mistake, elsewhere
	site.Write(t, "config.toml", []byte(good))
	d.want("reload", 0, "reloaded")

	d.want("drain -end", 0, "all: drain begun")
	if status := g.Wait(); status != 0 {
		t.Errorf("the gate's exit status is %d; want 0", status)
	}
	d.want("status", 1, "no gate at", `hint: is the gate running with this file? "wssgate serve -config config.toml" starts it`)
}

// Before a drain with -after begins, the gate is not ready but accepts clients, as a preStop
// hook wants it. With -wait the command returns when the last tunnel has ended.
func TestTerminalDrainAfter(t *testing.T) {
	site, g, d := terminalSite(t, unixAdmin)
	for line, want := range map[string]string{
		"drain -node xmpp/n1 -after 5s":       "-after is for -all",
		"drain -all -stop -after 5s":          "-after is for -all",
		"drain -all -after 11m":               "at most 10m",
		"drain -all -after -1s":               "at most 10m",
		"drain -end -wait":                    "-wait needs a drain that begins",
		"drain -vhost other.test -wait -stop": "-wait",
	} {
		d.want(line, 2, want)
	}
	dial := func() *wire.Conn {
		c := wire.Dial(t, g.Addr("wss"), site.Client(name))
		c.SendText("hello")
		c.WantText("hello")
		return c
	}
	early := dial()
	d.want("drain -all -after 10m", 0, "all vhosts: not ready; the drain begins within 10m0s")
	d.want("status", 1, "not ready", "a drain of all vhosts is about to begin", "drain of all vhosts begins in")
	site.Write(t, "other.toml", nil)
	d.want("reload", 0)
	d.want("status", 1, "a drain of all vhosts is about to begin")
	late := dial()
	d.want("drain -all -stop", 0, "accepts clients again")
	d.want("status", 0)

	d.want("drain -all -after 10m", 0)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.want("drain -all -after 100ms -wait", 0, "all vhosts: drained")
	}()
	for _, c := range []*wire.Conn{early, late} {
		c.WantClose(1001)
		c.Send(wire.CloseFrame(true, 1001, ""))
	}
	<-ended
	d.want("status", 1, "all vhosts are draining")
	d.want("drain -all -wait -after 5m", 0, "all vhosts: drained") // it has begun
	d.want("drain -all -stop", 0)
	dial()
}

// Whatever keeps a command from its gate is said, with what to do.
func TestTerminalNoGate(t *testing.T) {
	port := gate.FreePort(t)
	site, _, d := terminalSite(t, fmt.Sprintf("admin = \"127.0.0.1:%d\"\nadmin_token_file = \"token\"\n", port))
	d.want("status", 0)
	for _, test := range []struct {
		name, listen string
		status       int
		want         []string
	}{
		{"no listener", "admin = \"\"", 2, []string{"has no admin listener", "hint: set admin ="}},
		{"port 0", "admin = \"127.0.0.1:0\"", 2, []string{"its port changes", "hint: set a port"}},
		{"nobody there", fmt.Sprintf("admin = \"127.0.0.1:%d\"", gate.FreePort(t)), 1, []string{"connection refused", "hint: is the gate running"}},
		{"no socket", "admin = \"unix:none.sock\"", 1, []string{"no such file", "hint: is the gate running"}},
		{"no token", fmt.Sprintf("admin = \"127.0.0.1:%d\"", port), 1, []string{"requires a token", "hint: name its configuration"}},
		{"another token", fmt.Sprintf("admin = \"127.0.0.1:%d\"\nadmin_token_file = \"other\"", port), 1, []string{"rejects the token", "hint: if the token is new"}},
		{"no file with a token", fmt.Sprintf("admin = \"127.0.0.1:%d\"\nadmin_token_file = \"none\"", port), 2, []string{"listen.admin_token_file", "no such file"}},
		{"no address", "admin = 5", 2, []string{"listen.admin"}},
		{"not TOML", "admin = ", 2, []string{"line 2"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			site.Write(t, "other", []byte("fedcba9876543210"))
			site.Write(t, "this.toml", []byte("[listen]\n"+test.listen+"\n"))
			at := &desk{t, d.dir, d.binary}
			at.want("status -config this.toml", test.status, test.want...)
			if err := os.Remove(filepath.Join(site.Dir, "this.toml")); err != nil {
				t.Fatal(err)
			}
		})
	}
	d.want("status -config nowhere.toml", 2, "no such file", "hint: name the file with -config FILE")
}

// Who is denied for a while is closed before TLS, reloads included, until that is over
// or lifted. Tunnels go on unless they are closed as well.
func TestTerminalAccess(t *testing.T) {
	site, g, d := terminalSite(t, unixAdmin)
	c := wire.Dial(t, g.Addr("wss"), site.Client(name))
	c.SendText("hello")
	c.WantText("hello")
	letIn := func() bool {
		conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(name))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	d.want("access list", 0, "no temporary bans")
	d.want("access deny 127.0.0.1 -for 1d", 0, "127.0.0.1: denied until", "1 tunnel open")
	d.want("reload", 0)
	if letIn() {
		t.Error("a denied client is let in")
	}
	c.SendText("still there")
	c.WantText("still there")
	d.want("access list", 0, "127.0.0.1", "23h")
	d.want("status", 0, "Temporarily denied")
	d.want("access deny 127.0.0.1 -for 1d -close", 0, "closing 1 tunnel")
	c.WantClose(1008)
	d.want("access deny 127.0.0.0/16 -for 2h", 0)
	d.want("access lift 127.0.0.1", 0, "127.0.0.1: lifted; still denied by 127.0.0.0/16 until")
	d.want("access lift 127.0.0.1", 1, "it is not banned; still denied by 127.0.0.0/16 until")
	d.want("access lift 127.0.0.0/16", 0, "no longer denied")
	if !letIn() {
		t.Error("a client is still denied")
	}
	d.want("access lift 127.0.0.1", 1, "it is not banned")
	for _, line := range []string{"access", "access deny 127.0.0.1", "access deny -for 1h", "access lift 127.0.0.1 -for 1h", "access list -close", "access deny x -for 1h",
		"access deny 0.0.0.0/0 -for 1h", "access deny 127.0.0.1 -for 31d", "access ban 127.0.0.1"} {
		d.want(line, 2)
	}
}

// A trace shows who sent which frames until the tunnel ends, and nothing of what they
// say.
func TestTerminalTrace(t *testing.T) {
	site, g, d := terminalSite(t, unixAdmin)
	c := wire.Dial(t, g.Addr("wss"), site.Client(name))
	c.SendText("hello")
	c.WantText("hello")
	id := d.tunnels("")[0].ID
	d.want("trace zzzzzzzz", 1, "no such tunnel is open")
	d.want("trace", 2, "one ID is required")

	cmd := exec.Command(d.binary, "trace", id, "-json")
	cmd.Dir = d.dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(out)
	next := func() (l proxy.TraceLine) {
		t.Helper()
		if err := decoder.Decode(&l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	if l := next(); l.Tunnel == nil || l.Tunnel.ID != id {
		t.Fatalf("the first line is %+v; want the tunnel", l)
	}
	d.want("trace "+id, 1, "another trace is in progress")
	const message = "<message xmlns='jabber:client' to='juliet'><body>s3cr3t</body></message>"
	c.SendText(message)
	c.WantText(message)
	const shape = "<message xmlns='jabber:client' to='…'><body>…</body></message>"
	for _, from := range []string{"client", "upstream"} {
		if l := next(); l.From != from || l.Opcode != "text" || !l.Fin || l.Masked != (from == "client") || l.Length != int64(len(message)) || l.Shape != shape {
			t.Errorf("a line is %+v; want that of the message, from the %s", l, from)
		}
	}
	d.want("close "+id, 0)
	c.WantClose(1008)
	c.Send(wire.CloseFrame(true, 1008, ""))
	var lines []proxy.TraceLine
	for l := next(); ; l = next() {
		if lines = append(lines, l); l.End != "" {
			break
		}
	}
	said := func(from string, code uint16) bool {
		return slices.ContainsFunc(lines, func(l proxy.TraceLine) bool { return l.From == from && l.Opcode == "close" && l.Code == code })
	}
	if last := lines[len(lines)-1]; last.End != "operator" || !said("gate", 1008) || !said("client", 1008) {
		t.Errorf("the end is %+v; want the Close frames of gate and client, and operator", lines)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("when the tunnel has ended: %v; want exit status 0", err)
	}
}
