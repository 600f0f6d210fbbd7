package certstore

import (
	"cmp"
	"crypto/tls"
	"time"
)

// A candidate is a certificate for one name at one time.
type candidate struct {
	*certificate
	wild bool
}

// prefer compares two candidates of one family. order is negative if a is
// better; why gives the reason. order is zero only for the same leaf with the
// same chain from the same file.
//
// Valid wins over expired, a CA's certificate over a self-signed one, a
// certificate without a known flaw over one that has a flaw or that all clients
// reject, an exact name over a wildcard, and later expiry over earlier. So a
// wildcard is served if the exact name has only an expired or a self-signed
// certificate. The other rules only make the result deterministic.
func prefer(a, b candidate, now time.Time) (order int, why string) {
	if sa, sb := a.state(now), b.state(now); (sa == StateOK) != (sb == StateOK) {
		bad := sa
		if bad == StateOK {
			bad = sb
		}
		return before(sa == StateOK), "valid, the other is " + bad
	}
	if a.self() != b.self() {
		return before(b.self()), "from a CA, the other is self-signed"
	}
	if a.sound(now) != b.sound(now) {
		if a.rejected() != b.rejected() {
			return before(a.sound(now)), "no client accepts the other"
		}
		return before(a.sound(now)), "its chain is right, the other's is not"
	}
	if a.wild != b.wild {
		return before(b.wild), "has the exact name, the other a wildcard"
	}
	if a.notAfter != b.notAfter {
		return cmp.Compare(b.notAfter, a.notAfter), "expires later"
	}
	if a.notBefore != b.notBefore {
		return cmp.Compare(b.notBefore, a.notBefore), "issued later"
	}
	if sa, sb := a.source(), b.source(); sa != sb {
		return cmp.Compare(sb, sa), "equal dates, from the directory" // "directory" > "acme"
	}
	if la, lb := len(a.chain.Value()), len(b.chain.Value()); la != lb {
		return cmp.Compare(lb, la), "equal dates, longer chain"
	}
	if fa, fb := a.file(), b.file(); fa != fb {
		return cmp.Compare(fa, fb), "equal dates, file name first in order"
	}
	return a.leaf.compare(b.leaf), "equal dates, first in byte order"
}

func before(first bool) int {
	if first {
		return -1
	}
	return 1
}

// best returns the best candidate of each family, or nil.
func best(exact, wild []named, now time.Time) (out [families]candidate) {
	for i, list := range [2][]named{exact, wild} {
		for _, c := range list {
			next := candidate{c.certificate, i == 1}
			have := &out[c.family()]
			if have.certificate == nil {
				*have = next
			} else if order, _ := prefer(next, *have, now); order < 0 {
				*have = next
			}
		}
	}
	return out
}

// choose returns the certificates to choose from, best first: one of each
// family, ECDSA before Ed25519 before RSA. A later family goes first if it
// alone has a certificate that is valid, from a CA, or without a known flaw.
func choose(exact, wild []named, now time.Time) []*certificate {
	byFamily := best(exact, wild, now)
	out := make([]*certificate, 0, families)
	for class := 7; class >= 0; class-- {
		for _, c := range byFamily {
			if c.certificate != nil && c.class(now) == class {
				out = append(out, c.certificate)
			}
		}
	}
	return out
}

// class ranks the properties that matter more than the family.
func (c *certificate) class(now time.Time) int {
	class := 0
	if c.valid(now) {
		class += 4
	}
	if !c.self() {
		class += 2
	}
	if c.sound(now) {
		class++
	}
	return class
}

// pick returns the certificate for a client, or nil if the name has none. If
// the client supports none of them, pick returns the first, so that the client
// gets handshake_failure and not unrecognized_name.
func (t *table) pick(hello *tls.ClientHelloInfo, name string, get func(*certificate) (*tls.Certificate, error)) (*tls.Certificate, error) {
	exact, wild := t.lookup(name)
	switch {
	case len(exact)+len(wild) == 0:
		return nil, nil
	case len(exact) == 1 && len(wild) == 0:
		return get(exact[0].certificate)
	case len(exact) == 0 && len(wild) == 1:
		return get(wild[0].certificate)
	}
	chosen := choose(exact, wild, time.Now())
	if len(chosen) == 1 {
		return get(chosen[0])
	}
	// SupportsCertificate would also compare the name, by stricter rules than
	// ours (it ignores the common name), and parse the leaf for it.
	nameless := *hello
	nameless.ServerName = ""
	var first *tls.Certificate
	var failed error
	for _, c := range chosen {
		cert, err := get(c)
		if err != nil {
			failed = err
			continue
		}
		if nameless.SupportsCertificate(cert) == nil {
			return cert, nil
		}
		if first == nil {
			first = cert
		}
	}
	if first == nil {
		return nil, failed
	}
	return first, nil
}
