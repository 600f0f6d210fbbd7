package xmpp

import (
	"bytes"
	"encoding/xml"
	"errors"
	"strings"
)

// maxEnd is the maximum size in bytes of an end of a stream that may be a redirect:
// <close/> with its attributes, or <stream:error> with its content. Real ones have 200
// bytes.
const maxEnd = 8 << 10

// ErrEndTooLong is the error for an end of a stream longer than 8 KiB.
var ErrEndTooLong = errors.New("the end of the stream is too long to be read")

// Redirects finds redirects anywhere in an upstream's messages: <close
// see-other-uri='…'/> (RFC 7395, section 3.6.1) and <stream:error> with
// <see-other-host/> in it (RFC 6120, section 4.9.3.19). It follows tags and their
// depth, and ignores namespaces: only an element of the stream itself can end it, and
// what one user sends to another is inside a stanza.
//
// The zero value is ready. It is for one stream of an upstream. Payload boundaries make
// no difference. It allocates only for a tag of the stream itself whose name is cut, or
// is close or error.
type Redirects struct {
	depth int
	state tagState
	quote byte // in a tag: not 0 inside a value that ends with it
	slash bool // in a tag: the last byte was a slash
	end   bool // an end tag
	opens bool // the start tag of the stream, which stays open
	tail  [3]byte

	keeps bool   // buf is being filled
	whole bool   // an error is kept up to its end tag
	buf   []byte // a possible redirect, from its '<' on
}

// tagState is the position in the grammar after the last byte.
type tagState uint8

const (
	betweenTags tagState = iota
	tagBegins            // after '<'
	tagName
	tagRest    // after the name, up to '>'
	inQuestion // "<?…", up to "?>"
	inBang     // "<!…", kind not known yet
	inComment  // up to "-->"
	inCDATA    // up to "]]>"
)

// Held returns how many of the last bytes may be part of a redirect. The caller must
// hold them back until that is known.
func (r *Redirects) Held() int { return len(r.buf) }

// letGo keeps at most enough memory for a name.
func (r *Redirects) letGo() {
	r.keeps, r.whole, r.buf = false, false, r.buf[:0]
	if cap(r.buf) > 64 {
		r.buf = nil
	}
}

// Message starts a message that is a document of its own (RFC 7395, section 3.3.3): all
// elements that were open before have ended.
func (r *Redirects) Message() {
	if !r.keeps {
		*r = Redirects{buf: r.buf}
	}
}

// Feed reads the next payload and does not keep it. If the payload completes a
// redirect, found is true and seeOther is its destination, as the upstream wrote it;
// Feed does not read the rest. The error is ErrEndTooLong.
func (r *Redirects) Feed(payload []byte) (seeOther string, found bool, err error) {
	from := 0 // the first byte to keep
	for i := 0; i < len(payload); i++ {
		switch r.state {
		case betweenTags:
			n := bytes.IndexByte(payload[i:], '<')
			if n < 0 {
				i = len(payload)
				continue
			}
			i += n
			r.state, r.end, r.slash, r.opens = tagBegins, false, false, false
			if r.depth == 0 && !r.keeps {
				r.keeps, r.buf, from = true, r.buf[:0], i
			}
			continue
		case tagRest:
			if r.quote == 0 {
				if n := bytes.IndexAny(payload[i:], `>'"`); n > 0 {
					i += n
					r.slash = payload[i-1] == '/'
				} else if n < 0 {
					r.slash = payload[len(payload)-1] == '/'
					i = len(payload)
					continue
				}
			} else if n := bytes.IndexByte(payload[i:], r.quote); n >= 0 {
				i += n
			} else {
				i = len(payload)
				continue
			}
		}
		if !r.step(payload[i]) {
			continue
		}
		// A tag has ended, or its name shows that it is irrelevant.
		if !r.keeps {
			continue
		}
		r.buf = append(r.buf, payload[from:i+1]...)
		from = i + 1
		if done, seeOther := r.judge(); seeOther != "" {
			return seeOther, true, nil
		} else if done {
			r.letGo()
		}
	}
	if r.keeps && from < len(payload) {
		r.buf = append(r.buf, payload[from:]...)
	}
	if len(r.buf) > maxEnd {
		return "", false, ErrEndTooLong
	}
	return "", false, nil
}

// step advances by one byte. It reports whether a tag or the name of a tag ends there.
func (r *Redirects) step(b byte) (ends bool) {
	r.tail[0], r.tail[1], r.tail[2] = r.tail[1], r.tail[2], b
	switch r.state {
	case tagBegins:
		switch {
		case b == '/':
			r.end, r.state = true, tagName
		case b == '?':
			r.state = inQuestion
		case b == '!':
			r.state, r.tail = inBang, [3]byte{}
		default:
			r.state = tagName
		}
	case tagName:
		switch {
		case b == '>':
			return r.tagEnds()
		case b == '/':
			r.slash, r.state = true, tagRest
			return true
		case isSpace(b):
			r.state = tagRest
			return true
		}
	case tagRest:
		switch {
		case r.quote != 0:
			if b == r.quote {
				r.quote = 0
			}
		case b == '\'' || b == '"':
			r.quote, r.slash = b, false
		case b == '>':
			return r.tagEnds()
		default:
			r.slash = b == '/'
		}
	case inQuestion:
		if b == '>' && r.tail[1] == '?' {
			r.state = betweenTags
			return true
		}
	case inBang:
		switch {
		case b == '>':
			r.state = betweenTags
			return true
		case r.tail == [3]byte{0, '-', '-'}:
			r.state, r.tail = inComment, [3]byte{}
		case r.tail == [3]byte{0, 0, '['}: // "<![CDATA["
			r.state = inCDATA
		}
	case inComment:
		if r.tail == [3]byte{'-', '-', '>'} {
			r.state = betweenTags
			return true
		}
	case inCDATA:
		if r.tail == [3]byte{']', ']', '>'} {
			r.state = betweenTags
			return true
		}
	}
	return false
}

// tagEnds handles the '>' of a tag.
func (r *Redirects) tagEnds() bool {
	switch {
	case r.end:
		r.depth = max(r.depth-1, 0)
	case !r.slash && !r.opens:
		r.depth++
	}
	r.state, r.quote = betweenTags, 0
	return true
}

// judge examines what is kept, after the end of a tag or a name. If done is true, it
// need not be kept any longer.
func (r *Redirects) judge() (done bool, seeOther string) {
	open := r.state == tagRest
	h := parseHead(r.buf)
	local := string(h.local)
	switch {
	case r.whole:
		if open || r.depth > 0 {
			return false, ""
		}
		return true, seeOtherHost(r.buf)
	case local == "stream" && !h.end:
		if r.opens = open; !open {
			r.depth = 0
		}
		return true, ""
	case h.end || local != "close" && local != "error":
		return true, ""
	case open:
		return false, ""
	case local == "close":
		return true, seeOtherURI(h)
	}
	r.whole = r.depth > 0
	return !r.whole, ""
}

// seeOtherURI returns the value of that attribute, or "".
func seeOtherURI(h head) string {
	for rest := h.attrs; ; {
		name, value, next, whole := nextAttr(rest)
		if !whole || name == nil {
			return ""
		}
		if _, local, prefixed := bytes.Cut(name, []byte{':'}); prefixed {
			name = local
		}
		if string(name) == "see-other-uri" && len(value) > 0 {
			return unescape(value)
		}
		rest = next
	}
}

// seeOtherHost returns the content of that element, or "".
func seeOtherHost(b []byte) string {
	for {
		i := bytes.IndexByte(b, '<')
		if i < 0 {
			return ""
		}
		b = b[i:]
		if h := parseHead(b); string(h.local) == string(SeeOtherHost) && !h.end {
			_, text, _ := bytes.Cut(b, []byte{'>'})
			text, _, _ = bytes.Cut(text, []byte{'<'})
			if host := strings.TrimSpace(unescape(text)); host != "" {
				return host
			}
		}
		b = b[1:]
	}
}

// unescape replaces the entities in text.
func unescape(text []byte) string {
	var s struct {
		Text string `xml:",chardata"`
	}
	d := xml.NewDecoder(strings.NewReader("<a>" + string(bytes.ReplaceAll(text, []byte{'<'}, []byte("&lt;"))) + "</a>"))
	d.Strict = false
	if d.Decode(&s) != nil {
		return string(text)
	}
	return s.Text
}
