package demo

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
)

//go:embed page.html
var page string

// Page answers requests for the demo's page at "/", and 404 at every other
// path. The page is one file: it loads nothing, and its Content-Security-Policy
// allows its own style and script by their hashes and nothing else.
func Page() http.Handler {
	policy := strings.Join([]string{
		"default-src 'none'",
		"style-src '" + hash(between(page, "<style>", "</style>")) + "'",
		"script-src '" + hash(between(page, "<script>", "</script>")) + "'",
		"img-src data:",
		"connect-src 'self'",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
	}, "; ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/":
			http.Error(w, "only / is here: it is the demo's page", http.StatusNotFound)
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "GET it", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(page)))
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store") // the next demo may bring another page
		if r.Method == http.MethodGet {
			w.Write([]byte(page))
		}
	})
}

func between(s, start, end string) string {
	_, s, _ = strings.Cut(s, start)
	s, _, _ = strings.Cut(s, end)
	return s
}

// hash is how a Content-Security-Policy names a script by its text.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
