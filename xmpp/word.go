package xmpp

import "bytes"

// Word is what the first element of a message means to the gate.
type Word uint8

const (
	OtherWord   Word = iota // a stanza, white space, anything else
	OpenWord                // <open/> or <stream:stream>: at a stream's start, and again after SASL
	CloseWord               // <close/> or </stream:stream>: the sender has ended the stream
	ErrorWord               // <stream:error>: the sender ends the stream, <close/> may share the message
	EnabledWord             // <enabled/>: acknowledged, but not to be resumed (XEP-0198)
	ResumeWord              // <enabled resume='true'/> or <resumed/>: the client may come back to this stream
)

// HeadSize is how many bytes of a message are enough for [FirstWord].
const HeadSize = 256

// FirstWord tells what a message begins with, from its first [HeadSize] bytes
// or fewer. It looks at the first element only, allocates nothing, and never
// fails: it is called for every message of a stream.
//
// Of a tag that head cuts short, what is missing is taken to be as usual: the
// namespace the right one, resume true. A client that is wrongly thought able
// to resume only misses a <close/>; one that is wrongly thought unable loses
// its stream.
//
// Where the client used SASL 2 with Bind 2 (XEP-0388, XEP-0386), <enabled/> or
// <resumed/> stands inside <success/>, perhaps beyond HeadSize: give it as much
// of a message as there is.
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
		// In the older draft the prefix is declared in the stream's start tag.
		if !h.end && (string(h.prefix) == "stream" || h.mayBe(nsStreams)) {
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

// nestedWord finds <enabled/> or <resumed/> inside a <success/>. Text can't
// feign them, for it holds no '<'.
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

// managed is the word of an <enabled/> or <resumed/>.
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

// head is the beginning of a message's first tag. Its slices are parts of the
// message.
type head struct {
	prefix   []byte
	local    []byte
	attrs    []byte // what follows the name, to the end of what is there
	prefixed bool
	end      bool // an end tag
}

// parseHead finds the first tag behind white space and an XML declaration. Its
// local name is empty where there is none, or where the name is cut short.
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

// mayBe reports whether the tag declares a namespace that is space, or begins
// with it where space ends in a colon, or is cut short before it declares one
// for its prefix.
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

// nextAttr takes the next attribute off b. It returns a nil name at the tag's
// end, and whole == false where b ends before the attribute does.
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
		return nil, nil, nil, true // no XML; the end of what can be read
	}
	end := bytes.IndexByte(b[1:], quote)
	if end < 0 {
		return nil, nil, nil, false
	}
	return name, b[1 : 1+end], b[2+end:], true
}
