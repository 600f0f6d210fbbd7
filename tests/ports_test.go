package tests

import (
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

const (
	fewPorts     = 20
	fewPortsEnv  = "WSSGATE_TEST_FEW_PORTS"
	manyClients  = 60
	clientSource = "127.0.%d.1" // each with ports of its own
)

// Where one source address has 20 ports, 60 clients get their tunnels on loopback, from
// further addresses of it; with one source configured the gate says what is missing, and
// blames no node. It runs in a network namespace of its own.
func TestFewSourcePorts(t *testing.T) {
	if os.Getenv(fewPortsEnv) == "" {
		inNamespace(t, "net", fewPortsEnv)
		return
	}
	if err := exec.Command(gate.Program(t, "ip", "iproute2"), "link", "set", "lo", "up").Run(); err != nil {
		t.Fatal(err)
	}
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	config := func(more string) string {
		return fmt.Sprintf("[upstream.xmpp]\nxmpp = false\nhealth.interval = \"0\"\nnodes = [%q]\n%s", upstream.URL, more)
	}
	g := site.Start(t, config(""))
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "50000 %d", 50000+fewPorts-1), 0); err != nil {
		t.Fatal(err)
	}
	dial := func(i int) (*wire.Conn, error) {
		conn := dialFrom(t, fmt.Sprintf(clientSource, i+1), g.Addr("wss"))
		c := wire.NewConn(t, tls.Client(conn, site.Client(name)), true)
		return c, c.TryUpgrade(wire.Request(name))
	}
	var tunnels []*wire.Conn
	for i := range manyClients {
		c, err := dial(i)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		tunnels = append(tunnels, c)
	}
	for i, c := range tunnels {
		c.SendText(fmt.Sprint("hello ", i))
		c.WantText(fmt.Sprint("hello ", i))
	}

	site.Config(t, config("source = \"127.0.0.99\"\n"))
	wait := g.Mark()
	g.Signal(syscall.SIGHUP)
	wait("the reload", func(l gate.Line) bool { return l.Msg() == "reloaded" })
	refused := 0
	for i := range fewPorts + 1 {
		if c, err := dial(100 + i); err != nil {
			refused++
			if !strings.Contains(err.Error(), "503") {
				t.Errorf("client %d: %v; want 503", i, err)
			}
		} else {
			tunnels = append(tunnels, c)
		}
	}
	if refused == 0 {
		t.Errorf("%d more clients have a tunnel from one source of %d ports", fewPorts+1, fewPorts)
	}
	g.WaitLine("what is missing", func(l gate.Line) bool {
		return strings.Contains(l.Str("err"), "no source port is left") && strings.Contains(l.Str("hint"), "ip_local_port_range")
	})
	if text := g.Text(); strings.Contains(text, "cannot assign requested address") || strings.Contains(text, "upstream address is out") {
		t.Error("the node is blamed")
	}
	for _, c := range tunnels {
		c.Close()
	}
}

// inNamespace runs the test that calls it once more, in a namespace of this kind ("net",
// "mount") and with a variable in its environment that says so.
func inNamespace(t *testing.T, kind, env string) {
	flags := []string{"--" + kind}
	if os.Getuid() != 0 {
		flags = append(flags, "--map-root-user")
	}
	unshare := gate.Program(t, "unshare", "util-linux")
	if out, err := exec.Command(unshare, append(flags, "true")...).CombinedOutput(); err != nil {
		gate.Missing(t, "no %s namespace can be made: %v: %s", kind, err, out)
	}
	if _, err := gate.Build(false); err != nil { // which may want the network
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), unshare, append(flags, os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")...)
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a %s namespace: %v\n%s", kind, err, out)
	}
}
