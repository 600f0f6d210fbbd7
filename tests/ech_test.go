package tests

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

const echPublic = "gate.test"

// echTable turns ECH on.
const echTable = "\n[ech]\npublic_name = \"gate.test\"\n"

// dnsRecords returns what "ech dns-records" prints, and the ECHConfigList in it.
func dnsRecords(t *testing.T, dir string) (records string, list []byte) {
	t.Helper()
	binary, err := gate.Build(true)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "ech", "dns-records")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ech dns-records: %v, %s", err, &stderr)
	}
	m := regexp.MustCompile(`HTTPS .* ech=(\S+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no HTTPS record in %q, %s", out, &stderr)
	}
	list, err = base64.StdEncoding.DecodeString(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return string(out), list
}

// foreignList is an ECHConfigList of a key that no gate has.
func foreignList(t *testing.T, id byte, publicName string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body := append([]byte{id, 0, 0x20, 0, 32}, key.PublicKey().Bytes()...)
	body = append(body, 0, 4, 0, 1, 0, 1, 0, byte(len(publicName)))
	body = append(append(body, publicName...), 0, 0)
	config := append([]byte{0xfe, 0x0d, 0, byte(len(body))}, body...)
	return append([]byte{0, byte(len(config))}, config...)
}

// echDial connects with ECH, or without where the list is nil, and closes the connection.
func echDial(site *gate.Site, addr, name string, list []byte) (tls.ConnectionState, error) {
	config := site.Client(name)
	config.EncryptedClientHelloConfigList = list
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.ConnectionState(), nil
}

// awaitMetric waits until a counter has the value: a handshake ends on the client's side
// first.
func awaitMetric(t *testing.T, o *operator, metric string, want float64) {
	t.Helper()
	deadline := time.Now().Add(gate.Patience)
	for got := o.metric(metric); got != want; got = o.metric(metric) {
		if time.Now().After(deadline) {
			t.Fatalf("%s = %v; want %v", metric, got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func echMetric(result string) string { return `wssgate_ech_handshakes_total{result="` + result + `"}` }

// A client with the record gets the vhost under the public name's cover, one with a stale
// record gets the right one, one with none goes on as ever, and random bytes are neither.
func TestECH(t *testing.T) {
	site := gate.NewSite(t, "example1.test", "example2.test", echPublic)
	vhosts := "[[vhost]]\nnames = [\"example1.test\"]\n[[vhost]]\nnames = [\"example2.test\"]\n[vhost.access]\ndeny = [\"127.0.0.1\"]\n"
	g := site.Start(t, toUpstream(wire.Echo(t).URL)+vhosts+echTable)
	records, list := dnsRecords(t, site.Dir)
	for _, want := range []string{"_0._https.example1.test. 3600 IN HTTPS 1 example1.test. ech=", "_0._wss.example2.test. 3600 IN SVCB 1 example2.test. alpn=http/1.1 port=0 ech="} {
		if !strings.Contains(records, want) {
			t.Errorf("records = %s; want %q", records, want)
		}
	}
	o := operate(t, g)

	// Accepted: the inner name's certificate, vhost and log line.
	config := site.Client("example1.test")
	config.EncryptedClientHelloConfigList = list
	c := wire.DialTLS(t, g.Addr("wss"), config)
	c.Upgrade(wire.Request("example1.test"))
	c.Close()
	line := g.WaitLine("the tunnel", func(l gate.Line) bool { return l.Msg() == "tunnel" })
	if line.Str("server_name") != "example1.test" || line.Str("ech") != "true" {
		t.Errorf("log line = %v; want example1.test and ech", line)
	}
	awaitMetric(t, o, echMetric("accepted"), 1)

	// The vhost's access list is that of the inner name, whatever is outside.
	config = site.Client("example2.test")
	config.EncryptedClientHelloConfigList = list
	c = wire.DialTLS(t, g.Addr("wss"), config)
	if resp, _ := c.Answer(wire.Request("example2.test")); resp.StatusCode != 403 {
		t.Errorf("example2.test, denied, under ECH: %d; want 403", resp.StatusCode)
	}
	// So are refusals of names without a certificate.
	if _, err := echDial(site, g.Addr("wss"), "unknown.test", list); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("unknown.test under ECH: %v; want unrecognized name", err)
	}

	// Stale: the public name's certificate vouches for the answer, which has the right key.
	_, err := echDial(site, g.Addr("wss"), "example1.test", foreignList(t, list[6]+1, echPublic))
	rejected, ok := errors.AsType[*tls.ECHRejectionError](err)
	if !ok || !bytes.Equal(rejected.RetryConfigList, list) {
		t.Fatalf("stale record: %v; want a rejection with the record", err)
	}
	if state, err := echDial(site, g.Addr("wss"), "example1.test", rejected.RetryConfigList); err != nil || !state.ECHAccepted {
		t.Errorf("retry: %v, accepted %v", err, state.ECHAccepted)
	}
	// The same with an id that the gate has.
	_, err = echDial(site, g.Addr("wss"), "example1.test", foreignList(t, list[6], echPublic))
	if rejected, ok := errors.AsType[*tls.ECHRejectionError](err); !ok || !bytes.Equal(rejected.RetryConfigList, list) {
		t.Errorf("another key with the same id: %v; want a rejection with the record", err)
	}
	awaitMetric(t, o, echMetric("rejected"), 2)

	// None, and what is sent at random.
	none := o.metric(echMetric("none"))
	if state, err := echDial(site, g.Addr("wss"), "example1.test", nil); err != nil || state.ECHAccepted {
		t.Errorf("without ECH: %v", err)
	}
	if _, err := echDial(site, g.Addr("wss"), "example1.test", foreignList(t, list[6]+1, "example1.test")); err == nil || !strings.Contains(err.Error(), "rejected ECH") {
		t.Errorf("under the name of a vhost: %v", err)
	}
	awaitMetric(t, o, echMetric("none"), none+2)
	awaitMetric(t, o, echMetric("rejected"), 2)

	// A TLS 1.2 client goes on as ever.
	config = site.Client("example1.test")
	config.MaxVersion = tls.VersionTLS12
	wire.DialTLS(t, g.Addr("wss"), config).Upgrade(wire.Request("example1.test"))
}

// patched is a connection that changes what it sends first, and keeps the type of the first
// record that it gets.
type patched struct {
	net.Conn
	patch func([]byte)
	first byte
}

func (p *patched) Write(b []byte) (int, error) {
	if p.patch != nil {
		b = bytes.Clone(b)
		p.patch(b)
		p.patch = nil
	}
	return p.Conn.Write(b)
}

func (p *patched) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if p.first == 0 && n > 0 {
		p.first = b[0]
	}
	return n, err
}

// Algorithms and forms that crypto/tls does not know in the offer of a client, which are
// what browsers send at random (GREASE), do not end its handshake, and neither do they
// where ECH is off.
func TestECHUnknownAlgorithms(t *testing.T) {
	site := gate.NewSite(t, "example1.test", echPublic)
	rest := toUpstream(wire.Echo(t).URL)
	for name, table := range map[string]string{"on": echTable, "off": ""} {
		t.Run(name, func(t *testing.T) {
			g := site.Start(t, rest+table)
			list := foreignList(t, 7, "example1.test")
			if table != "" {
				_, list = dnsRecords(t, site.Dir)
			}
			for field, at := range map[string]int{"KDF": 5, "AEAD": 7} { // after type, length and form
				conn, err := net.Dial("tcp", g.Addr("wss"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				config := site.Client("example1.test")
				config.EncryptedClientHelloConfigList = list
				p := &patched{Conn: conn, patch: func(b []byte) {
					i := bytes.LastIndex(b, []byte{0xfe, 0x0d})
					b[i+at], b[i+at+1] = 0x77, 0x77
				}}
				tls.Client(p, config).Handshake() // it fails, because the two have not seen the same
				const handshake = 22
				if p.first != handshake {
					t.Errorf("unknown %s: the answer is a record of type %d; want %d, a ServerHello", field, p.first, handshake)
				}
			}
		})
	}
}

// Two gates with one folder use the same keys, an old one survives a restart, and what
// damages a file or the folder costs nobody a connection.
func TestECHFolder(t *testing.T) {
	site := gate.NewSite(t, "example1.test", echPublic)
	rest := toUpstream(wire.Echo(t).URL) + echTable
	g := site.Start(t, rest)
	_, list := dnsRecords(t, site.Dir)
	folder := filepath.Join(site.Dir, "ech")
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v; want mode 0700", info, err)
	}
	names, err := filepath.Glob(filepath.Join(folder, "*.ech"))
	if err != nil || len(names) != 1 {
		t.Fatalf("keys: %q, %v; want one", names, err)
	}
	if info, err := os.Stat(names[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v; want mode 0600", info, err)
	}
	second := site.Start(t, rest)
	accepted := func(why string, g *gate.Gate) {
		t.Helper()
		if state, err := echDial(site, g.Addr("wss"), "example1.test", list); err != nil || !state.ECHAccepted {
			t.Errorf("%s: %v; want ECH", why, err)
		}
	}
	accepted("the first gate", g)
	accepted("the second gate", second)
	if again, err := filepath.Glob(filepath.Join(folder, "*.ech")); len(again) != 1 {
		t.Errorf("keys of two gates: %q, %v; want one", again, err)
	}

	// Damaged in place: what was read stays in use, and it is said.
	good, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	site.Write(t, filepath.Join("ech", filepath.Base(names[0])), good[:len(good)/2])
	g.WaitLine("the damage", func(l gate.Line) bool {
		return l.Msg() == "ech: keys" && strings.Contains(l.Str("err"), filepath.Base(names[0]))
	})
	accepted("a damaged key", g)
	operate(t, g).want("GET", "/status", 200, "those that were read stay in use")
	site.Write(t, filepath.Join("ech", filepath.Base(names[0])), good)
	g.WaitLine("the repair", func(l gate.Line) bool { return l.Msg() == "ech: the keys are in order again" })
	accepted("the key is back", g)

	// Gone: the same.
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	g.WaitLine("the loss", func(l gate.Line) bool {
		return l.Msg() == "ech: keys" && strings.Contains(l.Str("err"), "no such file")
	})
	accepted("no folder", g)
}
