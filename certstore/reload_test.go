package certstore

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/demo/minica"
)

func TestReloadSeesNewChangedAndRemovedFiles(t *testing.T) {
	d := newDir(t)
	first := ca.Issue("example1.com")
	d.put(t, "example1.com.pem", first.PEM())
	s := d.open(t)

	second, other := ca.Issue("example1.com"), ca.Issue("example2.com")
	d.put(t, "example1.com.pem", second.PEM())
	d.put(t, "sub/below/example2.com.pem", other.PEM())
	wantServed(t, s, "example1.com", first) // nothing has announced a change yet
	reload(t, s)
	wantServed(t, s, "example1.com", second)
	wantServed(t, s, "example2.com", other)

	d.remove(t, "example1.com.pem")
	d.remove(t, "sub")
	reload(t, s)
	if s.Has("example1.com") || s.Has("example2.com") {
		t.Errorf("removed certificates are still there: %v", slices.Collect(s.Certificates()))
	}
	wantProblems(t, s)
}

// A directory that is suddenly a different one, and empty, takes nothing out of
// service. Removing the files does, and so does another configuration.
func TestDirectorySuddenlyEmpty(t *testing.T) {
	for _, file := range []string{"x.pem", "live/example1.com/x.pem"} {
		for _, more := range []string{"", "lost+found/x", "README"} {
			top := newDir(t)
			d := dir(filepath.Join(string(top), "certs"))
			one, two := ca.Issue("example1.com"), ca.Issue("example1.com")
			d.put(t, file, one.PEM())
			var log bytes.Buffer
			s, err := Open(Options{Directory: string(d), Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			away := filepath.Join(string(top), "away")
			if err := os.Rename(string(d), away); err != nil {
				t.Fatal(err)
			}
			if err := s.Reload(); err == nil {
				t.Error("a directory that is not there was reloaded")
			}
			wantServed(t, s, "example1.com", one)
			if !strings.Contains(log.String(), "old_one_served=true") || strings.Contains(log.String(), "old_one_served=false") {
				t.Errorf("%s: logged:\n%s", file, log.String())
			}
			if err := os.Mkdir(string(d), 0o700); err != nil {
				t.Fatal(err)
			}
			if more != "" {
				d.put(t, more)
			}
			for range 2 {
				reload(t, s)
				wantServed(t, s, "example1.com", one)
				wantProblems(t, s, "is not the folder that was read before")
				if p := s.Problems()[0]; !p.Kept || p.Hint == "" {
					t.Errorf("problem = %+v; want it served, and a hint", p)
				}
			}
			d.put(t, "y.pem", two.PEM())
			reload(t, s)
			wantServed(t, s, "example1.com", two)
			wantProblems(t, s)
			d.remove(t, "y.pem")
			reload(t, s)
			if s.Has("example1.com") {
				t.Error("a file that was removed is served")
			}
			wantProblems(t, s)
		}
	}
}

// The same is true of a folder below: the volume of one name may be missing.
func TestFolderSuddenlyEmpty(t *testing.T) {
	for _, sub := range []string{"b", "b/c"} {
		d := newDir(t)
		d.put(t, "a/a.pem", ca.Issue("a.example1.com").PEM())
		one := ca.Issue("example1.com")
		d.put(t, sub+"/x.pem", one.PEM())
		s := d.open(t)
		volume, away := filepath.Join(string(d), sub), filepath.Join(t.TempDir(), "away")
		if err := errors.Join(os.Rename(volume, away), os.Mkdir(volume, 0o700)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			reload(t, s)
			wantServed(t, s, "example1.com", one)
			wantProblems(t, s, "is not the folder that was read before")
			if p := s.Problems()[0]; !p.Kept || p.Hint == "" {
				t.Errorf("problem = %+v; want it served, and a hint", p)
			}
		}
		if err := errors.Join(os.Remove(volume), os.Rename(away, volume)); err != nil { // mounted again
			t.Fatal(err)
		}
		reload(t, s)
		wantServed(t, s, "example1.com", one)
		wantProblems(t, s)
		d.remove(t, sub+"/x.pem") // by an operator
		reload(t, s)
		if s.Has("example1.com") || !s.Has("a.example1.com") {
			t.Error("a file that was removed is served, or one that was not is not")
		}
		wantProblems(t, s)
		d.put(t, sub+"/x.pem", one.PEM())
		reload(t, s)
		if err := os.RemoveAll(volume); err != nil { // as well
			t.Fatal(err)
		}
		reload(t, s)
		if s.Has("example1.com") {
			t.Error("the file of a folder that was removed is served")
		}
	}
}

// A changed file may have the same size and time as before: tools preserve
// times, and two changes may fall within one tick of the clock.
func TestReloadSeesChangeWithoutNewTime(t *testing.T) {
	d := newDir(t)
	p := ca.Issue("example1.com")
	path := d.put(t, "x.pem", p.PEM())
	s := d.open(t)
	next := ca.Issue("example1.com")
	for len(next.PEM()) != len(p.PEM()) { // signatures differ in length
		next = ca.Issue("example1.com")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, next.PEM(), 0o600); err != nil { // the same inode
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	reload(t, s)
	wantServed(t, s, "example1.com", next)
}

// Whatever replaces a file, the vhost keeps its certificate until there is a
// better one. The file and the reason are logged once, and reported as long as
// the problem lasts.
func TestBadReplacementKeepsTheOldOne(t *testing.T) {
	good := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().AddDate(0, 0, 5)})
	other := ca.Issue("example1.com")
	spec := func(from, to time.Duration) *minica.Pair {
		return ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)})
	}
	for name, row := range map[string]struct {
		data []byte
		want string
	}{
		"empty":                {nil, "is empty; half written?"},
		"half a file":          {other.PEM()[:700], `line 12: block "CERTIFICATE" has no end; half written?`},
		"no PEM":               {[]byte("<html>404</html>"), "has no PEM block"},
		"another's key":        {cat(other.ChainPEM(), good.KeyPEM()), "its private key belongs to another certificate"},
		"no key":               {other.ChainPEM(), "no private key for it in the folder"},
		"only a key":           {other.KeyPEM(), "no certificate for this private key in the folder"},
		"expired":              {spec(-48*time.Hour, -24*time.Hour).PEM(), "expired "},
		"not yet valid":        {spec(24*time.Hour, 48*time.Hour).PEM(), "not valid before "},
		"no name":              {ca.IssueSpec(minica.Spec{Names: []string{"127.0.0.1"}}).PEM(), "has no server name"},
		"no certificate":       {cat([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), good.KeyPEM()), "certificate: x509: "},
		"broken key":           {cat(other.ChainPEM(), []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")), "private key is neither PKCS#8 nor PKCS#1 nor SEC 1"},
		"encrypted key":        {cat(other.ChainPEM(), []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")), "private key is encrypted"},
		"larger than a file":   {bytes.Repeat([]byte{'x'}, maxFile+1), "larger than 1048576 bytes"},
		"an intermediate only": {cat(minica.CertPEM(ca.Cert), good.KeyPEM()), "no certificate for this private key in the folder"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			d.put(t, "example2.com.pem", ca.Issue("example2.com").PEM())
			path := d.put(t, "example1.com.pem", good.PEM())
			var log bytes.Buffer
			s, err := Open(Options{Directory: string(d), Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			log.Reset()
			d.put(t, "example1.com.pem", row.data)
			for range 3 {
				reload(t, s)
				wantServed(t, s, "example1.com", good)
				wantProblems(t, s, `"`+path+`": `+row.want)
			}
			if !s.Has("example2.com") {
				t.Error("a bad file took another one down")
			}
			if p := s.Problems()[0]; !p.Kept || p.File != path || time.Since(p.Since) > time.Minute {
				t.Errorf("problem = %+v", p)
			}
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), strings.ReplaceAll(row.want, `"`, `\"`)) {
				t.Errorf("logged %d times, want once:\n%s", n, log.String())
			}
			for _, secret := range [][]byte{good.KeyPEM(), other.KeyPEM()} {
				if bytes.Contains(log.Bytes(), secret[40:80]) {
					t.Errorf("a private key is in the log:\n%s", log.String())
				}
			}
			if n := strings.Count(log.String(), "certificates: loaded"); n != 1 {
				t.Errorf("%d times loaded, want once: nothing changed after the first reload\n%s", n, log.String())
			}
			if rows := slices.Collect(s.Certificates()); !rows[0].Kept || rows[0].Name != "example1.com" || !rows[0].Chosen {
				t.Errorf("row = %+v, want that it is kept and chosen", rows[0])
			}

			d.put(t, "example1.com.pem", other.PEM())
			reload(t, s)
			wantServed(t, s, "example1.com", other)
			wantProblems(t, s)
			if !strings.Contains(log.String(), "fixed or removed") {
				t.Errorf("that it was fixed is not logged:\n%s", log.String())
			}
		})
	}
}

// A certificate outside its validity period replaces nothing, even if its key
// or its issuer is in another file, or its issuer is missing.
func TestUntimelyReplacementOfAPair(t *testing.T) {
	root := minica.NewCA("Some Root")
	for layout, put := range map[string]func(t *testing.T, d dir, p *minica.Pair){
		"two files": func(t *testing.T, d dir, p *minica.Pair) {
			d.put(t, "vhost1/tls.crt", p.ChainPEM())
			d.put(t, "vhost1/tls.key", p.KeyPEM())
		},
		"no intermediate": func(t *testing.T, d dir, p *minica.Pair) { d.put(t, "vhost1/tls.crt", p.PEM()) },
	} {
		for when, from := range map[string]time.Duration{"expired": -48 * time.Hour, "not valid before": 24 * time.Hour} {
			t.Run(layout+" "+when, func(t *testing.T) {
				d := newDir(t)
				good, next := root.Issue("example1.com"), root.Issue("example1.com")
				put(t, d, good)
				s := d.open(t)
				put(t, d, root.IssueSpec(minica.Spec{Names: []string{"example1.com"},
					NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(from + 24*time.Hour)}))
				for range 3 {
					reload(t, s)
					wantServed(t, s, "example1.com", good)
					wantProblems(t, s, string(d)+`/vhost1/tls.crt": `+when)
				}
				put(t, d, next)
				reload(t, s)
				wantServed(t, s, "example1.com", next)
				wantProblems(t, s)
			})
		}
	}
}

// The files of a pair are often replaced one after the other. The vhost always
// has a certificate.
func TestKeyAndCertificateReplacedOneAfterTheOther(t *testing.T) {
	for _, order := range [][2]string{{"tls.key", "tls.crt"}, {"tls.crt", "tls.key"}} {
		t.Run(order[0]+" first", func(t *testing.T) {
			d := newDir(t)
			old, next := ca.Issue("example1.com"), ca.Issue("example1.com")
			write := func(name string, p *minica.Pair) {
				if name == "tls.key" {
					d.put(t, name, p.KeyPEM())
				} else {
					d.put(t, name, p.ChainPEM())
				}
			}
			write("tls.crt", old)
			write("tls.key", old)
			s := d.open(t)
			wantServed(t, s, "example1.com", old)
			write(order[0], next)
			reload(t, s)
			wantServed(t, s, "example1.com", old)
			wantProblems(t, s, `certificate "`+string(d)+`/tls.crt": private key "`+string(d)+`/tls.key" belongs to another certificate`)
			write(order[1], next)
			reload(t, s)
			wantServed(t, s, "example1.com", next)
			wantProblems(t, s)
		})
	}
}

// If a key is removed or becomes unreadable, its certificate stays in service.
// The same holds for a folder that can no longer be listed.
func TestUnreadableKeepsTheOldOne(t *testing.T) {
	d := newDir(t)
	p := ca.Issue("example1.com")
	d.put(t, "a/tls.crt", p.ChainPEM())
	d.put(t, "a/tls.key", p.KeyPEM())
	s := d.open(t)
	d.remove(t, "a/tls.key")
	reload(t, s)
	wantServed(t, s, "example1.com", p)
	wantProblems(t, s, "no private key for it in the folder")

	d.link(t, "nowhere", "a/tls.key")
	reload(t, s)
	wantServed(t, s, "example1.com", p)
	wantProblems(t, s, `private key "`+string(d)+`/a/tls.key": no such file`, "no such file")

	if err := os.Remove(filepath.Join(string(d), "a/tls.key")); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("mkfifo", filepath.Join(string(d), "a/tls.key")).Run(); err != nil {
		t.Fatal(err)
	}
	reload(t, s) // reading a FIFO would never end
	wantServed(t, s, "example1.com", p)
	wantProblems(t, s, "is a pipe or a device", "is a pipe or a device")

	if err := os.RemoveAll(string(d)); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err == nil {
		t.Error("Reload without a directory: no error")
	}
	wantServed(t, s, "example1.com", p)
	if got := s.Problems()[0].Err.Error(); !strings.HasPrefix(got, `folder "`+string(d)+`": no such file`) {
		t.Errorf("problem = %s", got)
	}
}

// An expired certificate is served if there is no other: a client that ignores
// the date can connect, and one that does not reports the reason. It is still a
// problem.
func TestExpiredIsServedForWantOfABetterOne(t *testing.T) {
	d := newDir(t)
	p := ca.IssueSpec(minica.Spec{Names: []string{"*.example1.com"}, NotBefore: time.Now().AddDate(0, -3, 0), NotAfter: time.Now().AddDate(0, 0, -12)})
	path := d.put(t, "x.pem", p.PEM())
	s := d.open(t)
	wantServed(t, s, "a.example1.com", p)
	wantProblems(t, s, `certificate "`+path+`": expired `+p.Cert.NotAfter.UTC().Format(time.RFC3339)+`; still served`)
	better := ca.Issue("*.example1.com")
	d.put(t, "y.pem", better.PEM())
	reload(t, s)
	wantServed(t, s, "a.example1.com", better)
	wantProblems(t, s) // a certificate that no client gets is not a problem

	// Clients without ECDSA get nothing better than this.
	old := ca.IssueSpec(minica.Spec{Names: []string{"*.example1.com"}, Key: rsaKey(), NotBefore: time.Now().AddDate(0, -3, 0), NotAfter: time.Now().AddDate(0, 0, -12)})
	path = d.put(t, "rsa.pem", old.PEM())
	reload(t, s)
	wantServed(t, s, "a.example1.com", better)
	wantProblems(t, s, `certificate "`+path+`": expired `+old.Cert.NotAfter.UTC().Format(time.RFC3339)+`; still served`)
}

// Unchanged files are not read again, and their certificates keep their parsed
// form.
func TestReloadKeepsWhatDidNotChange(t *testing.T) {
	d := newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	p := ca.Issue("example2.com")
	d.put(t, "b/tls.crt", p.ChainPEM())
	d.put(t, "b/tls.key", p.KeyPEM())
	s := d.open(t)
	first, _ := s.GetCertificate(hello("example1.com"))
	second, _ := s.GetCertificate(hello("example2.com"))
	d.put(t, "b/more.pem", ca.Issue("example3.com").PEM()) // the folder is paired again
	d.put(t, "c.pem", ca.Issue("example4.com").PEM())
	reload(t, s)
	if again, _ := s.GetCertificate(hello("example1.com")); again != first {
		t.Error("a file that did not change was parsed again")
	}
	if again, _ := s.GetCertificate(hello("example2.com")); again != second {
		t.Error("a pair of files that did not change was parsed again")
	}
}

// A link to a folder that is temporarily missing, for example an unmounted
// volume, takes nothing out of service, like a link to a file. When the link
// itself is removed, so are the certificates behind it.
func TestLinkToAFolderThatLeadsNowhere(t *testing.T) {
	away, d := newDir(t), newDir(t)
	p := ca.Issue("example1.com")
	away.put(t, "chat/sub/tls.pem", p.PEM())
	d.link(t, filepath.Join(string(away), "chat"), "chat")
	s := d.open(t)
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(string(away), from), filepath.Join(string(away), to)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			reload(t, s)
			wantServed(t, s, "example1.com", p)
		}
	}
	move("chat", "elsewhere")
	wantProblems(t, s, `folder "`+filepath.Join(string(d), "chat")+`": no such file or directory`)
	move("elsewhere", "chat")
	wantProblems(t, s)
	d.remove(t, "chat")
	reload(t, s)
	if s.Has("example1.com") {
		t.Error("the link was removed and its certificate is still served")
	}
}

// "Served" is reported only for certificates that clients get. It is not
// reported for a bad file's former contents if another file has a better
// certificate, or for a certificate with a flaw.
func TestServedIsSaidOfWhatIs(t *testing.T) {
	day := func(n int) time.Time { return time.Now().AddDate(0, 0, n) }
	early := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: day(10)})
	late := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: day(20)})
	foreign := minica.NewCA("Foreign").Intermediate("Foreign 1")
	p := ca.Issue("example1.com")
	flawed := cat(minica.CertPEM(p.Cert), minica.CertPEM(foreign.Cert), p.KeyPEM())

	d := newDir(t)
	d.put(t, "a.pem", early.PEM())
	d.put(t, "b.pem", late.PEM())
	s := d.open(t)
	d.put(t, "a.pem", []byte("nonsense"))
	reload(t, s)
	wantServed(t, s, "example1.com", late)
	if p := s.Problems(); len(p) != 1 || p[0].Kept {
		t.Errorf("problems = %+v; want one, and nothing of it served", p)
	}
	d.remove(t, "b.pem")
	reload(t, s)
	wantServed(t, s, "example1.com", early)
	if p := s.Problems(); len(p) != 1 || !p[0].Kept {
		t.Errorf("problems = %+v; want one, and the old one served", p)
	}

	d = newDir(t)
	d.put(t, "a.pem", flawed)
	d.put(t, "b.pem", late.PEM())
	s = d.open(t)
	wantServed(t, s, "example1.com", late)
	if p := s.Problems(); len(p) != 1 || strings.Contains(p[0].Err.Error(), "served") {
		t.Errorf("problems = %+v; want one that is not said to be served", p)
	}
	d.remove(t, "b.pem")
	reload(t, s)
	if p := s.Problems(); len(p) != 1 || !strings.HasSuffix(p[0].Err.Error(), "; served all the same") {
		t.Errorf("problems = %+v; want one that is served all the same", p)
	}
}

// If a folder cannot be listed, the certificates below it are still served,
// even if the directory is the working directory.
func TestFolderThatIsGoneKeepsWhatIsBelow(t *testing.T) {
	for _, relative := range []bool{false, true} {
		d := newDir(t)
		path := d
		if relative {
			t.Chdir(string(d))
			path = "."
		}
		pair := ca.Issue("example1.com")
		d.put(t, "a/b/c.pem", pair.PEM())
		s := path.open(t)
		d.remove(t, "")
		if err := s.Reload(); err == nil {
			t.Errorf("%s: Reload of a directory that is gone succeeded", path)
		}
		wantServed(t, s, "example1.com", pair)
		if p := s.Problems(); len(p) == 0 || !p[0].Kept {
			t.Errorf("%s: problems = %+v; want that of the directory, and the old ones served", path, p)
		}
	}
}
