package upstream

import (
	"strings"
	"testing"
)

func TestParseNodeURLRefuses(t *testing.T) {
	tooLong := "/" + strings.Repeat("a", maxSocketPath)
	for s, want := range map[string]string{
		"":                            "a URL is required",
		"ws:":                         `has no "//" after the scheme`,
		"ws://":                       "has no host",
		"ws://:80/":                   "has no host",
		"ws://a b/":                   `invalid character " " in host name`,
		"ws://a:0/":                   `port "0" is not 1 to 65535`,
		"ws://a:/":                    `port "" is not 1 to 65535`,
		"ws://a..b/":                  `host "a..b" is neither an address nor a name`,
		"ws://256.1.1.1.1/%zz":        `invalid URL escape "%zz"`,
		"ws+unix://":                  "has no socket path",
		"ws+unix:///":                 "has no socket path",
		"ws+unix:///a.sock?a=b":       `has query "a=b" without a path; write "/a.sock:/?a=b"`,
		"ws+unix:///a%00b":            `path "/a\x00b" is not text`,
		"ws+unix:///a%ff":             `path "/a\xff" is not text`,
		"ws+unix://" + tooLong + ":/": "path is 108 bytes long; a socket path may have at most 107",
		"ws+unix:///a.sock:ws":        `path "ws" does not begin with a slash`,
		"srv+ws+unix:///a":            `scheme "srv+ws+unix" is not ws, wss, ws+unix or srv+ws`,
		"srv+ws://_a._tcp.b:5290/":    `has port "5290", but SRV records contain the port`,
		"srv+ws://_a._tcp/":           "host is not of the form _xmpp-websocket._tcp.example1.com",
		"srv+http://_a._tcp.b/":       `scheme "srv+http" is not ws, wss, ws+unix or srv+ws`,
		"ws://user@127.0.0.1:5290/":   "has a user or password",
	} {
		if _, err := ParseNodeURL(s); err == nil || err.Error() != want {
			t.Errorf("ParseNodeURL(%q): %v; want %q", s, err, want)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	for s, want := range map[string]string{
		"https://a.example":            "https://a.example",
		"https://A.example:443":        "https://a.example",
		"http://a.example:80":          "http://a.example",
		"http://a.example:443":         "http://a.example:443",
		"https://*.a.example":          "https://*.a.example",
		"https://[::1]:8443":           "https://[::1]:8443",
		"https://[0::0:1]":             "https://[::1]",
		"https://*.Bücher.example:443": "https://*.xn--bcher-kva.example",
		"capacitor://localhost":        "capacitor://localhost", // apps have schemes of their own
		"null":                         "null",
		"file://":                      "file://", // Electron, Cordova
		"App://.":                      "app://.",
		"app://-":                      "app://-",
		"app://*.Local":                "app://*.local",
		"ws://a.example:080":           "ws://a.example",
		"https://a.example.":           "https://a.example",
		"HTTPS://a.example:8443":       "https://a.example:8443",
	} {
		if got, err := ParseOrigin(s); err != nil || got.String() != want {
			t.Errorf("ParseOrigin(%q) = %q, %v; want %q", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "*", "a.example", "https://", "https://a.example/", "https://a.example?", "https://u@a.example", "https://a.example#",
		"https://a.*.example", "https://a.example:99999", "https://*.*.example", "https:a.example",
		"file:///", "file:", "http://", "https://*.", "app://a b", "app://a*", "app://[", "://a",
	} {
		if got, err := ParseOrigin(s); err == nil {
			t.Errorf("ParseOrigin(%q) = %q, want an error", s, got)
		}
	}
}

// Every browser's form of an origin matches the configured one, and no other does.
func TestOriginMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, origin string
		want            bool
	}{
		{"https://a.example", "https://a.example", true},
		{"https://a.example:443", "https://a.example", true},
		{"https://*.Bücher.example", "https://www.xn--bcher-kva.example", true},
		{"file://", "file://", true},
		{"file://", "null", false},
		{"app://*.local", "app://x.local", true},
		{"https://*.a.example", "https://a.example", false},
		{"https://*.a.example", "https://x.y.a.example", false},
		{"https://*.a.example", "https://*.a.example", false},
		{"https://a.example", "https://*.a.example", false},
		{"https://a.example", "http://a.example", false},
	} {
		p, err := ParseOrigin(c.pattern)
		o, err2 := ParseOrigin(c.origin)
		if err != nil || err2 != nil || p.matches(o) != c.want {
			t.Errorf("%q matches %q: %v, %v, %v; want %v", c.pattern, c.origin, p.matches(o), err, err2, c.want)
		}
	}
}

// A URL for clients may end up inside XML.
func TestParseURL(t *testing.T) {
	for _, s := range []string{"wss://a.example/", "wss://a.example:5291/ws?x=1", "wss://[2001:db8::1]/"} {
		if _, err := ParseURL(s, "wss"); err != nil {
			t.Errorf("ParseURL(%q): %v", s, err)
		}
	}
	for _, s := range []string{"", "a.example", "ws://a.example/", "wss:///", "wss://a.example/?a&b", "wss://a.example/'", "wss://a.example/<", "wss://u:p@a.example/", "wss://a.example/#a"} {
		if _, err := ParseURL(s, "wss"); err == nil {
			t.Errorf("ParseURL(%q): no error", s)
		}
	}
}

// A URL stays as written, except for invalid characters: its normal form is read in the
// same way, and its target is valid in a request.
func TestURLKeepsEscapes(t *testing.T) {
	for s, want := range map[string]string{
		"wss://A.example/%26é":           "wss://a.example/%26%C3%A9",
		"wss://a.example/%2F x?%26 é":    "wss://a.example/%2F%20x?%26%20%C3%A9",
		"wss://a.example/a%20b":          "wss://a.example/a%20b",
		"wss://a.example/{%2f}?a|b&c=%7": "",
		"wss://a.example/{%2f}?a|b":      "wss://a.example/%7B%2f%7D?a%7Cb",
	} {
		u, err := ParseURL(s, "wss")
		if want == "" {
			if err == nil {
				t.Errorf("ParseURL(%q) = %q; want an error", s, u)
			}
			continue
		}
		if err != nil || u.String() != want {
			t.Errorf("ParseURL(%q) = %q, %v; want %q", s, u, err, want)
		}
		if _, err := ParseURL(want, "wss"); err != nil {
			t.Errorf("ParseURL(%q): %v", want, err)
		}
		loc, err := ParseNodeURL(s)
		request, err2 := (&Request{Host: "a.example"}).appendRequest(nil, &loc, false, "key")
		if target := strings.TrimPrefix(want, "wss://a.example"); err != nil || err2 != nil || !strings.HasPrefix(string(request), "GET "+target+" HTTP/1.1\r\n") {
			t.Errorf("%q: %v, %v, %q; want target %q", s, err, err2, request, target)
		}
	}
}

// The normal form of a URL and of an origin is a fixed point, and a dial goes where the
// URL points.
func FuzzURLs(f *testing.F) {
	for _, s := range []string{
		"ws://127.0.0.1:5290/", "wss://[2001:db8::1%25eth0]:443/a?b", "ws://Bücher.example.:080", "srv+wss://_x._tcp.Example.com/ws",
		"ws+unix:///run/a.sock:/ws?x", "wss+unix:///a%20b", "https://*.Bücher.example:443", "file://", "app://.", "null", "ws://0x7f.1/", "ws://a。b/",
		"wss://a.example/%26é", "wss://a.example/%2F x?%26 é", "ws://a/{%2f}?<",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if o, err := ParseOrigin(s); err == nil {
			again, err := ParseOrigin(o.String())
			if err != nil || again != o || again.String() != o.String() {
				t.Errorf("origin %q is %q, and that is %q, %v", s, o, again, err)
			}
		}
		if u, err := ParseURL(s, "ws", "wss"); err == nil {
			again, err := ParseURL(u.String(), "ws", "wss")
			if err != nil || again.String() != u.String() {
				t.Errorf("URL %q is %q, and that is %q, %v", s, u, again, err)
			}
			n, err := ParseNodeURL(s)
			if err != nil {
				t.Fatalf("ParseNodeURL(%q): %v; want what ParseURL takes", s, err)
			}
			host, port, _ := hostOf(u)
			if strings.ContainsFunc(n.uri, func(c rune) bool { return c <= ' ' || c >= 0x7f }) || n.uri != "" && n.uri != u.RequestURI() {
				t.Errorf("%q: request target %q; want %q", s, n.uri, u.RequestURI())
			}
			if strings.TrimSuffix(n.Host, ".") != host || port != "" && n.HostPort() != joinNode(n.Host, port) || n.TLS != (u.Scheme == "wss") {
				t.Errorf("%q: a node at %q, and a URL of %q", s, n.HostPort(), u)
			}
		}
	})
}

func joinNode(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}
