package certstore

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/minica"
	"wssgate/watch"
)

// caLike signs a certificate for a CA's key again, changed by edit.
func caLike(t *testing.T, of, by *minica.CA, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	tmpl := *of.Cert
	edit(&tmpl)
	der, err := x509.CreateCertificate(nil, &tmpl, by.Cert, of.Key.Public(), by.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// negative returns a certificate in PEM with a negative serial number of the
// same length.
func negative(t *testing.T, cert *x509.Certificate) []byte {
	t.Helper()
	serial := cert.SerialNumber.Bytes()
	i := bytes.Index(cert.Raw, serial)
	if i < 0 || serial[0]&0x80 != 0 {
		t.Fatalf("serial number %x in the wrong form", serial)
	}
	der := bytes.Clone(cert.Raw)
	der[i] |= 0x80
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A renewal with a worse chain than the previous certificate replaces nothing,
// wherever the chain comes from. If it is the only one, it is served and
// reported.
func TestWorseChainReplacesNothing(t *testing.T) {
	inter := root.Intermediate("Chain CA")
	fetch := func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example1.com/ca.crt"} }
	good := inter.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().AddDate(0, 0, 20), Edit: fetch})
	next := inter.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Edit: fetch})
	mended := inter.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().AddDate(0, 0, 95), Edit: fetch})
	leaf, chain := minica.CertPEM(next.Cert), minica.CertPEM(inter.Cert)
	small := caLike(t, inter, root, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0x12345678) })
	damaged := bytes.Clone(inter.Cert.Raw)
	damaged[5]++
	foreign := root.Intermediate("Foreign CA")
	sameName := root.Intermediate("Chain CA")
	noKeyID := caLike(t, sameName, root, func(c *x509.Certificate) { c.SubjectKeyId = inter.Cert.SubjectKeyId })
	expired := caLike(t, inter, root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })

	for name, row := range map[string]struct {
		chain []byte
		want  string
		alone string
	}{
		"damaged":          {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: damaged}), "cannot be read: x509: ", "cannot be read: x509: "},
		"of a foreign CA":  {minica.CertPEM(foreign.Cert), `lacks its issuer "wssgate test Chain CA"`, "the intermediate in the file is of another CA"},
		"labelled TRUSTED": {bytes.ReplaceAll(chain, []byte("CERTIFICATE"), []byte("TRUSTED CERTIFICATE")), `"TRUSTED CERTIFICATE", is not read`, `"TRUSTED CERTIFICATE", is not read`},
		"PKCS #7":          {bytes.ReplaceAll(chain, []byte("CERTIFICATE"), []byte("PKCS7")), `"PKCS7", is not read`, `"PKCS7", is not read`},
		"negative serial":  {negative(t, small), "negative serial number", "negative serial number"},
		"gone":             {nil, `lacks its issuer "wssgate test Chain CA"`, `lacks its issuer "wssgate test Chain CA"`},
		"same name":        {minica.CertPEM(sameName.Cert), "another CA", "another CA"},
		"same name and ID": {minica.CertPEM(noKeyID), `has not signed what it should have`, `has not signed what it should have`},
		"expired":          {minica.CertPEM(expired), "the chain has expired: ", "the chain has expired: "},
		"whole, and more":  {cat(chain, negative(t, small)), "negative serial number", "negative serial number"},
	} {
		layouts := map[string]func(t *testing.T, d dir, leaf, chain, key []byte){
			"one file": func(t *testing.T, d dir, leaf, chain, key []byte) { d.put(t, "x/tls.crt", leaf, chain, key) },
			"pair": func(t *testing.T, d dir, leaf, chain, key []byte) {
				d.put(t, "x/tls.crt", leaf, chain)
				d.put(t, "x/tls.key", key)
			},
		}
		for layout, put := range layouts {
			t.Run(name+", "+layout, func(t *testing.T) {
				d := newDir(t)
				put(t, d, minica.CertPEM(good.Cert), chain, good.KeyPEM())
				d.put(t, "y.pem", ca.Issue("example2.com").PEM())
				var log bytes.Buffer
				s, err := Open(Options{Directory: string(d), Log: slog.New(slog.NewTextHandler(&log, nil))})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				wantProblems(t, s)
				log.Reset()
				put(t, d, leaf, row.chain, next.KeyPEM())
				for range 3 {
					reload(t, s)
					wantServed(t, s, "example1.com", good)
					wantProblems(t, s, row.want)
					if _, err := handshake(s, trusting("example1.com")); err != nil {
						t.Errorf("handshake: %v", err)
					}
				}
				if p := s.Problems()[0]; !p.Kept || p.File != filepath.Join(string(d), "x/tls.crt") || strings.Contains(p.Err.Error(), "served") {
					t.Errorf("problem = %+v", p)
				}
				if errors, loads := strings.Count(log.String(), "level=ERROR"), strings.Count(log.String(), "certificates: loaded"); errors != 1 || loads != 1 {
					t.Errorf("logged %d errors and %d loads, want one of each:\n%s", errors, loads, log.String())
				}
				rows := slices.Collect(s.Certificates())
				if !rows[0].Kept || !rows[0].Chosen || rows[1].Name != "example1.com" || rows[1].Chosen {
					t.Errorf("rows = %+v", rows)
				}

				one := d.open(t) // without a previous certificate
				wantServed(t, one, "example1.com", next)
				wantProblems(t, one, row.alone)
				if p := one.Problems()[0]; !strings.HasSuffix(p.Err.Error(), "; served all the same") && !strings.HasSuffix(p.Err.Error(), "; still served") {
					t.Errorf("problem = %+v", p)
				}

				put(t, d, minica.CertPEM(mended.Cert), chain, mended.KeyPEM())
				for _, s := range []*Store{s, one} {
					reload(t, s)
					wantServed(t, s, "example1.com", mended)
					wantProblems(t, s)
				}
			})
		}
	}
}

// An expired or badly signed cross-certificate of a root that clients have is
// not a flaw.
func TestCrossOfATrustedRoot(t *testing.T) {
	system, old := minica.NewCA("System Root"), minica.NewCA("Old Root")
	trustOnly(t, system)
	private := minica.NewCA("Private Root")
	cross := func(of *minica.CA, until time.Time) *x509.Certificate {
		return caLike(t, of, old, func(c *x509.Certificate) { c.NotAfter, c.SerialNumber = until, big.NewInt(7) })
	}
	expired, later := time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	inter, direct, inner := system.Intermediate("Chain CA"), system.Issue("example1.com"), private.Intermediate("Private CA")
	sha1 := func(c *x509.Certificate) []byte { return minica.CertPEM(&x509.Certificate{Raw: sha1By(t, c.Raw)}) }
	for what, row := range map[string]struct {
		pair *minica.Pair
		more []byte
	}{
		"expired":                         {inter.Issue("example1.com"), minica.CertPEM(cross(system, expired))},
		"SHA-1":                           {inter.Issue("example1.com"), sha1(cross(system, later))},
		"expired, of the leaf's issuer":   {direct, minica.CertPEM(cross(system, expired))},
		"private, expired, with the root": {inner.Issue("example1.com"), cat(minica.CertPEM(cross(private, expired)), private.RootPEM())},
		"private, SHA-1, with the root":   {inner.Issue("example1.com"), cat(sha1(cross(private, later)), private.RootPEM())},
	} {
		d := newDir(t)
		d.put(t, "x.pem", row.pair.PEM())
		s := d.open(t)
		d.put(t, "x.pem", row.pair.PEM(), row.more)
		reload(t, s)
		for _, s := range []*Store{s, d.open(t)} {
			wantServed(t, s, "example1.com", row.pair)
			wantProblems(t, s)
			if w := s.Warnings(); len(w) > 0 {
				t.Errorf("%s: warnings = %v", what, w)
			}
		}
		if t.Failed() {
			t.Fatal(what)
		}
	}
	// Without the root, clients need it.
	d := newDir(t)
	d.put(t, "x.pem", inner.Issue("example1.com").PEM(), minica.CertPEM(cross(private, expired)))
	wantProblems(t, d.open(t), "the chain has expired")
}

// A certificate that all clients reject never replaces one that they accept,
// and ranks below it.
func TestRejectedReplacesNothing(t *testing.T) {
	inter := root.Intermediate("Chain CA")
	names := []string{"example1.com"}
	good := inter.IssueSpec(minica.Spec{Names: names, NotAfter: time.Now().AddDate(0, 0, 20)})
	clients := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	under := func(edit func(*x509.Certificate)) []byte {
		p := inter.Issue(names...)
		return cat(minica.CertPEM(p.Cert), minica.CertPEM(caLike(t, inter, root, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7); edit(c) })), p.KeyPEM())
	}
	bad, sha1 := inter.IssueSpec(minica.Spec{Names: names, Edit: clients}), inter.Issue(names...)
	for what, row := range map[string]struct {
		data []byte
		want string
	}{
		"self-signed":      {minica.SelfSigned(minica.Spec{Names: names}).PEM(), "it is self-signed, and the one before is from a CA"},
		"for clients":      {bad.PEM(), "its extended key usage lacks serverAuth"},
		"CA for clients":   {under(clients), "extended key usage of an intermediate lacks serverAuth"},
		"name constraints": {under(func(c *x509.Certificate) { c.ExcludedDNSDomains = names }), "name constraints"},
		"with SHA-1":       {cat(minica.CertPEM(&x509.Certificate{Raw: sha1By(t, sha1.Cert.Raw)}), minica.CertPEM(inter.Cert), sha1.KeyPEM()), "SHA-1"},
	} {
		d := newDir(t)
		d.put(t, "x.pem", good.PEM())
		s := d.open(t)
		d.put(t, "x.pem", row.data)
		for range 2 {
			reload(t, s)
			wantServed(t, s, "example1.com", good)
			wantProblems(t, s, row.want)
			if t.Failed() {
				t.Fatal(what)
			}
		}
		d.put(t, "y.pem", good.PEM())
		beside := d.open(t)
		wantServed(t, beside, "example1.com", good)
		d.put(t, "y.pem", row.data)
		alone := d.open(t)
		wantProblems(t, alone)
		if w := alone.Warnings(); len(w) == 0 {
			t.Errorf("%s: no warning", what)
		}
		d.put(t, "x.pem", row.data) // it may replace another one that clients reject
		reload(t, alone)
		wantProblems(t, alone)
	}
}

// A chain that is different but not worse replaces the previous one.
func TestOtherChainReplaces(t *testing.T) {
	inter, other := root.Intermediate("Chain CA"), root.Intermediate("Next CA")
	lower := other.Intermediate("Lower CA")
	private := minica.NewCA("Private Root")
	system := minica.NewCA("System Root")
	trustOnly(t, system)
	self := func() *minica.Pair { return minica.SelfSigned(minica.Spec{Names: []string{"example1.com"}}) }
	pair := func(ca *minica.CA) *minica.Pair { return ca.Issue("example1.com") }
	low, anew := pair(lower), pair(inter)
	again := caLike(t, inter, root, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) })
	for name, row := range map[string]struct {
		before, after *minica.Pair
		data          []byte // of after; nil: PEM
	}{
		"the same intermediate":              {pair(inter), pair(inter), nil},
		"a new intermediate":                 {pair(inter), pair(other), nil},
		"a longer chain":                     {pair(inter), pair(lower), nil},
		"a chain reversed":                   {pair(inter), low, cat(minica.CertPEM(other.Cert), minica.CertPEM(lower.Cert), minica.CertPEM(low.Cert), low.KeyPEM())},
		"a shorter chain":                    {pair(lower), pair(inter), nil},
		"under the root of the one before":   {pair(inter), pair(root), nil},
		"under a root of the system":         {pair(inter), pair(system), nil},
		"under a private root, once again":   {pair(private), pair(private), nil},
		"under another private root":         {pair(private), pair(minica.NewCA("Other Root")), nil},
		"self-signed, once again":            {self(), self(), nil},
		"from a CA, self-signed before":      {self(), pair(inter), nil},
		"the same intermediate, issued anew": {pair(inter), anew, cat(minica.CertPEM(anew.Cert), minica.CertPEM(again), anew.KeyPEM())},
		"another private CA with two tiers":  {pair(inter), pair(minica.NewCA("Other Root").Intermediate("Other CA")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			d.put(t, "x.pem", row.before.PEM())
			s := d.open(t)
			data := row.data
			if data == nil {
				data = row.after.PEM()
			}
			d.put(t, "x.pem", data)
			reload(t, s)
			wantServed(t, s, "example1.com", row.after)
			wantProblems(t, s)
		})
	}
	t.Run("under a new root that is in the file", func(t *testing.T) {
		d := newDir(t)
		d.put(t, "x.pem", pair(inter).PEM())
		s := d.open(t)
		wantRootRequired(t, d, s, pair(private), private)
	})
}

// wantRootRequired checks that a certificate of a private root replaces the one
// in x.pem only if the file includes the root.
func wantRootRequired(t *testing.T, d dir, s *Store, after *minica.Pair, private *minica.CA) {
	t.Helper()
	before := served(t, s, "example1.com")
	d.put(t, "x.pem", after.PEM())
	reload(t, s)
	if got := served(t, s, "example1.com"); !got.Equal(before) {
		t.Errorf("the certificate with serial %x is served; want that of before", got.SerialNumber)
	}
	wantProblems(t, s, `lacks its issuer "wssgate test Private Root"`)
	d.put(t, "x.pem", after.PEM(), private.RootPEM())
	reload(t, s)
	wantServed(t, s, "example1.com", after)
	wantProblems(t, s)
}

// A chain that does not end at a root of the system does not replace one that
// does.
func TestTrustedChainStays(t *testing.T) {
	system := minica.NewCA("System Root")
	trustOnly(t, system)
	private := minica.NewCA("Private Root")
	before, after := system.Intermediate("Public CA").Issue("example1.com"), private.Intermediate("Private CA").Issue("example1.com")
	d := newDir(t)
	d.put(t, "x.pem", before.PEM())
	s := d.open(t)
	inter := before.Issuers[0]
	for _, at := range []int{len(inter.Raw) - 1, bytes.Index(inter.Raw, inter.RawIssuer) + len(inter.RawIssuer) - 1} { // signature, issuer
		der := bytes.Clone(inter.Raw)
		der[at] ^= 1
		damaged := cat(minica.CertPEM(before.Cert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), before.KeyPEM())
		d.put(t, "x.pem", damaged)
		reload(t, s)
		wantProblems(t, s, "lacks its issuer")
		one := d.open(t) // damaged from the start, then repaired
		d.put(t, "x.pem", before.PEM())
		for _, s := range []*Store{s, one} {
			reload(t, s)
			wantProblems(t, s)
		}
	}
	wantServed(t, s, "example1.com", before)
	wantRootRequired(t, d, s, after, private)
}

// Damage in the last certificate of a chain is detected by comparison with the
// previous chain, even if its issuer, a private root, is unknown. An invalid
// signature of the leaf is detected without a comparison.
func TestDamagedChainOfPrivateRoot(t *testing.T) {
	inter := minica.NewCA("Private Root").Intermediate("Private CA")
	before, after := inter.Issue("example1.com"), inter.Issue("example1.com")
	d := newDir(t)
	d.put(t, "x.pem", before.PEM())
	s := d.open(t)
	raw := inter.Cert.Raw
	for what, at := range map[string]int{"signature": len(raw) - 1, "issuer": bytes.Index(raw, inter.Cert.RawIssuer) + len(inter.Cert.RawIssuer) - 1} {
		der := bytes.Clone(raw)
		der[at] ^= 1
		d.put(t, "x.pem", minica.CertPEM(after.Cert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), after.KeyPEM())
		reload(t, s)
		wantServed(t, s, "example1.com", before)
		wantProblems(t, s, "the chain is damaged: ")
		if t.Failed() {
			t.Fatalf("with another %s", what)
		}
		one := d.open(t) // if the damaged one comes first, the file must be removed before it is written again
		d.put(t, "x.pem", after.PEM())
		reload(t, one)
		wantProblems(t, one, "the chain is damaged: ")
		d.remove(t, "x.pem")
		reload(t, one)
		d.put(t, "x.pem", after.PEM())
		reload(t, one)
		wantServed(t, one, "example1.com", after)
		wantProblems(t, one)
	}
	der := bytes.Clone(after.Cert.Raw)
	der[len(der)-1] ^= 1
	d.put(t, "x.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), minica.CertPEM(inter.Cert), after.KeyPEM())
	wantProblems(t, d.open(t), "has not signed what it should have")
}

// A chain that expires while it is served is reported, and another certificate
// is preferred.
func TestChainExpires(t *testing.T) {
	d := newDir(t)
	synctest.Test(t, func(t *testing.T) {
		root := minica.NewCA("Test Root")
		inter, other := root.Intermediate("Short CA"), root.Intermediate("Long CA")
		short := caLike(t, inter, root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
		p := inter.Issue("example1.com")
		spare := other.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().Add(48 * time.Hour)})
		d.put(t, "x.pem", minica.CertPEM(p.Cert), minica.CertPEM(short), p.KeyPEM())
		s := d.open(t)
		wantProblems(t, s)
		time.Sleep(2 * time.Hour)
		s.look(t.Context(), nil, watch.Changes{All: true})
		wantProblems(t, s, `the chain has expired: "CN=Short CA,O=wssgate test" ended `)
		d.put(t, "y.pem", spare.PEM())
		reload(t, s)
		wantServed(t, s, "example1.com", spare)
		wantProblems(t, s)
	})
}

// From several issuers of the same name, the chain uses the one that signed,
// that is valid, and that expires last, in any order. When it expires, the next
// one is used.
func TestBestIssuer(t *testing.T) {
	for _, layout := range []string{"one file", "files"} {
		d := newDir(t)
		synctest.Test(t, func(t *testing.T) {
			root := minica.NewCA("Test Root")
			inter, twin := root.Intermediate("CA"), root.Intermediate("CA")
			until := func(ca *minica.CA, hours time.Duration) []byte {
				return minica.CertPEM(caLike(t, ca, root, func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Now().Add(-1000*time.Hour), time.Now().Add(hours*time.Hour)
					c.SubjectKeyId, c.SerialNumber = inter.Cert.SubjectKeyId, big.NewInt(int64(1000+hours))
				}))
			}
			p := inter.IssueSpec(minica.Spec{Names: []string{"example1.com"}})
			issuers := [][]byte{until(inter, -10), until(inter, 2), until(inter, 9), until(inter, 5), until(twin, 99)}
			if layout == "files" {
				d.put(t, "x/cert.pem", minica.CertPEM(p.Cert))
				d.put(t, "x/key.pem", p.KeyPEM())
				for i, data := range issuers {
					d.put(t, "x/chain-"+string(rune('a'+i))+".pem", data)
				}
			} else {
				d.put(t, "x.pem", minica.CertPEM(p.Cert), p.KeyPEM(), cat(issuers...))
			}
			s := d.open(t)
			wantIssuer := func(until []byte) {
				t.Helper()
				state, err := handshake(s, &tls.Config{ServerName: "example1.com", RootCAs: root.Pool(), Time: time.Now})
				if err != nil {
					t.Fatalf("%s: %v", layout, err)
				}
				if got := minica.CertPEM(state.PeerCertificates[1]); len(state.PeerCertificates) != 2 || !bytes.Equal(got, until) {
					t.Errorf("%s: the intermediate ends %s", layout, state.PeerCertificates[1].NotAfter)
				}
				wantProblems(t, s)
			}
			wantIssuer(issuers[2])
			next := until(inter, 12)
			if layout == "files" { // arrives in time
				d.put(t, "x/chain-x.pem", next)
			} else {
				next = issuers[2]
			}
			time.Sleep(8 * time.Hour)
			s.look(t.Context(), nil, watch.Changes{All: true})
			wantIssuer(next)
		})
	}
}

// An issuer in use is replaced when it expires, although nothing else changes.
func TestIssuerSucceeded(t *testing.T) {
	for _, layout := range []string{"one file", "files"} {
		d := newDir(t)
		synctest.Test(t, func(t *testing.T) {
			root := minica.NewCA("Test Root")
			inter := root.Intermediate("CA")
			begins := func(from, until time.Duration) []byte {
				return minica.CertPEM(caLike(t, inter, root, func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter, c.SerialNumber = time.Now().Add(from), time.Now().Add(until), big.NewInt(int64(until))
				}))
			}
			p := inter.Issue("example1.com")
			first, second := begins(-time.Hour, 5*time.Hour), begins(3*time.Hour, 50*time.Hour)
			if layout == "files" {
				d.put(t, "x/cert.pem", minica.CertPEM(p.Cert))
				d.put(t, "x/key.pem", p.KeyPEM())
				d.put(t, "x/a.pem", first)
				d.put(t, "x/b.pem", second)
			} else {
				d.put(t, "x.pem", minica.CertPEM(p.Cert), p.KeyPEM(), first, second)
			}
			s := d.open(t)
			for _, want := range [][]byte{first, second} {
				state, err := handshake(s, &tls.Config{ServerName: "example1.com", RootCAs: root.Pool(), Time: time.Now})
				if err != nil {
					t.Fatalf("%s: %v", layout, err)
				}
				if !bytes.Equal(minica.CertPEM(state.PeerCertificates[1]), want) {
					t.Errorf("%s: the intermediate ends %s", layout, state.PeerCertificates[1].NotAfter)
				}
				wantProblems(t, s)
				time.Sleep(6 * time.Hour)
				s.look(t.Context(), nil, watch.Changes{All: true})
			}
		})
	}
}

// A leaf with the same name as its issuer is not self-signed, and has its
// chain.
func TestNamedAsItsIssuer(t *testing.T) {
	inter := root.Intermediate("example1.com")
	for _, ids := range []bool{true, false} {
		p := inter.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Edit: func(c *x509.Certificate) {
			if c.Subject = inter.Cert.Subject; ids {
				c.SubjectKeyId, c.AuthorityKeyId = []byte{1, 2, 3}, inter.Cert.SubjectKeyId
			}
		}})
		d := newDir(t)
		d.put(t, "x.pem", p.PEM())
		s := d.open(t)
		wantProblems(t, s)
		if _, err := handshake(s, trusting("example1.com")); err != nil {
			t.Errorf("key identifiers %v: %v", ids, err)
		}
	}
}

// An issuer that is not a CA breaks the chain. No key is expected for it.
func TestIssuerIsNoCA(t *testing.T) {
	inter := root.Intermediate("Chain CA")
	by := inter.IssueSpec(minica.Spec{Names: []string{"issuer.example1.com"}, Edit: func(c *x509.Certificate) { c.SubjectKeyId = []byte{1, 2, 3} }})
	p := (&minica.CA{Cert: by.Cert, Key: by.Key}).Issue("example1.com")
	for _, data := range [][]byte{
		cat(minica.CertPEM(p.Cert), p.KeyPEM(), minica.CertPEM(by.Cert), minica.CertPEM(inter.Cert)),
		cat(minica.CertPEM(by.Cert), minica.CertPEM(p.Cert), p.KeyPEM()),
	} {
		d := newDir(t)
		d.put(t, "x.pem", data)
		s := d.open(t)
		for range 2 {
			wantServed(t, s, "example1.com", p)
			wantProblems(t, s, `the chain is broken: the certificate for "issuer.example1.com" in it is not a CA's; served all the same`)
			reload(t, s)
		}
	}
}

// A chain in a file of its own can go bad on its own.
func TestChainInItsOwnFile(t *testing.T) {
	inter := root.Intermediate("Chain CA")
	p := inter.Issue("example1.com")
	d := newDir(t)
	d.put(t, "x/cert.pem", minica.CertPEM(p.Cert))
	d.put(t, "x/privkey.pem", p.KeyPEM())
	d.put(t, "x/chain.pem", minica.CertPEM(inter.Cert))
	s := d.open(t)
	whole := func(step string) {
		t.Helper()
		if _, err := handshake(s, trusting("example1.com")); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	whole("at first")
	d.put(t, "x/chain.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	reload(t, s)
	whole("with a chain that is damaged")
	wantProblems(t, s, "lacks its issuer", "certificate: x509: ")
	d.remove(t, "x/chain.pem")
	reload(t, s)
	whole("without its chain")
	wantProblems(t, s, "lacks its issuer")
	d.put(t, "x/chain.pem", minica.CertPEM(inter.Cert))
	reload(t, s)
	whole("with its chain again")
	wantProblems(t, s)
}

// A certificate with a flaw ranks below one without, whatever their files are.
func TestFlawedGoesLast(t *testing.T) {
	d := newDir(t)
	good := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().AddDate(0, 0, 20)})
	longer := ca.Issue("example1.com")
	d.put(t, "a.pem", good.PEM())
	d.put(t, "b.pem", longer.PEM(), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	s := d.open(t)
	wantServed(t, s, "example1.com", good)
	wantProblems(t, s, "; not used, because there is a better one")
}

// A certificate that is worse than another one for the same name never replaces
// it: not in a new file, in a new folder, with another kind of key, or as a
// wildcard. A restart changes nothing.
func TestWorseReplacesNothingAnywhere(t *testing.T) {
	system := minica.NewCA("System Root")
	trustOnly(t, system)
	inter := system.Intermediate("Chain CA")
	other := system.Intermediate("Chain CA")
	fake := minica.CertPEM(caLike(t, other, system, func(c *x509.Certificate) { c.SubjectKeyId = inter.Cert.SubjectKeyId }))
	soon, late := time.Now().AddDate(0, 0, 20), time.Now().AddDate(0, 0, 80)
	good := inter.IssueSpec(minica.Spec{Names: []string{"a.example1.com"}, NotAfter: soon})
	wild := inter.IssueSpec(minica.Spec{Names: []string{"*.example1.com"}, NotAfter: soon})
	issue := func(names []string, rsa bool) *minica.Pair {
		spec := minica.Spec{Names: names, NotAfter: late}
		if rsa {
			spec.Key = rsaKey()
		}
		return inter.IssueSpec(spec)
	}
	flip := func(p *minica.Pair) []byte {
		der := bytes.Clone(p.Cert.Raw)
		der[len(der)-1] ^= 1
		return cat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), minica.CertPEM(inter.Cert), p.KeyPEM())
	}
	exact, star := []string{"a.example1.com"}, []string{"*.example1.com"}
	const unsigned, lacks = "has not signed what it should have", "lacks its issuer"
	for what, row := range map[string]struct {
		before *minica.Pair
		file   string
		data   []byte
		want   string
	}{
		"new file, another intermediate's key":  {good, "x/y.pem", cat(minica.CertPEM(issue(exact, false).Cert), fake), unsigned},
		"new file, damaged leaf":                {good, "x/y.pem", flip(issue(exact, false)), unsigned},
		"new file, no chain":                    {good, "x/y.pem", nil, lacks},
		"new folder, no chain":                  {good, "x-0001/y.pem", nil, lacks},
		"new folder, damaged leaf":              {good, "x-0001/y.pem", flip(issue(exact, false)), unsigned},
		"the wildcard's file, damaged leaf":     {wild, "x/x.pem", flip(issue(exact, false)), unsigned},
		"beside the wildcard, damaged leaf":     {wild, "x/y.pem", flip(issue(exact, false)), unsigned},
		"beside the wildcard, no chain":         {wild, "x/y.pem", nil, lacks},
		"RSA, damaged leaf":                     {good, "x/x.pem", flip(issue(exact, true)), unsigned},
		"wildcard for the name, damaged leaf":   {good, "x/x.pem", flip(issue(star, false)), unsigned},
		"RSA wildcard in a file, damaged leaf":  {good, "x/y.pem", flip(issue(star, true)), unsigned},
		"several names, of which one is served": {good, "x/y.pem", flip(issue([]string{"b.example2.com", "a.example1.com"}, false)), unsigned},
	} {
		t.Run(what, func(t *testing.T) {
			d := newDir(t)
			d.put(t, "x/x.pem", row.before.PEM())
			s := d.open(t)
			data := row.data
			switch {
			case data == nil:
				p := issue(exact, false)
				data = cat(minica.CertPEM(p.Cert), p.KeyPEM())
			case !bytes.Contains(data, []byte("PRIVATE KEY")):
				p := issue(exact, false)
				data = cat(minica.CertPEM(p.Cert), fake, p.KeyPEM())
			}
			d.put(t, row.file, data)
			for range 2 {
				reload(t, s)
				wantServed(t, s, "a.example1.com", row.before)
				wantProblems(t, s, row.want)
			}
			if row.file == "x/x.pem" {
				return // after a restart it is the only one
			}
			again := d.open(t)
			wantServed(t, again, "a.example1.com", row.before)
			wantProblems(t, again, row.want)
			d.put(t, row.file, issue(exact, false).PEM())
			reload(t, s)
			wantProblems(t, s)
		})
	}
	for what, data := range map[string][]byte{
		"RSA without a chain":        cat(minica.CertPEM(issue(exact, true).Cert), issue(exact, true).KeyPEM()),
		"a wildcard without a chain": nil,
	} {
		t.Run("the same file, "+what, func(t *testing.T) {
			if data == nil {
				p := issue(star, false)
				data = cat(minica.CertPEM(p.Cert), p.KeyPEM())
			}
			d := newDir(t)
			d.put(t, "x.pem", good.PEM())
			s := d.open(t)
			d.put(t, "x.pem", data)
			reload(t, s)
			wantServed(t, s, "a.example1.com", good)
			wantProblems(t, s, lacks)
		})
	}
	t.Run("the good one comes second", func(t *testing.T) {
		d := newDir(t)
		bad := issue(exact, false)
		d.put(t, "y/y.pem", minica.CertPEM(bad.Cert), bad.KeyPEM())
		s := d.open(t)
		wantServed(t, s, "a.example1.com", bad)
		d.put(t, "x/x.pem", good.PEM())
		for _, s := range []*Store{s, d.open(t)} {
			reload(t, s)
			wantServed(t, s, "a.example1.com", good)
			wantProblems(t, s, lacks)
		}
	})
	t.Run("ECDSA from one CA and RSA from another", func(t *testing.T) {
		d := newDir(t)
		two := system.Intermediate("RSA CA").IssueSpec(minica.Spec{Names: exact, Key: rsaKey()})
		d.put(t, "x/x.pem", good.PEM())
		s := d.open(t)
		d.put(t, "x/y.pem", two.PEM())
		reload(t, s)
		wantProblems(t, s)
	})
}
