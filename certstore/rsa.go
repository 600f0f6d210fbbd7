package certstore

import (
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

var bigOne = big.NewInt(1)

// checkRSA reads an RSA key of two primes, in PKCS#1 or PKCS#8, and reports
// whether its numbers are consistent (RFC 8017, section 3.2). The key is not
// ready for signing.
//
// It does a tenth of the work of x509.ParsePKCS8PrivateKey, which also prepares
// the key for signing. With thousands of keys, the first signature does that.
// If a key fails here, crypto/x509 decides.
func checkRSA(der []byte) (*rsa.PrivateKey, bool) {
	key, ok := openPKCS8(der)
	if !ok {
		key = cryptobyte.String(der)
	}
	var seq cryptobyte.String
	if !key.ReadASN1(&seq, asn1.SEQUENCE) || !key.Empty() {
		return nil, false
	}
	var version int
	if !seq.ReadASN1Integer(&version) || version != 0 { // version 1 has more than two primes
		return nil, false
	}
	var n, e, d, p, q, dp, dq, qinv big.Int
	for _, x := range []*big.Int{&n, &e, &d, &p, &q, &dp, &dq, &qinv} {
		if !seq.ReadASN1Integer(x) || x.Sign() <= 0 {
			return nil, false
		}
	}
	if !seq.Empty() || e.BitLen() > 31 || n.Bit(0) == 0 {
		return nil, false
	}
	var p1, q1, x big.Int
	p1.Sub(&p, bigOne)
	q1.Sub(&q, bigOne)
	good := x.Mul(&p, &q).Cmp(&n) == 0 &&
		p1.Sign() > 0 && q1.Sign() > 0 &&
		x.Mod(&d, &p1).Cmp(&dp) == 0 && x.Mod(x.Mul(&dp, &e), &p1).Cmp(bigOne) == 0 &&
		x.Mod(&d, &q1).Cmp(&dq) == 0 && x.Mod(x.Mul(&dq, &e), &q1).Cmp(bigOne) == 0 &&
		x.Mod(x.Mul(&qinv, &q), &p).Cmp(bigOne) == 0
	return &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: &n, E: int(e.Int64())}, D: &d, Primes: []*big.Int{&p, &q}}, good
}

// packedRSA is the first byte of a packed key; DER never begins with it.
const packedRSA = 0

// packRSA stores a fifth of a key; unpackRSA computes the rest:
//
//	byte     packedRSA
//	uvarint  public exponent
//	uvarint  length of the first prime in bytes
//	...      the two primes, big-endian
func packRSA(key *rsa.PrivateKey) []byte {
	p, q := key.Primes[0].Bytes(), key.Primes[1].Bytes()
	b := binary.AppendUvarint([]byte{packedRSA}, uint64(key.E))
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(append(b, p...), q...)
}

// unpackRSA makes the key ready for signing. Its private exponent may differ
// from the original, because several are equivalent.
func unpackRSA(b []byte) (*rsa.PrivateKey, error) {
	e, n := binary.Uvarint(b[1:])
	b = b[1+n:]
	size, n := binary.Uvarint(b)
	b = b[n:]
	p, q := new(big.Int).SetBytes(b[:size]), new(big.Int).SetBytes(b[size:])
	var p1, q1, phi big.Int
	phi.Mul(p1.Sub(p, bigOne), q1.Sub(q, bigOne))
	d := new(big.Int).ModInverse(big.NewInt(int64(e)), &phi)
	if d == nil {
		return nil, errors.New("private key: its public exponent has no inverse")
	}
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: int(e)}, D: d, Primes: []*big.Int{p, q}}
	key.Precomputed.Dp = new(big.Int).Mod(d, &p1) // with these three, Precompute is five times as fast
	key.Precomputed.Dq = new(big.Int).Mod(d, &q1)
	key.Precomputed.Qinv = new(big.Int).ModInverse(q, p)
	key.Precompute()
	return key, key.Validate()
}

// rsaEncryption is the algorithm identifier of RFC 8017, appendix A.1, in DER:
// object identifier and NULL.
const rsaEncryption = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"

// openPKCS8 returns the PKCS#1 key inside a PKCS#8 one (RFC 5208).
func openPKCS8(der []byte) (cryptobyte.String, bool) {
	input := cryptobyte.String(der)
	var seq, algorithm, key cryptobyte.String
	var version int
	ok := input.ReadASN1(&seq, asn1.SEQUENCE) && input.Empty() &&
		seq.ReadASN1Integer(&version) && version == 0 &&
		seq.ReadASN1(&algorithm, asn1.SEQUENCE) && string(algorithm) == rsaEncryption &&
		seq.ReadASN1(&key, asn1.OCTET_STRING)
	return key, ok
}
