package web

import (
	"bytes"
	"encoding/xml"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"wssgate/xmpp"
)

// A boshRefusal is the reason why a request is not passed to the XMPP server, and the
// answer for its client: the end of its BOSH session with a condition (XEP-0124,
// section 17.2), or an HTTP status.
type boshRefusal struct {
	condition string // if empty, use status
	status    int
	err       error
}

func (e *boshRefusal) Error() string { return e.err.Error() }

func (e *boshRefusal) answer(w http.ResponseWriter) {
	if e.status == http.StatusServiceUnavailable {
		unavailable(w, tooManyText)
		return
	}
	if e.condition == "" {
		http.Error(w, strconv.Itoa(e.status)+" "+http.StatusText(e.status)+"\n\nThis is not allowed.", e.status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/xml; charset=utf-8")
	h.Set("Access-Control-Allow-Origin", "*") // the origin is allowed
	var b bytes.Buffer
	b.WriteString(`<body xmlns="http://jabber.org/protocol/httpbind" type="terminate" condition="`)
	xml.EscapeText(&b, []byte(e.condition))
	b.WriteString(`"/>`)
	w.Write(b.Bytes())
}

// longAsk is the maximum size of a body that is parsed for logins of jabber:iq:auth.
// Parsing costs about 80 ns per byte: 0.3 ms for a body of this size, as for the rest
// of its request, and 80 ms for 1 MiB.
const longAsk = 4 << 10 // bytes; real ones are below 1 KiB

// check applies the vhost's rule on domains to each body that has a `to`, and to each
// that begins a session without one. If failed logins are counted, of is not nil: check
// stores the session and the number of jabber:iq:auth logins there.
//
// A body that may have such a login is parsed as strictly as one with a `to`: a login
// that only the server finds would not be counted. A long body is not parsed, and
// counts as the most logins that it can have.
func (b *bosh) check(r *http.Request, body []byte, of *loginsOf) *boshRefusal {
	mayAsk := of != nil && xmpp.MayAskIQAuth(body)
	strict := b.allowsDomain != nil || mayAsk
	if of != nil {
		of.tries = xmpp.MayLogIn(body)
	}
	if !strict && of == nil {
		return nil
	}
	if mayBeBody(r.URL.RawQuery) {
		return &boshRefusal{status: http.StatusForbidden, err: errors.New("query that may be a body")}
	}
	if len(bytes.TrimSpace(body)) == 0 || !strict && isNoXML(r, body) {
		return nil
	}
	if encoding := r.Header.Get("Content-Encoding"); strict && encoding != "" && !strings.EqualFold(encoding, "identity") {
		return &boshRefusal{status: http.StatusUnsupportedMediaType, err: errors.New("body with a content coding")}
	}
	if _, params, err := mime.ParseMediaType(r.Header.Get("Content-Type")); strict && err == nil && params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return &boshRefusal{status: http.StatusUnsupportedMediaType, err: errors.New("body that is not UTF-8")}
	}
	read, unread := xmpp.ReadBody, 0
	switch {
	case b.allowsDomain != nil:
	case !mayAsk:
		read = xmpp.ReadBodyStart
	case len(body) > longAsk:
		read, unread = xmpp.ReadBodyStart, bytes.Count(body, []byte{'<'})
	}
	head, err := read(body)
	if err != nil {
		return &boshRefusal{condition: "bad-request", err: err}
	}
	switch {
	case b.allowsDomain == nil:
	case head.HasTo:
		domain, err := xmpp.NormalDomain(head.To)
		if err != nil {
			return &boshRefusal{condition: "improper-addressing", err: err}
		}
		if err := b.allowsDomain(domain); err != nil {
			return &boshRefusal{condition: "host-unknown", err: err}
		}
	case head.SID == "":
		return &boshRefusal{condition: "improper-addressing", err: errors.New("the session has no domain in 'to'")}
	}
	if of == nil {
		return nil
	}
	asks := head.IQAuth + unread
	if head.SID == "" && asks > 0 {
		// It would have to be recorded under the sid of the answer. No client does
		// that, because it needs that answer for a login.
		return &boshRefusal{condition: "bad-request", err: errors.New("a login before the session exists")}
	}
	of.session(head.SID)
	if asks > 0 && !of.asks(asks) {
		return &boshRefusal{status: http.StatusServiceUnavailable, err: errors.New("too many sessions with open logins")}
	}
	return nil
}

// mayBeBody reports whether a server could read a query as a body, as in the old script
// syntax of XEP-0124, however often it decodes it.
func mayBeBody(query string) bool {
	for before := ""; query != before; {
		if strings.ContainsAny(query, "<\x00") || !utf8.ValidString(query) {
			return true
		}
		before = query
		var err error
		if query, err = url.QueryUnescape(query); err != nil {
			return true
		}
	}
	return false
}

// isNoXML reports whether a body can't be XML, however a server reads it: it is text,
// and no tag begins in it. In UTF-16 a tag would have a zero byte.
func isNoXML(r *http.Request, body []byte) bool {
	return r.Header.Get("Content-Encoding") == "" && utf8.Valid(body) && !bytes.ContainsAny(body, "<\x00")
}
