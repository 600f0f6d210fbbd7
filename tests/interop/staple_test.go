package interop

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// What OpenSSL says of an OCSP staple: there is none, then one that is put
// beside the PEM while the gate runs, then none again where the file holds one
// that has ended.
func TestOpenSSLStaple(t *testing.T) {
	gate.Program(t, "openssl", "openssl")
	const name = "example1.test"
	site := gate.NewSite(t)
	site.Write(t, "root.pem", site.CA.RootPEM())
	ca := site.CA.Intermediate("Responder and CA")
	pair := ca.Issue(name)
	site.Certify(t, name, pair)
	g := site.Start(t, "[upstream.xmpp]\nnodes = [\""+wire.Echo(t).URL+"\"]\nxmpp = false\n")

	said := func() string {
		out, err := exec.Command("openssl", "s_client", "-status", "-connect", g.Addr("wss"), "-servername", name,
			"-CAfile", filepath.Join(site.Dir, "root.pem"), "-verify_return_error").CombinedOutput()
		if err != nil {
			t.Fatalf("openssl s_client: %v\n%s", err, out)
		}
		return string(out)
	}
	await := func(what string, words ...string) {
		t.Helper()
		var out string
		for deadline := time.Now().Add(gate.Patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			out = said()
			has := true
			for _, w := range words {
				has = has && strings.Contains(out, w)
			}
			if has {
				return
			}
		}
		t.Fatalf("%s: openssl says\n%s\nwant %q", what, out, words)
	}
	staple := func(until time.Duration) {
		t.Helper()
		der, err := ocsp.CreateResponse(ca.Cert, ca.Cert, ocsp.Response{Status: ocsp.Good, SerialNumber: pair.Cert.SerialNumber,
			ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(until)}, ca.Key)
		if err != nil {
			t.Fatal(err)
		}
		site.Write(t, "certs/"+name+".ocsp", der)
	}
	await("without a file", "OCSP response: no response sent")
	staple(time.Hour)
	await("with a fresh one", "OCSP Response Status: successful", "Cert Status: good")
	staple(-time.Minute)
	await("with one that has ended", "OCSP response: no response sent")
}
