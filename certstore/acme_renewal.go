package certstore

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// A CA announces when it wants a certificate to be renewed, for example because
// it will revoke it: ACME Renewal Information (RFC 9773). One goroutine asks
// for all names, one after the other (watchRenewals). Keepers only read the
// answers, so a CA that does not answer delays nothing.
const (
	// acmeAskAgain is the interval after an answer without Retry-After, or
	// after an error that concerns only one certificate (RFC 9773, section
	// 4.3.3).
	acmeAskAgain = 6 * time.Hour

	// Bounds of Retry-After (RFC 9773, section 4.3.2).
	acmeAskMin = time.Minute
	acmeAskMax = 24 * time.Hour

	acmeMaxExplanation = 1000 // bytes of a URL
)

// ACMERenewal is the CA's information about the renewal of one certificate.
type ACMERenewal struct {
	Start, End  time.Time // the suggested window; zero: unknown
	Explanation string    // http or https URL of a page with the reason; empty: none
	Err         string    // why the latest request failed; empty: it succeeded, or none was made
}

// over reports whether the whole window is in the past. It is if the CA has
// revoked the certificate or soon will.
func (r ACMERenewal) over(now time.Time) bool { return !r.End.IsZero() && r.End.Before(now) }

// moment returns a random time in the window. It is always the same for one
// certificate and window, so gates and restarts agree; another window gives
// another time.
func (r ACMERenewal) moment(leaf *x509.Certificate) time.Time {
	h := fnv.New64a()
	h.Write(leaf.Raw)
	io.WriteString(h, r.Start.UTC().String()+r.End.UTC().String())
	return r.Start.Add(time.Duration(float64(r.End.Sub(r.Start)) * (float64(h.Sum64()>>11) / (1 << 53))))
}

// An acmeAsked is a keeper's renewal information.
type acmeAsked struct {
	ACMERenewal
	leaf  *x509.Certificate // the certificate that it describes; nil: none
	again time.Time         // when to ask again, by the monotonic clock
}

// postpones reports whether the answer is fresh enough to delay the renewal.
func (q acmeAsked) postpones() bool { return q.Err == "" && time.Since(q.again) < acmeAskAgain }

// acmeLatest returns when a certificate is renewed even if the CA suggests a
// later time: when half of the margin of acmeRenewAt is left.
func acmeLatest(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(acmeRenewAt(leaf, "").Sub(leaf.NotAfter) / 2)
}

// acmeCertID returns the CA's identifier for a certificate (RFC 9773, section
// 4.1), or "" if it has no Authority Key Identifier.
func acmeCertID(leaf *x509.Certificate) string {
	if len(leaf.AuthorityKeyId) == 0 || leaf.SerialNumber.Sign() <= 0 {
		return ""
	}
	serial := leaf.SerialNumber.Bytes()
	if serial[0]&0x80 != 0 { // the value of a DER INTEGER is signed
		serial = append([]byte{0}, serial...)
	}
	return base64.RawURLEncoding.EncodeToString(leaf.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(serial)
}

// acmeParseRenewal reads a RenewalInfo object (RFC 9773, section 4.2).
func acmeParseRenewal(data []byte) (r ACMERenewal, err error) {
	var info struct {
		SuggestedWindow struct{ Start, End time.Time }
		ExplanationURL  string
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return r, err
	}
	start, end := info.SuggestedWindow.Start, info.SuggestedWindow.End
	if start.IsZero() || !end.After(start) {
		return r, fmt.Errorf("the window from %s to %s is none", start.Format(time.RFC3339), end.Format(time.RFC3339))
	}
	r = ACMERenewal{Start: start.UTC(), End: end.UTC()}
	u, err := url.Parse(info.ExplanationURL)
	if err == nil && len(info.ExplanationURL) <= acmeMaxExplanation && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" {
		if text := u.String(); printable(text) == text {
			r.Explanation = text
		}
	}
	return r, nil
}

// acmeAskAfter returns the delay in the Retry-After header of an answer.
func acmeAskAfter(header http.Header) time.Duration {
	d := acmeRetryAfter(header.Get("Retry-After"))
	if d == 0 {
		return acmeAskAgain
	}
	return min(max(d, acmeAskMin), acmeAskMax)
}

// An acmeRenewals is the state of watchRenewals for the whole CA.
type acmeRenewals struct {
	until    time.Time // no requests before
	failures int       // consecutive failures of the CA as a whole
	looked   time.Time // when the directory was last read; zero: read it
}

// watchRenewals asks the CA about the certificate of each name, until the ACME
// is closed.
func (c *acmeCA) watchRenewals() {
	var r acmeRenewals
	for c.ctx.Err() == nil {
		c.askRenewals(&r)
		select {
		case <-c.ctx.Done():
		case <-time.After(c.opts.Poll):
		}
	}
}

// askRenewals asks about all names that are due. It stops if the CA as a whole
// does not answer.
func (c *acmeCA) askRenewals(r *acmeRenewals) {
	for _, k := range c.names.Load().byID {
		if c.ctx.Err() != nil || time.Now().Before(r.until) {
			return
		}
		leaf := k.asks(c)
		if leaf == nil {
			continue
		}
		said, after, err := c.askRenewal(r, leaf)
		switch {
		case c.ctx.Err() != nil:
			return
		case err == nil || !acmeOutage(err):
			r.failures = 0
		default:
			r.failures++
			after = min(max(acmeBackoff(r.failures, 0, acmeRateLimit(err)), after), acmeAskMax)
			r.until = time.Now().Add(after)
		}
		k.told(leaf, said, after, err)
	}
}

// errACMENoRenewalInfo means that the CA does not support renewal information.
var errACMENoRenewalInfo = errors.New("the CA does not offer it")

// askRenewal asks about one certificate. after is the time to wait before
// asking again.
func (c *acmeCA) askRenewal(r *acmeRenewals, leaf *x509.Certificate) (said ACMERenewal, after time.Duration, err error) {
	if time.Since(r.looked) >= acmeAskMax {
		var dir struct{ RenewalInfo string }
		data, _, err := c.get(c.Directory)
		if err == nil {
			err = json.Unmarshal(data, &dir)
		}
		if err != nil {
			return said, acmeAskAgain, acmeCause{"directory", err}
		}
		if !strings.HasPrefix(dir.RenewalInfo, "https://") { // RFC 8555, section 6.1
			dir.RenewalInfo = ""
		}
		c.renewalInfo.Store(new(strings.TrimSuffix(dir.RenewalInfo, "/")))
		r.looked = time.Now()
	}
	base := *c.renewalInfo.Load()
	if base == "" {
		return said, acmeAskMax, errACMENoRenewalInfo
	}
	data, header, err := c.get(base + "/" + acmeCertID(leaf))
	if err != nil {
		return said, acmeAskAgain, err
	}
	said, err = acmeParseRenewal(data)
	if err != nil {
		return said, acmeAskAgain, err
	}
	return said, acmeAskAfter(header), nil
}

// get requests a resource that needs no account.
func (c *acmeCA) get(url string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(c.ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("User-Agent", acmeUserAgent)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body) // acmeTransport limits the size
	if err == nil && res.StatusCode != http.StatusOK {
		problem := struct{ Type, Detail string }{}
		json.Unmarshal(data, &problem)
		err = &acme.Error{StatusCode: res.StatusCode, ProblemType: problem.Type, Detail: problem.Detail, Header: res.Header}
		if problem.Detail == "" {
			err.(*acme.Error).Detail = string(data)
		}
	}
	return data, res.Header, err
}

// acmeOutage reports whether an error concerns the CA as a whole, or the
// network, and not only one request.
func acmeOutage(err error) bool {
	var problem *acme.Error
	if errors.As(err, &problem) && problem.StatusCode < 500 && problem.StatusCode != http.StatusTooManyRequests {
		return false
	}
	var directory acmeCause
	var sent *url.Error
	return problem != nil || errors.As(err, &directory) || errors.As(err, &sent)
}

// asks returns the certificate to ask a CA about now, or nil.
func (k *acmeKeeper) asks(c *acmeCA) *x509.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cert == nil || k.a.issuer(k.record.Issuer) != c {
		return nil
	}
	leaf := k.cert.Leaf
	if k.asked.leaf == leaf && time.Now().Before(k.asked.again) || acmeCertID(leaf) == "" {
		return nil
	}
	return leaf
}

// replaces returns the CA's identifier for the certificate that an order
// replaces. It is "" if the CA has no renewal information for it, or did not
// issue it.
func (k *acmeKeeper) replaces(c *acmeCA) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cert == nil || k.asked.leaf != k.cert.Leaf || k.asked.End.IsZero() || k.a.issuer(k.record.Issuer) != c {
		return ""
	}
	return acmeCertID(k.cert.Leaf)
}

// told records an answer.
func (k *acmeKeeper) told(leaf *x509.Certificate, said ACMERenewal, after time.Duration, err error) {
	k.mu.Lock()
	before := k.asked
	if before.leaf != leaf {
		before = acmeAsked{}
	}
	if err != nil {
		said = before.ACMERenewal // an earlier window is still valid
		if said.Err = acmeWords(err); err == errACMENoRenewalInfo {
			said = ACMERenewal{}
		}
	}
	k.asked = acmeAsked{said, leaf, time.Now().Add(after)}
	k.mu.Unlock()
	log := k.a.opts.Log
	switch {
	case err == errACMENoRenewalInfo:
	case err != nil && before.Err == "":
		log.Info("acme: no renewal information from the CA; renewing by the certificate's dates", "server_name", k.name, "err", said.Err)
	case err == nil && (said.Explanation != before.Explanation && said.Explanation != "" || said.over(k.a.opts.wall()) && !said.Start.Equal(before.Start)):
		log.Warn("acme: the CA wants the certificate to be renewed", "server_name", k.name,
			"window", said.Start.Format(time.RFC3339)+"/"+said.End.Format(time.RFC3339), "explanation", said.Explanation)
	}
}
