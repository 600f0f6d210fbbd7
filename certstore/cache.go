package certstore

import (
	"crypto/tls"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxParsed is how many certificates are kept in the form that crypto/tls
// wants, about 2 KB each for ECDSA and 9 KB for RSA. Another one costs 12 µs
// (ECDSA) or 120 µs (RSA) in its handshake.
const maxParsed = 512

// parsed is the ready form of a certificate.
type parsed struct {
	cert  *tls.Certificate
	until int64       // Unix seconds: when the OCSP staple in cert is no longer fresh
	used  atomic.Bool // since the hand last came by
}

// A cache bounds how many certificates are parsed at a time. A hit takes no
// lock. The lock of a miss is held for no longer than it takes to turn a few
// pointers; neither a reload nor a parse happens under it.
//
// It is the clock algorithm: a hand goes round and drops the first one that
// was not used since it last came by.
type cache struct {
	mu   sync.Mutex
	ring []*certificate
	hand int
}

// get returns the ready form of c.
func (k *cache) get(c *certificate) (*tls.Certificate, error) {
	if c.pinned != nil {
		return c.pinned, nil
	}
	now := time.Now()
	if p := c.parsed.Load(); p != nil && now.Unix() < p.until {
		if !p.used.Load() { // do not write to a line that all processors read
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

// drop forgets certificates that are out of use, and so lets go of the chunks
// that they are in. One that is asked for this very moment may come back; the
// next drop has it then.
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
