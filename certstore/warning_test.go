package certstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/demo/minica"
)

// sha1By replaces a certificate's algorithm with that of SHA-1 signatures,
// which has the same length. The signature is not checked here.
func sha1By(t *testing.T, der []byte) []byte {
	t.Helper()
	sha256, sha1 := []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1}
	if bytes.Count(der, sha256) != 2 {
		t.Fatal("not signed with ECDSA and SHA-256")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	// Two identifiers become one byte shorter, and so do the lengths around
	// them.
	tbs := bytes.Replace(cert.RawTBSCertificate, sha256, sha1, 1)
	i := bytes.Index(tbs, sha1)
	tbs[i-1]--
	tbs[i-3]--
	n := len(tbs) - 4
	tbs[2], tbs[3] = byte(n>>8), byte(n)
	rest := bytes.Replace(der[4+len(cert.RawTBSCertificate):], sha256, sha1, 1)
	i = bytes.Index(rest, sha1)
	rest[i-1]--
	rest[i-3]--
	n = len(tbs) + len(rest)
	return slices.Concat([]byte{0x30, 0x82, byte(n >> 8), byte(n)}, tbs, rest)
}

// trustOnly makes a CA's root the only root of this system during a test.
func trustOnly(t *testing.T, ca *minica.CA) {
	t.Helper()
	pool, was := ca.Pool(), systemRoots
	set := func(roots func() *x509.CertPool) {
		linksCache.Lock()
		defer linksCache.Unlock()
		systemRoots = roots
		linksCache.of, linksCache.notRoots = nil, nil
	}
	set(func() *x509.CertPool { return pool })
	t.Cleanup(func() { set(was) })
}

// Each rule detects its own certificate and no other.
func TestWarnings(t *testing.T) {
	system := minica.NewCA("System Root")
	trustOnly(t, system)
	public, private := system.Intermediate("Public CA"), root.Intermediate("Private CA")
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"example1.com"}
	with := func(ca *minica.CA, edit func(*x509.Certificate)) []byte {
		return ca.IssueSpec(minica.Spec{Names: names, Edit: edit}).PEM()
	}
	under := func(edit func(*x509.Certificate)) []byte {
		inter := root.Intermediate("Edited CA")
		p := inter.Issue("example1.com")
		return cat(minica.CertPEM(p.Cert), minica.CertPEM(caLike(t, inter, root, edit)), p.KeyPEM())
	}
	days := func(n int) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = c.NotBefore.AddDate(0, 0, n).Add(-time.Second) }
	}
	from := func(from time.Time, days int, more time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = from, from.Add(time.Duration(days)*24*time.Hour+more)
		}
	}
	long := time.Now().AddDate(0, -1, 0).Truncate(time.Second)
	rsaOf := func(bits int) *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	alone := func(ca *minica.CA) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.SubjectKeyId = nil; c.AuthorityKeyId = ca.Cert.SubjectKeyId }
	}
	twin := root.Intermediate("example1.com")
	named := twin.IssueSpec(minica.Spec{Names: names, Edit: func(c *x509.Certificate) { c.Subject = twin.Cert.Subject; alone(twin)(c) }})
	first, tier := root.Intermediate("First CA"), (*minica.CA)(nil)
	tier = first.Intermediate("Second CA")
	flat := caLike(t, first, root, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	low := tier.Issue("example1.com")
	_, edIssuer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edCA := root.Intermediate("Edwards CA")
	edCA.Key = edIssuer
	edCert, err := x509.CreateCertificate(nil, edCA.Cert, root.Cert, edIssuer.Public(), root.Key)
	if err != nil {
		t.Fatal(err)
	}
	if edCA.Cert, err = x509.ParseCertificate(edCert); err != nil {
		t.Fatal(err)
	}
	edCA.Chain[0] = edCA.Cert
	edLeaf := edCA.Issue("example1.com")
	critical := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	}
	uri := func(uri, mail string) []byte {
		inter := root.Intermediate("Edited CA")
		p := inter.IssueSpec(minica.Spec{Names: names, Edit: func(c *x509.Certificate) {
			c.URIs, c.EmailAddresses = []*url.URL{{Scheme: "https", Host: "example1.com"}}, []string{"a@example1.com"}
		}})
		return cat(minica.CertPEM(p.Cert), minica.CertPEM(caLike(t, inter, root, func(c *x509.Certificate) {
			if uri != "" {
				c.PermittedURIDomains = []string{uri}
			}
			if mail != "" {
				c.PermittedEmailAddresses = []string{mail}
			}
		})), p.KeyPEM())
	}
	plain := private.Issue("example1.com")
	for name, row := range map[string]struct {
		data []byte
		want []string // rules
	}{
		"of a public CA":  {public.Issue("example1.com").PEM(), nil},
		"of a private CA": {plain.PEM(), nil},
		"for clients":     {with(private, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), []string{"server_auth"}},
		"for anything":    {with(private, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), nil},
		"CA for clients":  {under(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), []string{"issuer_server_auth"}},
		"outside": {under(func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example2.com"}, true
		}), []string{"name_constraints"}},
		"excluded":       {under(func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"example1.com"} }), []string{"name_constraints"}},
		"inside":         {under(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example1.com"} }), nil},
		"SHA-1":          {cat(minica.CertPEM(&x509.Certificate{Raw: sha1By(t, plain.Cert.Raw)}), plain.KeyPEM()), []string{"sha1"}},
		"CA with SHA-1":  {cat(minica.CertPEM(plain.Cert), minica.CertPEM(&x509.Certificate{Raw: sha1By(t, private.Cert.Raw)}), plain.KeyPEM()), []string{"issuer_sha1"}},
		"RSA 1024":       {private.IssueSpec(minica.Spec{Names: names, Key: short}).PEM(), []string{"rsa_short"}},
		"RSA 2047":       {private.IssueSpec(minica.Spec{Names: names, Key: rsaOf(2047)}).PEM(), []string{"rsa_short"}},
		"only any usage": {with(private, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), []string{"any_usage"}},
		"any usage and servers": {with(private, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny, x509.ExtKeyUsageServerAuth}
		}), nil},
		"key usage to encipher":        {with(private, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), []string{"key_usage"}},
		"no key usage":                 {with(private, func(c *x509.Certificate) { c.KeyUsage = 0 }), nil},
		"critical extension":           {with(private, critical), []string{"critical_extension"}},
		"CA with a critical extension": {under(critical), []string{"critical_extension"}},
		"path length":                  {cat(minica.CertPEM(low.Cert), minica.CertPEM(tier.Cert), minica.CertPEM(flat), low.KeyPEM()), []string{"path_length"}},
		"path length, below":           {under(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }), nil},
		"CA with Ed25519":              {edLeaf.PEM(), []string{"issuer_ed25519"}},
		"outside, URI":                 {uri("example2.com", ""), []string{"name_constraints"}},
		"inside, URI":                  {uri("example1.com", ""), nil},
		"outside, mail":                {uri("", "example2.com"), []string{"name_constraints"}},
		"named as its issuer":          {named.PEM(), nil},
		"P-521 beside P-256, which expires first": {cat(private.IssueSpec(minica.Spec{Names: names, Key: p521, NotAfter: time.Now().AddDate(0, 0, 80)}).PEM(),
			private.IssueSpec(minica.Spec{Names: names, NotAfter: time.Now().AddDate(0, 0, 20)}).PEM()), []string{"p521"}},
		"P-521 and Ed25519": {cat(private.IssueSpec(minica.Spec{Names: names, Key: p521}).PEM(),
			private.IssueSpec(minica.Spec{Names: names, Key: ed}).PEM()), []string{"p521", "ed25519"}},
		"P-521 and expired RSA": {cat(private.IssueSpec(minica.Spec{Names: names, Key: p521}).PEM(),
			private.IssueSpec(minica.Spec{Names: names, Key: rsaKey(), NotAfter: time.Now().Add(-time.Hour)}).PEM()), []string{"p521"}},
		"825 days, as its dates say":           {with(private, from(long, 825, 0)), nil},
		"825 days and a second":                {with(private, from(long, 825, time.Second)), []string{"lifetime"}},
		"ten years, from before Apple's limit": {with(private, from(time.Date(2018, 1, 1, 0, 0, 0, 0, time.UTC), 7300, 0)), nil},
		"200 days, public CA":                  {with(public, from(long, 200, -time.Second)), nil},
		"a second above 200 days, public CA":   {with(public, from(long, 200, 0)), []string{"lifetime"}},
		"RSA 2048":                             {private.IssueSpec(minica.Spec{Names: names, Key: rsaKey()}).PEM(), nil},
		"P-521":                                {private.IssueSpec(minica.Spec{Names: names, Key: p521}).PEM(), []string{"p521"}},
		"Ed25519":                              {private.IssueSpec(minica.Spec{Names: names, Key: ed}).PEM(), []string{"ed25519"}},
		"Ed25519 beside RSA": {cat(private.IssueSpec(minica.Spec{Names: names, Key: ed}).PEM(),
			private.IssueSpec(minica.Spec{Names: names, Key: rsaKey()}).PEM()), nil},
		"self-signed": {minica.SelfSigned(minica.Spec{Names: names}).PEM(), []string{"self_signed"}},
		"common name only": {with(private, func(c *x509.Certificate) {
			c.DNSNames, c.Subject = nil, pkix.Name{CommonName: "example1.com"}
		}), []string{"common_name"}},
		"826 days":             {with(private, days(827)), []string{"lifetime"}},
		"825 days":             {with(private, days(825)), nil},
		"a year, public CA":    {with(public, days(400)), []string{"lifetime"}},
		"90 days, public CA":   {with(public, days(90)), nil},
		"a year, private CA":   {with(private, days(400)), nil},
		"directly from a root": {system.IssueSpec(minica.Spec{Names: names, Edit: days(400)}).PEM(), []string{"lifetime"}},
	} {
		d := newDir(t)
		d.put(t, "x.pem", row.data)
		var got []string
		s := d.open(t)
		for _, w := range s.Warnings() {
			got = append(got, w.Rule)
			if !strings.HasPrefix(w.Text, `certificate "`+w.File+`": `) || w.Hint == "" {
				t.Errorf("%s: warning = %+v", name, w)
			}
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: warnings = %q; want %q; problems %v", name, got, row.want, s.Problems())
		}
		for e := range s.Certificates() {
			if !e.Chosen {
				continue
			}
			isPrivate := strings.HasSuffix(e.Why, "; private CA")
			if want := !strings.Contains(name, "public") && !strings.Contains(name, "self") && !strings.Contains(name, "directly"); isPrivate != want {
				t.Errorf("%s: why = %q; private CA should be %v", name, e.Why, want)
			}
		}
	}
}

// A key is reported as readable if other users can reach it. chmod is noticed.
func TestReadableKey(t *testing.T) {
	base, err := os.MkdirTemp("/tmp", "open")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	d := dir(base)
	p := ca.Issue("example1.com")
	d.put(t, "x/cert.pem", p.ChainPEM())
	key := d.put(t, "x/key.pem", p.KeyPEM())
	s := d.open(t)
	for _, step := range []struct {
		folder, file os.FileMode
		want         int
	}{{0o755, 0o600, 0}, {0o755, 0o644, 1}, {0o755, 0o640, 0}, {0o755, 0o644, 1}, {0o755, 0o600, 0}, {0o700, 0o644, 0}} {
		for path, mode := range map[string]os.FileMode{base: step.folder, base + "/x": 0o755, key: step.file} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		reload(t, s)
		wantServed(t, s, "example1.com", p)
		if w := s.Warnings(); len(w) != step.want || step.want > 0 && (w[0].Rule != "key_readable" || !strings.Contains(w[0].Text, key)) {
			t.Errorf("%v: warnings = %+v", step, w)
		}
	}
}
