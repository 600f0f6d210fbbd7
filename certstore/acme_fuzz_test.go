package certstore

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// A request can only make the gate read an answer to a challenge in the cache
// folder.
func FuzzACMEIsAnswer(f *testing.F) {
	for _, s := range []string{"chat.example.org+token", "tok-EN_1+http-01", "../x+token", "a/b+http-01", "acme_account+key", "+token", "x.y+lease+token"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if !acmeIsAnswer(key) {
			return
		}
		cache := acmeCache{dir: "/cache"}
		if got := cache.path(key); filepath.Dir(got) != "/cache" || filepath.Base(got) != key {
			t.Errorf("acmeIsAnswer(%q) = true, and it is the file %q", key, got)
		}
		if !strings.HasSuffix(key, acmeTokenSuffix) && !strings.HasSuffix(key, acmeHTTPSuffix) {
			t.Errorf("acmeIsAnswer(%q) = true", key)
		}
	})
}

// A CA's text becomes one printable line of bounded length.
func FuzzACMELine(f *testing.F) {
	f.Add("Fetching http://x/: Connection\r\nrefused\x1b[0m")
	f.Add(strings.Repeat("ä", 600))
	f.Add("\xff\u2028\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) || len(got) > 3*1000+len("…") {
			t.Errorf("printable(%q) = %q", s, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("printable(%q) = %q has %U", s, got, r)
			}
		}
		if again := printable(got); len(got) <= 1000 && again != got {
			t.Errorf("printable(%q) = %q, and of that %q", s, got, again)
		}
	})
}
