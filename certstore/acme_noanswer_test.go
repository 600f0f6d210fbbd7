package certstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever arrives instead of a CA's answer, the error is one line with the
// URL, the answer and its likely cause.
func TestACMENoAnswer(t *testing.T) {
	page := func(status int, kind, body string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		}
	}
	fails := func(err error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tt := range []struct {
		name   string
		path   string // of the request without a valid answer; the CA answers others
		answer func(*http.Request) (*http.Response, error)
		want   []string
	}{
		{"captive portal", "/directory", page(200, "text/html", "<!doctype html><title>Please log in</title>"),
			[]string{`account: Get "https://ca.test/directory": status 200 with a web page, "Please log in"; it looks like a captive portal`}},
		{"text", "/directory", page(200, "text/plain", "hello"), []string{`/directory": status 200 with no answer of an ACME server, "hello"; it looks like a captive portal`, "acme.ca"}},
		{"array", "/directory", page(200, "application/json", "[]"), []string{`status 200 with no answer of an ACME server, "[]"`}},
		{"empty", "/directory", page(200, "application/json", ""), []string{`/directory": status 200 with an empty answer; it looks like`}},
		{"cut", "/directory", page(200, "application/json", `{"newNonce":"https://ca`), []string{`/directory": status 200 with an answer that breaks off after 23 bytes; it looks like a proxy or a firewall, or an outage`}},
		{"no JSON", "/new-order", page(201, "application/json", `{"status":<br>`), []string{`Post "https://ca.test/new-order": status 201 with an answer that is no JSON (invalid character '<'`}},
		{"other JSON", "/directory", page(200, "application/json", `{"newNonce":5}`), []string{`the directory at "https://ca.test/directory": json: cannot unmarshal number`, "an answer that is not as ACME has it"}},
		{"outage", "/directory", page(502, "text/html", "<html><head><title>502 Bad Gateway</title>"),
			[]string{`account: status 502: GET "https://ca.test/directory": a web page, "502 Bad Gateway"; it looks like an outage of the CA`}},
		{"outage in JSON", "/new-order", page(503, "application/json", `{"message":"no upstream"}`), []string{`status 503: POST "https://ca.test/new-order": no answer of an ACME server, "{\"message\":\"no upstream\"}"; it looks like an outage`}},
		{"refused by a proxy", "/directory", page(403, "text/html", "<h1>Blocked by policy</h1>"), []string{`status 403: GET "https://ca.test/directory": a web page`, "Blocked by policy", "a proxy or a firewall that refuses"}},
		{"no such page", "/directory", page(404, "text/html", "<h1>Not found</h1>"), []string{`status 404: GET "https://ca.test/directory": a web page`, "acme.ca that is not the URL of a directory"}},
		{"torn", "/directory", func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader("{"), acmeTorn{})), Request: r}, nil
		}, []string{`Get "https://ca.test/directory": cut off: the answer breaks off after 1 bytes: unexpected EOF`, "a proxy or a firewall"}},
		{"silent", "/new-order", func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
			[]string{`Post "https://ca.test/new-order": no answer within 30s; it looks like an outage of the CA or of the way to it`}},
		{"cut off", "/new-order", fails(io.EOF), []string{`Post "https://ca.test/new-order": cut off: EOF; it looks like a proxy`}},
		{"reset", "/directory", fails(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), []string{"cut off: read: read: connection reset by peer; it"}},
		{"refused", "/directory", fails(dial(os.NewSyscallError("connect", syscall.ECONNREFUSED))), []string{`/directory": dial tcp: connect: connection refused; it looks like a wrong port in acme.ca`}},
		{"dropped", "/directory", fails(dial(os.ErrDeadlineExceeded)), []string{`/directory": dial tcp: i/o timeout; it looks like a firewall that drops packets`}},
		{"no such host", "/directory", fails(dial(&net.DNSError{Err: "no such host", Name: "ca.test", IsNotFound: true})), []string{`lookup ca.test: no such host; it looks like a wrong acme.ca`}},
		{"DNS is down", "/directory", fails(dial(&net.DNSError{Err: "server misbehaving", Name: "ca.test"})), []string{`lookup ca.test: server misbehaving; it looks like an outage of DNS`}},
		{"proxy is down", "/directory", fails(&net.OpError{Op: "proxyconnect", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}), []string{"it looks like a proxy that is down, or a wrong HTTPS_PROXY"}},
		{"other certificate", "/directory", fails(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), []string{"x509: certificate signed by unknown authority; it looks like a captive portal", "acme.ca_root"}},
		{"expired certificate", "/directory", fails(&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}), []string{"x509: certificate has expired", "it looks like a wrong clock here"}},
		{"no TLS", "/directory", fails(tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}), []string{"does not look like a TLS handshake; it looks like a captive portal", "not for https"}},
		{"something else", "/directory", fails(errors.New("odd\nthing")), []string{`Get "https://ca.test/directory": odd thing`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca := newACMETestCA(t)
				g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
					next := o.transport
					o.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
						if r.URL.Path == tt.path {
							return tt.answer(r)
						}
						return next.RoundTrip(r)
					})
				})
				defer g.Close()
				_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
				for _, want := range tt.want {
					if text := errorText(err); !strings.Contains(text, want) || printable(text) != text {
						t.Errorf("err = %s; want %s", text, want)
					}
				}
			})
		})
	}
}

// acmeTorn is a body that ends early.
type acmeTorn struct{}

func (acmeTorn) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A CA that never completes a validation or an order is named in the error.
func TestACMENeverDone(t *testing.T) {
	for path, want := range map[string]string{
		"/authz/1/0": `the CA's validation of the name at "https://ca.test/authz/1/0": not done when the 5m0s for the order were over; it looks like an outage of the CA`,
		"/order/1":   `the order at "https://ca.test/order/1": not done when the 5m0s for the order were over`,
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca, challenged := newACMETestCA(t), false
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
				next := o.transport
				o.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
					res, err := next.RoundTrip(r)
					challenged = challenged || strings.HasPrefix(r.URL.Path, "/challenge/")
					if err == nil && r.URL.Path == path && challenged {
						data, _ := io.ReadAll(res.Body)
						text := strings.NewReplacer(`"status":"valid"`, `"status":"pending"`, `"status":"ready"`, `"status":"processing"`).Replace(string(data))
						res.Body = io.NopCloser(strings.NewReader(text))
					}
					return res, err
				})
			})
			defer g.Close()
			began := time.Now()
			_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
			if !strings.Contains(errorText(err), want) || time.Since(began) < acmeOrderTimeout {
				t.Errorf("after %v err = %v; want %s", time.Since(began), err, want)
			}
		})
	}
}
