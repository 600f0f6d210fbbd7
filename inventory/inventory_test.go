package inventory

import (
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/demo/minica"
	"wssgate/files"
	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var testCA = minica.NewCA("CA")

// smallest is a configuration with what none can do without.
const smallest = `[upstream.tigase]
nodes = ["ws://127.0.0.1:5290/"]
`

// A cache that cannot be looked at is not one that is still to be made.
func TestInventoryUnreadableCache(t *testing.T) {
	cfg := withACME(t, "names = \"a.example\"\n", nil)
	cfg.ACME.Cache = filepath.Join(cfg.File, "acme") // below a file: ENOTDIR even for root
	if inv, err := of(cfg); err == nil || !strings.Contains(err.Error(), "acme") {
		t.Errorf("inventory = %+v, %v; want what is wrong with the cache", inv, err)
	}
}

// withACME is a configuration whose names come from a CA, in a folder of its
// own with the files given.
func withACME(t *testing.T, acme string, files map[string][]byte) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.Mkdir(filepath.Join(filepath.Dir(file), "certs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		name = filepath.Join(filepath.Dir(file), name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := []byte(smallest + "[acme]\naccept_terms = true\n" + acme)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(file, text)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// What has been obtained stands beside the certificates of the directory, and
// what has not is said; nobody is asked.
func TestInventoryReadsACMECache(t *testing.T) {
	pair := testCA.Issue("a.example")
	cfg := withACME(t, "names = [\"a.example\", \"b.example\"]\n", map[string][]byte{
		"acme/a.example": append(pair.KeyPEMClassic(), pair.ChainPEM()...), // as autocert has it
	})
	inv, err := of(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.certificates) != 1 || inv.certificates[0].Name != "a.example" || inv.certificates[0].Source != certstore.SourceACME {
		t.Errorf("certificates = %+v; want one for a.example from ACME", inv.certificates)
	}
	served := cfg.Served(inv.certificates)
	if len(served) != 1 || source(served[0].Certificates[0]) != "acme" {
		t.Errorf("served = %+v; want a.example from acme", served)
	}
	var out strings.Builder
	list := inv.List()
	if err := list.Print(&out, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got, want := list.Bad(), []string{`acme: no certificate for "b.example": waiting`}; !slices.Equal(got, want) {
		t.Errorf("somebody has to see to %q; want %q", got, want)
	}
	for _, want := range []string{"acme: a.example: valid\n", "acme: b.example: waiting\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("certs prints\n%s\nwant %q in it", &out, want)
		}
	}
}

// A look at a gate that never ran leaves its folder as it was.
func TestInventoryMakesNoCache(t *testing.T) {
	cfg := withACME(t, "names = \"a.example\"\n", nil)
	cfg.Vhost = []*config.Vhost{{Names: []string{"a.example", "b.example"}, Upstream: "tigase"}}
	inv, err := of(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cfg.ACME.Cache); !os.IsNotExist(err) {
		t.Errorf("the cache %q is there now: %v", cfg.ACME.Cache, err)
	}
	if len(inv.acme) != 1 || inv.acme[0].State != certstore.ACMEWaiting {
		t.Errorf("acme = %+v; want one name that waits", inv.acme)
	}
	var got []string
	for _, w := range inv.certificateWarnings(cfg.Served(inv.certificates)) {
		got = append(got, w.Text)
	}
	want := []string{
		`no certificate yet for server name "a.example"; waiting for ACME`,
		`no certificate for server name "b.example"; its clients are refused`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("warnings = %q, want %q", got, want)
	}
}

// A look at the cache of another gate, which may run, leaves that as it was too:
// its permissions, and what a crash left behind.
func TestInventoryTouchesNoCache(t *testing.T) {
	left := []string{"acme/.tmp-123", "acme/token+http-01"}
	cfg := withACME(t, "names = \"a.example\"\n", map[string][]byte{left[0]: []byte("half"), left[1]: []byte("answer")})
	old := time.Now().AddDate(0, -1, 0)
	for _, name := range left {
		if err := os.Chtimes(filepath.Join(filepath.Dir(cfg.File), name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(cfg.ACME.Cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := of(cfg); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(cfg.ACME.Cache); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the cache is %v now, %v; want mode 755 as before", info.Mode(), err)
	}
	entries, err := os.ReadDir(cfg.ACME.Cache)
	if err != nil || len(entries) != len(left) {
		t.Errorf("the cache has %v, %v; want the two files that were there", entries, err)
	}
}

// What validates, starts, for [acme] too.
func TestACMEOptions(t *testing.T) {
	key := []byte("\xfb\xff0123456789abcdef") // base64url differs from base64
	cfg := withACME(t, `
names = ["Bücher.example", "a-b.example."]
email = "me@example1.com"
ca = "https://ca.example/directory"
ca_root = "root.pem"
eab_key_id = "kid"
eab_key_file = "eab"
[listen]
http = ":80"
`, map[string][]byte{
		"root.pem": testCA.RootPEM(),
		"eab":      []byte(base64.URLEncoding.EncodeToString(key) + "\n"), // padded
	})
	quiet := slog.New(slog.DiscardHandler)
	store, err := certstore.Open(certstore.Options{Directory: cfg.Certificates.Directory, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	o, err := cfg.ACMEOptions(store, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if string(o.EABKey) != string(key) || o.EABKeyID != "kid" || o.Roots == nil || !o.HTTP01 || !o.TLSALPN || !o.AcceptTerms {
		t.Errorf("options = %+v", o)
	}
	acme, err := certstore.NewACME(o)
	if err != nil {
		t.Fatalf("certstore refuses what validates: %v", err)
	}
	acme.Close()

	o.Install("a-b.example", testCA.Issue("a-b.example").TLS())
	if !store.Has("a-b.example") {
		t.Error("an installed certificate is not served")
	}
	o.Remove("a-b.example")
	if store.Has("a-b.example") {
		t.Error("a removed certificate is still served")
	}
}

// No certificate at all is something to see to as well.
func TestCertificateListEmpty(t *testing.T) {
	if got, want := (List{}).Bad(), []string{"no certificate is available; every client is refused"}; !slices.Equal(got, want) {
		t.Errorf("todo = %q; want %q", got, want)
	}
}

// Who lets only some in must see to it that the CA is answered.
func TestCheckAllowWithACME(t *testing.T) {
	for extra, want := range map[string]bool{
		"[access]\nallow = \"10.0.0.0/8\"\n":                           true,
		"[access]\ndeny = \"10.0.0.0/8\"\n":                            false,
		"[access]\nallow = \"10.0.0.0/8\"\n[listen]\nhttp = \":80\"\n": false,
	} {
		cfg := withACME(t, "names = \"a.example\"\n"+extra, nil)
		inv, err := of(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.ContainsFunc(inv.certificateWarnings(nil), func(w config.Warning) bool { return strings.Contains(w.Text, "access.allow: excludes the CA") })
		if got != want {
			t.Errorf("%q: warned %v; want %v", extra, got, want)
		}
	}
}

// An inventory of what hangs is none.
func TestInventoryHangs(t *testing.T) {
	for _, what := range []string{"certs", "acme"} {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "certs"), 0o700), os.Mkdir(filepath.Join(dir, "acme"), 0o700)); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			resume := files.Stall(filepath.Join(dir, what))
			cfg, err := config.Parse(filepath.Join(dir, "config.toml"), []byte(smallest+"[acme]\nnames = \"a.example.org\"\naccept_terms = true\n"))
			if err != nil {
				t.Fatal(err)
			}
			was := config.Place
			config.Place = files.New("configuration", nil)
			defer func() { config.Place = was }()
			_, err = of(cfg)
			if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, what)) {
				t.Errorf("%s: %v", what, err)
			}
			resume()
		})
	}
}
