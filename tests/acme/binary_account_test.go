package acme

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// A rollover gives the account another key, at Pebble as in the cache; the account stays
// the same. A gate that was killed between Pebble's answer and the write of the key goes on
// with the new one.
func TestBinaryRollover(t *testing.T) {
	t.Parallel()
	const name = "chat.example.org"
	p, all := newPebble(t, pebbleConfig{})
	g := newBinaryGate(t, p, all[0], name)
	g.admin = gate.FreeAddr(t)
	g.config(g.addr, "", `"`+name+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	root := p.Root()
	first := g.obtains(name, root)
	key := filepath.Join(g.cache, "acme_account+key")
	read := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	old := read(key)
	before, err := p.account(g.cache).GetReg(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}

	g.says("acme rollover", 0, "account: has a new key at "+p.Directory)
	next := read(key)
	after, err := p.account(g.cache).GetReg(t.Context(), "")
	if err != nil || after.URI != before.URI || next == old {
		t.Fatalf("the account is %+v, %v; want %s with another key", after, err, before.URI)
	}
	g.says("acme renew "+name, 0)
	second := g.obtains(name, root, first)

	g.Signal(syscall.SIGKILL)
	g.Wait()
	write(t, key, []byte(old))
	write(t, key+"+next", []byte(next))
	g.Gate = gate.Start(t, g.site.Dir)
	g.says("acme renew "+name, 0)
	g.obtains(name, root, first, second)
	if _, err := os.Stat(key + "+next"); read(key) != next || err == nil {
		t.Error("the cache has not the key that Pebble has, or another one as well")
	}
	if n := strings.Count(p.log.String(), " accounts in memory"); n != 1 {
		t.Errorf("Pebble has made %d accounts; want one", n)
	}

	p.stop()
	g.says("acme rollover", 1, "account", "connection refused")
	if read(key) != next {
		t.Error("a CA that is down has changed the key")
	}
	g.says("acme rollover "+name, 2, "status, rollover and dns-records take none")
}

// tryAgain has a gate forget that an order failed. It comes behind a reload: before it
// the gate would try at once by the old configuration, and fail anew.
func (g *binaryGate) tryAgain(name string) {
	if err := os.Remove(filepath.Join(g.cache, name+"+state")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.t.Fatal(err)
	}
}
