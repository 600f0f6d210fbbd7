package acme

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
)

// pebbleBinary is made by buildPebble.
var pebbleBinary string

// buildPebble compiles Pebble into build/test, which git ignores. The first time
// takes a minute, later ones a second.
func buildPebble() error {
	root, err := gate.Root()
	if err != nil {
		return err
	}
	pebbleBinary = filepath.Join(root, "build", "test", "pebble")
	out, err := exec.Command("go", "build", "-o", pebbleBinary, "github.com/letsencrypt/pebble/v2/cmd/pebble").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build pebble: %w\n%s", err, out)
	}
	return nil
}

// A pebble is one Pebble process, the names that it resolves, and the ports
// where it looks for gates.
type pebble struct {
	Directory string
	TLSPort   int // of the gates, on whatever address the name has
	HTTPPort  int

	t         *testing.T
	https     *minica.CA // of Pebble's own listeners
	addr      string
	mgmt      string
	log       gate.Output
	server    *gate.Server
	namesLock sync.Mutex
	names     map[string]string // name → address
	dns       string
	txt       string // directory with a file for each TXT record
	config    pebbleConfig
	env       []string
	dir       string
}

// pebbleConfig is what a test may want of the CA.
type pebbleConfig struct {
	Validity  int               // seconds; 0: 90 days
	EAB       map[string]string // key id → key, base64url
	Blocked   []string          // names that the CA refuses
	Nonces    int               // percentage of good nonces that are refused
	Reuse     int               // percentage of authorizations that are used again
	Listeners int               // gates that share the ports, on 127.0.0.1, 127.0.0.2 and so on; 0: one
	Later     bool              // the test starts it itself

	ShortLived bool // it offers that profile as well
}

// newPebble prepares a CA and, unless told otherwise, starts it. The listeners of
// the gates come with it, as Pebble's configuration has their ports.
func newPebble(t *testing.T, c pebbleConfig) (*pebble, []gateListeners) {
	t.Helper()
	p := &pebble{t: t, https: minica.NewCA("pebble's listeners"), names: map[string]string{}, config: c, dir: t.TempDir(), txt: t.TempDir()}
	listeners := listenGates(t, max(c.Listeners, 1))
	p.TLSPort = listeners[0].tls.Addr().(*net.TCPAddr).Port
	p.HTTPPort = listeners[0].http.Addr().(*net.TCPAddr).Port
	p.addr, p.mgmt = gate.FreeAddr(t), gate.FreeAddr(t)
	p.Directory = "https://" + p.addr + "/dir"
	p.serveDNS()
	p.env = []string{
		"PATH=" + os.Getenv("PATH"),
		"PEBBLE_VA_NOSLEEP=1",
		fmt.Sprintf("PEBBLE_WFE_NONCEREJECT=%d", c.Nonces),
		fmt.Sprintf("PEBBLE_AUTHZREUSE=%d", c.Reuse),
	}
	if !c.Later {
		p.start()
	}
	return p, listeners
}

// start runs the process and waits until it answers. Its certificates and
// accounts are new each time.
func (p *pebble) start() {
	t := p.t
	t.Helper()
	own := p.https.Issue("127.0.0.1")
	write(t, filepath.Join(p.dir, "cert.pem"), own.ChainPEM())
	write(t, filepath.Join(p.dir, "key.pem"), own.KeyPEM())
	validity := p.config.Validity
	if validity == 0 {
		validity = 90 * 24 * 3600
	}
	profiles := map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": validity}}
	if p.config.ShortLived { // Pebble takes any of several for an order that names none
		profiles["shortlived"] = map[string]any{"description": "six days", "validityPeriod": 6 * 24 * 3600}
	}
	conf := map[string]any{
		"listenAddress": p.addr, "managementListenAddress": p.mgmt,
		"certificate": filepath.Join(p.dir, "cert.pem"), "privateKey": filepath.Join(p.dir, "key.pem"),
		"tlsPort": p.TLSPort, "httpPort": p.HTTPPort,
		"externalAccountBindingRequired": p.config.EAB != nil, "externalAccountMACKeys": p.config.EAB,
		"domainBlocklist": p.config.Blocked, "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   profiles,
	}
	data, err := json.Marshal(map[string]any{"pebble": conf})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.dir, "pebble.json"), data)
	cmd := exec.Command(pebbleBinary, "-config", filepath.Join(p.dir, "pebble.json"), "-dnsserver", p.dns)
	cmd.Env = p.env
	p.server = gate.StartServer(t, cmd, &p.log, p.addr)
	eventually(t, "Pebble answers", func() error {
		_, err := p.get("https://" + p.addr + "/dir")
		return err
	})
}

func (p *pebble) stop() {
	p.server.Stop(syscall.SIGKILL)
}

// Root returns the root of the certificates that this process issues.
func (p *pebble) Root() *x509.CertPool {
	p.t.Helper()
	data, err := p.get("https://" + p.mgmt + "/roots/0")
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		p.t.Fatalf("Pebble's root is %q", data)
	}
	return pool
}

func (p *pebble) get(url string) ([]byte, error) {
	res, err := p.client().Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// Orders counts the orders that the CA accepted.
func (p *pebble) Orders() int { return strings.Count(p.log.String(), "Added order ") }

// Resolve sets the address of a name, as the CA sees it.
func (p *pebble) Resolve(name, addr string) {
	p.namesLock.Lock()
	defer p.namesLock.Unlock()
	p.names[name] = addr
}

// serveDNS answers questions of Pebble, which asks over TCP, and of a gate, which asks
// over UDP.
func (p *pebble) serveDNS() {
	var ln net.Listener
	var packets net.PacketConn
	for packets == nil { // the port may be in use for UDP
		var err error
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			p.t.Fatal(err)
		}
		if packets, err = net.ListenPacket("udp", ln.Addr().String()); err != nil {
			ln.Close()
		}
	}
	p.dns = ln.Addr().String()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true // or else no answer is a lame referral
		asked := q.Question[0]
		header := dns.RR_Header{Name: asked.Name, Rrtype: asked.Qtype, Class: dns.ClassINET}
		name := strings.ToLower(strings.TrimSuffix(asked.Name, ".")) // Pebble asks in mixed case
		p.namesLock.Lock()
		addr := p.names[name]
		p.namesLock.Unlock()
		if addr != "" && asked.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: header, A: net.ParseIP(addr)})
		}
		if value, err := os.ReadFile(filepath.Join(p.txt, name)); err == nil && asked.Qtype == dns.TypeTXT {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: header, Txt: []string{strings.TrimSpace(string(value))}})
		}
		w.WriteMsg(m)
	})
	for _, server := range []*dns.Server{{Listener: ln, Handler: handler}, {PacketConn: packets, Handler: handler}} {
		started, done := make(chan struct{}), make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			server.ActivateAndServe()
		}()
		<-started
		p.t.Cleanup(func() {
			server.Shutdown()
			<-done
		})
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
