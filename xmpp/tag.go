package xmpp

import (
	"bytes"
	"encoding/xml"
	"strings"
)

// startTag decodes one start tag and leaves prefixes unresolved. It returns false if
// the tag is not well-formed.
func startTag(tag string) (xml.StartElement, bool) {
	t, err := xml.NewDecoder(strings.NewReader(tag)).RawToken()
	start, ok := t.(xml.StartElement)
	return start, ok && err == nil
}

// unknownSpace stands for a namespace that may be declared outside of the tag. It
// differs from every namespace that can be declared.
const unknownSpace = "\x00"

// resolve checks what encoding/xml does not: that prefixes are declared and allowed,
// and that attributes are unique (Namespaces in XML 1.0, sections 3, 5 and 6.3). It
// returns the namespace of the element. A tag inside other elements may use their
// declarations.
func resolve(start xml.StartElement, inside bool) (space string, ok bool) {
	spaces := map[string]string{"xml": nsXML} // by prefix; "" is the default
	for _, a := range start.Attr {
		prefix, isDecl := "", a.Name.Space == "" && a.Name.Local == "xmlns"
		if a.Name.Space == "xmlns" {
			prefix, isDecl = a.Name.Local, true
		}
		if !isDecl {
			continue
		}
		_, twice := spaces[prefix]
		switch {
		case prefix == "xml" && a.Value == nsXML:
		case twice, prefix == "xmlns", prefix != "" && a.Value == "", a.Value == nsXML, a.Value == nsXMLNS:
			return "", false
		}
		spaces[prefix] = a.Value
	}
	seen := make(map[xml.Name]bool, len(start.Attr))
	for _, a := range start.Attr {
		name := a.Name
		if strings.Contains(name.Local, ":") {
			return "", false
		}
		if name.Space != "" && name.Space != "xmlns" {
			declared, ok := spaces[name.Space]
			switch {
			case ok:
				name.Space = declared
			case !inside:
				return "", false
			default:
				name.Space = unknownSpace + name.Space
			}
		}
		if seen[name] {
			return "", false
		}
		seen[name] = true
	}
	space, ok = spaces[start.Name.Space]
	if !ok && inside {
		space, ok = unknownSpace, true
	}
	return space, (ok || start.Name.Space == "") && !strings.Contains(start.Name.Local, ":")
}

// hasForeignEntity reports whether tag refers to an entity that only a document type
// declaration can declare.
func hasForeignEntity(tag []byte) bool {
	for {
		_, after, found := bytes.Cut(tag, []byte{'&'})
		if !found {
			return false
		}
		tag = after
		end := bytes.IndexAny(tag, ";&'\"<>= \t\r\n")
		if end <= 0 || tag[end] != ';' || tag[0] == '#' {
			continue
		}
		switch string(tag[:end]) {
		case "lt", "gt", "amp", "apos", "quot":
		default:
			return true
		}
	}
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }
