package certstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/acme"
)

// acme.Client's errors for an invalid answer, such as "unexpected EOF" or
// "invalid character '<'", tell an operator neither the server nor the likely
// cause. acmeTransport recognizes invalid and missing answers before the client
// does, and names the likely cause. The *url.Error around it has the method and
// URL.

// An acmeNoAnswer is a request that the CA did not answer.
type acmeNoAnswer struct {
	what  string
	looks string // likely cause; empty: unknown
	err   error  // nil: what is enough
}

func (n acmeNoAnswer) Error() string {
	if n.looks == "" {
		return n.what
	}
	return n.what + "; it looks like " + n.looks
}

func (n acmeNoAnswer) Unwrap() error { return n.err }

const (
	acmeLooksDown   = "an outage of the CA or of the way to it"
	acmeLooksBefore = "a proxy or a firewall, or " + acmeLooksDown
	acmeLooksPortal = "a captive portal or a proxy in place of the CA"
)

// acmeUnsent explains why a request got no answer. limit is the time that it
// was allowed to take.
func acmeUnsent(r *http.Request, limit time.Duration, err error) error {
	if errors.Is(r.Context().Err(), context.Canceled) {
		return err
	}
	n := acmeNoAnswer{what: printable(err.Error()), err: err}
	var dns *net.DNSError
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.As(err, &op) && op.Op == "proxyconnect":
		n.looks = "a proxy that is down, or a wrong HTTPS_PROXY"
	case errors.As(err, &dns) && dns.IsNotFound:
		n.looks = "a wrong acme.ca, or a DNS server that does not know it"
	case errors.As(err, &dns):
		n.looks = "an outage of DNS"
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
		n.looks = "a firewall that drops packets, or " + acmeLooksDown
	case r.Context().Err() != nil:
		n.what, n.looks = fmt.Sprintf("no answer yet when the %v for the order were over", acmeOrderTimeout), acmeLooksDown
	case errors.Is(err, context.DeadlineExceeded):
		n.what, n.looks = fmt.Sprintf("no answer within %v", limit), acmeLooksDown
	case timeout != nil && timeout.Timeout():
		n.looks = acmeLooksBefore
	case errors.Is(err, syscall.ECONNREFUSED):
		n.looks = "a wrong port in acme.ca, or " + acmeLooksBefore
	case errors.As(err, &unknown), errors.As(err, &host):
		n.looks = acmeLooksPortal + ", or a private CA that acme.ca_root does not vouch for"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		n.looks = "a wrong clock here, or " + acmeLooksPortal
	case errors.As(err, &record):
		n.looks = acmeLooksPortal + ", or a port in acme.ca that is not for https"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		n.what, n.looks = "cut off: "+n.what, acmeLooksBefore
	}
	if proxy, _ := http.ProxyFromEnvironment(r); proxy != nil {
		n.what += " (through the proxy " + proxy.Host + ")"
	}
	return n
}

// acmeStrange explains why an answer is not from an ACME server. It returns nil
// if the answer may be from one.
func acmeStrange(r *http.Request, res *http.Response, data []byte) error {
	text := bytes.TrimSpace(data)
	var object struct{ Type, Detail string }
	err := json.Unmarshal(text, &object)
	var syntax *json.SyntaxError
	isObject := bytes.HasPrefix(text, []byte("{"))
	n := acmeNoAnswer{looks: acmeLooksPortal + ", or an acme.ca that is not the URL of a directory"}
	switch code := res.StatusCode; {
	case code >= 300 && code < 400 && res.Header.Get("Location") != "": // a redirect
		return nil
	case code >= 500:
		n.looks = acmeLooksDown + ", or a proxy before it"
	case code >= 400 && code != http.StatusNotFound:
		n.looks = "a proxy or a firewall that refuses the request"
	case code < 300 && isObject && errors.As(err, &syntax):
		n.looks = acmeLooksBefore
	}
	switch {
	case res.StatusCode >= 400 && isObject && err == nil && object.Type+object.Detail != "": // a problem document
		return nil
	case res.StatusCode < 300 && (isObject && !errors.As(err, &syntax) || bytes.Contains(text, []byte("-----BEGIN CERTIFICATE")) || len(text) == 0 && r.Method != http.MethodGet):
		return nil
	case len(text) == 0:
		n.what = "an empty answer"
	case isObject && errors.As(err, &syntax) && syntax.Offset >= int64(len(text)):
		n.what = fmt.Sprintf("an answer that breaks off after %d bytes", len(data))
	case isObject && syntax != nil:
		n.what = fmt.Sprintf("an answer that is no JSON (%v)", syntax)
	case text[0] == '<' || strings.HasPrefix(res.Header.Get("Content-Type"), "text/html"):
		n.what = fmt.Sprintf("a web page, %q", acmeTitle(text))
	default:
		n.what = fmt.Sprintf("no answer of an ACME server, %q", acmeTitle(text))
	}
	if res.StatusCode < 400 { // for errors, acmeProblem has the status
		n.what = fmt.Sprintf("status %d with %s", res.StatusCode, n.what)
	}
	return n
}

// acmeTitle describes a web page by its title or its first words.
func acmeTitle(page []byte) string {
	lower := bytes.ToLower(page[:min(len(page), 4<<10)])
	if from := bytes.Index(lower, []byte("<title>")); from >= 0 {
		from += len("<title>")
		if n := bytes.Index(lower[from:], []byte("</title>")); n > 0 && from+n <= len(page) {
			page = page[from : from+n]
		}
	}
	title := []rune(printable(strings.ToValidUTF8(string(page[:min(len(page), 400)]), "")))
	if len(title) > 60 {
		return string(title[:60]) + "…"
	}
	return string(title)
}

// acmeStep adds the current step and its URL to an error of acme.Client that
// lacks them: an answer with invalid JSON, or a wait that took too long. It
// returns nil for nil.
func acmeStep(doing, at string, err error) error {
	var problem *acme.Error
	var authz *acme.AuthorizationError
	var order *acme.OrderError
	var sent *url.Error
	switch {
	case err == nil || errors.As(err, &problem) || errors.As(err, &authz) || errors.As(err, &order) || errors.As(err, &sent) || errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return acmeNoAnswer{fmt.Sprintf("%s at %q: not done when the %v for the order were over", doing, at, acmeOrderTimeout), "an outage of the CA", err}
	}
	return acmeNoAnswer{fmt.Sprintf("%s at %q: %s", doing, at, printable(err.Error())), "an answer that is not as ACME has it", err}
}
