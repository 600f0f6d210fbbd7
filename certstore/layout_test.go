package certstore

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unique"

	"wssgate/demo/minica"
	"wssgate/watch"
)

// oneLine writes the base64 of each block on one line, as some of Tigase's
// files do.
func oneLine(data []byte) []byte {
	var out bytes.Buffer
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		out.WriteString("-----BEGIN " + block.Type + "-----\n" +
			base64.StdEncoding.EncodeToString(block.Bytes) + "\n-----END " + block.Type + "-----\n")
	}
	return out.Bytes()
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// Whatever the order of the blocks and the form of the key, the leaf is found,
// the chain is in order, and the root is omitted.
func TestOneFileInAnyOrder(t *testing.T) {
	lower := ca.Intermediate("Test CA 2")
	ec := lower.Issue("example1.com")
	r := lower.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: rsaKey()})
	for _, p := range []*minica.Pair{ec, r} {
		leaf, one, two, top := minica.CertPEM(p.Cert), minica.CertPEM(lower.Cert), minica.CertPEM(ca.Cert), root.RootPEM()
		for name, data := range map[string][]byte{
			"leaf first":           cat(leaf, one, two, top, p.KeyPEM()),
			"key first":            cat(p.KeyPEM(), leaf, one, two),
			"Tigase's":             cat(leaf, p.KeyPEMClassic(), one, two, top),
			"upside down":          cat(top, two, one, leaf, p.KeyPEMClassic()),
			"shuffled":             cat(two, p.KeyPEM(), top, leaf, one),
			"root twice":           cat(top, leaf, top, two, one, p.KeyPEM()),
			"an alien CA":          cat(minica.NewCA("Alien").RootPEM(), leaf, one, two, p.KeyPEM()),
			"one line":             oneLine(cat(leaf, p.KeyPEM(), one, two, top)),
			"CRLF":                 bytes.ReplaceAll(cat(leaf, one, two, p.KeyPEM()), []byte("\n"), []byte("\r\n")),
			"no line end between":  bytes.ReplaceAll(cat(leaf, one, two, p.KeyPEM()), []byte("-----\n-----"), []byte("----------")),
			"text around":          cat([]byte("Bag Attributes\n    friendlyName: x\n"), leaf, []byte("subject=/CN=x\n"), one, two, p.KeyPEM(), []byte("bye")),
			"with EC parameters":   cat(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}}), p.KeyPEMClassic(), leaf, one, two),
			"byte order mark":      cat([]byte("\xef\xbb\xbf"), leaf, one, two, p.KeyPEM()),
			"tabs in front":        bytes.ReplaceAll(cat(leaf, one, two, p.KeyPEM()), []byte("\nM"), []byte("\n\tM")),
			"no line end at end":   bytes.TrimSpace(cat(leaf, one, two, p.KeyPEM())),
			"leaf twice":           cat(leaf, leaf, one, two, p.KeyPEM()),
			"both intermediates 2": cat(leaf, one, one, two, two, p.KeyPEM()),
		} {
			t.Run(name, func(t *testing.T) {
				d := newDir(t)
				d.put(t, "x.pem", data)
				s := d.open(t)
				wantProblems(t, s)
				if rows := slices.Collect(s.Certificates()); len(rows) != 1 {
					t.Errorf("%d rows, want 1: %+v", len(rows), rows)
				}
				state, err := handshake(s, trusting("example1.com"))
				if err != nil {
					t.Fatal(err)
				}
				got := state.PeerCertificates
				if len(got) != 3 || !got[0].Equal(p.Cert) || !got[1].Equal(lower.Cert) || !got[2].Equal(ca.Cert) {
					t.Errorf("chain has %d certificates, want leaf, Test CA 2, Test CA 1", len(got))
				}
			})
		}
	}
}

// A leaf signed by its root needs no chain. A self-signed one has no chain.
func TestShortChains(t *testing.T) {
	d := newDir(t)
	direct := root.Issue("example1.com")
	d.put(t, "direct.pem", minica.CertPEM(direct.Cert), root.RootPEM(), direct.KeyPEM())
	self := minica.SelfSigned(minica.Spec{Names: []string{"example2.com"}})
	d.put(t, "self.pem", self.PEM())
	s := d.open(t)
	wantProblems(t, s)
	for _, name := range []string{"example1.com", "example2.com"} {
		cert, err := s.GetCertificate(hello(name))
		if err != nil || cert == nil || len(cert.Certificate) != 1 {
			t.Errorf("GetCertificate(%q) = %v, %v; want the leaf alone", name, cert, err)
		}
	}
}

// "openssl req -x509" makes a CA's certificate that has only a common name. It
// is a leaf in each file that contains it, even if it was seen before as an
// issuer: in another folder, or in an earlier version of the file.
func TestSelfSignedCAIsALeafEverywhere(t *testing.T) {
	p := minica.SelfSigned(minica.Spec{Names: []string{"example1.com"}, Edit: func(c *x509.Certificate) {
		c.DNSNames, c.IsCA, c.BasicConstraintsValid = nil, true, true
	}})
	d := newDir(t)
	for _, dir := range []string{"one", "two"} {
		d.put(t, dir+"/tls.crt", p.ChainPEM())
		d.put(t, dir+"/tls.key", p.KeyPEM())
	}
	d.put(t, "old.pem", p.PEM())
	s := d.open(t)
	wantProblems(t, s)
	if rows := slices.Collect(s.Certificates()); len(rows) != 3 {
		t.Errorf("%d rows, want one for each file: %+v", len(rows), rows)
	}
	d.remove(t, "one")
	d.remove(t, "two")
	old := filepath.Join(string(d), "old.pem")
	if err := os.Rename(old, filepath.Join(string(d), "new.pem")); err != nil {
		t.Fatal(err)
	}
	s.look(t.Context(), nil, watch.Changes{Names: map[string]bool{
		filepath.Join(string(d), "one"): true, filepath.Join(string(d), "two"): true,
		old: true, filepath.Join(string(d), "new.pem"): true,
	}, Recheck: true})
	wantProblems(t, s)
	wantServed(t, s, "example1.com", p)
}

// An issuer that many files contain is stored once, whenever each file was
// read. Otherwise a folder with ten thousand chains would be searched for each
// leaf in it, and each renewal would allocate memory again.
func TestIssuersAreHeldOnce(t *testing.T) {
	d := newDir(t)
	put := func(name string) {
		p := ca.Issue(name)
		d.put(t, name+".crt", p.ChainPEM())
		d.put(t, name+".key", p.KeyPEM())
	}
	put("example1.com")
	put("example2.com")
	s := d.open(t)
	put("example1.com")
	reload(t, s)
	put("example3.com")
	reload(t, s)
	wantProblems(t, s)
	parts, from := 0, issuers{}
	for _, file := range s.tree.folders[string(d)].files {
		for _, part := range file.parts {
			if i, ok := part.(unique.Handle[issuer]); ok {
				parts++
				from.add(i)
			}
		}
	}
	held := 0
	for _, same := range from {
		held += len(same)
	}
	if parts != 3 || held != 1 {
		t.Errorf("%d issuers in 3 files are %d, want 3 and 1", parts, held)
	}
}

// The layouts of certbot, lego and Kubernetes work, with the other files that
// each of them writes.
func TestLayouts(t *testing.T) {
	p := ca.Issue("example1.com")
	leaf, chain := minica.CertPEM(p.Cert), minica.CertPEM(ca.Cert)
	expired := ca.Issue("example1.com") // what certbot served before
	for name, lay := range map[string]func(d dir) (file, keyFile string){
		"certbot": func(d dir) (string, string) {
			d.put(t, "accounts/acme/private_key.json", []byte("{}"))
			d.put(t, "keys/0000_key-certbot.pem", ca.Issue("x.example").KeyPEM())
			d.put(t, "archive/example1.com/cert1.pem", minica.CertPEM(expired.Cert))
			d.put(t, "archive/example1.com/privkey1.pem", expired.KeyPEM())
			d.put(t, "archive/example1.com/cert2.pem", leaf)
			d.put(t, "archive/example1.com/chain2.pem", chain)
			d.put(t, "archive/example1.com/fullchain2.pem", leaf, chain)
			d.put(t, "archive/example1.com/privkey2.pem", p.KeyPEM())
			d.put(t, "live/README", []byte("This directory contains your keys and certificates."))
			for _, f := range []string{"cert", "chain", "fullchain", "privkey"} {
				d.link(t, "../../archive/example1.com/"+f+"2.pem", "live/example1.com/"+f+".pem")
			}
			return "live/example1.com/fullchain.pem", "live/example1.com/privkey.pem"
		},
		"certbot without fullchain": func(d dir) (string, string) {
			d.put(t, "example1.com/cert.pem", leaf)
			d.put(t, "example1.com/chain.pem", chain)
			d.put(t, "example1.com/privkey.pem", p.KeyPEM())
			return "example1.com/cert.pem", "example1.com/privkey.pem"
		},
		"lego": func(d dir) (string, string) {
			d.put(t, "example1.com.crt", leaf, chain)
			d.put(t, "example1.com.issuer.crt", chain)
			d.put(t, "example1.com.key", p.KeyPEMClassic())
			d.put(t, "example1.com.json", []byte("{}"))
			return "example1.com.crt", "example1.com.key"
		},
		"lego without bundle": func(d dir) (string, string) {
			d.put(t, "example1.com.crt", leaf)
			d.put(t, "example1.com.issuer.crt", chain)
			d.put(t, "example1.com.key", p.KeyPEMClassic())
			return "example1.com.crt", "example1.com.key"
		},
		"Kubernetes": func(d dir) (string, string) {
			d.put(t, "vhost1/..2026_03_01/tls.crt", leaf, chain)
			d.put(t, "vhost1/..2026_03_01/tls.key", p.KeyPEM())
			d.put(t, "vhost1/..2026_03_01/ca.crt", root.RootPEM())
			d.link(t, "..2026_03_01", "vhost1/..data")
			for _, f := range []string{"tls.crt", "tls.key", "ca.crt"} {
				d.link(t, "..data/"+f, "vhost1/"+f)
			}
			return "vhost1/tls.crt", "vhost1/tls.key"
		},
		"a projected volume": func(d dir) (string, string) {
			d.put(t, "..2026_03_01/vhost1/tls.crt", leaf, chain)
			d.put(t, "..2026_03_01/vhost1/tls.key", p.KeyPEM())
			d.link(t, "..2026_03_01", "..data")
			d.link(t, "..data/vhost1", "vhost1")
			return "vhost1/tls.crt", "vhost1/tls.key"
		},
		"HAProxy's bundle": func(d dir) (string, string) {
			d.put(t, "example1.com.pem.ecdsa", leaf, chain, p.KeyPEM())
			d.put(t, "example1.com.pem.issuer", chain)
			d.put(t, "example1.com.pem.sctl", []byte("x"))
			return "example1.com.pem.ecdsa", "example1.com.pem.ecdsa"
		},
		"HAProxy's with the key and the issuer beside it": func(d dir) (string, string) {
			d.put(t, "example1.com.pem", leaf)
			d.put(t, "example1.com.pem.key", p.KeyPEM())
			d.put(t, "example1.com.pem.issuer", chain)
			return "example1.com.pem", "example1.com.pem.key"
		},
		"acme.sh": func(d dir) (string, string) {
			d.put(t, "account.conf", []byte("x"))
			d.put(t, "ca/acme-v02.api.letsencrypt.org/directory/account.key", expired.KeyPEM())
			d.put(t, "ca/acme-v02.api.letsencrypt.org/directory/account.json", []byte("{}"))
			d.put(t, "ca/acme-v02.api.letsencrypt.org/directory/ca.conf", []byte("x"))
			d.put(t, "dnsapi/dns_x.sh", []byte("#!/usr/bin/env sh\n"))
			d.put(t, "example1.com_ecc/ca.cer", chain)
			d.put(t, "example1.com_ecc/example1.com.cer", leaf)
			d.put(t, "example1.com_ecc/example1.com.conf", []byte("x"))
			d.put(t, "example1.com_ecc/example1.com.csr", block1("CERTIFICATE REQUEST", request(t, p)))
			d.put(t, "example1.com_ecc/example1.com.csr.conf", []byte("x"))
			d.put(t, "example1.com_ecc/example1.com.key", p.KeyPEMClassic())
			d.put(t, "example1.com_ecc/fullchain.cer", leaf, chain)
			return "example1.com_ecc/example1.com.cer", "example1.com_ecc/example1.com.key"
		},
		"Caddy": func(d dir) (string, string) {
			const ca = "acme-v02.api.letsencrypt.org-directory"
			d.put(t, "acme/"+ca+"/users/a@b.example/a.json", []byte("{}"))
			d.put(t, "acme/"+ca+"/users/a@b.example/a.key", expired.KeyPEMClassic())
			d.put(t, "certificates/"+ca+"/example1.com/example1.com.crt", leaf, chain)
			d.put(t, "certificates/"+ca+"/example1.com/example1.com.json", []byte("{}"))
			d.put(t, "certificates/"+ca+"/example1.com/example1.com.key", p.KeyPEMClassic())
			d.put(t, "instance.uuid", []byte("x"))
			d.put(t, "last_clean.json", []byte("{}"))
			d.put(t, "locks/issue_cert_example1.com.lock", []byte("{}"))
			d.put(t, "ocsp/example1.com-1234abcd", []byte{0x30, 3, 10, 1, 0})
			d.put(t, "pki/authorities/local/intermediate.crt", minica.CertPEM(root.Intermediate("Caddy").Cert))
			d.put(t, "pki/authorities/local/root.crt", root.RootPEM())
			d.put(t, "pki/authorities/local/root.key", (&minica.Pair{Key: root.Key}).KeyPEMClassic())
			return "certificates/" + ca + "/example1.com/example1.com.crt", "certificates/" + ca + "/example1.com/example1.com.key"
		},
		"Plesk": func(d dir) (string, string) {
			d.put(t, "scf8o0f5undfqvj1wFzw8e", p.KeyPEM(), leaf)
			d.put(t, "scfqdiDyQ", chain)
			d.put(t, "cert-aB3dE9", block1("CERTIFICATE REQUEST", request(t, p)))
			return "scf8o0f5undfqvj1wFzw8e", "scf8o0f5undfqvj1wFzw8e"
		},
		"cPanel's domains": func(d dir) (string, string) {
			d.put(t, ".pending_delete/example9.com", nil)
			d.put(t, "example1.com/certificates", leaf, chain)
			d.put(t, "example1.com/combined", p.KeyPEMClassic(), leaf, chain)
			return "example1.com/combined", "example1.com/combined"
		},
		"cPanel's accounts": func(d dir) (string, string) {
			d.put(t, "certs/example1_com_aa_bb_1.crt", leaf, chain)
			d.put(t, "certs/example1_com_aa_bb_1.crt.cache", []byte("x"))
			d.put(t, "csrs/example1_com_aa.csr", block1("CERTIFICATE REQUEST", request(t, p)))
			d.put(t, "keys/aa_bb.key", p.KeyPEMClassic())
			d.put(t, "ssl.db", []byte("---\n"))
			return "certs/example1_com_aa_bb_1.crt", "keys/aa_bb.key"
		},
		"easy-rsa": func(d dir) (string, string) {
			d.put(t, "ca.crt", chain)
			d.put(t, "private/ca.key", (&minica.Pair{Key: ca.Key}).KeyPEM())
			d.put(t, "issued/example1.com.crt", []byte("Certificate:\n    Data:\n"), leaf, chain)
			d.put(t, "private/example1.com.key", p.KeyPEM())
			d.put(t, "reqs/example1.com.req", block1("CERTIFICATE REQUEST", request(t, p)))
			d.put(t, "serial", []byte("01\n"))
			return "issued/example1.com.crt", "private/example1.com.key"
		},
		"dehydrated": func(d dir) (string, string) {
			d.put(t, "accounts/aHR0cHM6/account_key.pem", expired.KeyPEM())
			d.put(t, "accounts/aHR0cHM6/registration_info.json", []byte("{}"))
			d.put(t, "domains.txt", []byte("example1.com\n"))
			for name, data := range map[string][]byte{"cert": leaf, "chain": chain, "fullchain": cat(leaf, chain), "privkey": p.KeyPEM()} {
				d.put(t, "certs/example1.com/"+name+"-1700000000.pem", data)
				d.link(t, name+"-1700000000.pem", "certs/example1.com/"+name+".pem")
			}
			d.put(t, "certs/example1.com/cert-1700000000.csr", block1("CERTIFICATE REQUEST", request(t, p)))
			return "certs/example1.com/fullchain.pem", "certs/example1.com/privkey-1700000000.pem"
		},
		"acmetool": func(d dir) (string, string) {
			d.put(t, "accounts/acme-v02.api.letsencrypt.org%2fdirectory/aaaa/privkey", expired.KeyPEM())
			d.put(t, "certs/bbbb/cert", leaf)
			d.put(t, "certs/bbbb/chain", chain)
			d.put(t, "certs/bbbb/fullchain", leaf, chain)
			d.put(t, "certs/bbbb/url", []byte("https://ca.example/1\n"))
			d.put(t, "keys/cccc/privkey", p.KeyPEM())
			d.link(t, "../../keys/cccc/privkey", "certs/bbbb/privkey")
			d.put(t, "conf/target", []byte("request:\n"))
			d.put(t, "desired/example1.com", nil)
			d.link(t, "../certs/bbbb", "live/example1.com")
			return "certs/bbbb/cert", "certs/bbbb/privkey"
		},
		"links that go round": func(d dir) (string, string) {
			d.put(t, "a/tls.crt", leaf, chain)
			d.put(t, "a/tls.key", p.KeyPEM())
			d.link(t, "..", "a/round")
			d.link(t, ".", "a/self")
			return "a/tls.crt", "a/tls.key"
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			file, keyFile := lay(d)
			s := d.open(t)
			wantProblems(t, s)
			if _, err := handshake(s, trusting("example1.com")); err != nil {
				t.Error(err)
			}
			rows := slices.Collect(s.Certificates())
			if len(rows) != 1 {
				t.Fatalf("%d rows, want 1: %+v", len(rows), rows)
			}
			if got, want := rows[0].File, filepath.Join(string(d), file); got != want {
				t.Errorf("File = %q, want %q", got, want)
			}
			if got, want := rows[0].KeyFile, filepath.Join(string(d), keyFile); got != want {
				t.Errorf("KeyFile = %q, want %q", got, want)
			}
		})
	}
}

// link creates a symlink and its folder. It replaces an existing file
// atomically.
func (d dir) link(t testing.TB, target, name string) {
	t.Helper()
	path := filepath.Join(string(d), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(filepath.Dir(path), "..new")
	if err := os.Symlink(target, tmp); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// The target of a link is found with few system calls, and agrees with
// EvalSymlinks.
func TestTargetOfALink(t *testing.T) {
	d := newDir(t)
	away := newDir(t)
	for _, name := range []string{"live/x.pem", "archive/x.pem", "archive/deep/x.pem", "x.pem"} {
		d.put(t, name, nil)
	}
	away.put(t, "folder/x.pem", nil)
	away.put(t, "x.pem", nil)
	d.link(t, string(away)+"/folder", "live/via")
	d.link(t, "archive/deep", "shortcut")
	d.link(t, "live", "alias")
	links := []string{
		"x.pem", "./x.pem", "../archive/x.pem", "../archive//deep/../x.pem",
		"via/x.pem", "via/../x.pem", // the latter is beside the target's folder
		"../shortcut/x.pem", string(away) + "/x.pem", "/../" + string(away) + "/folder/x.pem",
		"../x.pem", "0.pem", "via", "missing.pem", "missing/x.pem", "x.pem/x.pem",
	}
	for i, link := range links {
		d.link(t, link, "live/"+string(rune('0'+i))+".pem")
	}
	f := &folder{path: filepath.Join(string(d), "alias"), real: filepath.Join(string(d), "live")}
	tree := newTree(string(d), nil)
	var last way
	for range 2 { // from one link to the next, and from the last one to the first
		for i, link := range links {
			name := string(rune('0'+i)) + ".pem"
			want := ""
			if real, err := filepath.EvalSymlinks(filepath.Join(f.path, name)); err == nil {
				want = filepath.Dir(real)
			}
			got, err := tree.target(f, name, &last)
			if err != nil {
				got = ""
			}
			if got != want {
				t.Errorf("target of a link to %q = %q, %v; want %q", link, got, err, want)
			}
		}
	}
}
