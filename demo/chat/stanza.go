package chat

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Namespaces.
const (
	nsFraming = "urn:ietf:params:xml:ns:xmpp-framing"
	nsStreams = "http://etherx.jabber.org/streams"
	nsErrors  = "urn:ietf:params:xml:ns:xmpp-streams"
	nsStanzas = "urn:ietf:params:xml:ns:xmpp-stanzas"
	nsSASL    = "urn:ietf:params:xml:ns:xmpp-sasl"
	nsSASL2   = "urn:xmpp:sasl:2"
	nsBind    = "urn:ietf:params:xml:ns:xmpp-bind"
	nsSession = "urn:ietf:params:xml:ns:xmpp-session"
	nsSM      = "urn:xmpp:sm:3"
	nsPing    = "urn:xmpp:ping"
	nsRoster  = "jabber:iq:roster"
	nsClient  = "jabber:client"
)

// An Element is a parsed stanza or a part of one.
type Element struct {
	Name     string // without prefix
	Space    string // namespace, inherited ones too
	Attrs    []xml.Attr
	Children []*Element
	Text     string // character data directly inside, put together
	Raw      string // of a root: the text it was parsed from, from its start tag on

	prefix string
	start  int // of a root: length of the start tag in Raw
	empty  bool
	parent *Element
}

// Attr returns an attribute without prefix, or "".
func (e *Element) Attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// Child returns the first child of that name, or nil. All methods work on nil.
func (e *Element) Child(name string) *Element {
	if e != nil {
		for _, c := range e.Children {
			if c.Name == name {
				return c
			}
		}
	}
	return nil
}

// ChildText returns the text of the first child of that name, or "".
func (e *Element) ChildText(name string) string {
	if c := e.Child(name); c != nil {
		return c.Text
	}
	return ""
}

// first returns the first child, or an empty Element.
func (e *Element) first() *Element {
	if len(e.Children) == 0 {
		return &Element{}
	}
	return e.Children[0]
}

var errUnfinished = errors.New("element is not closed")

// Parse reads one element, and nothing but white space around it. An
// element that is left open, as <stream:stream> is, comes with the error
// errUnfinished and is whole otherwise.
func Parse(s string) (*Element, error) {
	d := xml.NewDecoder(strings.NewReader(s))
	var root, at *Element
	for {
		offset := d.InputOffset()
		tok, err := d.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			e := &Element{Name: tok.Name.Local, prefix: tok.Name.Space, Attrs: tok.Copy().Attr, parent: at}
			e.Space = e.lookup(e.prefix)
			switch {
			case root == nil:
				root, e.Raw, e.start = e, s[offset:], int(d.InputOffset()-offset)
				e.empty = strings.HasSuffix(e.Raw[:e.start], "/>")
			case at == nil:
				return nil, fmt.Errorf("<%s> behind the end of <%s>", e.Name, root.Name)
			default:
				at.Children = append(at.Children, e)
			}
			at = e
		case xml.EndElement:
			if at == nil || at.Name != tok.Name.Local || at.prefix != tok.Name.Space {
				return nil, fmt.Errorf("</%s> ends nothing", tok.Name.Local)
			}
			at = at.parent
		case xml.CharData:
			if at != nil {
				at.Text += string(tok)
			} else if strings.TrimSpace(string(tok)) != "" {
				return nil, errors.New("text outside of an element")
			}
		case xml.Directive:
			return nil, errors.New("a DTD is forbidden in XMPP")
		}
	}
	if root == nil {
		return nil, errors.New("no element")
	}
	if at != nil {
		return root, errUnfinished
	}
	return root, nil
}

// lookup returns the namespace of a prefix.
func (e *Element) lookup(prefix string) string {
	for at := e; at != nil; at = at.parent {
		for _, a := range at.Attrs {
			if prefix == "" && a.Name.Space == "" && a.Name.Local == "xmlns" ||
				prefix != "" && a.Name.Space == "xmlns" && a.Name.Local == prefix {
				return a.Value
			}
		}
	}
	return ""
}

// from returns a root's text with another from and with its namespace
// declared.
func (e *Element) from(from string) string {
	var b strings.Builder
	b.WriteString("<")
	if e.prefix != "" {
		b.WriteString(e.prefix + ":")
	}
	b.WriteString(e.Name + attr("xmlns", nsClient) + attr("from", from))
	for _, a := range e.Attrs {
		name := a.Name.Local
		switch {
		case a.Name.Space == "" && (name == "xmlns" || name == "from"):
			continue
		case a.Name.Space != "":
			name = a.Name.Space + ":" + name
		}
		b.WriteString(attr(name, a.Value))
	}
	if e.empty {
		b.WriteString("/>")
	} else {
		b.WriteString(">" + e.Raw[e.start:])
	}
	return b.String()
}

// attr returns " name='value'", or nothing for an empty value.
func attr(name, value string) string {
	if value == "" {
		return ""
	}
	return " " + name + "='" + Escape(value) + "'"
}

// Escape makes text fit for XML character data and attribute values.
func Escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a strings.Builder never fails
	return b.String()
}

// bare cuts the resource off a JID, domainOf everything but the domain.
func bare(jid string) string {
	b, _, _ := strings.Cut(jid, "/")
	return b
}

func domainOf(jid string) string {
	b := bare(jid)
	return b[strings.IndexByte(b, '@')+1:]
}
