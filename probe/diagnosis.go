package probe

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A Diagnosis is a cause of trouble for clients, and the setting that removes it. One
// that comes with a step's Problem explains it; any other is advice, and the probe
// succeeds all the same.
type Diagnosis struct {
	Code  string `json:"code"` // one of the keys of remedies; stays the same between releases
	Text  string `json:"text"`
	Fixes []Fix  `json:"fixes"` // of the server, if it is known, or else of all that have one
}

// A Fix is a setting of a server, or of the gate.
type Fix struct {
	Server string `json:"server"` // one of the Servers, or "wssgate"
	File   string `json:"file"`   // in its usual place
	Line   string `json:"line"`
}

// Servers are the XMPP servers that there are fixes for.
var Servers = []string{"ejabberd", "mongooseim", "openfire", "prosody", "tigase"}

// settingsIn says where the settings of a server are.
var settingsIn = map[string]string{
	"ejabberd":   "/etc/ejabberd/ejabberd.yml",
	"mongooseim": "etc/mongooseim.toml",
	"openfire":   "Admin Console, System Properties",
	"prosody":    "/etc/prosody/prosody.cfg.lua",
	"tigase":     "etc/config.tdsl",
	"wssgate":    "config.toml",
}

// A remedy is a Fix without its file.
type remedy struct{ server, line string }

// remedies are all codes, and what to change. docs/troubleshooting.md explains each
// code; the pages of the servers, the lines.
var remedies = map[string][]remedy{
	"wrong-scheme": {
		{"wssgate", `[upstream.NAME] nodes: ws:// for a plain port, wss:// for one with TLS`},
		{"ejabberd", `listen: in the ejabberd_http listener: tls: false`},
		{"prosody", `http_ports = { 5280 } is plain, https_ports = { 5281 } has TLS`},
		{"openfire", `httpbind.port.plain = 7070; 7443 has TLS`},
		{"mongooseim", `[[listen.http]] without tls.certfile`},
		{"tigase", `ws2s { connections { 5290 { socket = 'plain' } } }; 5291 has TLS`},
	},
	"wrong-path": {
		{"wssgate", `[upstream.NAME] nodes: the path of the URL is the server's`},
		{"ejabberd", `listen: in the ejabberd_http listener: request_handlers: /ws: ejabberd_http_ws`},
		{"prosody", `modules_enabled = { "websocket" }; its path is /xmpp-websocket, unless http_paths changes it`},
		{"openfire", `httpbind.enabled = true; the path is /ws/`},
		{"mongooseim", `[[listen.http.handlers.mod_websockets]] path = "/ws-xmpp"`},
	},
	"http-host-unknown": {
		{"prosody", `http_default_host = "DOMAIN": for requests whose Host is none of the VirtualHosts`},
		{"ejabberd", `listen: in the ejabberd_http listener: default_host: DOMAIN`},
		{"mongooseim", `[[listen.http.handlers.mod_websockets]] host = "_"`},
	},
	"origin-refused": {
		{"wssgate", `[[vhost]] origins: the origins of the web clients`},
		{"ejabberd", `websocket_origin: the origins of the web clients, or leave it out`},
		{"openfire", `httpbind.CORS.domains = *`},
	},
	"wrong-subprotocol": {
		{"wssgate", `[upstream.NAME] nodes: the port and path of the server's WebSocket; a proxy on the way must pass Sec-WebSocket-Protocol on`},
		{"ejabberd", `listen: in the ejabberd_http listener: request_handlers: /ws: ejabberd_http_ws, not another module`},
		{"tigase", `ws2s { connections { 5290 { } } }: port 5280 is BOSH`},
	},
	"host-unknown": {
		{"ejabberd", `hosts: - DOMAIN`},
		{"prosody", `VirtualHost "DOMAIN"`},
		{"openfire", `xmpp.domain = DOMAIN`},
		{"mongooseim", `[general] hosts = ["DOMAIN"]`},
		{"tigase", `default-virtual-host = 'DOMAIN', or add it in the Admin UI under VHosts`},
	},
	"domain-not-allowed": {
		{"wssgate", `[[vhost]] domains = ["DOMAIN"]`},
	},
	"inner-redirect": {
		{"wssgate", `[upstream.NAME] nodes: { name, url, public_url } for each node, so that the gate follows or rewrites the redirect`},
		{"tigase", `see seeOtherHost in docs/tigase.md`},
	},
	"insecure-stream": {
		{"prosody", `consider_websocket_secure = true, or trusted_proxies = { "127.0.0.0/8" } with the gate's address`},
		{"openfire", `httpbind.forwarded.enabled = true, and restart`},
		{"ejabberd", `listen: no starttls_required: true in the listener of the WebSocket`},
	},
	"scram-missing": {
		{"ejabberd", `auth_password_format: scram, and no SCRAM-… in disable_sasl_mechanisms`},
		{"prosody", `authentication = "internal_hashed", and no SCRAM-… in disable_sasl_mechanisms`},
		{"openfire", `sasl.mechs: add SCRAM-SHA-1`},
		{"mongooseim", `[auth] sasl_mechanisms: add "scram_sha256"; [auth.password] format = "scram"`},
		{"tigase", `sess-man { sasl-provider { 'allowed-mechanisms' = [ 'SCRAM-SHA-256', 'SCRAM-SHA-1', 'PLAIN' ] } }, or leave it out`},
	},
	"sasl2-missing": {
		{"ejabberd", `listen: in the ejabberd_http listener: allow_unencrypted_sasl2: true (24.12 or newer)`},
	},
	"bind2-missing": {
		{"prosody", `modules_enabled = { "sasl2_bind2" } (package prosody-modules)`},
		{"mongooseim", `[modules.mod_bind2]`},
	},
	"fast-missing": {
		{"ejabberd", `modules: mod_auth_fast: {} (24.12 or newer)`},
		{"prosody", `modules_enabled = { "sasl2_fast" } (package prosody-modules, with Prosody 13; in 0.12 it breaks WebSockets)`},
		{"mongooseim", `[modules.mod_fast_auth_token]`},
	},
	"channel-binding": {
		{"wssgate", `[upstream.NAME] nodes: ws:// to a plain port, where the server has no TLS to bind to`},
		{"ejabberd", `disable_sasl_mechanisms: [SCRAM-SHA-1-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-512-PLUS]`},
		{"prosody", `disable_sasl_mechanisms = { "DIGEST-MD5", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS" }`},
		{"openfire", `sasl.mechs: without SCRAM-SHA-1-PLUS`},
		{"mongooseim", `[auth] sasl_mechanisms: without the _plus mechanisms`},
	},
	"limits-mismatch": {
		{"wssgate", `[limits] message: at least the server's limit`},
		{"prosody", `c2s_stanza_size_limit: at most limits.message`},
		{"openfire", `xmpp.parser.buffer.size: at most limits.message`},
		{"mongooseim", `[[listen.http.handlers.mod_websockets]] max_stanza_size: at most limits.message`},
	},
	"sm-missing": {
		{"ejabberd", `modules: mod_stream_mgmt: {}`},
		{"prosody", `modules_enabled = { "smacks" }`},
		{"openfire", `stream.management.active = true`},
		{"mongooseim", `[modules.mod_stream_management]`},
		{"tigase", `ws2s { 'urn:xmpp:sm:3' (active: true) {} }`},
	},
	"forwarded-not-believed": {
		{"ejabberd", `trusted_proxies: ["127.0.0.0/8"] with the gate's address`},
		{"prosody", `trusted_proxies = { "127.0.0.0/8" } with the gate's address`},
		{"openfire", `httpbind.forwarded.enabled = true, and restart`},
		{"tigase", `ws2s { connections { 5290 { enableProxy = true } } }, and proxy_protocol = "v1" in the gate's [upstream]`},
	},
	"discovery-missing": {
		{"wssgate", `answers it itself where port 443 of DOMAIN leads to the gate; else see docs/discovery.md`},
	},
	"discovery-other-url": {
		{"wssgate", `[[vhost]] public_url: the URL that clients use`},
	},
	"discovery-no-cors": {
		{"wssgate", `let the gate answer, or have the web server send Access-Control-Allow-Origin: * with the document`},
	},
}

// A Server is what the probe knows of the XMPP server.
type Server struct {
	Name    string `json:"name"`              // one of Servers, or what it calls itself
	Version string `json:"version,omitempty"` // empty: unknown
	By      string `json:"by"`                // how the probe knows
}

// diagnose adds a Diagnosis; its Fixes come once the server is known. A code is added
// once.
func (p *prober) diagnose(code, format string, args ...any) {
	if remedies[code] == nil {
		panic("probe: no remedy for " + code)
	}
	if !slices.ContainsFunc(p.report.Diagnoses, func(d Diagnosis) bool { return d.Code == code }) {
		p.report.Diagnoses = append(p.report.Diagnoses, Diagnosis{Code: code, Text: fmt.Sprintf(format, args...), Fixes: []Fix{}})
	}
}

// prescribe adds the Fixes: the gate's, and those of the server.
func (p *prober) prescribe() {
	for i := range p.report.Diagnoses {
		d := &p.report.Diagnoses[i]
		for _, r := range remedies[d.Code] {
			if r.server == "wssgate" || p.report.Server == nil || !slices.Contains(Servers, p.report.Server.Name) || r.server == p.report.Server.Name {
				d.Fixes = append(d.Fixes, Fix{r.server, settingsIn[r.server], strings.ReplaceAll(r.line, "DOMAIN", p.Domain)})
			}
		}
	}
}

// is reports whether the server is the one of that name.
func (p *prober) is(name string) bool { return p.report.Server != nil && p.report.Server.Name == name }

// atLeast reports whether the server's version is known, and is one or a newer one.
func (p *prober) atLeast(major, minor int) bool {
	order, known := p.compare(major, minor)
	return known && order >= 0
}

// olderThan reports whether the server's version is known, and is older than one.
func (p *prober) olderThan(major, minor int) bool {
	order, known := p.compare(major, minor)
	return known && order < 0
}

// compare compares the server's version with another one.
func (p *prober) compare(major, minor int) (order int, known bool) {
	if p.report.Server == nil {
		return 0, false
	}
	gotMajor, gotMinor, known := version(p.report.Server.Version)
	return cmp.Or(cmp.Compare(gotMajor, major), cmp.Compare(gotMinor, minor)), known
}

// version reads the first two numbers of a version such as "24.12-3" or "13.0.1".
func version(s string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(s, ".")
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	minor, err = strconv.Atoi(rest)
	return major, minor, err == nil || rest == ""
}

// recognize takes the name and version that the operator gave, or that the server gives
// after a login (XEP-0092).
func recognize(name, version, by string) *Server {
	s := &Server{Name: printable([]byte(name)), Version: printable([]byte(version)), By: by}
	for _, known := range Servers {
		if strings.HasPrefix(strings.ToLower(name), known) {
			s.Name = known
		}
	}
	return s
}

// guess recognizes an ejabberd by the ids of its streams, long decimal numbers. Prosody
// and Tigase have UUIDs, Openfire and MongooseIM short words with letters.
func (p *prober) guess(streamID string) {
	if p.report.Server != nil || len(streamID) < 12 || len(streamID) > 20 || strings.Trim(streamID, "0123456789") != "" {
		return
	}
	p.report.Server = &Server{Name: "ejabberd", By: "the id of its stream"}
}

// isInner reports whether a URL, or a host and port, leads to an address that the public
// can't reach, or has no TLS.
func isInner(target string) bool {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		if u.Scheme == "ws" || u.Scheme == "http" {
			return true
		}
		host = u.Hostname()
	}
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return !strings.Contains(host, ".") || slices.ContainsFunc([]string{".local", ".internal", ".lan", ".localhost"}, func(s string) bool { return strings.HasSuffix(host, s) })
}
