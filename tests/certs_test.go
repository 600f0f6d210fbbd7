package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
)

// "wssgate certs" lists every certificate of a name, best first, with the
// reason; what stands first is what the running program serves.
func TestCerts(t *testing.T) {
	day := func(n int) time.Time { return time.Now().AddDate(0, 0, n) }
	site := gate.NewSite(t)
	put := func(file string, spec minica.Spec, names ...string) *minica.Pair {
		spec.Names = names
		pair := site.CA.IssueSpec(spec)
		site.Write(t, "certs/"+file, pair.PEM())
		return pair
	}
	put("a.pem", minica.Spec{NotBefore: day(-9), NotAfter: day(-1)}, name)
	site.Write(t, "certs/b.pem", minica.SelfSigned(minica.Spec{Names: []string{name}, NotAfter: day(900)}).PEM())
	put("c.pem", minica.Spec{NotAfter: day(20)}, name)
	best := put("d.pem", minica.Spec{NotAfter: day(40)}, name)
	put("e.pem", minica.Spec{NotBefore: day(1), NotAfter: day(400)}, name)
	put("f.pem", minica.Spec{NotAfter: day(30), RSA: true}, name)
	put("g.pem", minica.Spec{NotAfter: day(13)}, "soon.test")
	g := site.Start(t, toUpstream("ws://127.0.0.1:9/"))
	if got, want := serial(t, site, g, name), best.Cert.SerialNumber.String(); got != want {
		t.Errorf("%s: serial number %s is served; want %s, that of d.pem", name, got, want)
	}

	_, table := certs(t, site)
	rows := strings.Split(table, "\n")
	for i, want := range []struct{ file, why string }{
		{"d.pem", "chosen: before certs/c.pem: expires later; private CA"},
		{"c.pem", "not chosen: certs/d.pem goes first: expires later"},
		{"b.pem", "not chosen: certs/d.pem goes first: from a CA, the other is self-signed"},
		{"e.pem", "not chosen: certs/d.pem goes first: valid, the other is not yet valid"},
		{"a.pem", "not chosen: certs/d.pem goes first: valid, the other is expired"},
		{"f.pem", "chosen: the only one for this name and key type; private CA"},
	} {
		if i+1 >= len(rows) || !strings.HasPrefix(rows[i+1], name) || !strings.Contains(rows[i+1], "certs/"+want.file) || !strings.HasSuffix(rows[i+1], " "+want.why) {
			t.Fatalf("row %d of\n%s\nwant %s, %s", i+1, table, want.file, want.why)
		}
	}

	for _, tt := range []struct {
		args   []string
		status int
	}{
		{nil, 0}, // one has expired, and nobody gets it
		{[]string{"-within", "12d"}, 0},
		{[]string{"-within", "14d"}, 1},
		{[]string{"-json", "-within", "336h"}, 1},
		{[]string{"-within", "14"}, 2},
		{[]string{"-config", "nowhere.toml"}, 2},
	} {
		if status, out := certs(t, site, tt.args...); status != tt.status {
			t.Errorf("wssgate certs %q exits with %d; want %d\n%s", tt.args, status, tt.status, out)
		}
	}

	site.Write(t, "certs/h.pem", []byte("half a certificate"))
	for args, want := range map[string]int{"": 0, "-within 1d": 1} {
		if status, out := certs(t, site, strings.Fields(args)...); status != want || !strings.Contains(out, "h.pem") {
			t.Errorf("with a file that is bad wssgate certs %s exits with %d; want %d\n%s", args, status, want, out)
		}
	}
	if err := os.Remove(filepath.Join(site.Dir, "certs/h.pem")); err != nil {
		t.Fatal(err)
	}

	site.Config(t, toUpstream("ws://127.0.0.1:9/")+fmt.Sprintf("[[vhost]]\nnames = [%q, \"missing.test\"]\n", name))
	if status, out := certs(t, site, "-within", "1d"); status != 1 || !strings.Contains(out, `no certificate for server name "missing.test"`) || strings.Contains(out, strconv.Quote(name)) {
		t.Errorf("with a vhost that has no certificate wssgate certs exits with %d; want 1, and its name\n%s", status, out)
	}
	site.Config(t, toUpstream("ws://127.0.0.1:9/"))

	_, text := certs(t, site, "-json")
	var list struct {
		Certificates []struct {
			Name, File, Issuer, State, Why string
			KeyType                        string    `json:"key_type"`
			NotAfter                       time.Time `json:"not_after"`
			Chosen                         bool
		}
		Problems, Missing, ACME []any
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Certificates) != 7 || list.Problems == nil || list.Missing == nil || list.ACME == nil {
		t.Fatalf("-json prints %s\nwant 7 certificates and three lists that are empty", text)
	}
	if first := list.Certificates[0]; first.Name != name || first.File != "certs/d.pem" || !first.Chosen || first.State != "ok" ||
		first.KeyType != "ECDSA P-256" || !strings.HasSuffix(first.Issuer, "wssgate test root") || !first.NotAfter.Equal(best.Cert.NotAfter) {
		t.Errorf("first certificate = %+v; want d.pem's", first)
	}
}

// What lies beside certificates and is not used is listed last, and changes no exit
// status; "check" and /status have the first few.
func TestCertsIgnored(t *testing.T) {
	site := gate.NewSite(t)
	site.Certify(t, name, site.CA.Issue(name))
	other := site.CA.Issue("example9.test")
	site.Write(t, "certs/store.p12", []byte("x"))
	site.Write(t, "certs/account.key", other.KeyPEM())
	site.Write(t, "certs/bin.cer", other.Cert.Raw)
	for i := range 9 {
		site.Write(t, fmt.Sprintf("certs/x%d.conf", i), []byte("x"))
	}
	g := site.Start(t, toUpstream("ws://127.0.0.1:9/"))

	status, out := certs(t, site)
	for _, want := range []string{
		"\nignored: 11 files\n  certs/account.key: the account key of an ACME client\n",
		"  certs/store.p12: PKCS #12, not PEM\n    hint: openssl pkcs12 -in certs/store.p12 -nodes -out certs/store.pem, and remove this file\n",
		"  certs/x2.conf, and 6 more: files that end in .conf are not read\n",
		"certificate \"certs/bin.cer\": is a certificate in DER, not PEM\n  hint: openssl x509 -in certs/bin.cer -inform der -out certs/bin.pem, and remove this file\n",
	} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("wssgate certs exits with %d and prints\n%s\nwant 0 and %q", status, out, want)
		}
	}
	var list struct {
		Ignored []struct{ File, Why, Hint string }
	}
	_, text := certs(t, site, "-json")
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&list); err != nil || len(list.Ignored) != 11 || list.Ignored[1].Hint == "" {
		t.Errorf("-json has %+v, %v; want 11 ignored files", list, err)
	}
	o := operate(t, g)
	o.want("GET", "/status", 200, `"ignored_files": {`, `"count": 11,`, `"why": "the account key of an ACME client"`)
	o.want("GET", "/metrics", 200, "\nwssgate_certificate_file_problems 1\n") // bin.cer
}

// The hint for a file that is not PEM is a command that works: with what it makes, the
// certificate is served.
func TestHintsOfOpenSSL(t *testing.T) {
	gate.Program(t, "openssl", "openssl")
	for file, make := range map[string]string{
		"x.p12": "pkcs12 -export -in in.pem -inkey in.pem -out certs/x.p12 -passout pass:secret",
		"x.cer": "x509 -in in.pem -outform der -out certs/x.cer",
		"x.pem": "x509 -in in.pem -trustout -out certs/x.pem",
		"x.p7b": "crl2pkcs7 -nocrl -certfile in.pem -out certs/x.p7b",
		"x.crt": "crl2pkcs7 -nocrl -certfile in.pem -outform der -out certs/x.crt",
	} {
		t.Run(file, func(t *testing.T) {
			site := gate.NewSite(t)
			site.Config(t, toUpstream("ws://127.0.0.1:9/"))
			pair := site.CA.Issue(name)
			site.Write(t, "in.pem", pair.PEM())
			openssl := func(args string) {
				t.Helper()
				cmd := exec.Command("openssl", strings.Fields(args)...)
				cmd.Dir = site.Dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("openssl %s: %v\n%s", args, err, out)
				}
			}
			if file != "x.p12" {
				site.Write(t, "certs/x.key", pair.KeyPEM())
			}
			openssl(make)
			_, out := certs(t, site)
			_, hint, ok := strings.Cut(out, "hint: openssl ")
			hint, _, _ = strings.Cut(hint, ", and remove")
			if !ok || strings.Contains(hint, "\n") {
				t.Fatalf("wssgate certs prints no hint:\n%s", out)
			}
			if strings.HasPrefix(hint, "pkcs12") {
				hint += " -passin pass:secret" // which it asks for
			}
			openssl(hint)
			if err := os.Remove(filepath.Join(site.Dir, "certs", file)); err != nil {
				t.Fatal(err)
			}
			_, out = certs(t, site)
			if !strings.HasPrefix(strings.Split(out, "\n")[1], name+" ") {
				t.Errorf("after openssl %s, wssgate certs prints\n%s", hint, out)
			}
		})
	}
}
