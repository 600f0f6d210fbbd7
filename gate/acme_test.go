package gate

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/demo/minica"
)

var acmeCA = minica.NewCA("CA")

// The cached certificates of new names are served from the moment that their
// configuration is in force, and no sooner. Those of removed names end with it.
// One View has all of them, and the previous View none.
func TestACMEInOneStep(t *testing.T) {
	a, b := acmeCA.Issue("a.example"), acmeCA.Issue("b.example")
	with := func(email string, names ...string) *config.Config {
		cfg := withCache(t, "names = [\"a.example\", \"b.example\"]\nca = \"https://127.0.0.1:1/\"\nemail = \""+email+"\"\n", map[string][]byte{
			"acme/a.example": append(a.KeyPEMClassic(), a.ChainPEM()...), // in autocert's format
			"acme/b.example": append(b.KeyPEMClassic(), b.ChainPEM()...),
		})
		cfg.ACME.Names = names
		return cfg
	}
	first := with("", "a.example")
	same := func(c *config.Config) *config.Config { c.ACME.Cache = first.ACME.Cache; return c }

	quiet := slog.New(slog.DiscardHandler)
	store, err := certstore.Open(certstore.Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	o := newObtainer(store, quiet)
	defer o.close()
	served := func(v *certstore.View) (names []string) {
		for _, name := range []string{"a.example", "b.example"} {
			if v.Has(name) {
				names = append(names, name)
			}
		}
		return names
	}
	var before []string
	for _, step := range []struct {
		what    string
		cfg     *config.Config
		abandon bool
		want    []string
	}{
		{"given up", first, true, nil},
		{"turned on", first, false, []string{"a.example"}},
		{"another name", same(with("", "b.example")), false, []string{"b.example"}},
		{"another account, given up", same(with("me@example1.com", "a.example")), true, []string{"b.example"}},
		{"another account and a name more", same(with("me@example1.com", "a.example", "b.example")), false, []string{"a.example", "b.example"}},
		{"another account and a name less", same(with("", "a.example")), false, []string{"a.example"}},
		{"turned off", same(with("")), false, nil},
	} {
		certificates, err := store.Prepare("", false)
		if err != nil {
			t.Fatal(err)
		}
		change, err := o.prepare(step.cfg)
		if err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		old := store.View()
		if got := served(old); !slices.Equal(got, before) {
			t.Errorf("%s: prepared: %q are served; want %q", step.what, got, before)
		}
		if step.abandon {
			certificates.Abandon()
			o.abandon(change)
		} else {
			certificates.Commit()
			o.install(change, step.cfg)
			if got := served(old); !slices.Equal(got, before) {
				t.Errorf("%s: the View of before has %q; want %q", step.what, got, before)
			}
			<-o.begin(change)
		}
		if got := served(store.View()); !slices.Equal(got, step.want) {
			t.Errorf("%s: %q are served; want %q", step.what, got, step.want)
		}
		before = step.want
	}
}

// withCache returns a configuration with names from a CA, in a folder of its
// own with these files.
func withCache(t *testing.T, acme string, files map[string][]byte) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	for name, data := range files {
		name = filepath.Join(filepath.Dir(file), name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Parse(file, []byte("[upstream.tigase]\nnodes = \"ws://127.0.0.1:5290/\"\n[acme]\naccept_terms = true\n"+acme))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// A file of [acme] that was corrected in place needs a new client.
func TestACMEFilesMended(t *testing.T) {
	cfg := withCache(t, "names = \"a.example\"\ncache = \"cache\"\neab_key_id = \"1\"\neab_key_file = \"key\"\n", map[string][]byte{"key": []byte("AAAA")})
	run := newACMERun(nil, cfg)
	if !run.fits(cfg) {
		t.Error("the same configuration does not fit")
	}
	if err := os.WriteFile(cfg.ACME.EABKeyFile, []byte("BBBB"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := config.Parse(cfg.File, []byte("[upstream.tigase]\nnodes = \"ws://127.0.0.1:5290/\"\n[acme]\naccept_terms = true\nnames = \"a.example\"\ncache = \"cache\"\neab_key_id = \"1\"\neab_key_file = \"key\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if run.fits(again) {
		t.Error("another key fits")
	}
}
