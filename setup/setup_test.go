package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/config"
	"wssgate/demo/minica"
)

// What stands on a machine comes out as the nodes of the first server and the folder of
// certificates; what somebody has to do is said.
func TestLook(t *testing.T) {
	ca := minica.NewCA("wssgate test root")
	pem := func(names ...string) string { return string(ca.Issue(names...).PEM()) }
	for _, test := range []struct {
		name  string
		files map[string]string
		node  string
		want  []string // parts of the text
	}{
		{"nothing", nil, "ws://127.0.0.1:5290/",
			[]string{"no configuration of Tigase, Prosody or ejabberd", "#directory = \"certs\"", "no certificates were found"}},
		{"certificates beside it", map[string]string{"home/certs/x.pem": pem("example1.com")}, "ws://127.0.0.1:5290/",
			[]string{"certificates: /home/certs, for example1.com", "#directory = \"certs\""}},
		{"Tigase", map[string]string{
			"opt/tigase-server/etc/config.tdsl": "# ws2s { connections { 1 {} } }\n'default-virtual-host' = 'Example1.com'\ndataSource {\n  default () {\n uri = 'jdbc:mysql://db/tigase'\n }\n}\nc2s {\n connections {\n  5222 {}\n }\n}\nws2s {\n    connections {\n        5291 {\n            socket = 'ssl'\n        }\n        5299 {\n            enableProxy = true\n        }\n    }\n}\n",
			"opt/tigase-server/certs/a.pem":     pem("example1.com")},
			"ws://127.0.0.1:5299/", []string{"Tigase: /opt/tigase-server/etc/config.tdsl, for example1.com", `directory = "/opt/tigase-server/certs"`}},
		{"Tigase as it comes", map[string]string{"etc/tigase/config.tdsl": "'config-mode' = 'default'\n'default-virtual-host' = 'example1.com'\n"},
			"ws://127.0.0.1:5290/", []string{"5290 is its port"}},
		{"Prosody", map[string]string{
			"etc/prosody/prosody.cfg.lua":          "--[[ http_ports = { 1 } ]]\nmodules_enabled = {\n  \"roster\"; -- \"websocket\";\n}\nhttp_ports = { 5380 }\nVirtualHost \"localhost\"\nInclude \"conf.d/*.cfg.lua\"\n",
			"etc/prosody/conf.d/example.cfg.lua":   "VirtualHost \"example2.com\"\n",
			"etc/letsencrypt/live/e/fullchain.pem": string(ca.Issue("example2.com").PEM()),
			"etc/prosody/certs/other.pem":          pem("example9.com")},
			"ws://127.0.0.1:5380/xmpp-websocket", []string{"for example2.com\n", `add "websocket" to modules_enabled`, `directory = "/etc/letsencrypt/live"`}},
		{"ejabberd", map[string]string{
			"etc/ejabberd/ejabberd.yml": "hosts:\n  - \"example3.com\"\n  - localhost\n\nlisten:\n  -\n    port: 5443\n    module: ejabberd_http\n    tls: true\n    request_handlers:\n      /ws: ejabberd_http_ws\n  -\n    port: 5280 # plain\n    ip: \"127.0.0.1\"\n    module: ejabberd_http\n    request_handlers:\n      \"/websocket\": ejabberd_http_ws\nacme:\n  auto: false\n"},
			"ws://127.0.0.1:5280/websocket", []string{"for example3.com\n"}},
		{"ejabberd with TLS only", map[string]string{
			"opt/ejabberd/conf/ejabberd.yml": "hosts: [example3.com, example4.com]\nlisten:\n- port: 5443\n  module: ejabberd_http\n  tls: true\n  request_handlers:\n    /ws: ejabberd_http_ws\n"},
			"wss://127.0.0.1:5443/ws", []string{"for example3.com, example4.com", `server_name = "example3.com"`, "has tls: true"}},
		{"two servers", map[string]string{"etc/prosody/prosody.cfg.lua": "VirtualHost 'a.example'\n", "etc/ejabberd/ejabberd.yml": "hosts:\n- b.example\n"},
			"ws://127.0.0.1:5280/xmpp-websocket", []string{"\n#[upstream.ejabberd]\n#nodes = ", "To do:\n# - add \"websocket\" to modules_enabled in /etc/prosody/prosody.cfg.lua\n# - no certificates"}}, // nothing of the second one
		{"hostile", map[string]string{
			"etc/prosody/prosody.cfg.lua": "VirtualHost \"a\\\"b]\"\nVirtualHost \"ok.example\"\nhttp_ports = { 99999999999 }\nhttp_paths = { websocket = \"/x\\\"; y\" }\n\x00\xff{{{",
			"etc/ejabberd/ejabberd.yml":   strings.Repeat("- ", 1000) + "\n: :\n\t-\nlisten: 7\n- port: ]\n"},
			"ws://127.0.0.1:5280/xmpp-websocket", []string{"for ok.example\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range test.files {
				file := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p := Look(root, filepath.Join(root, "home"))
			c, err := config.Parse("config.toml", []byte(p.Text))
			if err != nil {
				t.Fatalf("%v\nin\n%s", err, p.Text)
			}
			for _, u := range c.Upstream {
				if len(c.Upstream) != 1 || len(u.Nodes) != 1 || u.Nodes[0].URL != test.node {
					t.Errorf("the nodes are %v; want %q, in\n%s", u.Nodes, test.node, p.Text)
				}
			}
			for _, want := range test.want {
				if !strings.Contains(p.Text, want) {
					t.Errorf("%q is not in\n%s", want, p.Text)
				}
			}
		})
	}
}
