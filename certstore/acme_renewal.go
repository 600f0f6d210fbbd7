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

// A CA says in advance when it wants a certificate to be renewed, for example because it
// is about to revoke it: ACME Renewal Information (RFC 9773). One goroutine asks for all
// names, one after the other (watchRenewals); keepers only read the answers, so that a
// CA that does not answer delays nothing.
const (
	// acmeAskAgain is when to ask again after an answer that is an error of its own, or
	// does not say (RFC 9773, section 4.3.3).
	acmeAskAgain = 6 * time.Hour

	// Bounds of Retry-After (RFC 9773, section 4.3.2).
	acmeAskMin = time.Minute
	acmeAskMax = 24 * time.Hour

	acmeMaxExplanation = 1000 // bytes of a URL
)

// ACMERenewal is what the CA says about the renewal of one certificate.
type ACMERenewal struct {
	Start, End  time.Time // when it wants the renewal; zero: not known
	Explanation string    // http or https URL of a page that says why; empty: none
	Err         string    // why the latest question had no answer; empty: it had, or none was asked
}

// over reports whether the whole window is in the past, as it is when the CA has revoked
// the certificate or will soon.
func (r ACMERenewal) over(now time.Time) bool { return !r.End.IsZero() && r.End.Before(now) }

// moment returns a random time in the window, always the same one for a certificate and
// a window: gates and restarts agree, and another window has another moment.
func (r ACMERenewal) moment(leaf *x509.Certificate) time.Time {
	h := fnv.New64a()
	h.Write(leaf.Raw)
	io.WriteString(h, r.Start.UTC().String()+r.End.UTC().String())
	return r.Start.Add(time.Duration(float64(r.End.Sub(r.Start)) * (float64(h.Sum64()>>11) / (1 << 53))))
}

// An acmeAsked is what a keeper knows from the CA.
type acmeAsked struct {
	ACMERenewal
	leaf  *x509.Certificate // that it is about; nil: none
	again time.Time         // when to ask again, by the monotonic clock
}

// postpones reports whether the answer is fresh enough to renew later than without it.
func (q acmeAsked) postpones() bool { return q.Err == "" && time.Since(q.again) < acmeAskAgain }

// acmeLatest returns when a certificate is renewed though its CA suggests a later time:
// half of what acmeRenewAt keeps is left.
func acmeLatest(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(acmeRenewAt(leaf, "").Sub(leaf.NotAfter) / 2)
}

// acmeCertID returns the CA's name for a certificate (RFC 9773, section 4.1), or "" if
// it has none, for want of an Authority Key Identifier.
func acmeCertID(leaf *x509.Certificate) string {
	if len(leaf.AuthorityKeyId) == 0 || leaf.SerialNumber.Sign() <= 0 {
		return ""
	}
	serial := leaf.SerialNumber.Bytes()
	if serial[0]&0x80 != 0 { // the value of a DER INTEGER has a sign
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

// acmeAskAfter returns how long to wait according to the Retry-After of an answer.
func acmeAskAfter(header http.Header) time.Duration {
	d := acmeRetryAfter(header.Get("Retry-After"))
	if d == 0 {
		return acmeAskAgain
	}
	return min(max(d, acmeAskMin), acmeAskMax)
}

// An acmeRenewals is what watchRenewals knows of the CA as a whole.
type acmeRenewals struct {
	until    time.Time // nothing is asked before
	failures int       // in a row, of the CA as a whole
	looked   time.Time // when the directory was last read; zero: read it
}

// watchRenewals asks the CA about the certificate of each name, until the end.
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

// askRenewals asks about all names whose time has come. It stops when the CA as a whole
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

// errACMENoRenewalInfo means that the CA has no renewal information.
var errACMENoRenewalInfo = errors.New("the CA does not offer it")

// askRenewal asks about one certificate. It returns when to ask again.
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

// get asks for a resource that needs no account.
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
	data, err := io.ReadAll(res.Body) // acmeTransport bounds it
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

// acmeOutage reports whether an error is the CA's as a whole, or the network's, and not
// an answer to one question.
func acmeOutage(err error) bool {
	var problem *acme.Error
	if errors.As(err, &problem) && problem.StatusCode < 500 && problem.StatusCode != http.StatusTooManyRequests {
		return false
	}
	var directory acmeCause
	var sent *url.Error
	return problem != nil || errors.As(err, &directory) || errors.As(err, &sent)
}

// asks returns the certificate that a CA is to be asked about now; nil: none.
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

// replaces returns a CA's name for the certificate that an order is to replace, or "" if
// it has not told of that, or the certificate is another CA's.
func (k *acmeKeeper) replaces(c *acmeCA) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cert == nil || k.asked.leaf != k.cert.Leaf || k.asked.End.IsZero() || k.a.issuer(k.record.Issuer) != c {
		return ""
	}
	return acmeCertID(k.cert.Leaf)
}

// told notes an answer.
func (k *acmeKeeper) told(leaf *x509.Certificate, said ACMERenewal, after time.Duration, err error) {
	k.mu.Lock()
	before := k.asked
	if before.leaf != leaf {
		before = acmeAsked{}
	}
	if err != nil {
		said = before.ACMERenewal // an early window stays true
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
