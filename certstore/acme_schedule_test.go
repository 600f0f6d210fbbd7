package certstore

import (
	"crypto/x509"
	"strconv"
	"testing"
	"time"
)

// A certificate is renewed when a third of its life is left. At 10 days or
// less, it is renewed when half is left. Up to a twentieth of the rest is
// added.
func TestACMERenewAt(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for _, tt := range []struct{ life, earliest, latest time.Duration }{
		{90 * day, 60 * day, 60*day + 36*time.Hour},
		{398 * day, 398 * day * 2 / 3, 398*day*2/3 + 160*time.Hour},
		{10*day + time.Hour, (10*day + time.Hour) * 2 / 3, (10*day+time.Hour)*2/3 + 5*time.Hour},
		{10 * day, 5 * day, 5*day + 6*time.Hour},
		{160 * time.Hour, 80 * time.Hour, 84 * time.Hour}, // Let's Encrypt's short-lived profile
		{time.Hour, 30 * time.Minute, 31*time.Minute + 30*time.Second},
		{0, 0, 0},
	} {
		seen := map[time.Duration]bool{}
		for i := range 100 {
			leaf := &x509.Certificate{NotBefore: from, NotAfter: from.Add(tt.life), Raw: []byte{byte(i)}}
			owner := strconv.Itoa(i)
			at := acmeRenewAt(leaf, owner)
			if again := acmeRenewAt(leaf, owner); !again.Equal(at) {
				t.Fatalf("acmeRenewAt gives %v, then %v", at, again)
			}
			after := at.Sub(from)
			if after < tt.earliest-time.Microsecond || after > tt.latest {
				t.Errorf("a life of %v is renewed after %v; want %v to %v", tt.life, after, tt.earliest, tt.latest)
			}
			seen[after] = true
		}
		if tt.life > 0 && len(seen) < 90 {
			t.Errorf("a life of %v: 100 gates and certificates give %d moments; want jitter", tt.life, len(seen))
		}
	}
}

// The back-off grows from a minute to 12 hours, with jitter, and obeys the CA
// within these limits.
func TestACMEBackoff(t *testing.T) {
	for _, tt := range []struct {
		failures    int
		left, asked time.Duration
		least, most time.Duration
	}{
		{1, 0, 0, time.Minute, 72 * time.Second},
		{2, 0, 0, 3 * time.Minute, 216 * time.Second},
		{3, 0, 0, 9 * time.Minute, 648 * time.Second},
		{6, 0, 0, 243 * time.Minute, 292 * time.Minute},
		{7, 0, 0, 12 * time.Hour * 4 / 5, 12 * time.Hour},
		{1000000, 0, 0, 12 * time.Hour * 4 / 5, 12 * time.Hour},
		// With a certificate to renew.
		{1, 720 * time.Hour, 0, time.Minute, 72 * time.Second},
		{9, 720 * time.Hour, 0, 12 * time.Hour * 4 / 5, 12 * time.Hour},
		{9, 8 * time.Hour, 0, 2 * time.Hour, 144 * time.Minute},
		{9, time.Minute, 0, 15 * time.Minute, 18 * time.Minute},
		{9, -time.Hour, 0, 12 * time.Hour * 4 / 5, 12 * time.Hour},
		// With a Retry-After from the CA.
		{1, 0, time.Second, time.Minute, 72 * time.Second},
		{1, 0, time.Hour, time.Hour, 72 * time.Minute},
		{9, time.Hour, 2 * time.Hour, 2 * time.Hour, 144 * time.Minute},
		{1, 0, 630 * time.Minute, 630 * time.Minute, 12 * time.Hour},
		{1, 0, 1000 * time.Hour, 12 * time.Hour, 12 * time.Hour},
	} {
		seen := map[time.Duration]bool{}
		for range 100 {
			d := acmeBackoff(tt.failures, tt.left, tt.asked)
			if d < tt.least || d > tt.most {
				t.Errorf("acmeBackoff(%d, %v, %v) = %v; want %v to %v", tt.failures, tt.left, tt.asked, d, tt.least, tt.most)
			}
			seen[d] = true
		}
		if len(seen) < 50 && tt.least < tt.most {
			t.Errorf("acmeBackoff(%d, %v, %v) has %d values of 100; want jitter", tt.failures, tt.left, tt.asked, len(seen))
		}
	}
}

// A record binds the gate that reads it only within plausible limits.
func TestACMERecordWait(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		failures int
		next     time.Duration
		want     time.Duration
	}{
		{0, time.Hour, 0},         // nothing failed
		{1, time.Hour, time.Hour}, // the plain case
		{1, -time.Hour, 0},        // in the past
		{7, 12 * time.Hour, 12 * time.Hour},
		{7, 12*time.Hour + 5*time.Minute, 12*time.Hour + 5*time.Minute}, // from a gate whose clock is ahead
		{7, 14 * time.Hour, 0}, // longer than any back-off: a clock was wrong
		{1, 40 * 365 * 24 * time.Hour, 0},
	} {
		r := acmeRecord{Failures: tt.failures, Next: now.Add(tt.next)}
		if got := r.wait(now); got != tt.want {
			t.Errorf("%d failures, next in %v: wait = %v; want %v", tt.failures, tt.next, got, tt.want)
		}
	}
}
