package web

import (
	"bytes"
	"encoding/xml"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"wssgate/xmpp"
)

// A boshRefusal is why a request does not reach the XMPP server, and what its
// client gets instead: the end of its BOSH session with a condition (XEP-0124,
// section 17.2), or an HTTP status.
type boshRefusal struct {
	condition string // empty: status says it
	status    int
	err       error
}

func (e *boshRefusal) Error() string { return e.err.Error() }

func (e *boshRefusal) answer(w http.ResponseWriter) {
	if e.condition == "" {
		http.Error(w, strconv.Itoa(e.status)+" "+http.StatusText(e.status)+"\n\nThis is not allowed.", e.status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/xml; charset=utf-8")
	h.Set("Access-Control-Allow-Origin", "*") // the origin was let in
	var b bytes.Buffer
	b.WriteString(`<body xmlns="http://jabber.org/protocol/httpbind" type="terminate" condition="`)
	xml.EscapeText(&b, []byte(e.condition))
	b.WriteString(`"/>`)
	w.Write(b.Bytes())
}

// checkDomain holds a request against the vhost's domains: each body that has a
// `to`, and one that begins a session without.
func (b *bosh) checkDomain(r *http.Request, body []byte) *boshRefusal {
	if b.allowsDomain == nil {
		return nil
	}
	if r.Method != http.MethodPost && r.URL.RawQuery != "" {
		// XEP-0124's former script syntax: the body in a URL.
		return &boshRefusal{status: http.StatusForbidden, err: errors.New("query in a " + r.Method)}
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return &boshRefusal{status: http.StatusUnsupportedMediaType, err: errors.New("body with a content coding")}
	}
	if _, params, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return &boshRefusal{status: http.StatusUnsupportedMediaType, err: errors.New("body that is not UTF-8")}
	}
	head, err := xmpp.ReadBody(body)
	if err != nil {
		return &boshRefusal{condition: "bad-request", err: err}
	}
	switch {
	case head.HasTo:
		domain, err := xmpp.NormalDomain(head.To)
		if err != nil {
			return &boshRefusal{condition: "improper-addressing", err: err}
		}
		if err := b.allowsDomain(domain); err != nil {
			return &boshRefusal{condition: "host-unknown", err: err}
		}
	case head.SID == "":
		return &boshRefusal{condition: "improper-addressing", err: errors.New("the session names no domain in 'to'")}
	}
	return nil
}
