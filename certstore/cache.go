package certstore

import (
	"crypto/tls"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxParsed is how many certificates the cache keeps in parsed form, about 2 KB
// each for ECDSA and 9 KB for RSA. Any other certificate costs its handshake
// another 12 µs (ECDSA) or 120 µs (RSA) for parsing.
const maxParsed = 512

// parsed is a certificate in the form that crypto/tls needs.
type parsed struct {
	cert  *tls.Certificate
	until int64       // Unix seconds: expiry of the OCSP staple in cert
	used  atomic.Bool // since the hand last passed it
}

// A cache bounds the number of parsed certificates. A hit takes no lock. A miss
// holds the lock only to change a few pointers; reloads and parsing happen
// outside it.
//
// It uses the clock algorithm: a hand goes round and drops the first entry that
// has not been used since the hand last passed it.
type cache struct {
	mu   sync.Mutex
	ring []*certificate
	hand int
}

// get returns c in parsed form.
func (k *cache) get(c *certificate) (*tls.Certificate, error) {
	if c.pinned != nil {
		return c.pinned, nil
	}
	now := time.Now()
	if p := c.parsed.Load(); p != nil && now.Unix() < p.until {
		if !p.used.Load() { // avoid writing to a cache line that all processors read
			p.used.Store(true)
		}
		return p.cert, nil
	}
	cert, err := c.parse()
	if err != nil {
		return nil, err
	}
	next := &parsed{cert: cert, until: math.MaxInt64}
	if c.staple.fresh(now) {
		cert.OCSPStaple, next.until = c.staple.response, c.staple.until
	}
	if c.parsed.Swap(next) == nil {
		k.add(c)
	}
	return cert, nil
}

func (k *cache) add(c *certificate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.ring) < maxParsed {
		k.ring = append(k.ring, c)
		return
	}
	for {
		old := k.ring[k.hand]
		p := old.parsed.Load()
		if p == nil || !p.used.Swap(false) {
			old.parsed.Store(nil)
			k.ring[k.hand] = c
			k.hand = (k.hand + 1) % maxParsed
			return
		}
		k.hand = (k.hand + 1) % maxParsed
	}
}

// drop removes certificates that are out of use, and so releases their chunks.
// A concurrent lookup may add one of them again; the next drop removes it.
func (k *cache) drop(unused func(*certificate) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring = slices.DeleteFunc(k.ring, func(c *certificate) bool {
		if !unused(c) {
			return false
		}
		c.parsed.Store(nil)
		return true
	})
	k.hand = 0
}
