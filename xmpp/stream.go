package xmpp

import (
	"bytes"
	"crypto/rand"
	"encoding/xml"
	"fmt"
)

// Stream writes the gate's own messages to a client in place of the server. Each method
// returns the payloads of the text messages to send, in order; the caller may keep and
// change them. A Stream is a value; its methods do not change it.
type Stream struct {
	Framing Framing // the client's, see [OpenReader.Framing]

	// Opened is true if a server's opening, ours or the upstream's, was already sent to
	// the client. Otherwise the opening is the first payload, because an error or a
	// close must follow it (RFC 6120, section 4.9.1.2).
	Opened bool

	// Attributes of the server's opening, unused once Opened.
	From string // the domain, as the client or the upstream wrote it
	To   string // the client's address, if it sent one
	ID   string // "": a random one (RFC 6120, section 4.7.3)
	Lang string // "": "en"
}

// Reply returns the Stream that answers a client's opening before anything was sent.
func (o Open) Reply() Stream {
	return Stream{Framing: o.Framing, From: o.To, To: o.From}
}

// Opening returns the server's opening: <open/> or <stream:stream>.
func (s Stream) Opening() []byte {
	id, lang := s.ID, s.Lang
	if id == "" {
		id = rand.Text()
	}
	if lang == "" {
		lang = "en"
	}
	var b bytes.Buffer
	if s.Framing == OlderDraft {
		// Old versions of Strophe look for exactly these first bytes, without a
		// declaration, and wrap the following payloads into a copy of this tag.
		b.WriteString("<stream:stream xmlns='" + nsClient + "' xmlns:stream='" + nsStreams + "'")
	} else {
		b.WriteString("<open xmlns='" + nsFraming + "'")
	}
	attr(&b, "from", s.From)
	attr(&b, "to", s.To)
	attr(&b, "id", id)
	attr(&b, "version", "1.0")
	attr(&b, "xml:lang", lang)
	if s.Framing == RFC7395 {
		b.WriteByte('/')
	}
	b.WriteByte('>')
	return b.Bytes()
}

// Close ends the stream without an error.
func (s Stream) Close() [][]byte {
	return s.finish("")
}

// Error ends the stream with an error. The text is in English and may be empty.
func (s Stream) Error(condition Condition, text string) [][]byte {
	if !condition.isName() {
		condition = UndefinedCondition
	}
	return s.finish("", s.errorElement(condition, "", text))
}

// Redirect sends the client to another address, a ws or wss URL. RFC 7395 puts the URL
// in <close/> (section 3.6.1). The older draft has only host and port (RFC 6120,
// section 4.9.3.19); the client adds a scheme and a path by its own rules.
func (s Stream) Redirect(url string) ([][]byte, error) {
	to, err := ParseTarget(url)
	if err != nil {
		return nil, err
	}
	if to.Scheme == "" {
		return nil, fmt.Errorf("redirect to %q: scheme is not ws or wss", url)
	}
	if s.Framing == OlderDraft {
		return s.finish("", s.errorElement(SeeOtherHost, to.Address(""), "")), nil
	}
	return s.finish(url), nil
}

// finish adds the opening in front, if it is missing, and the close at the end.
func (s Stream) finish(seeOther string, middle ...[]byte) [][]byte {
	var out [][]byte
	if !s.Opened {
		out = append(out, s.Opening())
	}
	out = append(out, middle...)
	if s.Framing == OlderDraft {
		return append(out, []byte("</stream:stream>"))
	}
	var b bytes.Buffer
	b.WriteString("<close xmlns='" + nsFraming + "'")
	attr(&b, "see-other-uri", seeOther)
	b.WriteString("/>")
	return append(out, b.Bytes())
}

// errorElement declares its prefix in either framing. RFC 7395 requires it; in the
// older draft it is harmless if the upstream's opening uses another prefix.
func (s Stream) errorElement(condition Condition, inside, text string) []byte {
	var b bytes.Buffer
	b.WriteString("<stream:error xmlns:stream='" + nsStreams + "'><" + string(condition) + " xmlns='" + nsErrors + "'")
	if inside == "" {
		b.WriteString("/>")
	} else {
		b.WriteByte('>')
		escape(&b, inside)
		b.WriteString("</" + string(condition) + ">")
	}
	if text != "" {
		b.WriteString("<text xmlns='" + nsErrors + "' xml:lang='en'>")
		escape(&b, text)
		b.WriteString("</text>")
	}
	b.WriteString("</stream:error>")
	return b.Bytes()
}

// attr writes an attribute, unless its value is empty.
func attr(b *bytes.Buffer, name, value string) {
	if value == "" {
		return
	}
	b.WriteString(" " + name + "='")
	escape(b, value)
	b.WriteByte('\'')
}

// escape writes s as character data or as an attribute's value in either quotes. It
// replaces what XML can't represent by U+FFFD.
func escape(b *bytes.Buffer, s string) {
	xml.EscapeText(b, []byte(s)) // a bytes.Buffer returns no error
}
