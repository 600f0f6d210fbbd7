package xmpp

import "bytes"

// Word is the meaning of a message's first element to the gate.
type Word uint8

const (
	OtherWord   Word = iota // a stanza, white space, anything else
	OpenWord                // <open/> or <stream:stream>: at a stream's start, and again after SASL
	CloseWord               // <close/> or </stream:stream>: the sender has ended the stream
	ErrorWord               // <stream:error>: the sender ends the stream, <close/> may share the message
	EnabledWord             // <enabled/>: acknowledged, but not resumable (XEP-0198)
	ResumeWord              // <enabled resume='true'/> or <resumed/>: the client may resume this stream
)

// HeadSize is the number of bytes of a message that [FirstWord] needs.
const HeadSize = 256

// FirstWord classifies a message by its first [HeadSize] bytes or fewer. It examines
// only the first element, allocates nothing, and never fails: it is called for every
// message of a stream.
//
// If head cuts the tag short, FirstWord assumes the usual for the missing part: the
// right namespace, and resume true. A client that is wrongly considered able to resume
// only misses a <close/>; one that is wrongly considered unable loses its stream.
//
// If the client used SASL 2 with Bind 2 (XEP-0388, XEP-0386), <enabled/> or <resumed/>
// is inside <success/>, possibly after HeadSize bytes: pass as much of a message as is
// available.
func FirstWord(head []byte) Word {
	h := parseHead(head)
	switch string(h.local) {
	case "open":
		if !h.end && h.mayBe(nsFraming) {
			return OpenWord
		}
	case "stream":
		if h.end {
			return CloseWord
		}
		if !h.end && h.mayBe(nsStreams) {
			return OpenWord
		}
	case "close":
		if !h.end && h.mayBe(nsFraming) {
			return CloseWord
		}
	case "error":
		if !h.end && h.isStreamError() {
			return ErrorWord
		}
	case "enabled", "resumed":
		return h.managed()
	case "success":
		if !h.end && h.mayBe(nsSASL2) {
			return nestedWord(h.attrs)
		}
	}
	return OtherWord
}

// nestedWord finds <enabled/> or <resumed/> inside a <success/>. Text can't imitate
// them, because it contains no '<'.
func nestedWord(body []byte) Word {
	for {
		i := bytes.IndexByte(body, '<')
		if i < 0 {
			return OtherWord
		}
		body = body[i:]
		h := parseHead(body)
		if name := string(h.local); name == "enabled" || name == "resumed" {
			if w := h.managed(); w != OtherWord {
				return w
			}
		}
		body = body[1:]
	}
}

// managed returns the word for an <enabled/> or <resumed/>.
func (h head) managed() Word {
	if h.end || !h.mayBe(nsSM) {
		return OtherWord
	}
	if string(h.local) == "resumed" {
		return ResumeWord
	}
	rest := h.attrs
	for {
		name, value, next, whole := nextAttr(rest)
		switch {
		case !whole:
			return ResumeWord
		case name == nil:
			return EnabledWord
		case string(name) == "resume":
			if v := string(value); v == "true" || v == "1" {
				return ResumeWord
			}
			return EnabledWord
		}
		rest = next
	}
}

// head is the beginning of a message's first tag. Its slices refer to the message.
type head struct {
	prefix   []byte
	local    []byte
	attrs    []byte // the available bytes after the name
	prefixed bool
	end      bool // an end tag
}

// parseHead finds the first tag after white space and an XML declaration. Its local
// name is empty if there is none, or if the name is cut short.
func parseHead(b []byte) (h head) {
	b = bytes.TrimLeft(b, " \t\r\n")
	if bytes.HasPrefix(b, []byte("<?")) {
		_, after, found := bytes.Cut(b, []byte("?>"))
		if !found {
			return h
		}
		b = bytes.TrimLeft(after, " \t\r\n")
	}
	if len(b) == 0 || b[0] != '<' {
		return h
	}
	b = b[1:]
	if len(b) > 0 && b[0] == '/' {
		h.end, b = true, b[1:]
	}
	n := bytes.IndexAny(b, " \t\r\n/>")
	if n < 0 {
		return h
	}
	h.local, h.attrs = b[:n], b[n:]
	h.prefix, h.local, h.prefixed = bytes.Cut(h.local, []byte{':'})
	if !h.prefixed {
		h.prefix, h.local = nil, h.prefix
	}
	return h
}

// isStreamError reports whether a start tag with the local name "error" is that of a
// stream error. In the older draft the prefix is declared in the stream's start tag.
func (h head) isStreamError() bool { return string(h.prefix) == "stream" || h.mayBe(nsStreams) }

// mayBe reports whether the tag declares the namespace space, or, if space ends in a
// colon, one that begins with it. It also returns true if the tag is cut short before
// it declares a namespace for its prefix.
func (h head) mayBe(space string) bool {
	rest := h.attrs
	for {
		name, value, next, whole := nextAttr(rest)
		if !whole {
			return true
		}
		if name == nil {
			return false
		}
		if h.declares(name) {
			if space[len(space)-1] == ':' {
				return len(value) >= len(space) && string(value[:len(space)]) == space
			}
			return string(value) == space
		}
		rest = next
	}
}

// declares reports whether the attribute name is xmlns for the tag's prefix.
func (h head) declares(name []byte) bool {
	if !h.prefixed {
		return string(name) == "xmlns"
	}
	prefix, ok := bytes.CutPrefix(name, []byte("xmlns:"))
	return ok && bytes.Equal(prefix, h.prefix)
}

// nextAttr takes the next attribute from b. It returns a nil name at the tag's end, and
// whole == false if b ends before the attribute does.
func nextAttr(b []byte) (name, value, rest []byte, whole bool) {
	b = bytes.TrimLeft(b, " \t\r\n")
	if len(b) == 0 {
		return nil, nil, nil, false
	}
	if b[0] == '>' || b[0] == '/' {
		return nil, nil, nil, true
	}
	eq := bytes.IndexByte(b, '=')
	if eq < 0 {
		return nil, nil, nil, bytes.IndexByte(b, '>') >= 0
	}
	name = bytes.TrimRight(b[:eq], " \t\r\n")
	b = bytes.TrimLeft(b[eq+1:], " \t\r\n")
	if len(b) == 0 {
		return nil, nil, nil, false
	}
	quote := b[0]
	if quote != '\'' && quote != '"' {
		return nil, nil, nil, true // not XML; nothing more can be read
	}
	end := bytes.IndexByte(b[1:], quote)
	if end < 0 {
		return nil, nil, nil, false
	}
	return name, b[1 : 1+end], b[2+end:], true
}
