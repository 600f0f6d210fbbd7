package xmpp

import (
	"bytes"
	"encoding/xml"
	"strings"
)

// MaxOpen is the maximum size of a first start tag in bytes, including the XML
// declaration and the white space in front of it. Real ones have 100 to 300 bytes.
const MaxOpen = 8 << 10

// Open has the attributes of a first start tag as they were sent, with entities
// replaced. An absent attribute is "". Domain returns the normal form of To.
type Open struct {
	Framing Framing
	To      string
	From    string
	Version string
	Lang    string // xml:lang
	ID      string // in a server's opening only

	// Len is the size in bytes, from the first byte fed up to and including the '>' of
	// the start tag. The end tag of <open></open> follows them.
	Len int
}

// Domain returns the normal form of To, as [NormalDomain] does. The error is a
// *StreamError, improper-addressing (RFC 6120, section 4.9.3.7), if To is missing or
// not a domain.
func (o Open) Domain() (string, error) {
	if o.To == "" {
		return "", &StreamError{ImproperAddressing, "the stream has no domain in 'to'"}
	}
	domain, err := NormalDomain(o.To)
	if err != nil {
		return "", &StreamError{ImproperAddressing, "'to' is not a domain"}
	}
	return domain, nil
}

// OpenReader reads the first start tag of a stream from the payloads of one or more
// messages. The boundaries between payloads make no difference.
//
// It holds at most [MaxOpen] bytes and examines each of them once before it passes the
// whole tag to encoding/xml, so a client that sends single bytes costs no more than
// another. The zero value is ready. It is for one stream, and repeats its final answer.
type OpenReader struct {
	buf   []byte // everything read so far
	state openState
	tag   int // where in buf the start tag begins

	open Open
	err  *StreamError

	later bool // for LaterOpens: earlier tags may have declared prefixes
	other bool // with later: the tag is not a start tag
}

// openState is the position in the grammar after the last byte: white space,
// declaration, white space, start tag.
type openState uint8

const (
	inProlog     openState = iota // white space before any markup
	inMarkup                      // after '<'
	inDecl                        // after "<?", up to "?>"
	inName                        // the start tag's name
	inTag                         // between attributes and in their names
	afterEquals                   // after the '=' of an attribute
	inSingle                      // in a value quoted with '
	inDouble                      // in a value quoted with "
	afterValue                    // after the quote that ends a value
	afterSlash                    // after the '/' of an empty element
	openDone                      // the tag is complete
	openRejected                  // r.err has the reason
)

// Feed reads the next payload and does not keep it. It returns the tag and true when it
// is complete, false if more input is needed, and a *StreamError if more input would
// not help:
//
//   - not-well-formed: not XML, or wrong use of namespaces (RFC 6120, section 4.9.3.13)
//   - restricted-xml: comment, processing instruction, document type
//     declaration, entity other than the five (sections 4.9.3.18 and 11.1)
//   - unsupported-encoding: anything but UTF-8 (section 4.9.3.22)
//   - invalid-namespace: <open> or <stream> of an unknown namespace
//     (section 4.9.3.10)
//   - bad-format: XML, but not the start of a stream (section 4.9.3.1)
//   - policy-violation: longer than MaxOpen (section 4.9.3.14)
//
// Feed does not check the address in `to`, which [Open.Domain] does, nor the content
// namespace, which the upstream does. It does not examine what follows the tag.
func (r *OpenReader) Feed(payload []byte) (Open, bool, error) {
	if r.state < openDone {
		from := len(r.buf)
		fits := min(len(payload), MaxOpen-from)
		r.buf = append(r.buf, payload[:fits]...)
		for i := from; i < len(r.buf) && r.state < openDone; i++ {
			r.step(i)
			if r.state >= openDone {
				// Bytes after the deciding one must not affect the result.
				r.buf = r.buf[:i+1]
			}
			if r.state == openDone {
				r.decode()
			}
		}
		if r.state < openDone && fits < len(payload) {
			r.reject(PolicyViolation, "the stream's start tag is too long")
		}
	}
	if r.err != nil {
		return Open{}, false, r.err
	}
	return r.open, r.state == openDone, nil
}

// Framing returns the framing for answers: that of the tag once it is complete; before
// that, and after an error, the likelier one.
func (r *OpenReader) Framing() Framing {
	if r.state == openDone {
		return r.open.Framing
	}
	local := parseHead(r.buf).local
	switch {
	case string(local) == "stream":
		return OlderDraft
	case string(local) == "open":
		return RFC7395
	case bytes.HasPrefix(r.buf, []byte("<?xml")):
		return OlderDraft // RFC 7395 does not use a declaration
	}
	return RFC7395
}

func (r *OpenReader) reject(c Condition, text string) {
	r.state, r.err = openRejected, &StreamError{c, text}
}

// step advances by the byte r.buf[i]. It only finds the end of the tag and refuses what
// encoding/xml would accept; decode does the rest.
func (r *OpenReader) step(i int) {
	b := r.buf[i]
	switch r.state {
	case inProlog:
		switch {
		case b == '<':
			r.state, r.tag = inMarkup, i
		case b == 0 || b >= 0xfe: // a zero byte or half of a mark: UTF-16 or UTF-32
			r.reject(UnsupportedEncoding, "the stream must be UTF-8")
		case !isSpace(b):
			r.reject(NotWellFormed, "text before the stream's start tag")
		}
	case inMarkup:
		switch {
		case b == '?':
			r.state = inDecl
		case b == '!':
			r.reject(RestrictedXML, "comments and document type declarations are not allowed")
		case b == 0:
			r.reject(UnsupportedEncoding, "the stream must be UTF-8")
		case isSpace(b) || strings.IndexByte("/>=<'\"", b) >= 0:
			r.reject(NotWellFormed, "not a start tag")
		default:
			r.state = inName
		}
	case inDecl:
		r.stepDecl(i)
	case inName, afterValue:
		switch {
		case isSpace(b):
			r.state = inTag
		case b == '/':
			r.state = afterSlash
		case b == '>':
			r.state = openDone
		case r.state == afterValue || strings.IndexByte("<'\"=", b) >= 0:
			r.reject(NotWellFormed, "not a start tag")
		}
	case inTag:
		switch b {
		case '=':
			r.state = afterEquals
		case '/':
			r.state = afterSlash
		case '>':
			r.state = openDone
		case '<', '\'', '"':
			r.reject(NotWellFormed, "not an attribute")
		}
	case afterEquals:
		switch {
		case b == '\'':
			r.state = inSingle
		case b == '"':
			r.state = inDouble
		case !isSpace(b):
			r.reject(NotWellFormed, "attribute without quotes")
		}
	case inSingle, inDouble:
		switch {
		case b == '<':
			r.reject(NotWellFormed, "'<' in an attribute")
		case b == '\'' && r.state == inSingle, b == '"' && r.state == inDouble:
			r.state = afterValue
		}
	case afterSlash:
		if b != '>' {
			r.reject(NotWellFormed, "not a start tag")
			return
		}
		r.state = openDone
	}
}

// stepDecl advances inside "<?…?>". Only an XML declaration is allowed, as the very
// first bytes (XML 1.0, section 2.8).
func (r *OpenReader) stepDecl(i int) {
	const start = "<?xml"
	b, n := r.buf[i], i-r.tag // n bytes of the markup precede b
	switch {
	case n < len(start) && b != start[n], n == len(start) && !isSpace(b):
		r.reject(RestrictedXML, "processing instructions are not allowed")
	case r.tag > 0:
		r.reject(NotWellFormed, "the XML declaration is not at the beginning")
	case b == '>' && r.buf[i-1] == '?':
		r.checkDecl(r.buf[len(start) : i-1])
	}
}

// checkDecl checks the text between "<?xml" and "?>". It has the grammar of a start
// tag's attributes, and is parsed as one.
func (r *OpenReader) checkDecl(inner []byte) {
	attrs, ok := startTag("<declaration" + string(inner) + "/>")
	want := []string{"version", "encoding", "standalone"} // in this order; the first one is required
	for _, a := range attrs.Attr {
		name := a.Name.Local
		for len(want) > 0 && want[0] != name && want[0] != "version" {
			want = want[1:]
		}
		if len(want) == 0 || want[0] != name || a.Name.Space != "" {
			ok = false
			break
		}
		want = want[1:]
		switch {
		case name == "version" && a.Value != "1.0":
			r.reject(NotWellFormed, "the XML version must be 1.0")
			return
		case name == "encoding" && !strings.EqualFold(a.Value, "UTF-8"):
			r.reject(UnsupportedEncoding, "the stream must be UTF-8")
			return
		case name == "standalone" && a.Value != "yes" && a.Value != "no":
			ok = false
		}
	}
	if !ok || len(attrs.Attr) == 0 || bytes.ContainsAny(inner, "</>") {
		r.reject(NotWellFormed, "not an XML declaration")
		return
	}
	r.state = inProlog
}

// decode reads the tag, which ends r.buf.
func (r *OpenReader) decode() {
	tag := r.buf[r.tag:]
	start, ok := startTag(string(tag))
	switch {
	case !ok && hasForeignEntity(tag):
		r.reject(RestrictedXML, "only the five predefined entities are allowed")
		return
	case !ok:
		r.reject(NotWellFormed, "the stream's start tag is not well-formed")
		return
	}
	space, ok := resolve(start, r.later)
	if !ok {
		r.reject(NotWellFormed, "the stream's start tag breaks the rules of XML namespaces")
		return
	}
	switch local := start.Name.Local; {
	case local == "open" && (space == nsFraming || space == unknownSpace):
		r.open.Framing = RFC7395
	case local == "stream" && (space == nsStreams || space == unknownSpace || r.later && start.Name.Space == "stream"):
		r.open.Framing = OlderDraft
	case r.later:
		r.other = true
	case local == "open" || local == "stream":
		r.reject(InvalidNamespace, "the namespace is neither that of RFC 7395 nor that of streams")
		return
	default:
		r.reject(BadFormat, "a stream begins with <open/> or <stream:stream>")
		return
	}
	r.open.Len = len(r.buf)
	r.open.set(start.Attr, "xml")
}

// set copies the attributes. xmlPrefix stands for the XML namespace in their names: the
// prefix in a raw token, the namespace itself in a resolved one.
func (o *Open) set(attrs []xml.Attr, xmlPrefix string) {
	for _, a := range attrs {
		switch {
		case a.Name.Space == xmlPrefix && a.Name.Local == "lang":
			o.Lang = a.Value
		case a.Name.Space != "":
		case a.Name.Local == "to":
			o.To = a.Value
		case a.Name.Local == "from":
			o.From = a.Value
		case a.Name.Local == "version":
			o.Version = a.Value
		case a.Name.Local == "id":
			o.ID = a.Value
		}
	}
}
