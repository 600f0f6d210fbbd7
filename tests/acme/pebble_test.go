package acme

import (
	"bytes"
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
	test := filepath.Join(root, "build", "test")
	modfile, err := mendPebble(test)
	if err != nil {
		return err
	}
	pebbleBinary = filepath.Join(test, "pebble")
	_, err = output("go", "build", "-modfile="+modfile, "-o", pebbleBinary, pebbleModule+"/cmd/pebble")
	return err
}

const pebbleModule = "github.com/letsencrypt/pebble/v2"

// mendPebble copies Pebble's source into dir, without a deadlock that v2.10.1
// has, and returns a go.mod that leads there: whoever asks for an order holds
// its read lock while it is taken once more, so that Pebble hangs when the
// certificate comes in between. That is about one order of a thousand.
func mendPebble(dir string) (modfile string, err error) {
	const hold, mended = "\tdefer order.RUnlock()\n\n\t// If the request was authenticated", "\torder.RUnlock()\n\n\t// If the request was authenticated"
	from, err := output("go", "list", "-f", "{{.Module.Dir}}", pebbleModule+"/cmd/pebble") // downloads it
	if err != nil {
		return "", err
	}
	source := filepath.Join(dir, "pebble-source")
	if err := os.RemoveAll(source); err != nil {
		return "", err
	}
	if err := os.CopyFS(source, os.DirFS(from)); err != nil {
		return "", err
	}
	file := filepath.Join(source, "wfe", "wfe.go")
	code, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if n := bytes.Count(code, []byte(hold)); n != 1 {
		return "", fmt.Errorf("Pebble's deadlock is at %d places in wfe.go; where it is mended, build Pebble as it is", n)
	}
	if err := os.WriteFile(file, bytes.Replace(code, []byte(hold), []byte(mended), 1), 0o644); err != nil {
		return "", err
	}
	modfile = filepath.Join(dir, "pebble.mod")
	for name, more := range map[string]string{"mod": "\nreplace " + pebbleModule + " => " + source + "\n", "sum": ""} {
		data, err := os.ReadFile(filepath.Join("..", "go."+name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, "pebble."+name), append(data, more...), 0o644); err != nil {
			return "", err
		}
	}
	return modfile, nil
}

// output runs a command and returns what it said, without the last newline.
func output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, stderr.Bytes())
	}
	return strings.TrimSuffix(string(out), "\n"), nil
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

// serveDNS answers Pebble's questions, over TCP as it asks them.
func (p *pebble) serveDNS() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.dns = ln.Addr().String()
	server := &dns.Server{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
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
	})}
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

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
