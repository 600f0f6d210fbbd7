package xmpp

import "bytes"

// LaterOpens finds the start tags of streams in what a client says behind its
// first one. A client opens its stream again after SASL. One that means to get
// around the gate does so anywhere: behind <close/>, inside a stanza, in pieces.
//
// It looks at the name behind each '<', at whatever depth, because upstreams
// differ in what they believe. Tigase takes a "stream:stream" at any depth and
// in any namespace, skips white space behind '<' and slashes inside a name, and
// keeps a prefix for as long as the connection lasts. So an "open" or a "stream"
// counts unless the tag itself declares another namespace for it, as the <open/>
// of XEP-0047 does. Other parsers see no tags in a CDATA section; this one does.
//
// The zero value is ready. It is for one connection, and where messages begin
// and end makes no difference. It allocates only where a payload ends inside a
// tag's name, and for a tag that has the name of a start tag.
type LaterOpens struct {
	name []byte      // from '<' on, where a payload ended inside the name
	open *OpenReader // reads the tag that may be a start tag
}

// Feed reads the next payload, which it does not keep, up to its end or to the
// end of the first start tag in it; n is how many bytes of it that took. Where
// found is true, open is what the tag says: open.To is "" where it has no `to`,
// and open.Len counts the bytes of earlier payloads, too. The caller decides
// whether the tag may go on, and feeds the rest.
//
// The error is a *StreamError of [OpenReader.Feed], for a tag that some upstream
// could take for a start tag, and that is not well-formed or longer than
// [MaxOpen]. It is final.
func (l *LaterOpens) Feed(payload []byte) (n int, open Open, found bool, err error) {
	for n < len(payload) {
		if l.open == nil {
			used, err := l.nextName(payload[n:])
			if err != nil {
				return len(payload), Open{}, false, err
			}
			n += used
			continue
		}
		before := len(l.open.buf)
		tag, whole, err := l.open.Feed(payload[n:])
		if err != nil || !whole {
			return len(payload), Open{}, false, err
		}
		n += tag.Len - before
		found = !l.open.other
		l.open = nil
		if found {
			return n, tag, true, nil
		}
	}
	return n, Open{}, false, nil
}

// Held is how many of the last bytes fed belong to a tag that may turn out to be
// a start tag. The caller must not let them go on before that is known.
func (l *LaterOpens) Held() int {
	if l.open != nil {
		return len(l.open.buf)
	}
	return len(l.name)
}

// nextName reads up to the end of the next tag's name. It sets l.open where the
// name is that of a start tag.
func (l *LaterOpens) nextName(b []byte) (used int, err error) {
	start := 0
	if len(l.name) == 0 {
		if start = bytes.IndexByte(b, '<'); start < 0 {
			return len(b), nil
		}
		used = start + 1
	}
	begun := len(bytes.TrimLeft(l.name, "< \t\r\n")) > 0
	used += nameEnd(b[used:], begun)
	tag, whole := b[start:used], used < len(b)
	if len(l.name) > 0 || !whole {
		l.name = append(l.name, tag...)
		tag = l.name
	}
	if len(tag) > MaxOpen {
		return used, &StreamError{PolicyViolation, "an element's name is too long"}
	}
	if !whole {
		return used, nil
	}
	l.name = nil
	if hasOpensName(tag) {
		l.open = &OpenReader{later: true}
		_, _, err = l.open.Feed(tag)
	}
	return used, err
}

// nameEnd returns where the name of a tag ends in b: len(b) where it goes on. Of
// end tags, declarations and the like there is no name.
func nameEnd(b []byte, begun bool) int {
	for i, c := range b {
		switch {
		case c == '<' || c == '>':
			return i
		case isSpace(c):
			if begun {
				return i
			}
		case !begun && (c == '/' || c == '?' || c == '!'):
			return i
		default:
			begun = true
		}
	}
	return len(b)
}

// hasOpensName reports whether a tag, cut behind its name, has the name of a
// start tag, with whatever prefix, for a reader that drops what can't be in a
// name.
func hasOpensName(tag []byte) bool {
	var local [len("stream") + 1]byte
	n := 0
	for _, c := range tag {
		switch {
		case c == ':':
			n = 0
		case c <= ' ', c == '/', c == '<', c == 0x7f:
		case n < len(local):
			local[n] = c
			n++
		}
	}
	return string(local[:n]) == "open" || string(local[:n]) == "stream"
}
