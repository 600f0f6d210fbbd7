package config

import (
	"fmt"
	"net"
	"regexp"
	"strings"

	"wssgate/upstream"
)

// yamlLine matches a line of YAML, jsonStart the beginning of JSON, bareList a list
// without brackets.
var (
	yamlLine  = regexp.MustCompile(`^\s*(-\s|---|[\w.-]+\s*:(\s|$))`)
	jsonStart = regexp.MustCompile(`^\s*\{`)
	bareList  = regexp.MustCompile(`^\s*([\w.-]+)\s*=\s*((?:"[^"]*"|'[^']*')(?:\s*,\s*(?:"[^"]*"|'[^']*'))+)`)
	bareWord  = regexp.MustCompile(`^\s*([\w.-]+)\s*=\s*([A-Za-z~/:*$][^"'#\[\]{},\s]*)\s*(#|$)`)
)

// syntaxHint recognizes formats other than TOML. line is the one with the
// error.
func syntaxHint(data, line string) string {
	const example = `; config.toml.example has every key`
	if list := bareList.FindStringSubmatch(line); list != nil {
		return fmt.Sprintf("write a list in brackets: %s = [%s]", list[1], list[2])
	}
	if word := bareWord.FindStringSubmatch(line); word != nil && word[2] != "true" && word[2] != "false" {
		return fmt.Sprintf("write a string in quotes: %s = %q", word[1], word[2])
	}
	if jsonStart.MatchString(data) {
		return `this looks like JSON, but the file must be TOML: write [listen], and below it wss = ":5291"` + example
	}
	if yamlLine.MatchString(line) {
		return `this looks like YAML, but the file must be TOML: write [listen], and below it wss = ":5291"` + example
	}
	return ""
}

// A variable is text that a shell or a template engine would replace.
var variable = regexp.MustCompile(`\$\{[^}]*\}|\$\([^)]*\)|\{\{[^}]*\}\}|^\$\w+(/|$)`)

// unexpanded reports a value with a variable as a mistake, because variables in
// the file are not expanded.
func (d *decoder) unexpanded(p keyPath, s string) bool {
	path := s
	for _, scheme := range []string{"file:", "unix:"} {
		path = strings.TrimPrefix(path, scheme)
	}
	if path == "~" || strings.HasPrefix(path, "~/") {
		d.undecodable(p, `write the whole path, such as "/etc/wssgate/certs"`, `%q: "~" is not expanded`, s)
		return true
	}
	if v := variable.FindString(path); v != "" {
		d.undecodable(p, "write the value itself; a template is filled in before wssgate reads the file", "%q: %q is not expanded", s, strings.TrimSuffix(v, "/"))
		return true
	}
	return false
}

// includeHint returns the hint for keys that include a file in other programs.
func includeHint(key string) string {
	switch strings.ToLower(key) {
	case "include", "includes", "import", "imports", "conf_d":
		return "other files cannot be included; write everything into this file"
	}
	return ""
}

// urlHint completes a URL that has no scheme or that of another protocol.
func urlHint(s, scheme string, parse func(string) error) string {
	_, rest, hasScheme := strings.Cut(s, "://")
	if !hasScheme {
		rest = strings.TrimPrefix(s, "//")
	}
	if whole := scheme + "://" + rest; parse(whole) == nil {
		return fmt.Sprintf("write %q", whole)
	}
	return ""
}

// nodeHint returns the hint for an invalid node URL.
func nodeHint(s string) string {
	scheme, _, hasScheme := strings.Cut(s, "://")
	switch {
	case hasScheme && strings.Contains("ws wss ws+unix wss+unix srv+ws srv+wss", scheme):
		return ""
	case scheme == "tcp" || scheme == "xmpp" || strings.HasSuffix(s, ":5222"):
		return `the upstream speaks WebSocket, on a port of its own; write "ws://127.0.0.1:5290/"`
	case strings.HasPrefix(scheme, "unix"):
		return `write "ws+unix:///run/prosody.sock:/xmpp-websocket": socket, colon, path`
	}
	return `the upstream speaks WebSocket; write "ws://127.0.0.1:5290/"`
}

func originHint(s string) string {
	if s == "*" {
		return "omit origins to allow pages of every origin"
	}
	return urlHint(s, "https", func(s string) error { _, err := upstream.ParseOrigin(s); return err })
}

// nameHint removes scheme, port and path from a value that should be a name.
func nameHint(s string, normal func(string) (string, error)) string {
	name := s
	if _, rest, ok := strings.Cut(name, "://"); ok {
		name = rest
	}
	name, _, _ = strings.Cut(name, "/")
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if name == s {
		return ""
	}
	if _, err := normal(name); err != nil {
		return ""
	}
	return fmt.Sprintf("a name has no scheme, port or path: write %q", name)
}
