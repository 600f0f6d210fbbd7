package xmpp

import (
	"bytes"
	"slices"
	"strings"
)

// A Shape shows the structure of XML without its content: the names of elements and
// attributes, namespaces that it knows, and the few attribute values that are defined
// by the protocol. Everything else, text and other values, becomes "…".
//
// It is fed a message in pieces of any size, from its beginning. It shows a tag once
// the tag is complete. After XML that is not well-formed, such as text outside of
// elements, or that XMPP forbids, the rest of the message is "…", because it could be
// anything. The zero value is ready for a message.
type Shape struct {
	state shapeState
	tag   []byte // the part of the current tag to show
	name  []byte // of the current attribute or element
	open  []byte // the names of open elements, each preceded by "<"
	value []byte // of the current attribute
	long  bool   // value is longer than any that is shown
	quote byte
	text  bool // "…" already stands for the current text
}

type shapeState uint8

const (
	shapeText    shapeState = iota
	shapeTag                // after "<"
	shapeName               // in the name of an element
	shapeInside             // between attributes
	shapeAttr               // in the name of an attribute
	shapeEquals             // after that name
	shapeQuote              // after "="
	shapeValue              // in quotes
	shapeEmpty              // after the "/" of an empty element
	shapeDecl               // in "<?xml … ?>"
	shapeDeclEnd            // after a "?" in it
	shapeLost               // not well-formed
)

const (
	maxShapeTag   = 1 << 10 // bytes of a tag that are shown
	maxShapeName  = 64      // bytes of a name
	maxShapeValue = 96      // bytes of a value that is shown
	maxShapeOpen  = 4 << 10 // bytes of the names of open elements
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

// shapeSpaces are the namespaces that are shown. Others may contain private data, even
// with a known beginning.
var shapeSpaces = func() map[string]bool {
	known := map[string]bool{}
	for begin, ends := range map[string]string{
		"": "vcard-temp vcard-temp:x:update http://etherx.jabber.org/streams eu.siacs.conversations.axolotl http://www.w3.org/1999/xhtml " +
			"http://www.w3.org/XML/1998/namespace",
		"urn:ietf:params:xml:ns:": "xmpp-framing xmpp-tls xmpp-sasl xmpp-bind xmpp-session xmpp-stanzas xmpp-streams vcard-4.0",
		"jabber:": "client server component:accept iq:auth iq:roster iq:private iq:privacy iq:register iq:search iq:version iq:last iq:oob iq:time " +
			"iq:gateway x:data x:oob x:conference x:delay x:event x:encrypted x:signed x:roster",
		"http://jabber.org/": "features/iq-auth features/iq-register features/compress protocol/compress protocol/disco#info protocol/disco#items " +
			"protocol/caps protocol/chatstates protocol/commands protocol/muc protocol/muc#user protocol/muc#admin protocol/muc#owner " +
			"protocol/muc#unique protocol/nick protocol/mood protocol/tune protocol/activity protocol/geoloc protocol/address protocol/amp " +
			"protocol/bytestreams protocol/ibb protocol/si protocol/feature-neg protocol/httpbind protocol/offline protocol/rsm " +
			"protocol/pubsub protocol/pubsub#errors protocol/pubsub#event protocol/pubsub#owner protocol/xhtml-im protocol/xdata-validate protocol/xdata-layout",
		"urn:xmpp:": "sasl:2 sasl:1 sasl-cb:0 sasl-upgrade:0 bind:0 fast:0 features:rosterver features:pre-approval sm:2 sm:3 csi:0 carbons:2 " +
			"mam:1 mam:2 mam:2#extended mam:tmp ping receipts chat-markers:0 message-correct:0 message-retract:0 message-retract:1 " +
			"message-moderate:0 message-moderate:1 message-attaching:1 forward:0 delay time push:0 blocking blocking:errors bookmarks:1 " +
			"bookmarks:1#compat sid:0 hints eme:0 omemo:2 openpgp:0 attention:0 reactions:0 reply:0 fallback:0 reference:0 styling:0 spoiler:0 " +
			"http:upload:0 http:0 sfs:0 file:metadata:0 hashes:2 bob bidi idle:1 invite ibr-token:0 inbox:0 inbox:1 extdisco:1 extdisco:2 " +
			"avatar:data avatar:metadata avatar:metadata+notify vcard4 nick:0 json:0 json-msg:0 alt-connections:websocket alt-connections:xbosh " +
			"occupant-id:0 mucsub:0 muclight:0 mix:core:0 mix:core:1 mix:pam:2 jingle:1 jingle:errors:1 jingle:apps:rtp:1 jingle:apps:rtp:audio " +
			"jingle:apps:rtp:video jingle:apps:dtls:0 jingle:apps:file-transfer:5 jingle:transports:ice-udp:1 jingle:transports:ibb:1 " +
			"jingle:transports:s5b:1 jingle-message:0 call-invites:0 thumbs:1 caps caps:optimize",
	} {
		for end := range strings.FieldsSeq(ends) {
			known[begin+end] = true
		}
	}
	return known
}()

// Feed appends the shape of the next bytes of the message to out.
func (s *Shape) Feed(out, b []byte) []byte {
	for i := 0; i < len(b) && s.state != shapeLost; i++ {
		if s.state == shapeText && s.text {
			n := bytes.IndexByte(b[i:], '<')
			if n < 0 {
				break
			}
			i += n
		}
		out = s.next(out, b[i])
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
		case !space && len(s.open) == 0:
			return s.lost(out)
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
			if s.tag = append(s.tag, s.name...); len(s.tag) == 1+len(s.name) { // not an end tag
				s.open = append(append(s.open, '<'), s.name...)
			}
			if s.state = shapeInside; len(s.open) > maxShapeOpen {
				return s.lost(out)
			}
			return s.next(out, c)
		default:
			return s.lost(out)
		}
	case shapeInside:
		closing := s.tag[1] == '/'
		switch {
		case space:
		case c == '>':
			if closing && !s.ends() {
				return s.lost(out)
			}
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
		s.open = s.open[:bytes.LastIndexByte(s.open, '<')]
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

// ends handles an end tag, and reports whether its element was open. The end of a
// stream may be a message of its own.
func (s *Shape) ends() bool {
	open, ok := bytes.CutSuffix(s.open, s.tag[2:])
	if ok = ok && len(open) > 0 && open[len(open)-1] == '<'; ok {
		s.open = open[:len(open)-1]
	}
	return ok || len(s.open) == 0 && string(s.tag) == "</stream:stream"
}

// show ends a tag.
func (s *Shape) show(out []byte) []byte {
	s.state = shapeText
	return append(out, '>')
}

// lost gives up the rest of the message. It shows nothing of the current tag.
func (s *Shape) lost(out []byte) []byte {
	s.state = shapeLost
	return append(out, blank...)
}

// attribute adds the shown part of the current attribute to the tag.
func (s *Shape) attribute() {
	s.tag = append(append(append(s.tag, ' '), s.name...), "='"...)
	if value := string(s.value); !s.long && shapeShows(string(s.name), value) {
		s.tag = append(s.tag, value...)
	} else {
		s.tag = append(s.tag, blank...)
	}
	s.tag = append(s.tag, '\'')
}

// shapeShows reports whether a value contains no private data.
func shapeShows(name, value string) bool {
	if name != "xmlns" && !strings.HasPrefix(name, "xmlns:") {
		return slices.Contains(shapeWords[name], value)
	}
	return shapeSpaces[value]
}

func isNameStart(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' }

func isName(c byte) bool {
	return isNameStart(c) || c == ':' || c == '-' || c == '.' || c >= '0' && c <= '9'
}
