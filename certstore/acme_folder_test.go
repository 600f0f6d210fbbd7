package certstore

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Only a folder that belongs to the gate is accepted as a cache. Others are not
// changed.
func TestACMECacheOwn(t *testing.T) {
	key := "-----BEGIN EC PRIVATE KEY-----\n"
	cert := func(name string) string {
		p := ca.Issue(name)
		return string(cat(p.KeyPEM(), p.ChainPEM()))
	}
	certA, certB := cert("a.example.org"), cert("b.example.org")
	chainFirst := ca.Issue("a.example.org")
	for _, tt := range []struct {
		what  string
		mode  os.FileMode
		files map[string]string // by name; "/" as the content makes a folder
		want  string            // "": accepted
	}{
		{"empty", 0o755, nil, ""},
		{"a new volume", 0o777, map[string]string{"lost+found": "/"}, ""},
		{"marked", 0o700, map[string]string{".wssgate": "", "notes.txt": "x"}, ""},
		{"older version", 0o700, map[string]string{"acme_account+key": key, "chat.example.org": key, "chat.example.org+state": "{}", "README": "x"}, ""},
		{"old autocert", 0o700, map[string]string{"acme_account.key": key, "chat.example.org": key}, ""},
		{"certificates only", 0o700, map[string]string{"a.example.org": certA, "b.example.org": certB, "b.example.org+rsa": key}, ""},
		{"certificates and strangers", 0o700, map[string]string{".gitignore": "*", "a.example.org": certA, "backup": "/", "z.old": "/"}, ""},
		{"a certificate that is damaged, and its record", 0o700, map[string]string{".gitignore": "*", "a.example.org": key, "a.example.org+state": "{}"}, ""},
		{"a challenge", 0o700, map[string]string{"a.example.org+token": "x", "README": "x"}, ""},
		{"crashed at once", 0o700, map[string]string{"acme_account+key+lease": "{}", ".tmp-123": ""}, ""},
		{"/tmp", 0o777 | os.ModeSticky, nil, "a folder that many share"},
		{"/tmp of the mistake's first day", 0o700 | os.ModeSticky, map[string]string{"acme_account+key": key}, "a folder that many share"},
		{"somebody's files", 0o755, map[string]string{".tmp-keep": "x", "thesis": "x"}, `it has "thesis"`},
		{"configuration", 0o755, map[string]string{"config.toml": "[listen]\n"}, `it has "config.toml"`},
		{"logs", 0o755, map[string]string{"mail.log": "x"}, `it has "mail.log"`},
		{"websites", 0o755, map[string]string{"www.example.org": "/"}, `it has "www.example.org"`},
		{"a volume of Kubernetes with files", 0o777, map[string]string{"..2026_01_01": "/", "..data": "/"}, `it has "..2026_01_01"`},
		{"a name with two dots", 0o755, map[string]string{"..secret": "x"}, `it has "..secret"`},
		{"a directory of certificates", 0o755, map[string]string{"a.example.org.pem": certA, "b.example.org.pem": certB}, `it has "a.example.org.pem"`},
		{"a text before", 0o700, map[string]string{"a.example": "x", "b.example.org": certB}, `it has "a.example"`},
		{"a text behind", 0o700, map[string]string{"b.example.org": certB, "c.example": "x"}, `it has "c.example"`},
		{"a certificate for another name", 0o700, map[string]string{"a.example.org": certB}, `it has "a.example.org"`},
		{"a certificate before its key", 0o700, map[string]string{"a.example.org": string(chainFirst.PEM())}, `it has "a.example.org"`},
		{"a key only", 0o700, map[string]string{"a.example.org": key}, `it has "a.example.org"`},
		{"folders named as helpers", 0o700, map[string]string{"acme_account+key": "/", "a.example.org+state": "/"}, `it has "a.example.org+state"`},
		{"an unused key", 0o700, map[string]string{"a.example.org+rsa": key}, `it has "a.example.org+rsa"`},
		{"dot files", 0o755, map[string]string{".bashrc": "x"}, `it has ".bashrc"`},
	} {
		t.Run(tt.what, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tt.files {
				path := filepath.Join(dir, name)
				if content == "/" {
					os.Mkdir(path, 0o700)
				} else {
					os.WriteFile(path, []byte(content), 0o600)
				}
			}
			if err := os.Chmod(dir, tt.mode); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Stat(dir)
			entries, _ := os.ReadDir(dir)
			err := ACMECacheProblem(t.Context(), dir, "")
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ACMECacheProblem = %v; want %q", err, tt.want)
			}
			opts := ACMEOptions{ACMECA: ACMECA{Directory: "https://ca.test/"}, Cache: dir, TLSALPN: true, Install: func(string, *tls.Certificate) {}}
			a, nerr := NewACME(opts)
			if nerr == nil {
				a.Close()
			}
			if (nerr == nil) != (tt.want == "") || nerr != nil && nerr.Error() != err.Error() {
				t.Errorf("NewACME = %v; want %v", nerr, err)
			}
			after, _ := os.Stat(dir)
			if now, _ := os.ReadDir(dir); after.Mode() != before.Mode() || len(now) != len(entries) {
				t.Errorf("the folder was changed: %v, %v", after.Mode(), now)
			}
		})
	}
}

// The cache and the certificate directory must be separate folders, by whatever
// path.
func TestACMECacheApart(t *testing.T) {
	base := t.TempDir()
	certs := filepath.Join(base, "x", "certs")
	if err := os.MkdirAll(filepath.Join(certs, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(certs, acmeMark), nil, 0o600) // a mark does not help
	os.Symlink(certs, filepath.Join(base, "link"))
	os.Symlink(filepath.Join(base, "x"), filepath.Join(base, "outer"))
	for _, tt := range []struct {
		cache, certificates string
		bad                 bool
	}{
		{"x/certs", "x/certs", true},
		{"x/certs/sub", "x/certs", true},
		{"x/certs/new", "x/certs", true},
		{"x", "x/certs", true},
		{"link", "x/certs", true},
		{"link/new", "x/certs", true},
		{"x/certs", "link", true},
		{"outer", "link", true},
		{"new", "new/certs", true}, // both are missing
		{"x/certs2", "x/certs", false},
		{"x/..certs", "x/certs", false},
		{"other", "link", false},
		{"other", "", false},
	} {
		cache, certificates := filepath.Join(base, tt.cache), ""
		if tt.certificates != "" {
			certificates = filepath.Join(base, tt.certificates)
		}
		err := ACMECacheProblem(t.Context(), cache, certificates)
		if bad := err != nil && strings.Contains(err.Error(), "certificates.directory"); bad != tt.bad {
			t.Errorf("ACMECacheProblem(%q, %q) = %v", tt.cache, tt.certificates, err)
		}
		_, missing := os.Stat(cache)
		a, nerr := NewACME(ACMEOptions{ACMECA: ACMECA{Directory: "https://ca.test/"}, Cache: cache, Certificates: certificates, TLSALPN: true, Install: func(string, *tls.Certificate) {}})
		if nerr == nil {
			a.Close()
		}
		if tt.bad && (nerr == nil || nerr.Error() != err.Error()) || !tt.bad && nerr != nil {
			t.Errorf("NewACME(%q, %q) = %v; want %v", tt.cache, tt.certificates, nerr, err)
		}
		if _, now := os.Stat(cache); tt.bad && missing != nil && now == nil {
			t.Errorf("NewACME(%q, %q) made the folder", tt.cache, tt.certificates)
		}
	}
}

// A cache that cannot be created is reported in advance.
func TestACMECacheMissing(t *testing.T) {
	dir := t.TempDir()
	if err := ACMECacheProblem(t.Context(), filepath.Join(dir, "a", "b"), ""); err != nil {
		t.Errorf("a folder that can be made: %v", err)
	}
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	if err := ACMECacheProblem(t.Context(), filepath.Join(file, "b"), ""); err == nil {
		t.Error("a folder in a file: no error")
	}
}

// A cache that is not writable is a problem at once, even if no renewal is due
// for weeks. The problem ends when the cache is writable.
func TestACMECacheProblem(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		_, g, _ := acmeForAnHour(t, dir)
		if _, err := g.CacheProblem(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(acmeCacheLook / 2) // between two looks
		mark := filepath.Join(dir, acmeMark)
		os.Remove(mark)
		os.Mkdir(mark, 0o700) // no file can be renamed over it
		time.Sleep(acmeCacheLook)
		synctest.Wait()
		since, err := g.CacheProblem()
		if err == nil || !strings.Contains(err.Error(), mark) || time.Since(since) > acmeCacheLook {
			t.Errorf("CacheProblem = %v, %v; want the file, and when", err, since)
		}
		time.Sleep(3 * acmeCacheLook)
		os.Remove(mark) // and is not recreated: the volume may be unmounted
		time.Sleep(acmeCacheLook)
		synctest.Wait()
		if _, err := g.CacheProblem(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("CacheProblem = %v; want that it is gone", err)
		}
		os.WriteFile(mark, nil, 0o600)
		time.Sleep(acmeCacheLook)
		synctest.Wait()
		if _, err := g.CacheProblem(); err != nil {
			t.Errorf("CacheProblem = %v; want none", err)
		}
		if log := g.log.String(); strings.Count(log, "the cache cannot be used") != 2 || strings.Count(log, "can be used again") != 1 {
			t.Errorf("log:\n%s", log)
		}
	})
}
