package xmpp

import (
	"bytes"
	"encoding/xml"
	"errors"
	"strings"
)

// maxEnd is how long the end of a stream may be that could be a redirect: <close/>
// with its attributes, or <stream:error> with all that is in it. Real ones take 200
// bytes.
const maxEnd = 8 << 10

// ErrEndTooLong is the error of an end of a stream that is longer than any.
var ErrEndTooLong = errors.New("the end of the stream is too long to be read")

// Redirects finds what sends a client elsewhere in all that an upstream says,
// wherever it stands: <close see-other-uri='…'/> (RFC 7395, section 3.6.1) and
// <stream:error> with <see-other-host/> in it (RFC 6120, section 4.9.3.19). It follows
// tags and their depth, and believes no namespace: only an element of the stream itself
// can end it, and what one user sends another stands in a stanza.
//
// The zero value is ready. It is for one stream of an upstream, and where payloads are
// cut makes no difference. It allocates only for a tag of the stream itself whose name
// is cut, or is close or error.
type Redirects struct {
	depth int
	state tagState
	quote byte // in a tag: inside a value that ends with it
	slash bool // in a tag: the last byte was a slash
	end   bool // an end tag
	opens bool // the start tag of the stream, which stays open
	tail  [3]byte

	keeps bool   // buf is being filled
	whole bool   // an error is kept up to its end tag
	buf   []byte // from the '<' of what may be a redirect on
}

// tagState says where in the grammar the last byte left us.
type tagState uint8

const (
	betweenTags tagState = iota
	tagBegins            // behind '<'
	tagName
	tagRest    // behind the name, up to '>'
	inQuestion // "<?…", up to "?>"
	inBang     // "<!…", of which it is not known yet what it is
	inComment  // up to "-->"
	inCDATA    // up to "]]>"
)

// Held is how many of the last bytes fed may be part of a redirect. The caller must not
// let them go on before that is known.
func (r *Redirects) Held() int { return len(r.buf) }

// letGo keeps no more than the room for a name.
func (r *Redirects) letGo() {
	r.keeps, r.whole, r.buf = false, false, r.buf[:0]
	if cap(r.buf) > 64 {
		r.buf = nil
	}
}

// Message is called where a message begins that is a document of its own (RFC 7395,
// section 3.3.3): whatever was left open before has ended.
func (r *Redirects) Message() {
	if !r.keeps {
		*r = Redirects{buf: r.buf}
	}
}

// Feed reads the next payload, which it does not keep. Where it completes a redirect,
// found is true and seeOther is where that points, as the upstream wrote it; what
// follows is not read. The error is ErrEndTooLong.
func (r *Redirects) Feed(payload []byte) (seeOther string, found bool, err error) {
	from := 0 // of what is to be kept
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
		// A tag has ended, or its name shows that it matters not.
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

// step moves on by one byte. It reports whether that is the end of a tag, or of the
// name of one.
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

// tagEnds is for the '>' of a tag.
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

// judge looks at what is kept, where a tag or a name has ended. done means that it need
// not be kept any more.
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

// seeOtherURI is that attribute's value, "" for none.
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

// seeOtherHost is what stands in the element of that name, "" for none.
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
