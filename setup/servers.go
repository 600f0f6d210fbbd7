package setup

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// The configurations of servers are programs or have grammars of their own. What is read
// of them is what their documentation shows; anything else is left to the operator.

var (
	aDomain = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	aPath   = regexp.MustCompile(`^/[A-Za-z0-9._/-]*$`)
	aPort   = regexp.MustCompile(`^[0-9]{1,5}$`)
)

// domains are those of a list that are names of hosts, without the one that installations
// begin with.
func domains(list []string) (names []string) {
	for _, d := range list {
		if aDomain.MatchString(d) && d != "localhost" {
			names = append(names, strings.ToLower(d))
		}
	}
	return names
}

func loopback(scheme, port, path string) string { return scheme + "://127.0.0.1:" + port + path }

// tokenTDSL is a word of Tigase's configuration, a string, or a sign.
var tokenTDSL = regexp.MustCompile(`(?m)#.*$|//.*$|'[^'\n]*'|"[^"\n]*"|[A-Za-z0-9_./-]+|[^\s]`)

// tigase reads config.tdsl: blocks such as ws2s { connections { 5290 { } } }.
func (l looker) tigase() []server {
	for _, file := range l.glob("/etc/tigase/config.tdsl", "/opt/tigase*/etc/config.tdsl", "/usr/local/tigase*/etc/config.tdsl", "/var/lib/tigase*/etc/config.tdsl") {
		content := l.read(file)
		if content == "" {
			continue
		}
		s := server{name: "tigase", title: "Tigase", file: file, why: "5290 is its port for WebSockets by default"}
		if home := filepath.Dir(filepath.Dir(file)); home != "/etc" {
			s.certs = filepath.Join(home, "certs")
		} else {
			s.certs = "/etc/tigase/certs"
		}
		var plain, encrypted []string
		var blocks, words []string // words are those since the last sign
		key := ""
		for _, token := range tokenTDSL.FindAllString(content, -1) {
			word := strings.Trim(token, `'"`)
			switch {
			case strings.HasPrefix(token, "#"), strings.HasPrefix(token, "//"):
			case token == "{":
				name := ""
				if len(words) > 0 {
					name = words[0]
				}
				blocks, words, key = append(blocks, name), nil, ""
				if in := strings.Join(blocks, " "); strings.HasPrefix(in, "ws2s connections ") && len(blocks) == 3 && aPort.MatchString(name) {
					plain = append(plain, name)
				}
			case token == "}":
				if len(blocks) > 0 {
					blocks = blocks[:len(blocks)-1]
				}
				words, key = nil, ""
			case token == "=" || token == ":":
				if len(words) > 0 {
					key = words[len(words)-1]
				}
				words = nil
			case token == "[" || token == "]" || token == "," || token == "(" || token == ")":
			case key == "default-virtual-host" && len(blocks) == 0:
				s.domains = append(s.domains, word)
				key = ""
			case key == "socket" && len(plain) > 0 && (word == "tls" || word == "ssl"):
				encrypted = append(encrypted, plain[len(plain)-1])
				plain, key = plain[:len(plain)-1], ""
			case key != "":
				words, key = []string{word}, ""
			default:
				words = append(words, word)
			}
		}
		s.domains = domains(s.domains)
		port := "5290"
		switch {
		case len(plain) > 0:
			port, s.why = plain[0], "ws2s in "+file+" has the plain port "+plain[0]
		case len(encrypted) > 0:
			s.notes = append(s.notes, "ws2s in "+file+" has encrypted ports only; the gate needs a plain one on loopback, 5290")
		}
		s.url = loopback("ws", port, "/")
		return []server{s}
	}
	return nil
}

var (
	luaComment  = regexp.MustCompile(`(?s)--\[\[.*?\]\]|--[^\n]*`)
	virtualHost = regexp.MustCompile(`(?m)^\s*VirtualHost\s*\(?\s*["']([^"'\n]+)["']`)
	httpPorts   = regexp.MustCompile(`(?m)^\s*http_ports\s*=\s*\{\s*([0-9]+)`)
	aWebsocket  = regexp.MustCompile(`["']websocket["']`)
	httpPath    = regexp.MustCompile(`(?s)http_paths\s*=\s*\{[^}]*\bwebsocket\s*=\s*["']([^"'\n]+)["']`)
)

// prosody reads prosody.cfg.lua, and what Debian has it include.
func (l looker) prosody() []server {
	for _, file := range []string{"/etc/prosody/prosody.cfg.lua", "/usr/local/etc/prosody/prosody.cfg.lua"} {
		content := l.read(file)
		if content == "" {
			continue
		}
		for _, more := range l.glob(filepath.Join(filepath.Dir(file), "conf.d/*.cfg.lua")) {
			content += "\n" + l.read(more)
		}
		content = luaComment.ReplaceAllString(content, "")
		s := server{name: "prosody", title: "Prosody", file: file, certs: filepath.Join(filepath.Dir(file), "certs"), why: "5280 is its port for HTTP by default"}
		for _, m := range virtualHost.FindAllStringSubmatch(content, -1) {
			s.domains = append(s.domains, m[1])
		}
		s.domains = domains(s.domains)
		port, path := "5280", "/xmpp-websocket"
		if m := httpPorts.FindStringSubmatch(content); m != nil && aPort.MatchString(m[1]) {
			port, s.why = m[1], "http_ports in "+file
		}
		if m := httpPath.FindStringSubmatch(content); m != nil && aPath.MatchString(m[1]) {
			path = m[1]
		}
		if !aWebsocket.MatchString(content) {
			s.notes = append(s.notes, `add "websocket" to modules_enabled in `+file)
		}
		s.url = loopback("ws", port, path)
		return []server{s}
	}
	return nil
}

// yamlLine is a line of ejabberd.yml: its indent, a dash if it begins an item, key, value.
var yamlLine = regexp.MustCompile(`^( *)(- +)?(?:["']?([^"':\s]+)["']?\s*:(?:\s+|$))?(.*)$`)

// ejabberd reads ejabberd.yml: hosts, and the listener that has ejabberd_http_ws.
func (l looker) ejabberd() []server {
	for _, file := range []string{"/etc/ejabberd/ejabberd.yml", "/opt/ejabberd/conf/ejabberd.yml", "/home/ejabberd/conf/ejabberd.yml"} {
		content := l.read(file)
		if content == "" {
			continue
		}
		s := server{name: "ejabberd", title: "ejabberd", file: file}
		type listener struct {
			port, path string
			tls        bool
		}
		var listeners []listener
		section, itemIndent := "", 0
		for line := range strings.Lines(content) {
			line = strings.TrimRight(line, " \t\r\n")
			if i := strings.Index(" "+line, " #"); i >= 0 {
				line = strings.TrimRight(line[:i], " ")
			}
			if line == "" {
				continue
			}
			m := yamlLine.FindStringSubmatch(line)
			indent, isItem, key, value := len(m[1]), m[2] != "", m[3], strings.Trim(m[4], `"'`)
			if indent == 0 && !isItem {
				section, itemIndent = key, -1
				if section == "hosts" {
					for item := range strings.SplitSeq(strings.Trim(value, "[]"), ",") {
						s.domains = append(s.domains, strings.Trim(strings.TrimSpace(item), `"'`))
					}
				}
				continue
			}
			switch section {
			case "hosts":
				if isItem {
					s.domains = append(s.domains, value)
				}
			case "listen":
				if isItem || strings.TrimSpace(line) == "-" {
					if itemIndent < 0 {
						itemIndent = indent
					}
					if indent == itemIndent {
						listeners = append(listeners, listener{})
					}
				}
				if len(listeners) == 0 {
					continue
				}
				last := &listeners[len(listeners)-1]
				switch {
				case key == "port" && aPort.MatchString(value):
					last.port = value
				case key == "tls":
					last.tls = value == "true"
				case value == "ejabberd_http_ws" && aPath.MatchString(key):
					last.path = key
				}
			}
		}
		s.domains = domains(s.domains)
		best := listener{}
		for _, c := range listeners {
			if c.port != "" && c.path != "" && (best.port == "" || best.tls && !c.tls) {
				best = c
			}
		}
		if n, _ := strconv.Atoi(best.port); n == 0 {
			best = listener{port: "5280", path: "/ws"}
			s.why = "a listener as ejabberd's documentation shows it"
			s.notes = append(s.notes, "no listener in "+file+" has ejabberd_http_ws: add one on 127.0.0.1, port 5280, with request_handlers /ws")
		} else {
			s.why = "the listener with ejabberd_http_ws in " + file
		}
		scheme := "ws"
		if best.tls {
			scheme = "wss"
			s.notes = append(s.notes, "the listener with ejabberd_http_ws in "+file+" has tls: true; the gate needs none on loopback")
			if len(s.domains) > 0 {
				s.serverName = s.domains[0]
			}
		}
		s.url = loopback(scheme, best.port, best.path)
		return []server{s}
	}
	return nil
}
