package certstore

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"wssgate/demo/minica"
)

// respond signs an OCSP response for p that is fresh between two times relative
// to now.
func respond(t *testing.T, p *minica.Pair, signer *minica.CA, status int, from, until time.Duration) []byte {
	t.Helper()
	r := ocsp.Response{Status: status, SerialNumber: p.Cert.SerialNumber, ThisUpdate: time.Now().Add(from), RevokedAt: time.Now().Add(from)}
	if until != 0 {
		r.NextUpdate = time.Now().Add(until)
	}
	der, err := ocsp.CreateResponse(signer.Cert, signer.Cert, r, signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func stapled(t *testing.T, s *Store, name string) []byte {
	t.Helper()
	state, err := handshake(s, &tls.Config{ServerName: name, RootCAs: root.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	return state.OCSPResponse
}

// If a file has two certificates, a response for one of them is not a problem.
// The other one may use the second name that a response can have.
func TestStapleForOneOfTwo(t *testing.T) {
	ec, r := ca.Issue("example1.com"), ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: rsaKey()})
	for _, first := range []*minica.Pair{ec, r} {
		other := ec
		if first == ec {
			other = r
		}
		d := newDir(t)
		d.put(t, "x.pem", ec.PEM(), r.PEM())
		d.put(t, "x.ocsp", respond(t, first, ca, ocsp.Good, -time.Hour, time.Hour))
		s := d.open(t)
		staples := func() (n int) {
			wantProblems(t, s)
			for e := range s.Certificates() {
				if e.Staple {
					n++
				}
			}
			return n
		}
		if n := staples(); n != 1 {
			t.Errorf("%d certificates with a staple, want 1", n)
		}
		d.put(t, "x.pem.ocsp", respond(t, other, ca, ocsp.Good, -time.Hour, time.Hour))
		reload(t, s)
		if n := staples(); n != 2 {
			t.Errorf("%d certificates with a staple, want 2", n)
		}
	}
}

// A fresh response beside the PEM file is served with the certificate. It may
// be added, renewed and removed independently.
func TestStapleBesideThePEM(t *testing.T) {
	p := ca.Issue("example1.com")
	first := respond(t, p, ca, ocsp.Good, -time.Hour, time.Hour)
	second := respond(t, p, ca, ocsp.Good, -time.Minute, time.Hour)
	for pemFile, staple := range map[string]string{
		"example1.com.pem":                "example1.com.ocsp",
		"tls.crt":                         "tls.ocsp",
		"live/example1.com/fullchain.pem": "live/example1.com/fullchain.ocsp",
		"x.pem":                           "x.pem.ocsp",
	} {
		d := newDir(t)
		d.put(t, pemFile, p.PEM())
		s := d.open(t)
		if got := stapled(t, s, "example1.com"); got != nil {
			t.Errorf("%s: a staple out of nowhere", pemFile)
		}
		for _, want := range [][]byte{first, second} {
			d.put(t, staple, want)
			reload(t, s)
			if got := stapled(t, s, "example1.com"); !bytes.Equal(got, want) {
				t.Errorf("%s: got a staple of %d bytes, want that from %s", pemFile, len(got), staple)
			}
			if !slices.Collect(s.Certificates())[0].Staple {
				t.Errorf("%s: Staple = false", pemFile)
			}
		}
		cert, _ := s.GetCertificate(hello("example1.com"))
		d.put(t, "new.pem", ca.Issue("example2.com").PEM())
		d.put(t, pemFile, p.PEM(), []byte("\n"))
		reload(t, s)
		if again, _ := s.GetCertificate(hello("example1.com")); string(again.Certificate[0]) != string(cert.Certificate[0]) || !bytes.Equal(again.OCSPStaple, second) {
			t.Errorf("%s: staple lost in a reload", pemFile)
		}
		d.remove(t, staple)
		reload(t, s)
		if got := stapled(t, s, "example1.com"); got != nil {
			t.Errorf("%s: a staple that was removed is still served", pemFile)
		}
		wantProblems(t, s)
	}
}

// A response that clients would reject is reported and not served. The
// certificate is served without it.
func TestBadStapleIsLeftOut(t *testing.T) {
	p := ca.Issue("example1.com")
	for name, row := range map[string]struct {
		response []byte
		want     []string
	}{
		"garbage":         {[]byte("not DER"), []string{"OCSP response: "}},
		"another's":       {respond(t, ca.Issue("example2.com"), ca, ocsp.Good, -time.Hour, time.Hour), []string{"no response matching"}},
		"an alien signer": {respond(t, p, minica.NewCA("Alien"), ocsp.Good, -time.Hour, time.Hour), []string{"OCSP response: "}},
		"revoked":         {respond(t, p, ca, ocsp.Revoked, -time.Hour, time.Hour), []string{"the certificate was revoked "}},
		"unknown":         {respond(t, p, ca, ocsp.Unknown, -time.Hour, time.Hour), []string{"status is neither good nor revoked"}},
		"endless":         {respond(t, p, ca, ocsp.Good, -time.Hour, 0), []string{"has no nextUpdate"}},
		"stale":           {respond(t, p, ca, ocsp.Good, -2*time.Hour, -time.Hour), nil},
		"not yet fresh":   {respond(t, p, ca, ocsp.Good, time.Hour, 2*time.Hour), nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			d.put(t, "x.pem", p.PEM())
			d.put(t, "x.ocsp", row.response)
			s := d.open(t)
			if got := stapled(t, s, "example1.com"); got != nil {
				t.Error("it was served")
			}
			wantProblems(t, s, row.want...)
		})
	}
}

// An expired staple is no longer served, without a reload.
func TestStapleEnds(t *testing.T) {
	p := ca.Issue("example1.com")
	c, err := fromTLS(SourceDirectory, p.TLS())
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	c.pinned, c.key = nil, onHeap(key)
	c.staple = &staple{response: []byte("x"), from: time.Now().Unix() - 10, until: time.Now().Unix() + 10}
	var k cache
	if cert, err := k.get(c); err != nil || cert.OCSPStaple == nil {
		t.Fatalf("get = %v, %v; want it with its staple", cert, err)
	}
	c.staple.until = time.Now().Unix() - 1
	c.parsed.Load().until = c.staple.until
	for range 2 {
		if cert, err := k.get(c); err != nil || cert.OCSPStaple != nil {
			t.Fatalf("get = %v, %v; want it without its staple", cert, err)
		}
	}
	if len(k.ring) != 1 {
		t.Errorf("%d in the cache, want 1", len(k.ring))
	}
}
