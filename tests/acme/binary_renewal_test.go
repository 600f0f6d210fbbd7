package acme

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/acme"

	"wssgate/tests/internal/gate"
)

// A certificate that the CA has revoked, and one that it wants to be renewed at once, are
// replaced though their dates are well; one whose window is malformed is not. The CA
// knows which certificate each order replaces.
func TestBinaryRenewalInfo(t *testing.T) {
	t.Parallel()
	const revoked, early, malformed = "revoked.example.org", "early.example.org", "malformed.example.org"
	p, all := newPebble(t, pebbleConfig{})
	g := newBinaryGate(t, p, all[0], revoked, early, malformed)
	g.config(g.addr, "", fmt.Sprintf("%q, %q, %q", revoked, early, malformed))
	g.Gate = gate.Start(t, g.site.Dir)
	root := p.Root()
	before := map[string]*x509.Certificate{}
	for _, name := range []string{revoked, early, malformed} {
		before[name] = g.obtains(name, root)
	}
	g.Signal(syscall.SIGTERM)
	g.Wait()

	if err := p.account(g.cache).RevokeCert(t.Context(), nil, before[revoked].Raw, acme.CRLReasonKeyCompromise); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	p.setRenewalInfo(before[early], fmt.Sprintf(`{"suggestedWindow":{"start":"2026-01-01T00:00:00Z","end":%q},"explanationURL":"https://ca.example/incident"}`, past))
	p.setRenewalInfo(before[malformed], fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":"2026-01-01T00:00:00Z"}}`, past))

	g.Gate = gate.Start(t, g.site.Dir)
	g.WaitLine("the CA's explanation", func(l gate.Line) bool {
		return l.Msg() == "acme: the CA wants the certificate to be renewed" && l.Str("explanation") == "https://ca.example/incident"
	})
	g.WaitLine("a window that is none", func(l gate.Line) bool {
		return l.Msg() == "acme: no renewal information from the CA; renewing by the certificate's dates" && l.Str("server_name") == malformed
	})
	g.obtains(revoked, root, before[revoked])
	g.obtains(early, root, before[early])
	if leaf, err := g.leaf(malformed, root); err != nil || !leaf.Equal(before[malformed]) {
		t.Errorf("%s has another certificate, or none: %v", malformed, err)
	}
	if n, replaced := p.Orders(), strings.Count(p.log.String(), "has been marked as replaced"); n != 5 || replaced != 2 {
		t.Errorf("%d orders, which replace %d; want 5, which replace 2", n, replaced)
	}
}

// setRenewalInfo has the CA answer this about a certificate.
func (p *pebble) setRenewalInfo(leaf *x509.Certificate, answer string) {
	p.t.Helper()
	body, err := json.Marshal(map[string]string{
		"Certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})), "ARIResponse": answer})
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := p.client().Post("https://"+p.mgmt+"/set-renewal-info/", "application/json", bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		p.t.Fatalf("Pebble answers %s", res.Status)
	}
}

// client is one that trusts Pebble's listeners.
func (p *pebble) client() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.https.Pool()}, DisableKeepAlives: true}}
}

// account is the account in a gate's cache.
func (p *pebble) account(cache string) *acme.Client {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(cache, "acme_account+key"))
	if err != nil {
		p.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	return &acme.Client{Key: key, DirectoryURL: p.Directory, HTTPClient: p.client()}
}
