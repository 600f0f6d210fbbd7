package config

import (
	"errors"
	"testing"

	"wssgate/listen"
)

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

// An address that is not a valid file, port or host is refused, wherever the
// configuration is.
func TestListenAddressRefused(t *testing.T) {
	for _, s := range []string{"", "5291", "a.example", ":https", ":65536", "ws://127.0.0.1:5291", "unix:", "unix:@wssgate"} {
		if network, address, err := listen.ParseAddress(s); err == nil {
			t.Errorf("ParseAddress(%q) = %q, %q; want an error", s, network, address)
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
		a.network, a.address, err1 = listen.ParseAddress(test.a)
		b.network, b.address, err2 = listen.ParseAddress(test.b)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if a.collides(b) != test.want || b.collides(a) != test.want {
			t.Errorf("%s beside %s: collides = %t, %t; want %t", test.a, test.b, a.collides(b), b.collides(a), test.want)
		}
	}
}
