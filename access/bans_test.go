package access

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestBans(t *testing.T) {
	var b Bans
	now := time.Unix(1e9, 0)
	at := func(d time.Duration) func() time.Time { return func() time.Time { return now.Add(d) } }
	addr, network := netip.MustParseAddr, netip.MustParsePrefix
	if b.Has(addr("192.0.2.7"), at(0)) || b.List(now) != nil || b.Lift(network("192.0.2.0/24"), now) {
		t.Error("without bans somebody is banned")
	}
	for _, n := range []string{"192.0.2.0/24", "2001:db8::/64", "198.51.100.7/32"} {
		if err := b.Set(network(n), now.Add(time.Hour), now); err != nil {
			t.Fatal(err)
		}
	}
	for client, want := range map[string]bool{
		"192.0.2.7": true, "::ffff:192.0.2.7": true, "192.0.3.7": false, "2001:db8::1": true, "2001:db8::1%eth0": true, "2001:db8:0:1::1": false,
		"198.51.100.7": true, "198.51.100.8": false,
	} {
		if got := b.Has(addr(client), at(time.Hour-1)); got != want {
			t.Errorf("Has(%s) = %v; want %v", client, got, want)
		}
		if b.Has(addr(client), at(time.Hour)) {
			t.Errorf("Has(%s) when the ban is over", client)
		}
	}
	if b.Has(netip.Addr{}, at(0)) {
		t.Error("a client without an address is banned")
	}
	if err := b.Set(network("192.0.2.0/24"), now.Add(time.Minute), now); err != nil || len(b.List(now)) != 3 || b.List(now)[0].Network != network("192.0.2.0/24") {
		t.Errorf("a ban again: %v, %v; want the same three, that first", err, b.List(now))
	}
	if n := len(b.List(now.Add(time.Minute))); n != 2 {
		t.Errorf("%d bans when one is over; want 2", n)
	}
	if !b.Lift(network("198.51.100.7/32"), now) || b.Has(addr("198.51.100.7"), at(0)) || b.Lift(network("198.51.100.7/32"), now) {
		t.Error("a ban is not lifted, or twice")
	}
}

// Who is let in again may be in other bans, wholly or in part.
func TestRestOfBans(t *testing.T) {
	var b Bans
	now := time.Unix(1e9, 0)
	for i, n := range []string{"192.0.0.0/16", "192.0.2.0/24", "192.0.2.7/32", "192.0.3.0/24", "2001:db8::/32"} {
		if err := b.Set(netip.MustParsePrefix(n), now.Add(time.Duration(i+1)*time.Minute), now); err != nil {
			t.Fatal(err)
		}
	}
	network := netip.MustParsePrefix("192.0.2.0/24")
	rest := b.Rest(network, now)
	if len(rest) != 2 || rest[0].Network.String() != "192.0.0.0/16" || rest[1].Network.String() != "192.0.2.7/32" {
		t.Fatalf("the rest is %v; want the /16 and the address", rest)
	}
	if !rest[0].Covers(network) || rest[1].Covers(network) {
		t.Error("the /16 covers the network, and the address does not")
	}
	if rest := b.Rest(network, now.Add(time.Minute)); len(rest) != 1 {
		t.Errorf("when the /16 is over the rest is %v; want the address", rest)
	}
}

// There is a bound to bans, and those that are over do not count.
func TestBansAreBounded(t *testing.T) {
	var b Bans
	now := time.Unix(1e9, 0)
	for i := range maxBans {
		if err := b.Set(netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/32", i/256, i%256)), now.Add(time.Hour), now); err != nil {
			t.Fatal(err)
		}
	}
	one := netip.MustParsePrefix("192.0.2.7/32")
	if err := b.Set(one, now.Add(time.Hour), now); err != ErrTooManyBans {
		t.Errorf("one more: %v; want ErrTooManyBans", err)
	}
	if err := b.Set(netip.MustParsePrefix("10.0.0.1/32"), now.Add(2*time.Hour), now); err != nil {
		t.Errorf("a known one again: %v", err)
	}
	if err := b.Set(one, now.Add(3*time.Hour), now.Add(time.Hour)); err != nil {
		t.Errorf("when others are over: %v", err)
	}
	if n := len(b.List(now.Add(time.Hour))); n != 2 {
		t.Errorf("%d bans; want 2", n)
	}
}
