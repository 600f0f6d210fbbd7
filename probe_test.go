package main

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
)

// The probe's exit status, output and flags, which may stand before and behind
// the URL.
func TestProbeCommand(t *testing.T) {
	ca := minica.NewCA("probe test CA")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ca.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	account, noPassword, config := filepath.Join(t.TempDir(), "account"), filepath.Join(t.TempDir(), "account"), filepath.Join(t.TempDir(), "config.toml")
	for file, text := range map[string]string{account: "alice@example1.com\r\nsecret\r\n", noPassword: "alice@example1.com\n",
		config: "[limits]\nmessage = \"64KiB\"\n[upstream.xmpp]\nnodes = [\"ws://127.0.0.1:5290/\"]\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := chat.Tigase()
	limited.Offer = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism></mechanisms>" +
		"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes></limits>"
	other, err := chat.Listen(chat.Config{Habits: limited})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s := chat.New(chat.Config{Domains: []string{"example1.com"}, Habits: chat.Tigase()})
	s.Start(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*ca.Issue("example1.com", "t1.example1.com").TLS()}}))
	defer s.Close()

	const url = "wss://example1.com:5291/"
	for _, tt := range []struct {
		args   []string
		status int
		stdout string // both hold this
		stderr string
	}{
		{[]string{url, "-ca", caFile, "-connect", s.Addr()}, 0, "\nok, in ", ""},
		{[]string{"-ca", caFile, url, "--connect=" + s.Addr()}, 0, "SASL ANONYMOUS, PLAIN\n", ""},
		{[]string{"-ca", caFile, "-connect", s.Addr(), "-timeout", "1s", "--", url}, 0, "  stream       ok ", ""},
		{[]string{"wss://t1.example1.com/", "-domain", "example1.com", "-ca", caFile, "-connect", s.Addr()}, 0, "to example1.com\n", ""},
		{[]string{"wss://t1.example1.com/", "-ca", caFile, "-connect", s.Addr()}, 1, "\nfailed: features\n", ""},
		{[]string{url, "-connect", s.Addr()}, 1, "    unknown authority \"probe test CA\"", ""},
		{[]string{"wss://example2.com/", "-domain", "example1.com", "-ca", caFile, "-connect", s.Addr()}, 1, "not for \"example2.com\"\n      hint: ", ""},
		{[]string{url, "-ca", caFile, "-connect", s.Addr(), "-login", account}, 0, "alice@example1.com with PLAIN\n", ""},
		{[]string{url, "-ca", caFile, "-connect", s.Addr(), "-server", "tigase"}, 0, "\nscram-missing: ", ""},
		{[]string{url, "-ca", caFile, "-connect", s.Addr(), "-server", "tigase"}, 0, "\n  tigase      etc/config.tdsl: ", ""},
		{[]string{other.URL(), "-domain", "example1.com"}, 0, "stanzas of up to 256 KiB\n\nok, in ", ""},
		{[]string{other.URL(), "-domain", "example1.com", "-config", config}, 0, "limits.message is 64 KiB", ""},
		{[]string{url, "-login", noPassword}, 2, "", "has no password in its second line"},
		{[]string{url, "-login", "no/such/file"}, 2, "", "-login: open no/such/file"},
		{[]string{url, "-domain", "example2.com", "-login", account}, 2, "", "is not NAME@example2.com"},
		{[]string{url, "-config", "no/such/file"}, 2, "", "-config: "},
		{[]string{url, "-server", "jabberd"}, 2, "", "is none of ejabberd, mongooseim"},
		{[]string{}, 2, "", "wssgate probe: a URL is required\n  hint: "},
		{[]string{url, url}, 2, "", "only one URL is allowed"},
		{[]string{"https://example1.com/"}, 2, "", `scheme "https" is not wss or ws`},
		{[]string{url, "-ca", "no/such/file"}, 2, "", "-ca: open no/such/file"},
		{[]string{url, "-ca", empty}, 2, "", "-ca: no certificate in"},
		{[]string{url, "-timeout", "0s"}, 2, "", "-timeout 0s"},
		{[]string{url, "-domian", "x"}, 2, "", "did you mean -domain?"},
		{[]string{"-h"}, 0, "usage: wssgate probe URL", ""},
	} {
		var stdout, stderr strings.Builder
		status := probeCommand(t.Context(), tt.args, &stdout, &stderr)
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("probe %q = %d\nstdout: %s\nstderr: %s\nwant %d, %q, %q", tt.args, status, &stdout, &stderr, tt.status, tt.stdout, tt.stderr)
		}
	}

	var stdout, stderr strings.Builder
	status := probeCommand(t.Context(), []string{"-json", url, "-ca", caFile, "-connect", s.Addr()}, &stdout, &stderr)
	var report struct{ OK bool }
	if err := json.Unmarshal([]byte(stdout.String()), &report); err != nil || status != 0 || !report.OK {
		t.Errorf("probe -json = %d, %s, %v", status, &stdout, err)
	}
}

func TestFlagsFirst(t *testing.T) {
	f := newFlags("probe", "", "")
	f.String("ca", "", "")
	f.Bool("json", false, "")
	for _, tt := range []struct{ args, flags, others string }{
		{"URL -ca FILE", "-ca FILE", "URL"},
		{"-json URL", "-json", "URL"},
		{"-ca=FILE URL --json", "-ca=FILE --json", "URL"},
		{"-ca", "-ca", ""},
		{"-ca -json URL", "-ca -json", "URL"},
		{"-- -ca FILE", "", "-ca FILE"},
		{"- -unknown URL", "-unknown", "- URL"},
	} {
		flags, others := flagsFirst(f.FlagSet, strings.Fields(tt.args))
		if !slices.Equal(flags, strings.Fields(tt.flags)) || !slices.Equal(others, strings.Fields(tt.others)) {
			t.Errorf("flagsFirst(%q) = %q, %q; want %q, %q", tt.args, flags, others, tt.flags, tt.others)
		}
	}
}
