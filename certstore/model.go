package certstore

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// A leafDER is the DER of a leaf, perhaps as what differs from another leaf of
// the same CA: names, keys, serial numbers and signatures are half of it, the
// rest is the same ten thousand times. It never changes.
type leafDER struct {
	der          // all of it, or what differs from model
	model *model // nil for all of it
}

// bytes returns a copy.
func (l leafDER) bytes() []byte {
	b := l.der.bytes()
	if l.model == nil {
		return b
	}
	b, err := l.model.unpack(b)
	if err != nil {
		panic("certstore: " + err.Error()) // pack was wrong: its fuzz target says it never is
	}
	return b
}

func (l leafDER) compare(o leafDER) int { return bytes.Compare(l.bytes(), o.bytes()) }

func (l leafDER) equal(o leafDER) bool {
	if l.model == o.model { // the same leaf is packed in the same way
		return l.der.equal(o.der)
	}
	return l.compare(o) == 0
}

// A model is a leaf that others are described by. What a packed leaf consists
// of, until it ends:
//
//	uvarint  how many bytes follow that are the leaf's own
//	...      these
//	uvarint  how many bytes are the model's; the last one may be left out
//	varint   where in the model they begin, counted from where the last ones
//	         would go on if the model had what was the leaf's own
//
// A model never changes.
type model struct {
	der   []byte
	index [modelIndex]uint16 // by hash of windowSize bytes: where in der they are, plus one
}

const (
	modelIndex = 1 << 11
	windowSize = 4       // bytes; a shorter run is not worth its place
	maxModel   = 1 << 14 // bytes; an ordinary leaf has one or two thousand
)

func newModel(der []byte) *model {
	m := &model{der: bytes.Clone(der)}
	for i := len(der) - windowSize; i >= 0; i-- { // of equal ones the first stays
		m.index[window(der[i:])] = uint16(i + 1)
	}
	return m
}

func window(b []byte) uint32 {
	return binary.LittleEndian.Uint32(b) * 2654435761 >> 21 // Knuth's multiplicative hash
}

// pack appends b to dst as what differs from the model.
func (m *model) pack(dst, b []byte) []byte {
	own := 0                      // where in b the bytes begin that are b's own
	ahead := 0                    // where in the model the next ones would be
	for i := 0; i < len(b); i++ { // b[own:i] is b's own
		at, n := m.find(b[i:], ahead+i-own)
		if n < windowSize {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(i-own))
		dst = append(dst, b[own:i]...)
		dst = binary.AppendUvarint(dst, uint64(n))
		dst = binary.AppendVarint(dst, int64(at-(ahead+i-own)))
		own, ahead = i+n, at+n
		i = own - 1
	}
	if own < len(b) {
		dst = binary.AppendUvarint(dst, uint64(len(b)-own))
		dst = append(dst, b[own:]...)
	}
	return dst
}

// find looks for the beginning of b in the model: at a place first, anywhere
// then. It returns where it is and how much of it.
func (m *model) find(b []byte, first int) (at, n int) {
	if first < len(m.der) {
		if n = common(m.der[first:], b); n >= windowSize {
			return first, n
		}
	}
	if len(b) < windowSize {
		return 0, 0
	}
	at = int(m.index[window(b)]) - 1
	if at < 0 {
		return 0, 0
	}
	return at, common(m.der[at:], b)
}

// common is how many bytes at their beginning a and b have in common.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

var errPacked = errors.New("a packed leaf is truncated")

// unpack returns what pack was given.
func (m *model) unpack(packed []byte) ([]byte, error) {
	out := make([]byte, 0, len(m.der)+len(packed))
	for ahead := 0; len(packed) > 0; {
		own, k := binary.Uvarint(packed)
		if k <= 0 || own > uint64(len(packed)-k) {
			return nil, errPacked
		}
		out = append(out, packed[k:k+int(own)]...)
		packed = packed[k+int(own):]
		if len(packed) == 0 {
			break
		}
		n, k := binary.Uvarint(packed)
		if k <= 0 {
			return nil, errPacked
		}
		packed = packed[k:]
		shift, k := binary.Varint(packed)
		if k <= 0 {
			return nil, errPacked
		}
		packed = packed[k:]
		at := int64(ahead) + int64(own) + shift
		if at < 0 || n > uint64(len(m.der)) || uint64(at) > uint64(len(m.der))-n {
			return nil, errPacked
		}
		out = append(out, m.der[at:at+int64(n)]...)
		ahead = int(at) + int(n)
	}
	return out, nil
}

// models are those by which leaves are packed. They are few, for what is packed
// lives as long as its model does.
type models struct {
	bySubject map[string]*model // of the CA
	buf       []byte
}

const maxModels = 64 // about 5 KB each

// put puts a leaf into the arena. The first leaf of each CA is the model of
// those that come after it.
func (ms *models) put(a *arena, der []byte, issuer string) leafDER {
	m := ms.bySubject[issuer]
	if m == nil && len(der) <= maxModel && len(ms.bySubject) < maxModels {
		if ms.bySubject == nil {
			ms.bySubject = map[string]*model{}
		}
		ms.bySubject[issuer] = newModel(der)
	}
	if m == nil {
		return leafDER{a.put(der), nil}
	}
	ms.buf = m.pack(ms.buf[:0], der)
	if len(ms.buf) >= len(der)*7/8 { // hardly worth the way back
		return leafDER{a.put(der), nil}
	}
	return leafDER{a.put(ms.buf), m}
}
