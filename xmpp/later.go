package xmpp

import "bytes"

// LaterOpens finds the start tags of streams in a client's messages after the first
// one. A client opens its stream again after SASL. A client that tries to bypass the
// gate does so anywhere: after <close/>, inside a stanza, in pieces.
//
// It examines the name after each '<' at any depth, because upstreams differ in the
// tags that they accept. Tigase accepts "stream:stream" at any depth and in any
// namespace, skips white space after '<' and slashes inside a name, and keeps a prefix
// for as long as the connection lasts. An "open" or a "stream" therefore counts unless
// the tag itself declares another namespace for it, as the <open/> of XEP-0047 does.
// Other parsers see no tags in a CDATA section; this one does.
//
// The zero value is ready. It is for one connection. Message boundaries make no
// difference. It allocates only for a payload that ends inside a tag's name, and for a
// tag with the name of a start tag.
type LaterOpens struct {
	name []byte      // from '<' on, if a payload ended inside the name
	open *OpenReader // reads the tag that may be a start tag
}

// Feed reads the next payload up to its end or to the end of the first start tag in it,
// and does not keep it; n is the number of bytes read. If found is true, open has the
// attributes of the tag: open.To is "" if it has no `to`, and open.Len includes the
// bytes of earlier payloads. The caller decides whether to pass the tag on, and feeds
// the rest.
//
// The error is a *StreamError of [OpenReader.Feed], for a tag that some upstream could
// accept as a start tag and that is not well-formed or longer than [MaxOpen]. It is
// final.
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

// Held returns how many of the last bytes belong to a tag that may turn out to be a
// start tag. The caller must hold them back until then.
func (l *LaterOpens) Held() int {
	if l.open != nil {
		return len(l.open.buf)
	}
	return len(l.name)
}

// nextName reads up to the end of the next tag's name. It sets l.open if the name is
// that of a start tag.
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

// nameEnd returns where the name of a tag ends in b, or len(b) if it continues. The
// name of an end tag, a declaration or the like is empty.
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

// hasOpensName reports whether a tag, cut after its name, has the name of a start tag
// with any prefix, as seen by a reader that skips characters that are invalid in a
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
