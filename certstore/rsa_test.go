package certstore

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"

	"wssgate/demo/minica"
)

// rsaKeys returns one key in both forms.
func rsaKeys(t testing.TB) (key *rsa.PrivateKey, forms [][]byte) {
	p := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: rsaKey()})
	for _, data := range [][]byte{p.KeyPEM(), p.KeyPEMClassic()} {
		block, _ := pem.Decode(data)
		forms = append(forms, block.Bytes)
	}
	return p.Key.(*rsa.PrivateKey), forms
}

func TestCheckRSA(t *testing.T) {
	key, forms := rsaKeys(t)
	for i, der := range forms {
		if got, ok := checkRSA(der); !ok || !key.Equal(got) {
			t.Errorf("form %d: %v, %t; want the key", i, got, ok)
		}
	}
	// If any number is off by one, the key is bad. A comparison with the
	// certificate would only detect the modulus and the public exponent.
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

// A packed key makes the same signatures as the original, and takes a fifth of
// the space.
func TestPackRSA(t *testing.T) {
	key, forms := rsaKeys(t)
	for i, der := range forms {
		public, kept, err := readKey(der)
		if err != nil || !key.PublicKey.Equal(public) || len(kept) > len(der)/4 {
			t.Fatalf("form %d: %v, %v in %d bytes of %d", i, err, public, len(kept), len(der))
		}
		opened, err := openKey(kept)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(der)
		signature, err := opened.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
			t.Errorf("form %d: %v", i, err)
		}
	}
}

// A key that is good here is good for crypto/x509, is the same key, and remains
// so after packing.
func FuzzCheckRSA(f *testing.F) {
	_, forms := rsaKeys(f)
	for _, der := range forms {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		checked, ok := checkRSA(der)
		if !ok || checked.N.BitLen() < minRSA {
			return
		}
		key, err := parseKey(der)
		if err != nil {
			t.Fatalf("crypto/x509 refuses it: %v", err)
		}
		if !checked.Equal(key) {
			t.Error("another key")
		}
		packed, err := unpackRSA(packRSA(checked))
		if err != nil || !packed.PublicKey.Equal(&checked.PublicKey) {
			t.Errorf("packed: %v, %v", packed, err)
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
	key, _ := checkRSA(forms[0])
	packed := packRSA(key)
	b.Run("unpack", func(b *testing.B) {
		for b.Loop() {
			unpackRSA(packed)
		}
	})
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			x509.ParsePKCS8PrivateKey(forms[0])
		}
	})
}
