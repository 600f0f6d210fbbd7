package certstore

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/minica"
)

// The chain that ends at the preferred issuer is used if the CA offers it.
// Otherwise, and whatever the CA answers, the certificate is served with its
// default chain.
func TestACMEPreferredChain(t *testing.T) {
	for _, tt := range []struct {
		chain string
		lose  string // path without an answer
		want  string // issuer of the last certificate in the chain
		says  string // warning; empty: none
	}{
		{"", "", "acme test root", ""},
		{"acme test root", "", "acme test root", ""},
		{"old root", "", "old root", ""},
		{"older root", "", "older root", ""},
		{"no such root", "", "acme test root", `the CA offers \"acme test root\", \"old root\", \"older root\"`},
		{"old root", "/cert/1/1", "acme test root", "unexpected EOF"},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			for _, name := range []string{"old root", "older root"} {
				ca.chains = append(ca.chains, minica.CertPEM(minica.NewCA(name).Cert))
			}
			if tt.lose != "" {
				ca.lose = func(path string) bool { return path == tt.lose }
			}
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Chain = tt.chain })
			defer g.Close()
			g.Start()
			time.Sleep(time.Minute)
			synctest.Wait()
			cert := g.cert("chat.example.org")
			if cert == nil {
				t.Fatalf("%q: no certificate\n%s", tt.chain, g.log.String())
			}
			if got := acmeEnds(cert.Certificate); got != tt.want {
				t.Errorf("%q: the chain ends at %q; want %q\n%s", tt.chain, got, tt.want, g.log.String())
			}
			log := g.log.String()
			if warned := strings.Contains(log, "no chain to the preferred issuer"); warned != (tt.says != "") || !strings.Contains(log, tt.says) {
				t.Errorf("%q: want %q in the log\n%s", tt.chain, tt.says, log)
			}
		})
	}
}
