package certstore

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wssgate/demo/minica"
)

// acmeTestCA is a CA that speaks RFC 8555, in memory. It is an
// http.RoundTripper, so it works with a fake clock. It checks signatures,
// nonces and answers to challenges, and records the requests.
type acmeTestCA struct {
	t           *testing.T
	url         string
	ca          *minica.CA
	lifetime    time.Duration
	backdate    time.Duration     // age of its certificates when they are issued
	offers      []string          // types of challenges
	chains      [][]byte          // alternate chains, PEM, without the leaf
	eab         map[string][]byte // keys of external accounts; nil: none needed
	profiles    map[string]string
	contact     string          // the last one that it received
	deactivated map[string]bool // thumbprints
	gates       []*acmeTestGate // who may be asked to answer; one that can is enough
	caa         []string        // its names in DNS, as the directory gives them
	issuers     []string        // the same, as a challenge gives them
	zone        *acmeTestZone   // of TXT records

	mu        sync.Mutex
	nonces    map[string]bool
	accounts  map[string]string // thumbprint → URL
	keys      map[string]*acmeTestKey
	orders    []*acmeTestOrder
	requests  []string // "POST /new-order" and so on
	down      error    // error of every request
	silent    bool     // requests are never answered
	refuse    func(path string, n int) *acmeTestProblem
	invalid   func(name, challenge string) *acmeTestProblem // result of a validation
	lose      func(path string) bool                        // the request is carried out, but its answer is lost
	replacing *acmeTestProblem                              // answer to an order that replaces a certificate
	revoking  *acmeTestProblem                              // answer to a revocation
	revoked   []string
	renewal   func(id string) (status int, retryAfter, body string)
}

type acmeTestKey struct {
	pub   *ecdsa.PublicKey
	print string
}

type acmeTestOrder struct {
	id       int
	names    []string
	profile  string
	replaces string
	status   string
	authz    string       // status of all authorizations
	proved   map[int]bool // by index of names
	tokens   map[string]string
	bad      int    // index of the name that failed
	failed   string // challenge
	problem  *acmeTestProblem
	cert     []byte
	leaf     *x509.Certificate
}

type acmeTestProblem struct {
	Type        string            `json:"type"`
	Detail      string            `json:"detail"`
	Status      int               `json:"status"`
	Subproblems []acmeTestProblem `json:"subproblems,omitempty"`
	Identifier  map[string]string `json:"identifier,omitempty"`
	retryAfter  string
}

const acmeTestURL = "https://ca.test"

func newACMETestCA(t *testing.T) *acmeTestCA {
	return &acmeTestCA{
		t: t, url: acmeTestURL, ca: minica.NewCA("acme test root"), lifetime: 90 * 24 * time.Hour,
		offers: []string{"http-01", "dns-01", "tls-alpn-01"},
		nonces: map[string]bool{}, accounts: map[string]string{}, keys: map[string]*acmeTestKey{},
	}
}

// asked counts the requests for a path.
func (c *acmeTestCA) asked(path string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count(path)
}

// count is asked for callers that hold c.mu.
func (c *acmeTestCA) count(path string) (n int) {
	for _, r := range c.requests {
		if r == path {
			n++
		}
	}
	return n
}

// ordered counts the orders.
func (c *acmeTestCA) ordered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.orders)
}

func (c *acmeTestCA) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *acmeTestCA) RoundTrip(r *http.Request) (*http.Response, error) {
	path := r.Method + " " + r.URL.Path
	c.mu.Lock()
	down, silent := c.down, c.silent
	c.requests = append(c.requests, path)
	n := c.count(path) // another request may come before it is answered
	c.mu.Unlock()
	if silent {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if down != nil {
		return nil, down
	}
	w := httptest.NewRecorder()
	c.serve(w, r, n)
	c.mu.Lock()
	lose := c.lose
	c.mu.Unlock()
	if lose != nil && lose(r.URL.Path) {
		return nil, io.ErrUnexpectedEOF
	}
	return w.Result(), nil
}

// serve answers the n-th request for its path.
func (c *acmeTestCA) serve(w *httptest.ResponseRecorder, r *http.Request, n int) {
	nonce := rand.Text()
	c.mu.Lock()
	c.nonces[nonce] = true
	refuse, renewal := c.refuse, c.renewal
	c.mu.Unlock()
	w.Header().Set("Replay-Nonce", nonce)
	if r.URL.Path == "/directory" {
		dir := map[string]any{
			"newNonce": c.url + "/new-nonce", "newAccount": c.url + "/new-account", "newOrder": c.url + "/new-order",
			"revokeCert": c.url + "/revoke", "keyChange": c.url + "/key-change",
			"meta": map[string]any{"termsOfService": c.url + "/terms", "externalAccountRequired": c.eab != nil, "profiles": c.profiles, "caaIdentities": c.caa},
		}
		if renewal != nil {
			dir["renewalInfo"] = c.url + "/renewal-info/"
		}
		answer(w, 200, dir)
		return
	}
	if id, asked := strings.CutPrefix(r.URL.Path, "/renewal-info/"); asked && renewal != nil {
		status, after, body := renewal(id)
		w.Header().Set("Content-Type", "application/json")
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
		return
	}
	if r.Method == "HEAD" {
		return
	}
	key, payload, problem := c.open(r)
	if problem == nil && refuse != nil {
		problem = refuse(r.URL.Path, n)
	}
	if problem != nil {
		refuseWith(w, problem)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var id, index int
	var kind, challenge string
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	kind = parts[0]
	if len(parts) > 1 {
		fmt.Sscan(parts[1], &id)
		if kind != "account" && (id < 1 || id > len(c.orders)) {
			refuseWith(w, &acmeTestProblem{Type: "malformed", Detail: "no such thing", Status: 404})
			return
		}
	}
	if len(parts) > 2 {
		fmt.Sscan(parts[2], &index)
	}
	if len(parts) > 3 {
		challenge = parts[3]
	}
	if c.deactivated[key.print] {
		refuseWith(w, &acmeTestProblem{Type: "unauthorized", Detail: "Account has been deactivated", Status: 401})
		return
	}
	switch kind {
	case "account":
		c.newAccount(w, key, payload)
	case "revoke":
		if problem := c.revoking; problem != nil {
			refuseWith(w, problem)
			return
		}
		var req struct {
			Certificate string
			Reason      int
		}
		json.Unmarshal(payload, &req)
		c.revoked = append(c.revoked, fmt.Sprintf("%x for %d", decode64(req.Certificate), req.Reason))
	case "new-account":
		c.newAccount(w, key, payload)
	case "key-change":
		if problem := c.changeKey(r.URL.String(), key, payload); problem != nil {
			refuseWith(w, problem)
			return
		}
		answer(w, 200, map[string]any{"status": "valid"})
	case "new-order":
		var req struct {
			Identifiers []struct{ Type, Value string }
			Profile     string
			Replaces    string
		}
		json.Unmarshal(payload, &req)
		if req.Replaces != "" && c.replacing != nil {
			refuseWith(w, c.replacing)
			return
		}
		o := &acmeTestOrder{id: len(c.orders) + 1, profile: req.Profile, replaces: req.Replaces, status: "pending", authz: "pending", tokens: map[string]string{}, proved: map[int]bool{}}
		for _, i := range req.Identifiers {
			o.names = append(o.names, i.Value)
		}
		for _, typ := range c.offers {
			o.tokens[typ] = rand.Text()
		}
		c.orders = append(c.orders, o)
		w.Header().Set("Location", fmt.Sprintf("%s/order/%d", c.url, o.id))
		answer(w, 201, c.order(o))
	case "order":
		answer(w, 200, c.order(c.orders[id-1]))
	case "authz":
		o := c.orders[id-1]
		if bytes.Contains(payload, []byte("deactivated")) && o.authz == "pending" {
			o.authz = "deactivated"
		}
		answer(w, 200, c.authz(o, index))
	case "challenge":
		o := c.orders[id-1]
		want := o.tokens[challenge] + "." + key.print
		if challenge == acmePersist {
			want = c.accounts[key.print]
		}
		c.validate(o, index, challenge, want)
		answer(w, 200, map[string]any{"type": challenge, "url": r.URL.String(), "token": o.tokens[challenge], "status": "processing"})
	case "finalize":
		c.finalize(w, c.orders[id-1], payload)
	case "cert":
		o := c.orders[id-1]
		for i := range c.chains {
			w.Header().Add("Link", fmt.Sprintf("<%s/cert/%d/%d>;rel=\"alternate\"", c.url, id, i+1))
		}
		if index > 0 {
			leaf, _ := pem.Decode(o.cert)
			w.Write(append(pem.EncodeToMemory(leaf), c.chains[index-1]...))
			return
		}
		w.Write(o.cert)
	default:
		refuseWith(w, &acmeTestProblem{Type: "malformed", Detail: "no such resource " + kind, Status: 404})
	}
}

// refuseOrders makes the CA answer every order with a problem.
func (c *acmeTestCA) refuseOrders(problem acmeTestProblem) {
	c.refuse = func(path string, _ int) *acmeTestProblem {
		if path != "/new-order" {
			return nil
		}
		return &problem
	}
}

func (c *acmeTestCA) newAccount(w *httptest.ResponseRecorder, key *acmeTestKey, payload []byte) {
	var req struct {
		TermsOfServiceAgreed   bool
		OnlyReturnExisting     bool
		Contact                []string
		ExternalAccountBinding *struct{ Protected, Payload, Signature string }
	}
	json.Unmarshal(payload, &req)
	url, known := c.accounts[key.print]
	status := 200
	if !known && req.OnlyReturnExisting {
		refuseWith(w, &acmeTestProblem{Type: "accountDoesNotExist", Detail: "no account with this key", Status: 400})
		return
	}
	if c.deactivated[key.print] {
		refuseWith(w, &acmeTestProblem{Type: "unauthorized", Detail: "Account has been deactivated", Status: 401})
		return
	}
	if len(req.Contact) > 0 {
		c.contact = req.Contact[0]
	}
	if !known {
		if !req.TermsOfServiceAgreed {
			refuseWith(w, &acmeTestProblem{Type: "userActionRequired", Detail: "agree to the terms", Status: 403})
			return
		}
		if c.eab != nil {
			b := req.ExternalAccountBinding
			if b == nil {
				refuseWith(w, &acmeTestProblem{Type: "externalAccountRequired", Detail: "an external account is required", Status: 403})
				return
			}
			var head struct{ Kid string }
			json.Unmarshal(decode64(b.Protected), &head)
			mac := hmac.New(sha256.New, c.eab[head.Kid])
			io.WriteString(mac, b.Protected+"."+b.Payload)
			if c.eab[head.Kid] == nil || !hmac.Equal(mac.Sum(nil), decode64(b.Signature)) {
				refuseWith(w, &acmeTestProblem{Type: "unauthorized", Detail: "external account binding is wrong", Status: 403})
				return
			}
		}
		url = fmt.Sprintf("%s/account/%d", c.url, len(c.accounts)+1)
		c.accounts[key.print], c.keys[url] = url, key
		status = 201
	}
	w.Header().Set("Location", url)
	answer(w, status, map[string]any{"status": "valid"})
}

func (c *acmeTestCA) order(o *acmeTestOrder) map[string]any {
	var ids []any
	var authzs []string
	for i, name := range o.names {
		ids = append(ids, map[string]string{"type": "dns", "value": name})
		authzs = append(authzs, fmt.Sprintf("%s/authz/%d/%d", c.url, o.id, len(o.names)-1-i)) // in a different order
	}
	m := map[string]any{
		"status": o.status, "identifiers": ids, "authorizations": authzs,
		"finalize": fmt.Sprintf("%s/finalize/%d", c.url, o.id),
	}
	if o.cert != nil {
		m["certificate"] = fmt.Sprintf("%s/cert/%d", c.url, o.id)
	}
	return m
}

func (c *acmeTestCA) authz(o *acmeTestOrder, index int) map[string]any {
	var challenges []any
	domain, wildcard := strings.CutPrefix(o.names[index], "*.")
	for _, typ := range c.offers {
		if wildcard && !strings.HasPrefix(typ, "dns-") {
			continue
		}
		ch := map[string]any{"type": typ, "url": fmt.Sprintf("%s/challenge/%d/%d/%s", c.url, o.id, index, typ), "token": o.tokens[typ], "status": "pending"}
		if typ == acmePersist {
			delete(ch, "token")
			ch["issuer-domain-names"] = c.issuers
		}
		if typ == o.failed {
			ch["status"], ch["error"] = "invalid", o.problem
		}
		challenges = append(challenges, ch)
	}
	status := o.authz
	switch {
	case o.proved[index]:
		status = "valid"
	case status == "invalid" && index != o.bad:
		status = "pending"
	}
	return map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": domain}, "wildcard": wildcard, "challenges": challenges}
}

// validate asks the gates for the answer to a challenge, as a CA does.
func (c *acmeTestCA) validate(o *acmeTestOrder, index int, challenge, want string) {
	name := o.names[index]
	var problem *acmeTestProblem
	if c.invalid != nil {
		problem = c.invalid(name, challenge)
	}
	if problem == nil && challenge == acmePersist {
		problem = c.zone.allows(name, c.issuers, want)
	} else if problem == nil {
		problem = &acmeTestProblem{Type: "unauthorized", Detail: "nobody answers", Status: 403}
		for _, g := range c.gates {
			if err := g.prove(name, challenge, o.tokens[challenge], want); err == nil {
				problem = nil
			} else if problem != nil {
				problem.Detail = err.Error()
			}
		}
	}
	if problem == nil {
		if o.proved[index] = true; len(o.proved) == len(o.names) {
			o.status, o.authz = "ready", "valid"
		}
		return
	}
	problem.Type = "urn:ietf:params:acme:error:" + strings.TrimPrefix(problem.Type, "urn:ietf:params:acme:error:")
	o.status, o.authz, o.bad, o.failed, o.problem = "invalid", "invalid", index, challenge, problem
}

func (c *acmeTestCA) finalize(w *httptest.ResponseRecorder, o *acmeTestOrder, payload []byte) {
	var req struct{ CSR string }
	json.Unmarshal(payload, &req)
	csr, err := x509.ParseCertificateRequest(decode64(req.CSR))
	if err != nil || csr.CheckSignature() != nil || !slices.Equal(csr.DNSNames, o.names) || len(csr.Subject.CommonName) > 64 || o.status != "ready" {
		refuseWith(w, &acmeTestProblem{Type: "badCSR", Detail: fmt.Sprintf("order %q, CSR %v: %v", o.status, csr, err), Status: 400})
		return
	}
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, DNSNames: csr.DNSNames,
		NotBefore: time.Now().Add(-c.backdate), NotAfter: time.Now().Add(c.lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.ca.Cert, csr.PublicKey, c.ca.Key)
	if err != nil {
		refuseWith(w, &acmeTestProblem{Type: "serverInternal", Detail: err.Error(), Status: 500})
		return
	}
	o.leaf, _ = x509.ParseCertificate(der)
	o.cert = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), minica.CertPEM(c.ca.Cert)...)
	o.status = "valid"
	answer(w, 200, c.order(o))
}

type acmeTestJWS struct{ Protected, Payload, Signature string }

type acmeTestJWK struct{ X, Y string }

type acmeTestHead struct {
	Alg, Nonce, URL, Kid string
	JWK                  *acmeTestJWK
}

func (j acmeTestJWK) key() (*acmeTestKey, error) {
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, decode64(j.X)...), decode64(j.Y)...))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, j.X, j.Y)) // RFC 7638
	return &acmeTestKey{pub, base64.RawURLEncoding.EncodeToString(sum[:])}, nil
}

func (j acmeTestJWS) signed(key *acmeTestKey) bool {
	sum := sha256.Sum256([]byte(j.Protected + "." + j.Payload))
	sig := decode64(j.Signature)
	return len(sig) == 64 && ecdsa.Verify(key.pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}

// changeKey replaces the key of an account (RFC 8555, section 7.3.5).
func (c *acmeTestCA) changeKey(url string, key *acmeTestKey, payload []byte) *acmeTestProblem {
	var jws acmeTestJWS
	var head acmeTestHead
	var req struct {
		Account string
		OldKey  acmeTestJWK
	}
	json.Unmarshal(payload, &jws)
	json.Unmarshal(decode64(jws.Protected), &head)
	json.Unmarshal(decode64(jws.Payload), &req)
	old, oerr := req.OldKey.key()
	if head.JWK == nil || oerr != nil || old.print != key.print || head.URL != url || c.accounts[key.print] != req.Account {
		return &acmeTestProblem{Type: "malformed", Detail: fmt.Sprintf("key change: %+v %+v %v", head, req, oerr), Status: 400}
	}
	next, err := head.JWK.key()
	if err != nil || !jws.signed(next) {
		return &acmeTestProblem{Type: "malformed", Detail: "the new key has not signed", Status: 400}
	}
	delete(c.accounts, key.print)
	c.accounts[next.print], c.keys[req.Account] = req.Account, next
	return nil
}

// open checks a request's signature (RFC 8555, section 6.2) and returns its key
// and its payload.
func (c *acmeTestCA) open(r *http.Request) (*acmeTestKey, []byte, *acmeTestProblem) {
	var jws acmeTestJWS
	if err := json.NewDecoder(r.Body).Decode(&jws); err != nil {
		return nil, nil, &acmeTestProblem{Type: "malformed", Detail: err.Error(), Status: 400}
	}
	var head acmeTestHead
	json.Unmarshal(decode64(jws.Protected), &head)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.nonces[head.Nonce] {
		return nil, nil, &acmeTestProblem{Type: "urn:ietf:params:acme:error:badNonce", Detail: "this nonce was not ours", Status: 400}
	}
	delete(c.nonces, head.Nonce)
	key := c.keys[head.Kid]
	if head.JWK != nil {
		var err error
		if key, err = head.JWK.key(); err != nil {
			return nil, nil, &acmeTestProblem{Type: "badPublicKey", Detail: err.Error(), Status: 400}
		}
	}
	if key == nil {
		return nil, nil, &acmeTestProblem{Type: "urn:ietf:params:acme:error:accountDoesNotExist", Detail: "no account " + head.Kid, Status: 400}
	}
	if head.URL != r.URL.String() || !jws.signed(key) {
		return nil, nil, &acmeTestProblem{Type: "unauthorized", Detail: "bad signature", Status: 403}
	}
	return key, decode64(jws.Payload), nil
}

func answer(w *httptest.ResponseRecorder, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func refuseWith(w *httptest.ResponseRecorder, p *acmeTestProblem) {
	if p.retryAfter != "" {
		w.Header().Set("Retry-After", p.retryAfter)
	}
	q := *p
	q.Type = "urn:ietf:params:acme:error:" + strings.TrimPrefix(q.Type, "urn:ietf:params:acme:error:")
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(q.Status)
	json.NewEncoder(w).Encode(q)
}

func decode64(s string) []byte {
	b, _ := base64.RawURLEncoding.DecodeString(s)
	return b
}

// prove does a CA's validation with one gate.
func (g *acmeTestGate) prove(name, challenge, token, want string) error {
	if challenge == "http-01" {
		w := httptest.NewRecorder()
		g.HTTPHandler(nil).ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), "GET", "http://"+name+"/.well-known/acme-challenge/"+token, nil))
		if got := w.Body.String(); w.Code != 200 || got != want {
			return fmt.Errorf("http-01: %d %q", w.Code, got)
		}
		return nil
	}
	cert, err := g.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: []string{"acme-tls/1"}})
	if err != nil {
		return err
	}
	if cert == nil {
		return errors.New("tls-alpn-01: unrecognized_name")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(want))
	for _, ext := range leaf.Extensions {
		if ext.Id.String() == "1.3.6.1.5.5.7.1.31" && ext.Critical && bytes.Equal(ext.Value, append([]byte{4, 32}, sum[:]...)) {
			return leaf.VerifyHostname(name)
		}
	}
	return errors.New("tls-alpn-01: wrong certificate")
}

// An acmeTestZone is DNS. It is safe for concurrent use.
type acmeTestZone struct {
	mu      sync.Mutex
	records map[string][]string
	err     error // answer to everything
	asked   int
}

func (z *acmeTestZone) set(name string, texts ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.records == nil {
		z.records = map[string][]string{}
	}
	z.records[name] = texts
}

// LookupTXT is that of a net.Resolver.
func (z *acmeTestZone) LookupTXT(_ context.Context, name string) ([]string, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	if z.err != nil {
		return nil, z.err
	}
	if texts := z.records[name]; texts != nil {
		return texts, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// allows is what a CA does for dns-persist-01; account is the account's URL.
func (z *acmeTestZone) allows(name string, issuers []string, account string) *acmeTestProblem {
	domain, wildcard := strings.CutPrefix(name, "*.")
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, text := range z.records["_validation-persist."+domain+"."] {
		for _, issuer := range issuers {
			if rest, ok := strings.CutPrefix(text, issuer+";"); ok && strings.Contains(rest+";", " accounturi="+account+";") &&
				(!wildcard || strings.Contains(rest, "policy=wildcard")) {
				return nil
			}
		}
	}
	return &acmeTestProblem{Type: "unauthorized", Detail: "no valid TXT record", Status: 403}
}
