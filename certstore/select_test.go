package certstore

import (
	"crypto/x509"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/demo/minica"
)

// Each row is better than all rows below it. The answer depends neither on the
// names of the files nor on the order in which they are found.
func TestWhichOfSeveral(t *testing.T) {
	day := func(n int) time.Time { return time.Now().AddDate(0, 0, n) }
	spec := func(name string, from, to int) minica.Spec {
		return minica.Spec{Names: []string{name}, NotBefore: day(from), NotAfter: day(to)}
	}
	exact, wild := "a.example1.com", "*.example1.com"
	rows := []struct {
		what string
		pair *minica.Pair
		why  string // in comparison with the next row
	}{
		{"later expiry", ca.IssueSpec(spec(exact, -1, 80)), "expires later"},
		{"earlier expiry", ca.IssueSpec(spec(exact, -1, 40)), "has the exact name, the other a wildcard"},
		{"a wildcard of a CA", ca.IssueSpec(spec(wild, -1, 90)), "from a CA, the other is self-signed"},
		{"self-signed", minica.SelfSigned(spec(exact, -1, 100)), "valid, the other is not yet valid"},
		{"not yet valid", ca.IssueSpec(spec(exact, 10, 100)), "expires later"},
		{"expired lately", ca.IssueSpec(spec(exact, -100, -1)), "expires later"},
		{"expired long ago", ca.IssueSpec(spec(exact, -200, -100)), "from a CA, the other is self-signed"},
		{"expired and self-signed", minica.SelfSigned(spec(exact, -300, -5)), ""},
	}
	for i := range rows {
		d := newDir(t)
		for n, j := range rand.Perm(len(rows) - i) {
			d.put(t, string(rune('a'+n))+".pem", rows[i+j].pair.PEM())
		}
		s := d.open(t)
		if got := served(t, s, exact); !got.Equal(rows[i].pair.Cert) {
			t.Errorf("of the rows from %q on, another one was served", rows[i].what)
		}
		if i == len(rows)-1 {
			break
		}
		next := candidate{certOf(t, rows[i+1].pair), strings.HasPrefix(rows[i+1].pair.Cert.DNSNames[0], "*")}
		this := candidate{certOf(t, rows[i].pair), strings.HasPrefix(rows[i].pair.Cert.DNSNames[0], "*")}
		if order, why := prefer(this, next, time.Now()); order >= 0 || why != rows[i].why {
			t.Errorf("%q over %q: %d, %q; want it before, %q", rows[i].what, rows[i+1].what, order, why, rows[i].why)
		}
		if order, why := prefer(next, this, time.Now()); order <= 0 || why != rows[i].why {
			t.Errorf("%q over %q, the other way round: %d, %q", rows[i].what, rows[i+1].what, order, why)
		}
	}
}

func certOf(t *testing.T, p *minica.Pair) *certificate {
	c, err := fromTLS(SourceDirectory, p.TLS())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A valid certificate of a later family wins over an expired one.
func TestValidRSAOverExpiredECDSA(t *testing.T) {
	d := newDir(t)
	r := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: rsaKey()})
	d.put(t, "rsa.pem", r.PEM())
	d.put(t, "ec.pem", ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().Add(-time.Minute)}).PEM())
	wantServed(t, d.open(t), "example1.com", r)
}

// Certificates reports which certificate is served for each name and key type,
// and why.
func TestCertificatesSaysWhy(t *testing.T) {
	trustOnly(t, root)
	d := newDir(t)
	later := ca.IssueSpec(minica.Spec{Names: []string{"example1.com", "*.example1.com"}, NotAfter: time.Now().AddDate(0, 0, 80)})
	d.put(t, "new.pem", later.PEM())
	d.put(t, "old.pem", ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().AddDate(0, 0, 8)}).PEM())
	d.put(t, "rsa.pem", ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: rsaKey()}).PEM())
	d.put(t, "self.pem", minica.SelfSigned(minica.Spec{Names: []string{"a.example1.com"}}).PEM())
	d.put(t, "cn.pem", minica.SelfSigned(minica.Spec{Names: []string{"example2.com"}, Edit: noSAN}).PEM())
	s := d.open(t)
	if err := s.Install(SourceACME, "example3.com", ca.Issue("example3.com").TLS()); err != nil {
		t.Fatal(err)
	}
	type row struct{ name, source, file, kind, state, why string }
	var got []row
	for e := range s.Certificates() {
		file := e.File
		if file != "" {
			file = file[len(d)+1:]
		}
		if chosen := !strings.Contains(e.Why, "goes first"); e.Chosen != chosen {
			t.Errorf("%+v: Chosen = %t", e, e.Chosen)
		}
		got = append(got, row{e.Name, e.Source, file, e.KeyType, e.State, strings.ReplaceAll(e.Why, baseName(string(d))+"/", "")})
	}
	want := []row{
		{"example1.com", "directory", "new.pem", "ECDSA P-256", "ok", "before old.pem: expires later"},
		{"example1.com", "directory", "old.pem", "ECDSA P-256", "ok", "new.pem goes first: expires later"},
		{"example1.com", "directory", "rsa.pem", "RSA 2048", "ok", "the only one for this name and key type"},
		{"*.example1.com", "directory", "new.pem", "ECDSA P-256", "ok", "the only one for this name and key type"},
		{"a.example1.com", "directory", "self.pem", "ECDSA P-256", "ok", "new.pem goes first: from a CA, the other is self-signed"},
		{"example2.com", "directory", "cn.pem", "ECDSA P-256", "ok", "the only one for this name and key type; the name is only its common name, which browsers do not accept"},
		{"example3.com", "acme", "", "ECDSA P-256", "ok", "the only one for this name and key type"},
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("row %d:\n got %q\nwant %q", i, got[i:min(i+1, len(got))], want[i:min(i+1, len(want))])
		}
	}
	if issuer := slices.Collect(s.Certificates())[0].Issuer; issuer != "wssgate test Test CA 1" {
		t.Errorf("Issuer = %q", issuer)
	}
}

// An issuer's name is shown on one line and without terminal escapes. Otherwise
// a certificate could add rows to the list.
func TestIssuerIsPrintable(t *testing.T) {
	d := newDir(t)
	d.put(t, "a.pem", minica.NewCA("CA \x1b[31m\tA\nexample2.com").Issue("example1.com").PEM())
	if got, want := slices.Collect(d.open(t).Certificates())[0].Issuer, "wssgate test CA \uFFFD[31m A example2.com"; got != want {
		t.Errorf("Issuer = %q, want %q", got, want)
	}
}

func baseName(path string) string { return path[strings.LastIndexByte(path, os.PathSeparator)+1:] }

// Between equal certificates, the answer stays the same.
func TestEqualCertificatesGiveTheSameAnswer(t *testing.T) {
	from, to := time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(time.Hour).Truncate(time.Second)
	d := newDir(t)
	var first *minica.Pair
	for i := range 6 {
		p := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotBefore: from, NotAfter: to})
		d.put(t, string(rune('a'+i))+".pem", p.PEM())
		if i == 0 {
			first = p
		}
	}
	for range 10 {
		wantServed(t, d.open(t), "example1.com", first)
	}
}

// At most maxParsed certificates stay parsed, whatever clients request, and
// each answer is the right one.
func TestParsedAreBounded(t *testing.T) {
	var s Store
	var all []*certificate
	p := ca.Issue("example1.com")
	parts, err := newReader().parse("", "x.pem", p.PEM())
	if err != nil {
		t.Fatal(err)
	}
	for range maxParsed + 100 {
		all = append(all, parts[0].(*certificate).copy())
	}
	hot, err := s.cache.get(all[0])
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, c := range all {
			cert, err := s.cache.get(c)
			if err != nil || string(cert.Certificate[0]) != string(p.Cert.Raw) {
				t.Fatalf("get = %v, %v", cert, err)
			}
			if cert, _ := s.cache.get(all[0]); cert != hot {
				t.Fatal("the one that is asked for all the time was dropped")
			}
		}
	}
	ready := 0
	for _, c := range all {
		if c.parsed.Load() != nil {
			ready++
		}
	}
	if ready > maxParsed || ready < maxParsed/2 {
		t.Errorf("%d are ready, want at most %d", ready, maxParsed)
	}
}

// A replaced certificate does not stay parsed: it would retain its key and the
// chunk that contains both.
func TestReplacedAreNotKept(t *testing.T) {
	d := newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	d.put(t, "b.pem", ca.Issue("example2.com").PEM())
	s := d.open(t)
	ready := func() (n int) {
		s.cache.mu.Lock()
		defer s.cache.mu.Unlock()
		for _, c := range s.cache.ring {
			if c.parsed.Load() != nil {
				n++
			}
		}
		return n
	}
	for range 3 {
		for _, name := range []string{"example1.com", "example2.com"} {
			if cert, err := s.GetCertificate(hello(name)); cert == nil || err != nil {
				t.Fatal(cert, err)
			}
		}
		if n := ready(); n != 2 {
			t.Errorf("%d are ready, want 2", n)
		}
		d.put(t, "a.pem", ca.Issue("example1.com").PEM())
		reload(t, s)
		if n := ready(); n != 1 {
			t.Errorf("%d are ready after a change of the other, want 1", n)
		}
	}
}

// A handshake whose certificate is parsed does not allocate here.
func TestGetCertificateAllocatesNothing(t *testing.T) {
	d := newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com", "*.example1.com").PEM())
	s := d.open(t)
	for _, name := range []string{"example1.com", "chat.example1.com", "example2.com", ""} {
		h := hello(name)
		if n := testing.AllocsPerRun(100, func() { s.GetCertificate(h) }); n != 0 {
			t.Errorf("GetCertificate(%q): %v allocations, want 0", name, n)
		}
	}
}

func BenchmarkGetCertificate(b *testing.B) {
	d := newDir(b)
	d.put(b, "a.pem", ca.Issue("example1.com").PEM())
	d.put(b, "b.pem", ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: rsaKey()}).PEM())
	d.put(b, "c.pem", ca.Issue("example2.com").PEM())
	s := d.open(b)
	for _, name := range []string{"example1.com", "example2.com"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			h := hello(name)
			for b.Loop() {
				if cert, err := s.GetCertificate(h); cert == nil || err != nil {
					b.Fatal(cert, err)
				}
			}
		})
	}
}

// noSAN leaves only the common name, as in very old certificates.
func noSAN(c *x509.Certificate) { c.DNSNames = nil }
