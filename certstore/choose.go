package certstore

import (
	"cmp"
	"crypto/tls"
	"time"
)

// A candidate is a certificate as it stands for one name at one time.
type candidate struct {
	*certificate
	wild bool
}

// prefer compares two candidates of one family. It is negative where a goes
// first, and says why the first one does. It is zero only for the same leaf
// with the same chain from the same file.
//
// Valid goes over expired, a CA's over a self-signed one, a chain without a known flaw
// over one with it, an exact name over a
// wildcard, later expiry over earlier. So a wildcard serves where the exact
// name has only an expired or a self-signed certificate. The rest is there to
// give the same answer every time.
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
	if (a.flaw == nil) != (b.flaw == nil) {
		return before(a.flaw == nil), "its chain is right, the other's is not"
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

// best returns the best candidate of each family, nil where there is none.
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

// choose returns the certificates that may answer, best first: one of each
// family, ECDSA before Ed25519 before RSA, unless a lesser family has a valid
// one, a CA's one or one without a known flaw and the better family has not.
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

// class is what counts for more than the family of a key.
func (c *certificate) class(now time.Time) int {
	class := 0
	if c.valid(now) {
		class += 4
	}
	if !c.self() {
		class += 2
	}
	if c.flaw == nil {
		class++
	}
	return class
}

// pick returns the certificate for a client, or nil where there is none for
// the name. Where the client can use none of those there are it returns the
// first, so that the client learns of a handshake_failure and not that the
// name were unknown.
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
	// SupportsCertificate would compare the name as well, by stricter rules
	// than ours (it knows no common name), and parse the leaf for that.
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
