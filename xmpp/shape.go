package xmpp

import (
	"bytes"
	"slices"
	"strings"
)

// A Shape shows what kind of XML goes by, and nothing that somebody said in it: the names
// of elements and attributes, namespaces of XMPP, and the few values of attributes that
// are words of the protocol. All else, text and other values, becomes "…".
//
// It is fed a message in pieces of any size. A tag is shown once it is whole; behind what
// is not well-formed, or has what XMPP forbids, the rest of the message is "…", for it
// could be anything. The zero value is ready for a message.
type Shape struct {
	state shapeState
	tag   []byte // what will be shown of the tag under way
	name  []byte // of the attribute under way, or what "<" is followed by
	value []byte // of the attribute under way
	long  bool   // value is longer than what any word has
	quote byte
	text  bool // "…" stands for the text under way already
}

type shapeState uint8

const (
	shapeText    shapeState = iota
	shapeTag                // behind "<"
	shapeName               // in the name of an element
	shapeInside             // between attributes
	shapeAttr               // in the name of an attribute
	shapeEquals             // behind it
	shapeQuote              // behind "="
	shapeValue              // in quotes
	shapeEmpty              // behind the "/" of an empty element
	shapeDecl               // in "<?xml … ?>"
	shapeDeclEnd            // behind a "?" in it
	shapeLost               // not well-formed
)

const (
	maxShapeTag   = 1 << 10 // bytes that are shown of a tag
	maxShapeName  = 64      // bytes of a name
	maxShapeValue = 96      // bytes of a value that is shown
)

// shapeWords are the values that are shown, by attribute.
var shapeWords = map[string][]string{
	"type": {"get", "set", "result", "error", "chat", "groupchat", "headline", "normal", "unavailable", "subscribe", "subscribed", "unsubscribe",
		"unsubscribed", "probe", "submit", "form", "cancel", "auth", "modify", "wait", "continue"},
	"mechanism": {"PLAIN", "EXTERNAL", "ANONYMOUS", "OAUTHBEARER", "X-OAUTH2", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS",
		"SCRAM-SHA-512", "SCRAM-SHA-512-PLUS", "HT-SHA-256-NONE", "HT-SHA-256-UNIQ", "HT-SHA-256-EXPR", "HT-SHA-256-ENDP"},
	"version": {"1.0"},
	"resume":  {"true", "1"},
}

// shapeSpaces are what XMPP's namespaces begin with.
var shapeSpaces = []string{"urn:ietf:params:xml:ns:", "urn:xmpp:", "jabber:", "http://jabber.org/", "http://etherx.jabber.org/"}

// Feed appends the shape of the next bytes of the message to out.
func (s *Shape) Feed(out, b []byte) []byte {
	for _, c := range b {
		out = s.next(out, c)
	}
	return out
}

const blank = "…"

func (s *Shape) next(out []byte, c byte) []byte {
	space := c == ' ' || c == '\t' || c == '\r' || c == '\n'
	switch s.state {
	case shapeText:
		switch {
		case c == '<':
			s.state, s.text, s.tag, s.name = shapeTag, false, append(s.tag[:0], '<'), s.name[:0]
		case !space && !s.text:
			s.text = true
			return append(out, blank...)
		}
	case shapeTag:
		switch {
		case c == '?':
			s.state = shapeDecl
		case c == '/' && len(s.tag) == 1:
			s.tag = append(s.tag, c)
		case isNameStart(c):
			s.state, s.name = shapeName, append(s.name, c)
		default:
			return s.lost(out)
		}
	case shapeName:
		switch {
		case isName(c) && len(s.name) < maxShapeName:
			s.name = append(s.name, c)
		case space, c == '/', c == '>':
			s.tag = append(s.tag, s.name...)
			s.state = shapeInside
			return s.next(out, c)
		default:
			return s.lost(out)
		}
	case shapeInside:
		closing := s.tag[1] == '/'
		switch {
		case space:
		case c == '>':
			return s.show(append(out, s.tag...))
		case c == '/' && !closing:
			s.state = shapeEmpty
		case isNameStart(c) && !closing:
			s.state, s.name = shapeAttr, append(s.name[:0], c)
		default:
			return s.lost(out)
		}
	case shapeAttr, shapeEquals:
		switch {
		case s.state == shapeAttr && isName(c) && len(s.name) < maxShapeName:
			s.name = append(s.name, c)
		case space:
			s.state = shapeEquals
		case c == '=':
			s.state = shapeQuote
		default:
			return s.lost(out)
		}
	case shapeQuote:
		switch {
		case space:
		case c == '\'' || c == '"':
			s.state, s.quote, s.value, s.long = shapeValue, c, s.value[:0], false
		default:
			return s.lost(out)
		}
	case shapeValue:
		switch {
		case c == s.quote:
			s.attribute()
			s.state = shapeInside
			if len(s.tag) > maxShapeTag {
				return s.lost(out)
			}
		case c == '<':
			return s.lost(out)
		case len(s.value) == maxShapeValue:
			s.long = true
		default:
			s.value = append(s.value, c)
		}
	case shapeEmpty:
		if c != '>' {
			return s.lost(out)
		}
		return s.show(append(append(out, s.tag...), '/'))
	case shapeDecl:
		if c == '?' {
			s.state = shapeDeclEnd
		}
	case shapeDeclEnd:
		switch c {
		case '>':
			s.state = shapeText
			return append(out, "<?"+blank+"?>"...)
		case '?':
		default:
			s.state = shapeDecl
		}
	}
	return out
}

// show ends a tag.
func (s *Shape) show(out []byte) []byte {
	s.state = shapeText
	return append(out, '>')
}

// lost gives the rest of the message up. It shows nothing of the tag under way.
func (s *Shape) lost(out []byte) []byte {
	s.state = shapeLost
	return append(out, blank...)
}

// attribute adds what is shown of the attribute under way to the tag.
func (s *Shape) attribute() {
	s.tag = append(append(append(s.tag, ' '), s.name...), "='"...)
	if value := string(s.value); !s.long && shapeShows(string(s.name), value) {
		s.tag = append(s.tag, value...)
	} else {
		s.tag = append(s.tag, blank...)
	}
	s.tag = append(s.tag, '\'')
}

// shapeShows reports whether a value says nothing of anybody.
func shapeShows(name, value string) bool {
	if name != "xmlns" && !strings.HasPrefix(name, "xmlns:") {
		return slices.Contains(shapeWords[name], value)
	}
	known := slices.ContainsFunc(shapeSpaces, func(begin string) bool { return strings.HasPrefix(value, begin) })
	return known && bytes.IndexFunc([]byte(value), func(r rune) bool { return r >= 0x80 || !isName(byte(r)) && r != '/' && r != '#' && r != '+' }) < 0
}

func isNameStart(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' }

func isName(c byte) bool {
	return isNameStart(c) || c == ':' || c == '-' || c == '.' || c >= '0' && c <= '9'
}
