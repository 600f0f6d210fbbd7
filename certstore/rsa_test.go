package certstore

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"

	"wssgate/internal/certtest"
)

// rsaKeys are one key in both forms.
func rsaKeys(t testing.TB) (key *rsa.PrivateKey, forms [][]byte) {
	p := ca.IssueSpec(certtest.Spec{Names: []string{"example1.com"}, RSA: true})
	for _, data := range [][]byte{p.KeyPEM(), p.KeyPEMClassic()} {
		block, _ := pem.Decode(data)
		forms = append(forms, block.Bytes)
	}
	return p.Key.(*rsa.PrivateKey), forms
}

func TestCheckRSA(t *testing.T) {
	key, forms := rsaKeys(t)
	for i, der := range forms {
		if public, ok := checkRSA(der); !ok || !key.PublicKey.Equal(public) {
			t.Errorf("form %d: %v, %t; want the public key", i, public, ok)
		}
	}
	// Each number, one off, makes the key bad; only the modulus and the public
	// exponent would be noticed by a comparison with the certificate.
	var numbers struct {
		Version                     int
		N, E, D, P, Q, DP, DQ, QInv *big.Int
	}
	if _, err := asn1.Unmarshal(forms[1], &numbers); err != nil {
		t.Fatal(err)
	}
	for i, x := range []*big.Int{numbers.N, numbers.E, numbers.D, numbers.P, numbers.Q, numbers.DP, numbers.DQ, numbers.QInv} {
		x.Add(x, big.NewInt(2))
		der, err := asn1.Marshal(numbers)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := checkRSA(der); ok {
			t.Errorf("number %d, one off, was not noticed", i)
		}
		x.Sub(x, big.NewInt(2))
	}
}

// What is found good here is good to crypto/x509, and is the same key.
func FuzzCheckRSA(f *testing.F) {
	_, forms := rsaKeys(f)
	for _, der := range forms {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		public, ok := checkRSA(der)
		if !ok || public.N.BitLen() < minRSA {
			return
		}
		key, err := parseKey(der)
		if err != nil {
			t.Fatalf("crypto/x509 refuses it: %v", err)
		}
		if !key.(*rsa.PrivateKey).PublicKey.Equal(public) {
			t.Error("another public key")
		}
	})
}

func BenchmarkCheckRSA(b *testing.B) {
	_, forms := rsaKeys(b)
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			checkRSA(forms[0])
		}
	})
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			x509.ParsePKCS8PrivateKey(forms[0])
		}
	})
}
