package certstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/crypto/acme"
)

const (
	acmeRequestTimeout = 30 * time.Second // for one request to the CA, including the answer

	// acmeMaxBody bounds an answer of the CA, in bytes. Chains are a few KiB;
	// acme.Client reads an error page without a limit.
	acmeMaxBody = 1 << 20

	// acmeMaxHeader bounds the header of an answer, in bytes. The default is 10
	// MiB.
	acmeMaxHeader = 64 << 10

	acmeRetryAfterMax = time.Minute // longest pause between two polls of an order

	acmeRetryMax = 10 * time.Second // longest pause before a request is sent again

	acmeUserAgent = "wssgate"
)

// acmeHTTPClient returns the client for all requests to the CA. It uses the proxy from
// the environment, if any. next replaces the network in tests.
func acmeHTTPClient(ca ACMECA, next http.RoundTripper) *http.Client {
	switch {
	case ca.Unread != nil:
		next = acmeUnread{ca.Unread}
	case next == nil:
		next = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: ca.Roots},
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: acmeRequestTimeout,

			MaxResponseHeaderBytes: acmeMaxHeader,
			IdleConnTimeout:        10 * time.Second, // an order is short, and the next one is weeks away
			ForceAttemptHTTP2:      true,
		}
	}
	return &http.Client{Transport: acmeTransport{next}}
}

// acmeUnread is the transport to a CA that must not be asked, and why.
type acmeUnread struct{ err error }

func (t acmeUnread) RoundTrip(*http.Request) (*http.Response, error) { return nil, t.err }

// acmeTransport protects acme.Client from bad answers of a CA. It reads them whole,
// within acmeRequestTimeout.
type acmeTransport struct {
	next http.RoundTripper
}

func (t acmeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r, err := acmeReplacing(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), acmeRequestTimeout)
	defer cancel()
	res, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return nil, acmeUnsent(r, acmeRequestTimeout, err)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, acmeMaxBody+1))
	res.Body.Close()
	refused := res.StatusCode >= 400 // whatever else the answer contains
	switch {
	case len(data) > acmeMaxBody && !refused:
		return nil, errACMEBody
	case err != nil && !refused:
		return nil, acmeUnsent(r, acmeRequestTimeout, fmt.Errorf("the answer breaks off after %d bytes: %w", len(data), err))
	}
	if err := acmeStrange(r, res, data); err != nil {
		if !refused {
			return nil, err
		}
		data = fmt.Appendf(nil, "%s %q: %v", r.Method, r.URL.Redacted(), err) // acme.Client shows it as the CA's words
	}
	acmeHearIssuers(r.Context(), data)
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	// acme.Client polls an order at the interval in Retry-After: in a tight
	// loop if that is in the past, and not before its deadline if it is
	// tomorrow. acmeBackoff uses the Retry-After of errors.
	if v := res.Header.Get("Retry-After"); v != "" && res.StatusCode < 400 && r.Method == http.MethodPost {
		d := acmeRetryAfter(v)
		res.Header.Del("Retry-After")
		if d > 0 {
			seconds := int64((min(d, acmeRetryAfterMax) + time.Second - 1) / time.Second)
			res.Header.Set("Retry-After", strconv.FormatInt(seconds, 10))
		}
	}
	return res, nil
}

// CloseIdleConnections is called by http.Client.CloseIdleConnections.
func (t acmeTransport) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// acmeRetryAfter returns the delay in a Retry-After header (RFC 9110, section
// 10.2.3). It is 0 if the header is missing, invalid or in the past.
func acmeRetryAfter(v string) time.Duration {
	if seconds, err := strconv.ParseInt(v, 10, 32); err == nil {
		return max(time.Duration(seconds)*time.Second, 0)
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}

var errACMEBody = errors.New("answer of the CA is longer than 1 MiB")

// acmeRetry is acme.Client.RetryBackoff. It returns how long to wait before a
// request is sent again, or 0 not to send it. A rejected nonce is replaced at
// once (RFC 8555, section 6.5). A server error gets three more attempts. A rate
// limit or a long Retry-After gets none here; acmeBackoff decides.
func acmeRetry(n int, _ *http.Request, res *http.Response) time.Duration {
	switch {
	case res.StatusCode == http.StatusTooManyRequests:
		return 0
	case res.StatusCode < 500: // badNonce: the client does not retry other errors
		if n > 20 {
			return 0
		}
		return time.Duration(n) * 10 * time.Millisecond
	}
	d := max(time.Duration(n)*2*time.Second, acmeRetryAfter(res.Header.Get("Retry-After")))
	if n > 3 || d > acmeRetryMax {
		return 0
	}
	return d
}

// acmeRateLimit returns the delay that the CA requested, or 0.
func acmeRateLimit(err error) time.Duration {
	var problem *acme.Error
	if !errors.As(err, &problem) || problem.Header == nil {
		return 0
	}
	return acmeRetryAfter(problem.Header.Get("Retry-After"))
}
