package proxy

import (
	"bytes"
	"reflect"
	"testing"
)

// The Go release of this build has the two buffers where lend expects them. If this
// fails, an idle connection costs 18 KiB more: look at crypto/tls's Conn.
func TestLendingKnowsThisGo(t *testing.T) {
	if !Lends() {
		t.Fatal("tls.Conn has no rawInput and hand of type bytes.Buffer")
	}
}

// Another layout only turns lending off.
func TestFindLayoutOther(t *testing.T) {
	for _, typ := range []reflect.Type{
		reflect.TypeFor[struct{ rawInput, hand []byte }](),
		reflect.TypeFor[struct{ rawInput bytes.Buffer }](),
	} {
		if l := findLayout(typ); l.ok {
			t.Errorf("%v: %+v", typ, l)
		}
	}
}
