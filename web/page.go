package web

import (
	"html"
	"io"
	"net/http"
)

// page explains the address to people who open it in a browser, and to clients that
// check it before they open a WebSocket.
func (s *Site) page(w http.ResponseWriter, r *http.Request, v *vhost) {
	path, get := r.URL.EscapedPath(), r.Method == http.MethodGet || r.Method == http.MethodHead
	if path != "/" && path != v.Path && (v.Path != "" || !get) {
		notFound(w, "There is nothing at this path.")
		return
	}
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	h := w.Header()
	if path != "/" {
		h.Set("Upgrade", "websocket") // RFC 9110, section 15.5.22
		h.Set("Connection", "Upgrade, close")
		http.Error(w, "426 Upgrade Required\n\nThis address is for XMPP clients: it accepts WebSockets with the subprotocol \"xmpp\".", http.StatusUpgradeRequired)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	io.WriteString(w, pageHead)
	urls := s.discovery(r, normal(r.TLS.ServerName), []*vhost{v}).WebSocket
	if len(urls) == 0 {
		io.WriteString(w, "<p>It is not accepting new clients at the moment.</p>\n")
	} else {
		io.WriteString(w, "<p>Give it to your client as</p>\n")
	}
	for _, u := range urls {
		io.WriteString(w, "<p><code>"+html.EscapeString(u)+"</code></p>\n")
	}
	io.WriteString(w, pageTail)
}

const pageHead = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>XMPP over WebSocket</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem }
code { font-size: 1.1em }
</style>
<h1>XMPP over WebSocket</h1>
<p>This address is for XMPP clients, not for browsing.</p>
`

const pageTail = `<p>Nothing is wrong if you see this page: the gate is up.</p>
</html>
`
