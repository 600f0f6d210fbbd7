package acme

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
)

// A root that is mended in place is taken up by a reload; a contact that changes
// reaches the CA though nothing is due; an account that somebody has deactivated is
// replaced.
func TestBinaryAccount(t *testing.T) {
	t.Parallel()
	const a, b = "a.example.org", "b.example.org"
	p, all := newPebble(t, pebbleConfig{})
	g := newBinaryGate(t, p, all[0], a, b)
	wss := g.addr
	g.site.Write(t, "root.pem", minica.NewCA("another").RootPEM())
	g.config(wss, "", `"`+a+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	g.WaitLine("no trust in the CA", func(l gate.Line) bool { return strings.Contains(l.Str("err"), "x509: ") })
	g.site.Write(t, "root.pem", p.https.RootPEM())
	g.reload()
	g.tryAgain(a)
	root := p.Root()
	g.obtains(a, root)

	g.ca += "email = \"ops@example.org\"\n"
	g.config(wss, "", `"`+a+`"`)
	after := g.Mark()
	g.reload()
	after("the contact", func(l gate.Line) bool { return l.Msg() == "acme: the CA has the account's new contact" })

	client := p.account(g.cache)
	account, err := client.GetReg(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(account.Contact) != 1 || account.Contact[0] != "mailto:ops@example.org" {
		t.Errorf("the CA has the contact %q; want ops@example.org", account.Contact)
	}
	if err := client.DeactivateReg(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.config(wss, "", `"`+a+`", "`+b+`"`)
	g.reload()
	g.WaitLine("a new account", func(l gate.Line) bool {
		return strings.HasPrefix(l.Msg(), "acme: the CA has deactivated the account")
	})
	g.obtains(b, root)
}

// tryAgain has a gate forget that an order failed. It comes behind a reload: before it
// the gate would try at once by the old configuration, and fail anew.
func (g *binaryGate) tryAgain(name string) {
	if err := os.Remove(filepath.Join(g.cache, name+"+state")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.t.Fatal(err)
	}
}
