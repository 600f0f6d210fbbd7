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

// Only a folder of the gate's own is taken for a cache; others are left as they are.
func TestACMECacheOwn(t *testing.T) {
	key := "-----BEGIN EC PRIVATE KEY-----\n"
	for _, tt := range []struct {
		what  string
		mode  os.FileMode
		files map[string]string // a folder where the content is "/"
		want  string            // "": taken
	}{
		{"empty", 0o755, nil, ""},
		{"a new volume", 0o777, map[string]string{"lost+found": "/"}, ""},
		{"Kubernetes", 0o777, map[string]string{"..2026_01_01": "/", "..data": "/"}, ""},
		{"marked", 0o700, map[string]string{".wssgate": "", "notes.txt": "x"}, ""},
		{"older version", 0o700, map[string]string{"acme_account+key": key, "chat.example.org": key, "chat.example.org+state": "{}", "README": "x"}, ""},
		{"old autocert", 0o700, map[string]string{"acme_account.key": key, "chat.example.org": key}, ""},
		{"certificates only", 0o700, map[string]string{"a.example.org": key, "b.example.org": key, "b.example.org+rsa": key}, ""},
		{"crashed at once", 0o700, map[string]string{"acme_account+key+lease": "{}", ".tmp-123": ""}, ""},
		{"/tmp", 0o777 | os.ModeSticky, nil, "a folder that many share"},
		{"/tmp of the mistake's first day", 0o700 | os.ModeSticky, map[string]string{"acme_account+key": key}, "a folder that many share"},
		{"somebody's files", 0o755, map[string]string{".tmp-keep": "x", "thesis": "x"}, `it has "thesis"`},
		{"configuration", 0o755, map[string]string{"config.toml": "[listen]\n"}, `it has "config.toml"`},
		{"logs", 0o755, map[string]string{"mail.log": "x"}, `it has "mail.log"`},
		{"websites", 0o755, map[string]string{"www.example.org": "/"}, `it has "www.example.org"`},
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
			err := ACMECacheProblem(t.Context(), dir)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ACMECacheProblem = %v; want %q", err, tt.want)
			}
			opts := ACMEOptions{Directory: "https://ca.test/", Cache: dir, TLSALPN: true, Install: func(string, *tls.Certificate) {}}
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

// What can't be made is said before.
func TestACMECacheMissing(t *testing.T) {
	dir := t.TempDir()
	if err := ACMECacheProblem(t.Context(), filepath.Join(dir, "a", "b")); err != nil {
		t.Errorf("a folder that can be made: %v", err)
	}
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	if err := ACMECacheProblem(t.Context(), filepath.Join(file, "b")); err == nil {
		t.Error("a folder in a file: no error")
	}
}

// A cache that cannot be written is a problem at once, though nothing is due for
// weeks; it ends when it can be.
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
		os.Remove(mark) // and it is not made anew: the volume may be gone
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
