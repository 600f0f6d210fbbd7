package proxy

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/chat"
)

// Names without a certificate are counted as clients ask for them, the most frequent
// first, for an hour after the last request.
func TestUnserved(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL())
	for _, name := range []string{"Shop.example", "shop.example", "mail.example", testName, ""} {
		conn, err := tls.Dial("tcp", g.addr, &tls.Config{ServerName: name, RootCAs: g.ca.Pool(), InsecureSkipVerify: name == ""})
		if err == nil {
			conn.Close()
		}
	}
	var got []string
	for _, n := range g.Unserved(10) {
		got = append(got, fmt.Sprint(n.Name, n.Count))
	}
	if want := []string{"shop.example2", "mail.example1"}; !slices.Equal(got, want) {
		t.Errorf("unserved are %q; want %q", got, want)
	}
	if got := g.Unserved(1); len(got) != 1 || got[0].Name != "shop.example" {
		t.Errorf("the first is %v; want shop.example", got)
	}
	got = nil
	for _, n := range g.ingress.unserved.most(10, time.Now(), func(name string) bool { return name == "shop.example" }) {
		got = append(got, n.Name)
	}
	if want := []string{"mail.example"}; !slices.Equal(got, want) {
		t.Errorf("with a certificate for shop.example they are %q; want %q", got, want)
	}
}

func none(string) bool { return false }

// In a flood of names, those that clients ask for repeatedly stay, and memory is
// bounded; names that are invalid in DNS are ignored.
func TestUnservedFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u unserved
		for i := range 10_000 {
			if i%50 == 0 {
				u.note("wanted.example", time.Now())
			}
			u.note(fmt.Sprintf("%d.example", i), time.Now())
			time.Sleep(time.Millisecond)
		}
		for _, name := range []string{"", "localhost", "192.0.2.1:5291", "a.example\n", "ü.example", strings.Repeat("a.", 127) + "a"} {
			u.note(name, time.Now())
		}
		if len(u.names) != maxUnserved {
			t.Errorf("%d names are remembered; want %d", len(u.names), maxUnserved)
		}
		if got := u.most(1, time.Now(), none); got[0].Name != "wanted.example" || got[0].Count != 200 {
			t.Errorf("the first is %v; want wanted.example, 200 times", got[0])
		}
		time.Sleep(unservedFor)
		if got := u.most(10, time.Now(), none); len(got) != 0 {
			t.Errorf("after an hour there are %v; want none", got)
		}
		u.note("wanted.example", time.Now())
		if got := u.most(10, time.Now(), none); len(got) != 1 || got[0].Count != 1 {
			t.Errorf("asked for again, they are %v; want one, once", got)
		}
		u.note("another.example", time.Now())
		if len(u.names) != 2 {
			t.Errorf("%d names are remembered; want 2: the others are old", len(u.names))
		}
	})
}
