package certstore

import (
	"bytes"
	"testing"

	"wssgate/demo/minica"
)

// Leaves of one CA are half as large beside each other, and come out as they
// went in.
func TestModel(t *testing.T) {
	ca := minica.NewCA("Root").Intermediate("CA 1")
	var ms models
	var a arena
	whole, packed := 0, 0
	for _, name := range []string{"one.example", "another.example", "chat.example.org"} {
		der := ca.Issue(name, "*."+name).Cert.Raw
		l := ms.put(&a, der, "CA 1")
		if !bytes.Equal(l.bytes(), der) {
			t.Errorf("the leaf of %s comes out as another", name)
		}
		whole, packed = whole+len(der), packed+int(l.len)
	}
	if packed*10 > whole*8 { // the first is whole
		t.Errorf("three leaves of %d bytes take %d", whole, packed)
	}
}

// Equal leaves are equal however they are held.
func TestLeafEqual(t *testing.T) {
	ca := minica.NewCA("Root").Intermediate("CA 1")
	der, other := ca.Issue("one.example").Cert.Raw, ca.Issue("two.example").Cert.Raw
	var ms models
	var a arena
	plain, _ := ms.put(&a, der, "CA 1"), ms.put(&a, other, "CA 1")
	again := ms.put(&a, der, "CA 1")
	if again.model == nil {
		t.Fatal("a leaf that is the model itself was not packed")
	}
	if !plain.equal(again) || !again.equal(plain) || plain.compare(again) != 0 {
		t.Error("one leaf, held in two ways, is not equal to itself")
	}
	if b := ms.put(&a, other, "CA 1"); plain.equal(b) || again.equal(b) {
		t.Error("two leaves are equal")
	}
}

// A CA for each leaf gives no model for each leaf.
func TestModelsAreFew(t *testing.T) {
	var ms models
	var a arena
	for i := range 10 * maxModels {
		ms.put(&a, []byte{1, 2, 3, byte(i), byte(i >> 8)}, string([]byte{byte(i), byte(i >> 8)}))
	}
	if n := len(ms.bySubject); n > maxModels {
		t.Errorf("%d models, want %d at most", n, maxModels)
	}
}

// What pack makes of any bytes by any model, unpack takes back; and what was
// never packed is refused or taken for something, but does no harm.
func FuzzModel(f *testing.F) {
	ca := minica.NewCA("Root").Intermediate("CA 1")
	f.Add(ca.Issue("one.example").Cert.Raw, ca.Issue("two.example", "*.two.example").Cert.Raw)
	f.Add([]byte{}, []byte("abcd"))
	f.Add([]byte("abcdabcd"), []byte("xabcdyabcd"))
	f.Fuzz(func(t *testing.T, by, b []byte) {
		if len(by) > maxModel {
			by = by[:maxModel]
		}
		m := newModel(by)
		packed := m.pack(nil, b)
		got, err := m.unpack(packed)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("unpack(pack(%x)) = %x, %v", b, got, err)
		}
		m.unpack(b)
	})
}
