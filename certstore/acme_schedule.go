package certstore

import (
	"crypto/x509"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

const (
	acmeShortLife  = 10 * 24 * time.Hour // at or below this lifetime, a certificate is renewed at half of it
	acmeBackoffMin = time.Minute
	acmeBackoffMax = 12 * time.Hour

	// acmeBackoffUrgent is the longest back-off shortly before a certificate
	// expires: four attempts per hour stay within a CA's limits.
	acmeBackoffUrgent = 15 * time.Minute
)

// acmeRenewAt returns when to renew a certificate: when a third of its lifetime
// is left (half, if the lifetime is at most 10 days), plus up to a twentieth of
// the rest. The addition depends on the certificate and the owner, so a gate
// always computes the same time and two gates compute different ones.
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

// acmeBackoff returns how long to wait after a number of consecutive failures:
// one minute, tripled each time, at most 12 hours, with up to a fifth of jitter
// (downwards at the top). The factor three gives five attempts in the first
// hour, as many failed validations of a name as Let's Encrypt allows per hour.
//
// left is how long the current certificate is still valid; 0 or less means
// none. The wait is at most a quarter of it, so that an attempt comes in time
// once the CA recovers.
//
// asked is the delay that the CA requested. It is obeyed, without jitter, up to
// 12 hours: a wrong Retry-After must not stop renewal for good.
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
