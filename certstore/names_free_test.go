//go:build unix

package certstore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/watch"
)

// A file without an extension is read if one of its lines begins like PEM.
// Others are only listed, whatever their size and contents.
func TestFreelyNamed(t *testing.T) {
	d := newDir(t)
	p := ca.Issue("example1.com")
	d.put(t, "scfA", []byte("\xef\xbb\xbf"), p.PEM())
	d.put(t, "README", []byte("put -----BEGIN CERTIFICATE----- here"))
	d.put(t, "hook", []byte("#!/bin/sh\nsed '/-----BEGIN CERTIFICATE-----/d'\n"))
	d.put(t, "large", p.PEM(), bytes.Repeat([]byte{'x'}, maxFree))
	d.put(t, "empty", nil)
	d.put(t, "x.pem.disabled", ca.Issue("example2.com").PEM())
	d.put(t, "x.rsa", ca.Issue("example3.com").PEM())
	d.link(t, "/dev/zero", "zero")
	d.link(t, "nowhere", "dangling")
	if err := syscall.Mkfifo(filepath.Join(string(d), "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := d.open(t)
	wantProblems(t, s)
	wantServed(t, s, "example1.com", p)
	if n := s.Names(); n != 1 {
		t.Errorf("%d names; want 1", n)
	}
	want := []string{"README", "dangling", "empty", "hook", "large", "pipe", "x.pem.disabled", "x.rsa", "zero"}
	var got []string
	list, _ := s.Ignored()
	for _, i := range list {
		got = append(got, filepath.Base(i.File))
	}
	if !slices.Equal(got, want) {
		t.Errorf("ignored = %q; want %q", got, want)
	}
}

// A file without an extension that was in use is a problem when it goes bad,
// and keeps its certificate.
func TestFreelyNamedTurnsBad(t *testing.T) {
	for name, data := range map[string][]byte{"no PEM": []byte("x"), "empty": nil, "half": ca.Issue("example1.com").PEM()[:300], "a request": block1("CERTIFICATE REQUEST", []byte{1})} {
		d := newDir(t)
		p := ca.Issue("example1.com")
		d.put(t, "scfA", p.PEM())
		s := d.open(t)
		d.put(t, "scfA", data)
		reload(t, s)
		wantServed(t, s, "example1.com", p)
		if list := s.Problems(); len(list) != 1 || !list[0].Kept {
			t.Errorf("%s: problems = %v; want one, and the old one kept", name, list)
		}
		next := ca.Issue("example1.com")
		d.put(t, "scfA", next.PEM())
		reload(t, s)
		wantProblems(t, s)
		wantServed(t, s, "example1.com", next)
	}
}

// A file that was not PEM becomes a certificate, after an event or at a full
// reading.
func TestFreelyNamedTurnsGood(t *testing.T) {
	for _, event := range []bool{true, false} {
		d := newDir(t)
		path := d.put(t, "scfA", []byte("x"))
		long := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
		s := d.open(t)
		reload(t, s)
		p := ca.Issue("example1.com")
		d.put(t, "scfA", p.PEM())
		if event {
			s.look(t.Context(), nil, watch.Changes{Names: map[string]bool{path: true}})
		} else {
			reload(t, s)
		}
		wantServed(t, s, "example1.com", p)
		if list, _ := s.Ignored(); len(list) > 0 {
			t.Errorf("ignored = %+v", list)
		}
	}
}

// Very many files without an extension cost no more than a thousand, and hide
// none in another folder.
func TestFreelyNamedIsBounded(t *testing.T) {
	d := newDir(t)
	if err := os.Mkdir(filepath.Join(string(d), "many"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range maxTriedFolder + 100 {
		if err := os.WriteFile(filepath.Join(string(d), "many", fmt.Sprintf("f%05d", i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := ca.Issue("example1.com")
	d.put(t, "plesk/scfA", p.PEM()) // after the many others
	s := d.open(t)
	for range 2 {
		reload(t, s)
		if n := len(s.tree.tried); n != maxTriedFolder {
			t.Errorf("%d files tried; want %d", n, maxTriedFolder)
		}
		if n := len(s.tree.folders[filepath.Join(string(d), "many")].files); n != 0 {
			t.Errorf("%d files are remembered as certificates'", n)
		}
		list, more := s.Ignored()
		if len(list) != maxStray || len(list)+more != maxTriedFolder+100 {
			t.Errorf("%d listed, and %d more", len(list), more)
		}
	}
	wantServed(t, s, "example1.com", p)
}

// A leaf finds its key in another folder of the directory, follows it when both
// are replaced one by one, and keeps its certificate when the key is removed.
func TestKeyInAnotherFolder(t *testing.T) {
	d := newDir(t)
	one, two := ca.Issue("example1.com"), ca.Issue("example1.com")
	d.put(t, "certs/x.crt", one.ChainPEM())
	s := d.open(t)
	wantProblems(t, s, "no private key for it")
	key := d.put(t, "private/x.key", one.KeyPEM())
	look := func(names ...string) {
		paths := map[string]bool{}
		for _, name := range names {
			paths[filepath.Join(string(d), name)] = true
		}
		s.look(t.Context(), nil, watch.Changes{Names: paths, Recheck: true})
	}
	look("private", "private/x.key")
	wantProblems(t, s)
	wantServed(t, s, "example1.com", one)
	if rows := slices.Collect(s.Certificates()); len(rows) != 1 || rows[0].KeyFile != key {
		t.Errorf("rows = %+v; want the key %q", rows, key)
	}
	before := s.table()
	reload(t, s)
	if s.table() != before {
		t.Error("a look at all without a change made a new table")
	}
	d.put(t, "certs/x.crt", two.ChainPEM())
	look("certs/x.crt")
	wantServed(t, s, "example1.com", one)
	d.put(t, "private/x.key", two.KeyPEM())
	look("private/x.key")
	wantServed(t, s, "example1.com", two)
	wantProblems(t, s)
	d.remove(t, "private")
	look("private")
	wantServed(t, s, "example1.com", two)
	if p := s.Problems(); len(p) != 1 || !p[0].Kept {
		t.Errorf("problems = %v; want one, and the old one kept", p)
	}
}

// If another file has the same leaf with key and chain, a leaf is a copy. An
// older leaf of the same key is a separate certificate. A key that has a
// certificate is not reported.
func TestCopiesOfALeaf(t *testing.T) {
	d := newDir(t)
	p := ca.Issue("example1.com")
	older := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: p.Key, NotAfter: time.Now().AddDate(0, 0, 10)})
	d.put(t, "all.pem", p.PEM())
	d.put(t, "cert.pem", minica.CertPEM(p.Cert))
	d.put(t, "old.crt", older.ChainPEM())
	d.put(t, "x.key", p.KeyPEMClassic())
	d.put(t, "elsewhere/x.key", p.KeyPEM())
	s := d.open(t)
	wantProblems(t, s)
	wantServed(t, s, "example1.com", p)
	rows := slices.Collect(s.Certificates())
	if len(rows) != 2 || !strings.HasSuffix(rows[1].File, "old.crt") || !rows[0].Chosen {
		t.Errorf("rows = %+v; want two", rows)
	}
}
