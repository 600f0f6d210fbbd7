package certstore

import (
	"crypto/x509"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

const (
	acmeShortLife  = 10 * 24 * time.Hour // a certificate that lives no longer is renewed at half of its life
	acmeBackoffMin = time.Minute
	acmeBackoffMax = 12 * time.Hour

	// acmeBackoffUrgent is how long the back-off may get however soon a
	// certificate expires: four tries in an hour keep within a CA's limits.
	acmeBackoffUrgent = 15 * time.Minute
)

// acmeRenewAt returns when a certificate is renewed: when a third of its
// lifetime is left, or half of it where it lives 10 days or less, and up to a
// twentieth of what is left later. How much later follows from the certificate
// and from who asks, so that every look gives one gate the same moment and two
// gates different ones.
func acmeRenewAt(leaf *x509.Certificate, owner string) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	left := life / 3
	if life <= acmeShortLife {
		left = life / 2
	}
	h := fnv.New64a()
	io.WriteString(h, owner)
	h.Write(leaf.Raw)
	jitter := time.Duration(float64(left/20) * (float64(h.Sum64()>>11) / (1 << 53)))
	return leaf.NotAfter.Add(jitter - left)
}

// acmeBackoff returns how long to wait after so many failures in a row: one
// minute, three times more each time, 12 hours at most, each up to a fifth more
// (at the top: less). With three as the factor an hour sees five tries, which
// is how many failed validations of a name Let's Encrypt allows in an hour.
//
// left is how long the certificate in use is still valid, 0 or less where none
// is. While there is one, a quarter of it is the most, so that a CA that comes
// back in time finds us asking in time.
//
// asked is how long the CA wants to be left alone. It is obeyed, jitter or not, up
// to the 12 hours: a wrong Retry-After must not stop renewal for good.
func acmeBackoff(failures int, left, asked time.Duration) time.Duration {
	d := acmeBackoffMin
	for i := 1; i < failures && d < acmeBackoffMax; i++ {
		d *= 3
	}
	if left > 0 {
		d = min(d, max(left/4, acmeBackoffUrgent))
	}
	asked = min(asked, acmeBackoffMax)
	d = min(max(d, asked), acmeBackoffMax)
	jitter := time.Duration(rand.Int64N(int64(d / 5)))
	if d+jitter > acmeBackoffMax {
		return max(d-jitter, asked)
	}
	return d + jitter
}
