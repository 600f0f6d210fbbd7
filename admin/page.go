package admin

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
)

// page is one file with its style and script. It needs only /status, /tunnels and the
// commands.
//
//go:embed page.html
var page string

// pagePolicy allows only the page's own script: no other source, no inline attribute,
// and no string as markup.
var pagePolicy = "default-src 'none'; " +
	"script-src '" + hashOf(page, "script") + "'; " +
	"style-src '" + hashOf(page, "style") + "'; " +
	"img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'"

// hashOf returns the CSP hash source of the page's only element of that name (CSP
// Level 3, section 2.3.1).
func hashOf(page, element string) string {
	_, rest, _ := strings.Cut(page, "<"+element+">")
	text, _, _ := strings.Cut(rest, "</"+element+">")
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func servePage(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	w.Write([]byte(page))
}
