package certstore

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf16"

	"wssgate/demo/minica"
)

func block1(label string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
}

// request returns a certificate signing request in DER.
func request(t testing.TB, p *minica.Pair) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "example1.com"}}, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func keyDER(p *minica.Pair) []byte {
	b, _ := pem.Decode(p.KeyPEM())
	return b.Bytes
}

// Unused files are listed with their kind, and are not problems.
func TestIgnored(t *testing.T) {
	p, other := ca.Issue("example1.com"), ca.Issue("example2.com")
	encrypted := strings.Replace(string(other.KeyPEMClassic()), "KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", 1)
	for name, row := range map[string]struct {
		data      []byte
		why, hint string
	}{
		"a.p12":                                 {[]byte("x"), "PKCS #12, not PEM", "openssl pkcs12 -in DIR/a.p12 -nodes -out DIR/a.pem"},
		"a.PFX":                                 {[]byte("x"), "PKCS #12, not PEM", "openssl pkcs12 -in DIR/a.PFX -nodes -out DIR/a.pem"},
		"a.der":                                 {p.Cert.Raw, "DER, not PEM", "openssl x509 -in DIR/a.der -inform der -out DIR/a.pem"},
		"a.p7b":                                 {[]byte("x"), "PKCS #7, not PEM", "openssl pkcs7 -in DIR/a.p7b -print_certs -out DIR/a.pem"},
		"a b;$(x).p12":                          {[]byte("x"), "PKCS #12, not PEM", "openssl pkcs12 -in FILE -nodes -out FILE.pem"},
		"a.jks":                                 {[]byte("x"), "a Java keystore", "keytool"},
		"a.csr":                                 {[]byte("x"), whyRequest, ""},
		"a.json":                                {[]byte("x"), "files that end in .json are not read", ""},
		"a.pem.old":                             {p.PEM(), "files that end in .old are not read", "extension .pem"},
		"a.\x1b[31m":                            {[]byte("x"), "files that end in .\uFFFD[31m are not read", "extension .pem"},
		"csr.pem":                               {block1("CERTIFICATE REQUEST", request(t, p)), whyRequest, ""},
		"crl.pem":                               {block1("X509 CRL", []byte{1}), "a certificate revocation list", ""},
		"dh.pem":                                {block1("DH PARAMETERS", []byte{1}), "Diffie-Hellman parameters", ""},
		"id.key":                                {block1("OPENSSH PRIVATE KEY", []byte{1}), "a key of OpenSSH", ""},
		"x.key":                                 {block1("ENCRYPTED PRIVATE KEY", []byte{1}), whyEncrypted, "openssl pkey -in DIR/x.key -out DIR/x.pem"},
		"y.key":                                 {[]byte(encrypted), whyEncrypted, "openssl pkey"},
		"odd.pem":                               {block1("ODD THING", []byte{1}), "a PEM block that is not used: ODD THING", ""},
		"account.key":                           {other.KeyPEM(), whyAccount, ""},
		"account_key.pem":                       {other.KeyPEMClassic(), whyAccount, ""},
		"ca/acme.example/directory/account.key": {other.KeyPEM(), whyAccount, ""}, // acme.sh
		"accounts/aHR0cHM6/account_key.pem":     {other.KeyPEM(), whyAccount, ""}, // dehydrated
		"acme/ca.example-directory/users/a@b/a@b.key":    {other.KeyPEM(), whyAccount, ""}, // Caddy
		"accounts/acme.example/a@b.example/keys/a@b.key": {other.KeyPEM(), whyAccount, ""}, // lego
		"1/2/3/4/5/6/7/8/9/x.pem":                        {other.PEM(), whyDeep, ""},
		".hidden/x.pem":                                  {other.PEM(), whyHidden, ""},
		"lost+found/x.pem":                               {other.PEM(), whyLost, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			d.put(t, "good/x.pem", p.PEM())
			path := d.put(t, name, row.data)
			if row.why == whyDeep || row.why == whyHidden || row.why == whyLost {
				path = filepath.Dir(path)
			}
			s := d.open(t)
			wantProblems(t, s)
			list, more := s.Ignored()
			if len(list) != 1 || more != 0 || list[0].File != path || list[0].Why != row.why {
				t.Fatalf("ignored: %+v, and %d more; want %q: %s", list, more, path, row.why)
			}
			if want := strings.ReplaceAll(row.hint, "DIR", string(d)); !strings.Contains(list[0].Hint, want) || want == "" && list[0].Hint != "" {
				t.Errorf("hint = %q; want %q", list[0].Hint, want)
			}
			d.remove(t, strings.TrimPrefix(path, string(d)))
			reload(t, s)
			if list, _ := s.Ignored(); slices.ContainsFunc(list, func(i Ignored) bool { return i.File == path }) {
				t.Errorf("ignored after it was removed: %+v", list)
			}
		})
	}
}

// A file with one of our extensions that is not PEM is a problem, which names
// its format. The command in the hint converts it to PEM.
func TestNotPEM(t *testing.T) {
	p := ca.Issue("example1.com")
	utf := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(string(p.ChainPEM()))) {
		utf = append(utf, byte(u), byte(u>>8))
	}
	for name, row := range map[string]struct {
		data       []byte
		want, hint string
	}{
		"x.cer": {p.Cert.Raw, "is a certificate in DER, not PEM", "openssl x509 -in DIR/x.cer -inform der -out DIR/x.pem"},
		"x.pem": {p.Cert.Raw, "is a certificate in DER, not PEM", "-out DIR/x-converted.pem"},
		"x.key": {keyDER(p), "is a private key in DER, not PEM", "openssl pkey -in DIR/x.key -inform der -out DIR/x.pem"},
		"r.pem": {request(t, p), "is a certificate signing request, not a certificate", ""},
		"s.pem": {[]byte("0\x0b\x02\x01\x03\x30\x06\x06\x04\x2a\x86\x48\x86"), "is PKCS #12 in DER, not PEM", "openssl pkcs12 -in DIR/s.pem -nodes"},
		"7.crt": {[]byte("0\x0e\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x01\x00"), "is PKCS #7 in DER, not PEM", "openssl pkcs7 -in DIR/7.crt -inform der -print_certs"},
		"j.pem": {[]byte("\xfe\xed\xfe\xed\x00\x00"), "is a Java keystore, not PEM", "keytool"},
		"u.pem": {utf, "is text in UTF-16", "iconv -f UTF-16 -t UTF-8"},
		"t.pem": {block1("TRUSTED CERTIFICATE", p.Cert.Raw), `is a "TRUSTED CERTIFICATE" of OpenSSL, which is not read`, "openssl x509 -in DIR/t.pem -out DIR/t-converted.pem"},
		"p.pem": {block1("PKCS7", []byte{1}), "is PKCS #7, which is not read", "openssl pkcs7 -in DIR/p.pem -print_certs"},
		"n.pem": {[]byte("0\x00"), "has no PEM block", ""},
	} {
		d := newDir(t)
		d.put(t, name, row.data)
		s := d.open(t)
		wantProblems(t, s, row.want)
		if got, want := s.Problems()[0].Hint, strings.ReplaceAll(row.hint, "DIR", string(d)); !strings.Contains(got, want) {
			t.Errorf("%s: hint = %q; want %q", name, got, want)
		}
	}
}

// If a file that was in use is replaced by something useless, that is a
// problem.
func TestForeignReplacement(t *testing.T) {
	p := ca.Issue("example1.com")
	for name, row := range map[string]struct {
		data []byte
		want string
	}{
		"a request":        {block1("CERTIFICATE REQUEST", request(t, p)), "is now a certificate signing request"},
		"parameters":       {block1("DH PARAMETERS", []byte{1}), "is now Diffie-Hellman parameters"},
		"an encrypted key": {block1("ENCRYPTED PRIVATE KEY", []byte{1}), "is now an encrypted private key"},
		"a key":            {ca.Issue("example1.com").KeyPEM(), "no certificate for this private key"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			d.put(t, "account.pem", p.PEM()) // a name that an account's key may have
			s := d.open(t)
			d.put(t, "account.pem", row.data)
			for range 2 {
				reload(t, s)
				wantProblems(t, s, row.want)
				wantServed(t, s, "example1.com", p)
			}
		})
	}
}

// For a leaf with an encrypted key, the problem says so and gives the command
// that helps.
func TestEncryptedKeyOfALeaf(t *testing.T) {
	p := ca.Issue("example1.com")
	d := newDir(t)
	d.put(t, "x.crt", p.ChainPEM())
	key := d.put(t, "x.key", block1("ENCRYPTED PRIVATE KEY", []byte{1}))
	s := d.open(t)
	wantProblems(t, s, fmt.Sprintf("private key %q is encrypted", key))
	if hint := s.Problems()[0].Hint; !strings.Contains(hint, "openssl pkey -in "+key) {
		t.Errorf("hint = %q", hint)
	}
}

// A CA's key beside its certificate is not a key without a certificate.
func TestKeyOfACA(t *testing.T) {
	d := newDir(t)
	d.put(t, "x.pem", ca.Issue("example1.com").PEM())
	d.put(t, "pki/root.crt", root.RootPEM())
	d.put(t, "pki/root.key", (&minica.Pair{Key: root.Key}).KeyPEM())
	s := d.open(t)
	wantProblems(t, s)
	if list, _ := s.Ignored(); len(list) != 1 || list[0].Why != whyAuthority {
		t.Errorf("ignored: %+v; want the key of the CA", list)
	}
}

// A folder with very many foreign files costs no more than one with a hundred,
// and hides neither files of a known kind nor those of another folder.
func TestIgnoredIsBounded(t *testing.T) {
	d := newDir(t)
	f := &folder{path: string(d)}
	for i := range 100_000 {
		f.pass(passed{name: fmt.Sprintf("%d.conf", i)})
	}
	f.pass(passed{name: "x.p12"})
	if len(f.foreign) != maxStray+1 || f.more != 100_000-maxStray {
		t.Errorf("%d listed and %d more; want %d and %d", len(f.foreign), f.more, maxStray+1, 100_000-maxStray)
	}
	tree := newTree(string(d), nil)
	for i := range 30 {
		g := &folder{path: fmt.Sprintf("%s/%02d", d, i)}
		for j := range 100 {
			g.pass(passed{fmt.Sprint(j), whyHidden, ""})
		}
		tree.folders[g.path] = g
	}
	tree.folders[f.path] = f
	out := tree.gather()
	if len(out.list) != maxIgnored || len(out.list)+out.more != 100_001+3000 {
		t.Errorf("%d listed and %d more; want %d of %d", len(out.list), out.more, maxIgnored, 103_001)
	}
}

// Only a file with certificates or keys is more than an entry in a list. Other
// contents cause neither a panic nor a secret in a message.
func FuzzForeign(f *testing.F) {
	p := ca.Issue("example1.com")
	f.Add(p.Cert.Raw)
	f.Add(keyDER(p))
	f.Add([]byte("0\x0b\x02\x01\x03\x30\x06\x06\x04\x2a\x86\x48\x86"))
	f.Add(block1("CERTIFICATE REQUEST", []byte{1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		parts, err := newReader().parse("/d", "x.pem", data)
		for _, part := range parts {
			if foreign, ok := part.(foreignPart); ok && (len(parts) > 1 || foreign.why == "") {
				t.Errorf("foreign part %+v among %d", foreign, len(parts))
			}
		}
		if err != nil && len(data) > 100 && bytes.Contains([]byte(err.Error()), data[:50]) {
			t.Errorf("err = %v", err)
		}
	})
}

// The hint for an unreadable file or folder is about permissions.
func TestHintOfPermission(t *testing.T) {
	f := &folder{path: "/d"}
	p := &pairing{folder: f, faults: map[string]*fault{}}
	p.fail("x.key", plainError(&fs.PathError{Op: "open", Path: "/d/x.key", Err: syscall.EACCES}))
	if hint := hintOf(p.faults["x.key"].err); !strings.HasPrefix(hint, "let the gate's user read it") {
		t.Errorf("hint = %q", hint)
	}
}
