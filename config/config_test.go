package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func manyNames(n int) string {
	var names strings.Builder
	for i := range n {
		fmt.Fprintf(&names, "\"%d.example\", ", i)
	}
	return names.String()
}

// acmeOn turns ACME on; a test adds the names.
const acmeOn = "[acme]\naccept_terms = true\n"

// small is the smallest useful configuration.
const small = `[upstream.tigase]
nodes = ["ws://127.0.0.1:5290/"]
`

func parseString(data string) (*Config, error) { return Parse("config.toml", []byte(data)) }

// Every invalid value is reported with its key, its reason and a hint.
func TestMistakes(t *testing.T) {
	vhost := small + "[[vhost]]\nnames = \"example1.com\"\n"
	for _, test := range []struct{ name, data, want, hint string }{
		{"admin from outside", small + "[listen]\nadmin = \":9291\"\n",
			`listen.admin: ":9291" is reachable from other machines, and no token is set`, "name a file with a token in admin_token_file, or listen on 127.0.0.1"},
		{"admin on the port of wss", small + "[listen]\nwss = \":9291\"\n",
			`listen.admin: "127.0.0.1:9291" is already used by listen.wss`, ""},
		{"http on the port of wss", small + "[listen]\nhttp = \"[::]:5291\"\n",
			`listen.http: "[::]:5291" is already used by listen.wss`, ""},
		{"token file missing", small + "[listen]\nadmin_token_file = \"no-such\"\n",
			`listen.admin_token_file: "no-such": no such file or directory`, ""},
		{"a network with host bits", small + "[listen]\nproxy_protocol = \"10.1.2.3/8\"\n",
			`listen.proxy_protocol: "10.1.2.3/8" has bits set beyond its prefix length; write "10.0.0.0/8"`, `write "10.0.0.0/8" or "192.0.2.7"`},
		{"no network", small + "[listen]\nproxy_protocol = \"lan\"\n",
			`listen.proxy_protocol: "lan" is not a network`, `write "10.0.0.0/8" or "192.0.2.7"`},
		{"ACME without consent", small + "[acme]\nnames = \"example1.com\"\n",
			`acme.accept_terms: is false; a CA requires that you accept its terms`, "read the CA's terms of service, then write accept_terms = true"},
		{"ACME for a wildcard of one label", small + "[acme]\naccept_terms = true\nnames = \"*.com\"\n",
			`acme.names: "*.com" has a single label; a public CA issues for full domain names only`, ""},
		{"ACME for one label", small + "[acme]\naccept_terms = true\nnames = \"localhost\"\n",
			`acme.names: "localhost" has a single label; a public CA issues for full domain names only`, ""},
		{"ACME for no host", small + "[acme]\naccept_terms = true\nnames = \"a_b.example\"\n",
			`acme.names: "a_b.example" is not a host name`, ""},
		{"ACME with a key that is none", small + "[acme]\naccept_terms = true\nnames = \"a.example\"\neab_key_id = \"1\"\neab_key_file = \"config.go\"\n",
			`acme.eab_key_file: "config.go": is not base64url`, ""},
		{"ACME with an unknown key type", small + "[acme]\nkey_type = \"ed25519\"\n", `acme.key_type: "ed25519" is not "ecdsa" or "rsa"`, ""},
		{"ACME with a resolver by name", small + "[acme]\nresolver = \"dns.example:53\"\n",
			`acme.resolver: "dns.example:53" is not an IP address with a port`, `write "192.0.2.53:53" or "[2001:db8::53]:53"`},
		{"ACME name twice", small + "[acme]\naccept_terms = true\nnames = [\"example1.com\", \"EXAMPLE1.com\"]\n",
			`acme.names: "EXAMPLE1.com" is listed twice`, ""},
		{"ACME name in two certificates", small + acmeOn + "names = \"a.example\"\n[[acme.certificate]]\nnames = [\"b.example\", \"A.example.\"]\n",
			`acme.certificate "b.example".names: "A.example." is listed twice`, ""},
		{"ACME name twice in one", small + acmeOn + "[[acme.certificate]]\nnames = [\"b.example\", \"b.example\"]\n",
			`acme.certificate "b.example".names: "b.example" is listed twice`, ""},
		{"ACME certificate without names", small + acmeOn + "[[acme.certificate]]\n", `acme.certificate #1.names: is required`, ""},
		{"ACME wildcard among names", small + acmeOn + "[[acme.certificate]]\nnames = [\"b.example\", \"*.a_b.example\"]\n",
			`acme.certificate "b.example".names: "*.a_b.example" is not a host name`, ""},
		{"ACME certificate with too many names", small + acmeOn + "[[acme.certificate]]\nnames = [" + manyNames(101) + "]\n",
			`acme.certificate "0.example".names: has 101 names; at most 100 are allowed in one certificate`, "split it into several certificates"},
		{"ACME certificate alone, terms", small + "[[acme.certificate]]\nnames = \"b.example\"\n", `acme.accept_terms: is false; a CA requires that you accept its terms`, "read the CA's terms of service, then write accept_terms = true"},
		{"fallback without a CA", small + acmeOn + "names = \"a.example\"\n[[acme.fallback]]\naccept_terms = true\n",
			`acme.fallback #1.ca: "": a URL is required`, ""},
		{"fallback to the same CA", small + acmeOn + "names = \"a.example\"\nca = \"https://ca.example/\"\n[[acme.fallback]]\naccept_terms = true\nca = \"https://ca.example/\"\n",
			`acme.fallback #1.ca: "https://ca.example/" is listed twice`, ""},
		{"fallback's terms", small + acmeOn + "names = \"a.example\"\n[[acme.fallback]]\nca = \"https://ca.example/\"\n",
			`acme.fallback #1.accept_terms: is false; a CA requires that you accept its terms`, "read the CA's terms of service, then write accept_terms = true"},
		{"ACME over http", small + "[acme]\naccept_terms = true\nnames = \"example1.com\"\nca = \"http://127.0.0.1/dir\"\n",
			`acme.ca: "http://127.0.0.1/dir": scheme "http" is not https`, ""},
		{"half an account binding", small + "[acme]\neab_key_id = \"1\"\n",
			`acme.eab_key_file: is required, because eab_key_id is set`, ""},
		{"no mail address", small + "[acme]\nemail = \"me\"\n", `acme.email: "me" is not a mail address`, ""},
		{"balance", small + "balance = \"leest\"\n",
			`upstream.tigase.balance: "leest" is not "least", "random" or "hash"`, `did you mean "least"?`},
		{"PROXY header", small + "proxy_protocol = \"v3\"\n",
			`upstream.tigase.proxy_protocol: "v3" is not "v1" or "v2"`, ""},
		{"weight", "[upstream.t]\nnodes = [{ url = \"ws://127.0.0.1/\", weight = 0 }]\n",
			`upstream.t.nodes #1.weight: 0 is not between 1 and 1000`, "drain = true takes a node out of service"},
		{"public URL", "[upstream.t]\nnodes = [{ url = \"ws://127.0.0.1/\", public_url = \"ws://t1.example1.com/\" }]\n",
			`upstream.t.nodes #1.public_url: "ws://t1.example1.com/": scheme "ws" is not wss`, `write "wss://t1.example1.com/"`},
		{"probe without end", small + "health = { timeout = 0 }\n",
			`upstream.tigase.health.timeout: is 0, but this timeout can't be turned off`, ""},
		{"probed domain", small + "health = { domain = \"a b\" }\n",
			`upstream.tigase.health.domain: domain "a b": ' ' can't be in a domain`, ""},
		{"fallback without node", vhost + "fallback = true\n", `vhost "example1.com".fallback: requires node`, ""},
		{"domain", vhost + "domains = \"ex ample\"\n",
			`vhost "example1.com".domains: domain "ex ample": ' ' can't be in a domain`, ""},
		{"domain that no stream can name", vhost + "domains = \"*.-a.example1.com\"\n",
			`vhost "example1.com".domains: domain "-a.example1.com": a label begins or ends with a hyphen`, ""},
		{"wildcard in by_domain", vhost + "route = \"to\"\nby_domain = { \"*.example2.com\" = \"tigase\" }\n",
			`vhost "example1.com".by_domain."*.example2.com": domain "*.example2.com": '*' can't be in a domain`, ""},
		{"by_domain twice", vhost + "route = \"to\"\nby_domain = { \"Example2.com\" = \"tigase\", \"example2.com\" = \"tigase\" }\n",
			`vhost "example1.com".by_domain."Example2.com": "example2.com" is listed twice`, ""},
		{"by_domain without route", vhost + "by_domain = { \"example2.com\" = \"tigase\" }\n",
			`vhost "example1.com".by_domain: requires route = "to"`, `add route = "to"`},
		{"by_domain to nowhere", vhost + "route = \"to\"\nby_domain = { \"example2.com\" = \"other\" }\n",
			`vhost "example1.com".by_domain."example2.com": there is no upstream "other"`, `there is "tigase"`},
		{"by_domain without quotes", vhost + "route = \"to\"\nby_domain = { example2.com = \"tigase\" }\n",
			`vhost "example1.com".by_domain.example2: is a table, not a string`, `quote a domain that has dots: "example2.com" = "other"`},
		{"bosh", vhost + "bosh = \"127.0.0.1\"\n", `vhost "example1.com".bosh: "127.0.0.1": has no scheme`, `write "http://127.0.0.1"`},
		{"bosh without a path", vhost + "bosh = \"http://127.0.0.1:5280/\"\n", `vhost "example1.com".bosh: "http://127.0.0.1:5280/": has no path for clients to request`, `write one, such as "/http-bind"; Tigase accepts any`},
		{"public URL of a vhost", vhost + "public_url = \"https://example1.com/\"\n", `vhost "example1.com".public_url: "https://example1.com/": scheme "https" is not wss`, `write "wss://example1.com/"`},
		{"link", vhost + "links = [{ href = \"https://example1.com/\" }]\n", `vhost "example1.com".links #1.rel: is missing`, ""},
		{"link that is no URL", vhost + "links = [{ rel = \"a\" }]\n", `vhost "example1.com".links "a".href: "": a URL is required`, ""},
		{"link that is a string", vhost + "links = \"https://example1.com/\"\n",
			`vhost "example1.com".links #1: "https://example1.com/" is a string, not a table`, ""},
		{"pace", small + "[drain]\npace = -1\n", `drain.pace: -1 is negative`, ""},
		{"redirect", small + "[drain]\nredirect = [\"nodes\", \"ws://b.example1.com/\"]\n",
			`drain.redirect: "ws://b.example1.com/": scheme "ws" is not wss`, `write "wss://HOST:5291/", or "nodes" for the public URLs of the other nodes`},
		{"every origin", vhost + "origins = \"*\"\n",
			`vhost "example1.com".origins: "*": has no scheme`, "omit origins to allow pages of every origin"},
		{"origin without a scheme", vhost + "origins = \"chat.example.com:8443\"\n",
			`vhost "example1.com".origins: "chat.example.com:8443": has no scheme`, `write "https://chat.example.com:8443"`},
		{"a variable", "[upstream.t]\nnodes = [\"${NODE}\"]\n",
			`upstream.t.nodes: "${NODE}": "${NODE}" is not expanded`, "write the value itself; a template is filled in before wssgate reads the file"},
		{"a variable without braces", small + "[certificates]\ndirectory = \"$HOME/certs\"\n",
			`certificates.directory: "$HOME/certs": "$HOME" is not expanded`, "write the value itself; a template is filled in before wssgate reads the file"},
		{"a template", vhost + "domains = \"{{ .Domain }}\"\n",
			`vhost "example1.com".domains: "{{ .Domain }}": "{{ .Domain }}" is not expanded`, "write the value itself; a template is filled in before wssgate reads the file"},
		{"a home", small + "[certificates]\ndirectory = \"~/certs\"\n",
			`certificates.directory: "~/certs": "~" is not expanded`, `write the whole path, such as "/etc/wssgate/certs"`},
		{"a home in an access list", small + "[access]\ndeny = \"file:~/deny.txt\"\n",
			`access.deny: "file:~/deny.txt": "~" is not expanded`, `write the whole path, such as "/etc/wssgate/certs"`},
		{"include", "include = \"b.toml\"\n" + small, `unknown key "include"`, "other files cannot be included; write everything into this file"},
		{"the same node twice", "[upstream.t]\nnodes = [\"ws://127.0.0.1:5290/\", \"ws://127.0.0.1:5290/\"]\n",
			`upstream.t.nodes: "ws://127.0.0.1:5290/" is the URL of another node`, "write each node once; weight gives it a larger share"},
		{"two paths of one port", "[upstream.t]\nnodes = [\"ws://127.0.0.1:5290/a\", \"ws://127.0.0.1:5290/b\"]\n",
			`upstream.t.nodes: "ws://127.0.0.1:5290/b" has the host and port of another node`, `give each a name: { name = "a", url = "ws://127.0.0.1:5290/b" }`},
		{"name with a port", small + "[[vhost]]\nnames = \"a.example:5291\"\n",
			`vhost "a.example:5291".names: "a.example:5291" has a character that is not allowed in a DNS name`, `a name has no scheme, port or path: write "a.example"`},
		{"name that is a URL", small + "[acme]\naccept_terms = true\nnames = \"https://a.example/\"\n",
			`acme.names: "https://a.example/" has a character that is not allowed in a DNS name`, `a name has no scheme, port or path: write "a.example"`},
		{"bosh without a scheme", vhost + "bosh = \"127.0.0.1:5280/x\"\n",
			`vhost "example1.com".bosh: "127.0.0.1:5280/x": has no scheme`, `write "http://127.0.0.1:5280/x"`},
		{"a node for clients on TCP", "[upstream.t]\nnodes = [\"tcp://127.0.0.1:5222\"]\n",
			`upstream.t.nodes: "tcp://127.0.0.1:5222": scheme "tcp" is not ws, wss, ws+unix or srv+ws`, `the upstream speaks WebSocket, on a port of its own; write "ws://127.0.0.1:5290/"`},
		{"IPv6 without brackets", "[upstream.t]\nnodes = [\"ws://::1:5290/\"]\n",
			`upstream.t.nodes: "ws://::1:5290/": an IPv6 address has brackets, as in "[2001:db8::1]:5290"`, ""},
		{"IPv6 without brackets and port", small + "[drain]\nredirect = \"wss://2001:db8::1/\"\n",
			`drain.redirect: "wss://2001:db8::1/": an IPv6 address has brackets, as in "[2001:db8::1]:5290"`, `write "wss://HOST:5291/", or "nodes" for the public URLs of the other nodes`},
		{"YAML", "listen:\n  wss: \":5291\"\n", `line 1, column 7: expected '.' or '=', but got ':' instead`,
			`this looks like YAML, but the file must be TOML: write [listen], and below it wss = ":5291"; config.toml.example has every key`},
		{"YAML's list", "- a\n", `line 1, column 3: expected '.' or '=', but got 'a' instead`,
			`this looks like YAML, but the file must be TOML: write [listen], and below it wss = ":5291"; config.toml.example has every key`},
		{"JSON", "{\n \"listen\": {}\n}\n", `line 1, column 1: expected '.' or '=', but got '{' instead`,
			`this looks like JSON, but the file must be TOML: write [listen], and below it wss = ":5291"; config.toml.example has every key`},
		{"list without brackets", "[upstream.t]\nnodes = 'a', 'b'\n", `line 2, column 12: expected a top-level item to end with a newline, comment, or EOF, but got ',' instead`,
			`write a list in brackets: nodes = ['a', 'b']`},
		{"string without quotes", small + "[log]\nlevel = debug\n", `line 4, column 9: expected value but found "debug" instead`, `write a string in quotes: level = "debug"`},
		{"sample", small + "[log]\nsample = -2\n", `log.sample: -2 is negative`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseString(test.data)
			ce, ok := errors.AsType[*Error](err)
			if !ok || len(ce.Mistakes) != 1 {
				t.Fatalf("err = %v; want one mistake, %q", err, test.want)
			}
			if m := ce.Mistakes[0]; m.String() != test.want || m.Hint != test.hint {
				t.Errorf("mistake = %q, hint %q; want %q, hint %q", m, m.Hint, test.want, test.hint)
			}
		})
	}
}

// All mistakes are reported at once, in the order of the file, whatever the
// order of a map. Those of the decoder and of the checks are merged.
func TestAllMistakesAtOnce(t *testing.T) {
	const data = `
watch_confg = true
[limits]
message = "1M"
connections = "many"
[[vhost]]
names = ["example1.com", "a b"]
upstream = "tigsae"
[[vhost]]
names = "EXAMPLE1.com."
nod = "x"
[upstream.tigase]
nodes = ["http://127.0.0.1:5290/", { name = "a", ulr = "ws://x/" }]
dial_timeout = 5
[listen]
wss = ["5291", ":1", "0.0.0.0:1"]
`
	const want = `config.toml: unknown key "watch_confg"
  hint: did you mean "watch_config"?
config.toml: limits.message: "1M" is not a size
  hint: a size is a whole number and a unit: "512B", "64KiB", "1MiB", or bytes without a unit
config.toml: limits.connections: "many" is a string, not a whole number
config.toml: vhost "example1.com".names: "a b" has a character that is not allowed in a DNS name
config.toml: vhost "example1.com".upstream: there is no upstream "tigsae"
  hint: did you mean "tigase"?
config.toml: vhost "EXAMPLE1.com.".names: "EXAMPLE1.com." is also a name of vhost "example1.com"
  hint: a server name belongs to one vhost
config.toml: vhost "EXAMPLE1.com.": unknown key "nod"
  hint: did you mean "node"?
config.toml: upstream.tigase.nodes "a": unknown key "ulr"
  hint: did you mean "url"?
config.toml: upstream.tigase.nodes: "http://127.0.0.1:5290/": scheme "http" is not ws, wss, ws+unix or srv+ws
  hint: the upstream speaks WebSocket; write "ws://127.0.0.1:5290/"
config.toml: upstream.tigase.nodes "a".url: is missing
config.toml: upstream.tigase.dial_timeout: 5 has no unit
  hint: write "5s" for seconds
config.toml: listen.wss: "5291" is not of the form HOST:PORT
  hint: write ":5291", "127.0.0.1:5291", "[::1]:5291" or "unix:/path/to/socket"
config.toml: listen.wss: "0.0.0.0:1" is already used by listen.wss`
	for range 20 { // maps have a different order each time
		_, err := Parse("config.toml", []byte(data))
		if err == nil || err.Error() != want {
			t.Fatalf("err =\n%v\nwant\n%s", err, want)
		}
	}
}

// A syntax error is shown with a caret below its place.
func TestSyntaxErrorHasCaret(t *testing.T) {
	for data, want := range map[string]string{
		"[log]\n\tlevel = \"info\n": `line 2, column 15: strings cannot contain newlines
      1 | [log]
      2 | 	level = "info
          	             ^`,
		// The place is the end of a line, not the beginning of the next one.
		"a = 1\n[upstream.tigase\nnodes = 1\n": `line 2, column 17: expected '.' or ']' to end table name, but got '\n' instead
      1 | a = 1
      2 | [upstream.tigase
                          ^`,
		"[upstream.tigase\r\nnodes = 1\r\n": `line 1, column 17: expected '.' or ']' to end table name, but got '\r' instead
      1 | [upstream.tigase
                          ^`,
		"[[vhost]\nnames = 1\n": `line 1, column 8: expected end of table array name delimiter ']', but got '\n' instead
      1 | [[vhost]
                 ^`,
		// The place is the beginning of a line, not the end of the one before.
		"# ä\n\na = 1\na = 2\n": `line 4, column 1: key 'a' has already been defined
      2 | 
      3 | a = 1
      4 | a = 2
          ^`,
		"\ufeffa = \"ä\" 12\n": `line 1, column 8: expected a top-level item to end with a newline, comment, or EOF, but got '1' instead
      1 | a = "ä" 12
                 ^^`,
		"[a": `line 1, column 2: expected '.' or ']' to end table name, but got '\x00' instead
      1 | [a
           ^`,
	} {
		_, err := Parse("config.toml", []byte(data))
		if want = "config.toml: " + want; err == nil || err.Error() != want {
			t.Errorf("Parse(%q) =\n%v\nwant\n%s", data, err, want)
		}
	}
}

func TestSmallestFile(t *testing.T) {
	cfg, err := parseString(small)
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Listen.WSS; !slices.Equal(got, []string{":5291"}) {
		t.Errorf("listen.wss = %q, want the default", got)
	}
	if n := cfg.Upstream["tigase"].Nodes[0]; n.Name != "127.0.0.1:5290" || n.Weight != 1 {
		t.Errorf("node has name %q and weight %d; want host and port, and 1", n.Name, n.Weight)
	}
}

// Values are returned in the form that the packages require.
func TestNormalForms(t *testing.T) {
	cfg, err := Parse("/etc/wssgate/config.toml", []byte(`
[listen]
wss = ["unix:run/gate.sock", "localhost:0"]
proxy_protocol = ["192.0.2.7", "2001:db8::/32"]
[certificates]
directory = "tls"
[acme]
cache = "/var/lib/wssgate"
[upstream.a]
nodes = [{ url = "wss://Node.Example1.com/", public_url = "wss://bücher.example" }, "ws+unix:///run/a.sock:/ws", "srv+ws://_xmpp._tcp.example1.com"]
server_name = "XMPP.example1.com."
[[vhost]]
names = ["Bücher.Example1.com.", "*.EXAMPLE1.com"]
domains = ["*.Example2.COM"]
origins = ["HTTPS://Chat.example1.com:443", "null", "https://*.Bücher.example:8443"]
public_url = "wss://Bücher.example:5291/ws"
links = [{ rel = "a", href = "https://bücher.example/ü" }]
route = "to"
by_domain = { "Example3.com" = "a" }
[limits]
message = 65536
client_backlog = "128 kB"
[timeouts]
ping = 0
[drain]
timeout = "1m30s"
redirect = "wss://bücher.example/"
`))
	if err != nil {
		t.Fatal(err)
	}
	v, u := cfg.Vhost[0], cfg.Upstream["a"]
	for _, test := range []struct {
		what      string
		got, want []string
	}{
		{"listen.wss", cfg.Listen.WSS, []string{"unix:/etc/wssgate/run/gate.sock", "localhost:0"}},
		{"listen.proxy_protocol", cfg.Listen.ProxyProtocol, []string{"192.0.2.7/32", "2001:db8::/32"}},
		{"folders", []string{cfg.Certificates.Directory, cfg.ACME.Cache}, []string{"/etc/wssgate/tls", "/var/lib/wssgate"}},
		{"nodes", []string{u.Nodes[0].Name, u.Nodes[1].Name, u.Nodes[2].Name},
			[]string{"node.example1.com:443", "/run/a.sock", "_xmpp._tcp.example1.com"}},
		{"server_name", []string{u.ServerName}, []string{"xmpp.example1.com"}},
		{"vhost.names", v.Names, []string{"xn--bcher-kva.example1.com", "*.example1.com"}},
		{"vhost.domains", v.Domains, []string{"*.example2.com"}},
		{"vhost.origins", v.Origins, []string{"https://chat.example1.com", "null", "https://*.xn--bcher-kva.example:8443"}},
		{"URLs for clients", []string{v.PublicURL, v.Links[0].Href, u.Nodes[0].PublicURL, cfg.Drain.Redirect[0]},
			[]string{"wss://xn--bcher-kva.example:5291/ws", "https://xn--bcher-kva.example/%C3%BC", "wss://xn--bcher-kva.example", "wss://xn--bcher-kva.example/"}},
		{"vhost.upstream", []string{v.Upstream, v.ByDomain["example3.com"]}, []string{"a", "a"}},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("%s = %q, want %q", test.what, test.got, test.want)
		}
	}
	if cfg.Limits.Message != 1<<16 || cfg.Limits.ClientBacklog != 128_000 {
		t.Errorf("sizes = %d, %d; want 65536, 128000", cfg.Limits.Message, cfg.Limits.ClientBacklog)
	}
	if cfg.Timeouts.Ping != 0 || cfg.Drain.Timeout != 90*time.Second {
		t.Errorf("durations = %v, %v; want 0, 1m30s", cfg.Timeouts.Ping, cfg.Drain.Timeout)
	}
}

// Every upstream and every vhost starts with the defaults, not with the values
// of another one.
func TestDefaultsOfEachTable(t *testing.T) {
	cfg, err := parseString(`
[upstream.a]
nodes = [{ url = "ws://127.0.0.1/", weight = 7 }, { url = "ws://127.0.0.2/" }]
balance = "hash"
health = { interval = "1m" }
[upstream.b]
nodes = "ws://127.0.0.1/"
[[vhost]]
names = "a.example1.com"
upstream = "a"
route = "to"
[[vhost]]
names = "b.example1.com"
upstream = "b"
`)
	if err != nil {
		t.Fatal(err)
	}
	a, b := cfg.Upstream["a"], cfg.Upstream["b"]
	if a.Balance != "hash" || b.Balance != "least" || a.Health.Interval != time.Minute || b.Health.Interval != 10*time.Second {
		t.Errorf("upstreams = %+v, %+v", a, b)
	}
	if a.Health.Timeout != 5*time.Second {
		t.Errorf("health.timeout = %v; want the default, for only interval was given", a.Health.Timeout)
	}
	if a.Nodes[0].Weight != 7 || a.Nodes[1].Weight != 1 {
		t.Errorf("weights = %d, %d; want 7, 1", a.Nodes[0].Weight, a.Nodes[1].Weight)
	}
	if cfg.Vhost[0].Route != "to" || cfg.Vhost[1].Route != "name" {
		t.Errorf("routes = %q, %q; want to, name", cfg.Vhost[0].Route, cfg.Vhost[1].Route)
	}
}

// An unreadable file is reported like any other mistake.
func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	utf16 := filepath.Join(dir, "utf16.toml")
	if err := os.WriteFile(utf16, []byte("\xff\xfe[\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		filepath.Join(dir, "none.toml"):   "no such file or directory",
		dir:                               "is a directory, not a file",
		filepath.Join(dir, "none", "a"):   "no such file or directory",
		filepath.Join(utf16, "in a file"): "not a directory",
		utf16:                             "is UTF-16; UTF-8 is required",
		"/dev/zero":                       "larger than 16777216 bytes",
	} {
		synctest.Test(t, func(t *testing.T) { // in a bubble, reading 16 MiB takes no time
			_, err := Load(t.Context(), file)
			ce, ok := errors.AsType[*Error](err)
			if !ok || len(ce.Mistakes) != 1 || ce.Mistakes[0].String() != want {
				t.Errorf("Load(%q) = %v; want %q", file, err, want)
			}
		})
	}
}

// A reload accepts only regular files. It waits neither for a pipe's writer nor
// for a device.
func TestReloadRegularFile(t *testing.T) {
	dir := t.TempDir()
	pipe, link, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := exec.Command("mkfifo", pipe).Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	const refused = "is a pipe or a device, not a file"
	for target, want := range map[string]string{
		pipe:                       refused,
		"/dev/zero":                refused,
		dir:                        "is a directory, not a file",
		filepath.Join(dir, "none"): "no such file or directory",
	} {
		_, err := (&Config{File: target}).Reload(t.Context(), false, func([sha256.Size]byte) {})
		ce, ok := errors.AsType[*Error](err)
		if !ok || len(ce.Mistakes) != 1 || ce.Mistakes[0].String() != want {
			t.Errorf("Reload(%q) = %v; want %q", target, err, want)
		}
	}
	for target, good := range map[string]bool{file: true, pipe: false} {
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if _, err := (&Config{File: link}).Reload(t.Context(), false, func([sha256.Size]byte) {}); (err == nil) != good {
			t.Errorf("a link to %q: %v; want it to be taken: %t", target, err, good)
		}
	}
	_, err := parseString("[upstream.a]\nnodes = \"wss://127.0.0.1/\"\nca = \"" + pipe + "\"\n")
	if err == nil || !strings.Contains(err.Error(), refused) {
		t.Errorf("a pipe for a CA's certificate: %v; want %q", err, refused)
	}
}

// A byte order mark and the line ends of Windows editors do no harm.
func TestWindowsFile(t *testing.T) {
	if _, err := parseString("\ufeff" + strings.ReplaceAll(small, "\n", "\r\n")); err != nil {
		t.Error(err)
	}
}

// Paths are relative to the configuration's folder, whether they are set or
// left at their defaults, and whether their table is present or not.
func TestRelativeFiles(t *testing.T) {
	for _, data := range []string{small, small + "[certificates]\n", small + "[certificates]\ndirectory = \"certs\"\n"} {
		cfg, err := Parse("/etc/wssgate/config.toml", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := cfg.Certificates.Directory, "/etc/wssgate/certs"; got != want {
			t.Errorf("%q: directory = %q, want %q", data, got, want)
		}
	}
}

// Zero is refused where it makes no sense, and negative numbers are refused
// everywhere.
func TestZeroAndNegative(t *testing.T) {
	one := func(data, want string) {
		t.Helper()
		_, err := parseString(data)
		ce, ok := errors.AsType[*Error](err)
		if !ok || len(ce.Mistakes) != 1 || ce.Mistakes[0].String() != want {
			t.Errorf("%q: err = %v; want %q", data, err, want)
		}
	}
	for _, key := range []string{"timeouts.handshake", "timeouts.request", "timeouts.pong", "upstream.tigase.dial_timeout", "upstream.tigase.resolve", "upstream.tigase.health.timeout"} {
		one(key+" = 0\n"+small, key+": is 0, but this timeout can't be turned off")
	}
	for _, key := range []string{
		"limits.connections", "limits.per_client", "limits.handshakes", "drain.pace", "log.sample",
		"upstream.tigase.max_connections", "upstream.tigase.connections_per_second",
	} {
		one(key+" = -1\n"+small, key+": -1 is negative")
		if cfg, err := parseString(key + " = 0\n" + small); err != nil || cfg == nil {
			t.Errorf("%s = 0: %v; want it taken", key, err)
		}
	}
}

// A very large configuration is read quickly: nothing is quadratic.
func TestTenThousandVhosts(t *testing.T) {
	var b strings.Builder
	b.WriteString(small)
	for i := range 10_000 {
		fmt.Fprintf(&b, "[[vhost]]\nnames = [\"v%d.example\", \"*.v%d.example\"]\n", i, i)
	}
	cfg, err := parseString(b.String())
	if err != nil || len(cfg.Vhost) != 10_000 {
		t.Fatal(err)
	}
	_, err = parseString(strings.ReplaceAll(b.String(), "names", "name"))
	ce, ok := errors.AsType[*Error](err)
	if !ok || len(ce.Mistakes) != maxMistakes+1 { // of 20,000: "name" is unknown, "names" is missing
		t.Fatalf("%d mistakes, want %d", len(ce.Mistakes), maxMistakes+1)
	}
}
