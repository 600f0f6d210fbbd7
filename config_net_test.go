package main

import (
	"errors"
	"strings"
	"testing"
)

func TestParseNodeURL(t *testing.T) {
	for s, want := range map[string]nodeURL{
		"ws://127.0.0.1:5290/":               {host: "127.0.0.1", hostPort: "127.0.0.1:5290"},
		"ws://Node/":                         {host: "node", hostPort: "node:80"},
		"ws://Bücher.example/":               {host: "xn--bcher-kva.example", hostPort: "bücher.example:80"},
		"wss://[::1]/a?b=c":                  {tls: true, host: "::1", hostPort: "[::1]:443"},
		"ws+unix:///run/a.sock":              {unix: true, hostPort: "/run/a.sock"},
		"wss+unix:///run/a.sock:/ws":         {unix: true, tls: true, hostPort: "/run/a.sock"},
		"srv+ws://_xmpp._tcp.a.example":      {srv: true, host: "_xmpp._tcp.a.example", hostPort: "_xmpp._tcp.a.example"},
		"srv+wss://_xmpp._tcp.a.example/ws/": {srv: true, tls: true, host: "_xmpp._tcp.a.example", hostPort: "_xmpp._tcp.a.example"},
	} {
		if got, err := parseNodeURL(s); err != nil || got != want {
			t.Errorf("parseNodeURL(%q) = %+v, %v; want %+v", s, got, err, want)
		}
	}
	tooLong := "/" + strings.Repeat("a", maxSocketPath)
	for s, want := range map[string]string{
		"":                            "want a URL",
		"ws:":                         `no "//" behind the scheme`,
		"ws://":                       "no host",
		"ws://:80/":                   "no host",
		"ws://a b/":                   `invalid character " " in host name`,
		"ws://a:0/":                   `port "0" is not 1 to 65535`,
		"ws://a:/":                    `port "" is not 1 to 65535`,
		"ws://a..b/":                  `host "a..b" is neither an address nor a name`,
		"ws://256.1.1.1.1/%zz":        `invalid URL escape "%zz"`,
		"ws+unix://":                  "no path of a socket",
		"ws+unix:///":                 "no path of a socket",
		"ws+unix:///a.sock?a=b":       `query "a=b" without a path, want "/a.sock:/?a=b"`,
		"ws+unix:///a%00b":            `path "/a\x00b" is not text`,
		"ws+unix:///a%ff":             `path "/a\xff" is not text`,
		"ws+unix://" + tooLong + ":/": "path of 108 bytes, a socket's may have 107",
		"ws+unix:///a.sock:ws":        `path "ws" does not begin with a slash`,
		"srv+ws+unix:///a":            `scheme "srv+ws+unix" is not ws, wss, ws+unix or srv+ws`,
		"srv+ws://_a._tcp.b:5290/":    `port "5290", and SRV records bring their own`,
		"srv+ws://_a._tcp/":           "host is not of the form _xmpp-websocket._tcp.example1.com",
		"srv+http://_a._tcp.b/":       `scheme "srv+http" is not ws, wss, ws+unix or srv+ws`,
		"ws://user@127.0.0.1:5290/":   "has a user or password",
	} {
		if _, err := parseNodeURL(s); err == nil || err.Error() != want {
			t.Errorf("parseNodeURL(%q): %v; want %q", s, err, want)
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
		"HTTPS://a.example:8443":       "https://a.example:8443",
	} {
		if got, err := parseOrigin(s); err != nil || got != want {
			t.Errorf("parseOrigin(%q) = %q, %v; want %q", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "*", "a.example", "https://", "https://a.example/", "https://a.example?", "https://u@a.example", "https://a.example#",
		"https://a.*.example", "https://a.example:99999", "https://*.*.example", "https:a.example",
	} {
		if got, err := parseOrigin(s); err == nil {
			t.Errorf("parseOrigin(%q) = %q, want an error", s, got)
		}
	}
}

// A URL that clients are sent to may end up inside XML.
func TestCheckURL(t *testing.T) {
	for _, s := range []string{"wss://a.example/", "wss://a.example:5291/ws?x=1", "wss://[2001:db8::1]/"} {
		if err := checkURL(s, "wss"); err != nil {
			t.Errorf("checkURL(%q): %v", s, err)
		}
	}
	for _, s := range []string{"", "a.example", "ws://a.example/", "wss:///", "wss://a.example/?a&b", "wss://a.example/'", "wss://a.example/<", "wss://u:p@a.example/", "wss://a.example/#a"} {
		if err := checkURL(s, "wss"); err == nil {
			t.Errorf("checkURL(%q): no error", s)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for s, ok := range map[string]bool{
		"": true, "/": true, "/ws": true, "/ws/": true, "/a/b": true, "/a%20b": true,
		"ws": false, "/a//b": false, "/a/../b": false, "/.": false, "//": false, "/a b": false, "/a?b": false, "/a#b": false,
	} {
		var ms mistakes
		if ms.checkPath(keyPath{}, s); (len(ms.list) == 0) != ok {
			t.Errorf("checkPath(%q): %v; want ok = %t", s, ms.list, ok)
		}
	}
}

// What would be no file, no port or no host is refused, wherever the
// configuration lies.
func TestListenAddressRefused(t *testing.T) {
	for _, s := range []string{"", "5291", "a.example", ":https", ":65536", "ws://127.0.0.1:5291", "unix:", "unix:@wssgate"} {
		if network, address, err := listenAddress(s); err == nil {
			t.Errorf("listenAddress(%q) = %q, %q; want an error", s, network, address)
		}
	}
}

func TestListenersCollide(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{":5291", ":5291", true},
		{":5291", "127.0.0.1:5291", true},
		{"[::]:5291", "0.0.0.0:5291", true},
		{"127.0.0.1:5291", "127.0.0.1:05291", true},
		{"127.0.0.1:5291", "127.0.0.2:5291", false},
		{"127.0.0.1:5291", "localhost:5291", true},
		{"127.0.0.1:5291", "[::ffff:127.0.0.1]:5291", true},
		{"[::1]:5291", "[0:0:0:0:0:0:0:1]:5291", true},
		{":5291", ":5292", false},
		{":0", ":0", false},
		{"unix:/a", "unix:/a", true},
		{"unix:/a", "unix:/b", false},
		{"unix:/a", ":5291", false},
	} {
		a, b := listener{}, listener{}
		var err1, err2 error
		a.network, a.address, err1 = listenAddress(test.a)
		b.network, b.address, err2 = listenAddress(test.b)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if a.collides(b) != test.want || b.collides(a) != test.want {
			t.Errorf("%s beside %s: collides = %t, %t; want %t", test.a, test.b, a.collides(b), b.collides(a), test.want)
		}
	}
}
