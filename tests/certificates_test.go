package tests

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// Each server name gets the certificate of its own vhost, in any case and
// under both versions of TLS, and a WebSocket behind it.
func TestCertificateByServerName(t *testing.T) {
	site := gate.NewSite(t, "example1.test", "example2.test", "example3.test", "*.example3.test", "b.example3.test")
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	for _, tt := range []struct{ serverName, certificate string }{
		{"example1.test", "example1.test"},
		{"example2.test", "example2.test"},
		{"example3.test", "example3.test"},
		{"EXAMPLE2.Test", "example2.test"},
		{"a.example3.test", "*.example3.test"},
		{"A.Example3.TEST", "*.example3.test"},
		{"b.example3.test", "b.example3.test"}, // exact before wildcard
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.serverName+" "+tls.VersionName(version), func(t *testing.T) {
				config := site.Client(tt.serverName)
				config.MinVersion, config.MaxVersion = version, version
				c := wire.DialTLS(t, g.Addr("wss"), config)
				if got := c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames; len(got) != 1 || got[0] != tt.certificate {
					t.Fatalf("certificate for %q; want %q", got, tt.certificate)
				}
				c.Upgrade(wire.Request(tt.serverName))
				c.SendText(tt.serverName)
				c.WantText(tt.serverName)
			})
		}
	}
}

// A name without a certificate, and no name at all, get the alert
// unrecognized_name and nobody's certificate.
func TestCertificateRefused(t *testing.T) {
	site := gate.NewSite(t, "example1.test", "*.example3.test")
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	for _, serverName := range []string{
		"unknown.test",
		"sub.example1.test",
		"example3.test",     // the wildcard stands for one label
		"a.b.example3.test", // and not for two
		"",
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(serverName+" "+tls.VersionName(version), func(t *testing.T) {
				seen := 0
				conn, err := tls.Dial("tcp", g.Addr("wss"), &tls.Config{
					ServerName:         serverName,
					InsecureSkipVerify: true,
					MinVersion:         version,
					MaxVersion:         version,
					VerifyConnection:   func(tls.ConnectionState) error { seen++; return nil },
				})
				if err == nil {
					conn.Close()
				}
				if err == nil || !strings.Contains(err.Error(), "unrecognized name") || seen != 0 {
					t.Errorf("handshake: %v, %d certificates seen; want the alert unrecognized_name and none", err, seen)
				}
			})
		}
	}
}

// A server name has no trailing dot (RFC 6066, section 3): browsers take it off,
// and who sends it is refused before any certificate is chosen. Go's client
// does not send one either, so its ClientHello is changed on the way.
func TestCertificateTrailingDot(t *testing.T) {
	site := gate.NewSite(t, "example1.test")
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	conn, err := net.Dial("tcp", g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	seen := 0
	client := tls.Client(&dotted{conn, "example1.testX", "example1.test."}, &tls.Config{
		ServerName:         "example1.testX",
		InsecureSkipVerify: true,
		MaxVersion:         tls.VersionTLS12, // its certificate comes before the ClientHello is confirmed
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error {
			seen++
			return nil
		},
	})
	err = client.Handshake()
	if err == nil || !strings.Contains(err.Error(), "remote error: tls:") || seen != 0 {
		t.Errorf("handshake: %v, %d certificates seen; want an alert and none", err, seen)
	}
}

// dotted replaces a server name in what is written.
type dotted struct {
	net.Conn
	old, new string
}

func (d *dotted) Write(p []byte) (int, error) {
	return d.Conn.Write(bytes.Replace(p, []byte(d.old), []byte(d.new), 1))
}

// Of an ECDSA and an RSA certificate for one name, a client gets the ECDSA one
// where it can verify it and the RSA one where it can't.
func TestCertificateKeyTypes(t *testing.T) {
	site := gate.NewSite(t, "example1.test")
	site.Write(t, "certs/example1.test.rsa.pem", site.CA.IssueSpec(minica.Spec{Names: []string{"example1.test"}, RSA: true}).PEM())
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	for _, tt := range []struct {
		cipher uint16
		rsa    bool
	}{
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false},
		{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true},
	} {
		config := site.Client("example1.test")
		config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{tt.cipher}
		c := wire.DialTLS(t, g.Addr("wss"), config)
		_, isRSA := c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].PublicKey.(*rsa.PublicKey)
		if isRSA != tt.rsa {
			t.Errorf("%s: RSA certificate %v; want %v", tls.CipherSuiteName(tt.cipher), isRSA, tt.rsa)
		}
	}
}

// The handshake is what crypto/tls does by default: the post-quantum key
// exchange for who offers it, and only http/1.1 in ALPN, for a browser that
// were given h2 would stop doing WebSockets.
func TestHandshakeParameters(t *testing.T) {
	site := gate.NewSite(t, "example1.test")
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	config := site.Client("example1.test")
	config.NextProtos = []string{"h2", "http/1.1"}
	state := wire.DialTLS(t, g.Addr("wss"), config).Conn.(*tls.Conn).ConnectionState()
	if state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("key exchange %v; want %v", state.CurveID, tls.X25519MLKEM768)
	}
	if state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("ALPN %q; want http/1.1", state.NegotiatedProtocol)
	}

	conn, err := tls.Dial("tcp", g.Addr("wss"), &tls.Config{ServerName: "example1.test", RootCAs: site.CA.Pool(), MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

// SIGHUP reads the certificates again: new ones are served, a bad file is
// named and takes down neither its own name nor another, and tunnels go on.
func TestCertificateReload(t *testing.T) {
	site := gate.NewSite(t, "example1.test", "example2.test")
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	tunnel := wire.Dial(t, g.Addr("wss"), site.Client("example1.test"))

	renewed := site.CA.Issue("example1.test")
	site.Certify(t, "example1.test", renewed)
	site.Certify(t, "example4.test", site.CA.Issue("example4.test"))
	site.Write(t, site.CertFile("example2.test"), []byte("-----BEGIN CERTIFICATE-----\nnonsense\n"))
	wait := g.Mark()
	g.Signal(syscall.SIGHUP)
	line := wait("a line about the bad file", func(l gate.Line) bool { return strings.Contains(l.Text, "example2.test.pem") })
	if level := line.Str("level"); level != "WARN" && level != "ERROR" {
		t.Errorf("the bad file is reported as %s: %s", level, line.Text)
	}

	eventually(t, "example4.test is served", func() bool { return serial(t, site, g, "example4.test") != "" })
	if got, want := serial(t, site, g, "example1.test"), renewed.Cert.SerialNumber.String(); got != want {
		t.Errorf("example1.test: serial number %s; want that of the renewed certificate, %s", got, want)
	}
	if serial(t, site, g, "example2.test") == "" {
		t.Error("example2.test: not served any more; want the certificate that was there before the bad file")
	}
	tunnel.SendText("still here")
	tunnel.WantText("still here")
}

// serial returns the serial number that the server name gets, or "".
func serial(t *testing.T, site *gate.Site, g *gate.Gate, serverName string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(serverName))
	if err != nil {
		return ""
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// A bad file at the start is named, and the good ones are served.
func TestCertificateBadAtStart(t *testing.T) {
	site := gate.NewSite(t, "example1.test")
	site.Write(t, "certs/broken.pem", []byte("no PEM at all\n"))
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	g.WaitLine("a line about broken.pem", func(l gate.Line) bool { return strings.Contains(l.Text, "broken.pem") })
	c := wire.Dial(t, g.Addr("wss"), site.Client("example1.test"))
	c.SendText("good")
	c.WantText("good")
}

// eventually waits until the condition holds, and fails the test if it never
// does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(gate.Patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so within %v: %s", gate.Patience, what)
		}
	}
}

// A renewal without its intermediate, or with one that cannot be used, does not take
// the place of a certificate whose clients have a whole chain. Everything that shows
// bad files shows it; whole again, it is served.
func TestCertificateRenewedWithABadChain(t *testing.T) {
	for what, row := range map[string]struct {
		chain func(site *gate.Site, right []byte) []byte
		want  string
		alone bool // it can be seen without the certificate before it
	}{
		"damaged": {func(*gate.Site, []byte) []byte {
			return []byte("-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n")
		}, "cannot be read", true},
		"foreign": {func(site *gate.Site, _ []byte) []byte {
			return minica.CertPEM(site.CA.Intermediate("Foreign CA").Cert)
		}, "lacks its issuer", true},
		"TRUSTED": {func(_ *gate.Site, right []byte) []byte {
			return bytes.ReplaceAll(right, []byte("CERT"), []byte("TRUSTED CERT"))
		}, "TRUSTED CERTIFICATE", true},
		"gone": {func(*gate.Site, []byte) []byte { return nil }, "lacks its issuer", false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var inter *minica.CA
			issue := func(days int) *minica.Pair {
				return inter.IssueSpec(minica.Spec{Names: []string{name}, NotAfter: time.Now().AddDate(0, 0, days)})
			}
			var good *minica.Pair
			w := watch(t, func(site *gate.Site) {
				inter = site.CA.Intermediate("Chain CA")
				good = issue(20)
				site.Certify(t, name, good)
			})
			file, bad := w.site.CertFile(name), issue(90)
			w.site.Write(t, file, slices.Concat(minica.CertPEM(bad.Cert), row.chain(w.site, minica.CertPEM(inter.Cert)), bad.KeyPEM()))
			line := w.WaitLine("a line with file and reason", func(l gate.Line) bool {
				return l.Str("level") == "ERROR" && strings.Contains(l.Msg(), file) && strings.Contains(l.Msg(), row.want)
			})
			if line.Str("old_one_served") != "true" {
				t.Errorf("log has %s\nwant old_one_served true", line.Text)
			}
			after := w.Mark()
			w.Signal(syscall.SIGHUP)
			after("the reload", func(l gate.Line) bool { return l.Msg() == "reloaded" })
			w.keeps(good)
			o := operate(t, w.Gate)
			o.want("GET", "/metrics", 200, "\nwssgate_certificate_file_problems 1\n")
			o.want("GET", "/status", 200, row.want, "its previous contents are still served")
			status, out := certs(t, w.site, "-within", "1d") // which has not seen the one before
			if seen := status == 1 && strings.Contains(out, row.want) && strings.Contains(out, "served all the same"); seen != row.alone {
				t.Errorf("wssgate certs -within 1d exits with %d; the problem is seen: %v, want %v\n%s", status, seen, row.alone, out)
			}

			mended := issue(30)
			w.site.Certify(t, name, mended)
			w.serves("the mended file", mended)
			o.want("GET", "/metrics", 200, "\nwssgate_certificate_file_problems 0\n")
		})
	}
}
