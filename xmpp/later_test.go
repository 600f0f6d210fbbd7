package xmpp

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// laterOpens feeds in to a new reader in pieces of n bytes, and returns the results:
// the `to` and the end of each tag, and the error.
func laterOpens(t *testing.T, in []byte, n int) (tos []string, ends []int, err error) {
	t.Helper()
	var l LaterOpens
	for at := 0; at < len(in); {
		used, open, found, err := l.Feed(in[at:min(len(in), at+n)])
		if used < 1 || used > n {
			t.Fatalf("%.100q: Feed used %d of %d bytes at %d", in, used, n, at)
		}
		at += used
		if err != nil {
			return tos, ends, err
		}
		if found {
			tag := in[at-open.Len : at]
			if tag[0] != '<' || tag[len(tag)-1] != '>' {
				t.Fatalf("%.100q: open.Len = %d, which is %.100q", in, open.Len, tag)
			}
			tos, ends = append(tos, open.To), append(ends, at)
		}
		if held := l.Held(); held > MaxOpen || held > at || held > 0 && in[at-held] != '<' {
			t.Fatalf("%.100q: at %d, Held() = %d", in, at, held)
		} else if found && held > 0 {
			t.Fatalf("%.100q: found a tag, and Held() = %d", in, held)
		}
	}
	return tos, ends, nil
}

func TestLaterOpens(t *testing.T) {
	const (
		ns     = " xmlns='urn:ietf:params:xml:ns:xmpp-framing'"
		stream = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
	)
	for _, c := range []struct {
		name, in string
		want     string // each `to`, followed by a comma
		err      Condition
	}{
		{"after SASL", "<open" + ns + " to='a.example' version='1.0'/>", "a.example,", ""},
		{"without to", "<open" + ns + "/>", ",", ""},
		{"behind a close, in the same message", "<close" + ns + "/><open" + ns + " to='b.example'/>", "b.example,", ""},
		{"older draft", "</stream:stream><?xml version='1.0'?>" + stream + " to='b.example'>", "b.example,", ""},
		{"two", "<open" + ns + " to='a'/>\n<open" + ns + " to='b'></open>", "a,b,", ""},
		{"behind a stanza", "<presence/><open to='b'" + ns + "/>", "b,", ""},
		{"in a stanza, where Tigase takes it", "<iq>" + stream + " to='b'>", "b,", ""},
		{"without a namespace, likewise", "<stream:stream to='b'>", "b,", ""},
		{"in another namespace, likewise", "<stream:stream xmlns:stream='urn:x' to='b'>", "b,", ""},
		{"a prefix of its own", "<f:open xmlns:f='urn:ietf:params:xml:ns:xmpp-framing' to='b'/>", "b,", ""},
		{"a prefix of an earlier tag", "<iq xmlns:f='urn:ietf:params:xml:ns:xmpp-framing'/><f:open to='b'/>", "b,", ""},
		{"a namespace written with a reference", "<open xmlns='urn:ietf:params:xml:ns:xmpp-framin&#103;' to='b'/>", "b,", ""},
		{"a domain written with a reference", "<open" + ns + " to='&#98;'/>", "b,", ""},
		{"a quoted '>'", "<open a='>' to='b'" + ns + ">", "b,", ""},
		{"'<' in a value, which is no XML", "<iq a='<open" + ns + " to=\"b\"/>'/>", "b,", ""},

		{"in-band bytestreams", "<iq type='set'><open xmlns='http://jabber.org/protocol/ibb' sid='a' to='b'/></iq>", "", ""},
		{"another stream", "<x><stream xmlns='urn:x' to='b'/><s:stream xmlns:s='urn:x' to='c'/></x>", "", ""},
		{"longer names", "<opened to='b'/><reopen to='b'/><streams to='b'/><streamhost to='b'/>", "", ""},
		{"end tags and text", "</open><message><body>open stream:stream &lt;open to='b'></body></message></stream:stream>", "", ""},
		{"attributes of outer prefixes", "<x:a xmlns:x='u' xmlns:y='v'><open xmlns='u' x:a='1' y:a='2'/></x:a>", "", ""},

		{"white space behind '<', which Tigase skips", "<iq/>< open" + ns + " to='b'/>", "", NotWellFormed},
		{"a slash in the name, likewise", "<o/pen" + ns + " to='b'/>", "", NotWellFormed},
		{"a NUL in the name", "<stream:str\x00eam to='b'>", "", NotWellFormed},
		{"a value without a quote in front", "<open" + ns + " to=x'b'/>", "", NotWellFormed},
		{"to twice", "<open" + ns + " to='a' to='b'/>", "", NotWellFormed},
		{"a tag in a tag", "<open" + ns + " <open" + ns + " to='b'/>", "", NotWellFormed},
		{"an entity of its own", "<open" + ns + " to='&b;'/>", "", RestrictedXML},
		{"too long", "<open" + strings.Repeat(" ", MaxOpen) + ns + " to='b'/>", "", PolicyViolation},
		{"a prefix that is too long", "<" + strings.Repeat("a", MaxOpen) + ":open" + ns + " to='b'/>", "", PolicyViolation},
		{"good ones in front of a bad one", "<open" + ns + " to='a'/><open" + ns + " to=b/>", "a,", NotWellFormed},
	} {
		for _, size := range []int{len(c.in), 1, 2, 3, 7, 100} {
			tos, _, err := laterOpens(t, []byte(c.in), size)
			got := ""
			for _, to := range tos {
				got += to + ","
			}
			se, _ := errors.AsType[*StreamError](err)
			if got != c.want || (c.err == "") != (err == nil) || se != nil && se.Condition != c.err {
				t.Errorf("%s: %.100q in pieces of %d: %q, %v; want %q, %q", c.name, c.in, size, got, err, c.want, c.err)
			}
		}
	}
}

// Input that ends in a name is held; input that ends in a stanza is not.
func TestLaterOpensHolds(t *testing.T) {
	for _, c := range []struct {
		in   string
		held int
	}{
		{"", 0},
		{"<message><body>half a sent", 0},
		{"<message to='a", 0},
		{"<message", 8},
		{"<message ", 0},
		{"<presence/><", 1},
		{"<presence/></", 0},
		{"<presence/><op", 3},
		{"<presence/><open", 5},
		{"<presence/><open to='a.example' ", 21},
		{"<presence/><open to='a.example' xmlns='http://jabber.org/protocol/ibb'>", 0},
	} {
		var l LaterOpens
		if n, _, found, err := l.Feed([]byte(c.in)); n != len(c.in) || found || err != nil || l.Held() != c.held {
			t.Errorf("Feed(%q) = %d, %v, %v, Held() = %d; want %d", c.in, n, found, err, l.Held(), c.held)
		}
	}
}

// A stanza causes no allocation.
func TestLaterOpensAllocatesNothing(t *testing.T) {
	var l LaterOpens
	stanza := []byte(stanzaOf(1024))
	if n := testing.AllocsPerRun(10, func() { l.Feed(stanza) }); n > 0 {
		t.Errorf("%v allocations for a stanza; want none", n)
	}
}

func stanzaOf(size int) string {
	const head = `<message xmlns="jabber:client" to="juliet@example.com/balcony" type="chat" id="c2d2c4f1"><body>`
	const tail = `</body><active xmlns="http://jabber.org/protocol/chatstates"/><request xmlns="urn:xmpp:receipts"/><origin-id xmlns="urn:xmpp:sid:0" id="c2d2c4f1"/></message>`
	return head + strings.Repeat("a", size-len(head)-len(tail)) + tail
}

func BenchmarkLaterOpens(b *testing.B) {
	for _, c := range []struct{ name, in string }{
		{"1KiB", stanzaOf(1024)},
		{"tags", strings.Repeat("<a><b/></a>", 93)},
	} {
		b.Run(c.name, func(b *testing.B) {
			in := []byte(c.in)
			b.SetBytes(int64(len(in)))
			var l LaterOpens
			for b.Loop() {
				l.Feed(in)
			}
		})
	}
}

// If a lenient parser finds a start tag, LaterOpens has found it at its end, with the
// same `to`, or has refused it. The boundaries between pieces make no difference.
func FuzzLaterOpens(f *testing.F) {
	for _, c := range clientOpenings {
		f.Add([]byte("<presence/>"+c.tag), uint8(7))
	}
	f.Add([]byte("<iq xmlns:f='urn:ietf:params:xml:ns:xmpp-framing'/>< f:o/pen to='b'>"), uint8(1))
	f.Add([]byte("<a b='c' d><stream:stream\tto\n=x\"b\" to='c'/x>"), uint8(2))
	f.Add([]byte("<!-- <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='b'/> --><![CDATA[<stream:stream to='c'>]]>"), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		if len(in) == 0 {
			return
		}
		tos, ends, err := laterOpens(t, in, len(in))
		partTos, partEnds, partErr := laterOpens(t, in, int(cut%32)+1)
		if strings.Join(tos, "\n") != strings.Join(partTos, "\n") || len(ends) != len(partEnds) || !sameError(err, partErr) {
			t.Fatalf("%q in one: %q %v %v; cut: %q %v %v", in, tos, ends, err, partTos, partEnds, partErr)
		}
		for i, seen := range lenientOpens(in) {
			if i == len(ends) {
				if err == nil {
					t.Fatalf("%q: a lenient parser opens a stream to %q at %d; found %q", in, seen.to, seen.end, tos)
				}
				return
			}
			// LaterOpens may find earlier tags that the lenient parser rejects.
			j := i
			for j < len(ends) && ends[j] < seen.end {
				j++
			}
			if j == len(ends) {
				if err == nil {
					t.Fatalf("%q: a lenient parser opens a stream to %q at %d; found %q at %v", in, seen.to, seen.end, tos, ends)
				}
				return
			}
			if ends[j] != seen.end || !strings.ContainsAny(seen.to, "&\r") && tos[j] != seen.to {
				t.Fatalf("%q: a lenient parser opens a stream to %q at %d; found %q at %v", in, seen.to, seen.end, tos, ends)
			}
		}
	})
}

type lenientOpen struct {
	to  string
	end int
}

// lenientOpens reads start tags like Tigase's parser: it ignores everything between a
// name and a quote, white space and slashes, leaves references unresolved, keeps a
// prefix forever, and uses the last of equal attributes. Unlike Tigase, it accepts any
// depth.
func lenientOpens(in []byte) (out []lenientOpen) {
	spaces := map[string]string{}
	for i := 0; i < len(in); {
		if in[i] != '<' {
			i++
			continue
		}
		i++
		for i < len(in) && isSpace(in[i]) {
			i++
		}
		if i < len(in) && (in[i] == '!' || in[i] == '?' || in[i] == '/') {
			for i < len(in) && in[i] != '>' {
				i++
			}
			continue
		}
		var name []byte
		for i < len(in) && !isSpace(in[i]) && in[i] != '>' {
			if bytes.IndexByte([]byte("<?&"), in[i]) >= 0 {
				return out
			}
			if in[i] != '/' && in[i] >= ' ' {
				name = append(name, in[i])
			}
			i++
		}
		attrs := map[string]string{}
		for i < len(in) && in[i] != '>' {
			if isSpace(in[i]) || in[i] == '/' {
				i++
				continue
			}
			from := i
			for i < len(in) && !isSpace(in[i]) && in[i] != '=' {
				if bytes.IndexByte([]byte("<?&"), in[i]) >= 0 {
					return out
				}
				i++
			}
			attr := string(in[from:i])
			for i < len(in) && in[i] != '\'' && in[i] != '"' {
				i++
			}
			if i == len(in) {
				return out
			}
			quote := in[i]
			end := bytes.IndexByte(in[i+1:], quote)
			if end < 0 || bytes.IndexByte(in[i+1:i+1+end], '<') >= 0 {
				return out
			}
			attrs[attr] = string(in[i+1 : i+1+end])
			i += end + 2
			if prefix, ok := strings.CutPrefix(attr, "xmlns:"); ok {
				spaces[prefix] = attrs[attr]
			}
		}
		if i == len(in) {
			return out
		}
		i++
		prefix, local, prefixed := strings.Cut(string(name), ":")
		space := attrs["xmlns"]
		if !prefixed {
			local = string(name)
		} else if s, ok := spaces[prefix]; ok {
			space = s
		}
		if string(name) == "stream:stream" || local == "open" && space == nsFraming {
			out = append(out, lenientOpen{attrs["to"], i})
		}
	}
	return out
}
