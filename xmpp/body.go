package xmpp

import (
	"bytes"
	"encoding/xml"
	"slices"
)

// A Body has the attributes of a BOSH body's start tag (XEP-0124, section 6) that the
// gate needs, as they were sent, with entities replaced.
type Body struct {
	To    string
	HasTo bool
	SID   string // empty if the body begins a session

	// IQAuth counts the logins by jabber:iq:auth (XEP-0078, obsolete) in the body:
	// elements of that namespace in its stanzas. The type of the stanza does not
	// matter, because servers ignore it. Only ReadBody counts them.
	IQAuth int

	Condition string // sent by the server when it ends the session
}

// ReadBody reads the start tag of a BOSH body. It is as strict as [OpenReader] and
// returns the same errors. It does not check the name and namespace of the element: a
// server may ignore them too, and use the `to` of any element.
//
// Nothing may follow the element, because Tigase takes each element of a request for a
// body, and sees tags in comments and CDATA sections. No element in it may be a start tag
// of a stream or another body, wherever it stands. The end of the element may be missing.
func ReadBody(data []byte) (Body, error) {
	b, n, err := readBodyStart(data)
	if err != nil {
		return Body{}, err
	}
	b.IQAuth, err = checkRest(data, n)
	return b, err
}

// ReadBodyStart is ReadBody without checks after the start tag.
func ReadBodyStart(data []byte) (Body, error) {
	b, _, err := readBodyStart(data)
	return b, err
}

// MayLogIn reports whether a body may contain a step of a login. Like MayAskIQAuth it is
// cheap, and never false for a body with one.
func MayLogIn(data []byte) bool {
	return MayAskIQAuth(data) || bytes.Contains(data, []byte(nsSASL)) || bytes.Contains(data, []byte(nsSASL2))
}

// MayAskIQAuth reports whether a body may have an IQAuth. It is much cheaper than
// ReadBody, and never false for a body with one, if that is XML in UTF-8 without a
// document type declaration.
func MayAskIQAuth(data []byte) bool {
	return bytes.Contains(data, []byte(nsIQAuth)) || bytes.Contains(data, []byte("&#"))
}

// readBodyStart also returns where the start tag ends.
func readBodyStart(data []byte) (b Body, end int, err error) {
	r := OpenReader{buf: data[:min(len(data), MaxOpen)]}
	for i := 0; i < len(r.buf) && r.state < openDone; i++ {
		if r.step(i); r.state == openDone {
			r.buf = r.buf[:i+1]
		}
	}
	switch {
	case r.err != nil:
		return Body{}, 0, r.err
	case r.state < openDone && len(data) > MaxOpen:
		return Body{}, 0, &StreamError{PolicyViolation, "the body's start tag is too long"}
	case r.state < openDone:
		return Body{}, 0, &StreamError{NotWellFormed, "the body's start tag has no end"}
	}
	tag := r.buf[r.tag:]
	start, ok := startTag(string(tag))
	if ok {
		_, ok = resolve(start, false)
	}
	switch {
	case !ok && hasForeignEntity(tag):
		return Body{}, 0, &StreamError{RestrictedXML, "only the five predefined entities are allowed"}
	case !ok:
		return Body{}, 0, &StreamError{NotWellFormed, "the body's start tag is not well-formed"}
	}
	for _, a := range start.Attr {
		switch {
		case a.Name.Space != "":
		case a.Name.Local == "to":
			b.To, b.HasTo = a.Value, true
		case a.Name.Local == "sid":
			b.SID = a.Value
		case a.Name.Local == "condition":
			b.Condition = a.Value
		}
	}
	return b, len(r.buf), nil
}

// checkRest checks what follows a body's start tag, which ends at from. Only the
// well-formed content of that element may follow, without comments and processing
// instructions (RFC 6120, section 11.1). It counts the logins by jabber:iq:auth.
func checkRest(data []byte, from int) (iqAuth int, err error) {
	d := xml.NewDecoder(bytes.NewReader(data))
	for depth, begin := 0, int64(0); ; begin = d.InputOffset() {
		token, err := d.Token()
		switch {
		case err == nil:
		case isTruncated(err) && (depth > 0 || int(begin) == len(data)):
			return iqAuth, checkCut(data[begin:])
		default:
			return 0, &StreamError{NotWellFormed, "the body is not well-formed"}
		}
		end := d.InputOffset()
		switch token := token.(type) {
		case xml.StartElement:
			if depth == 0 && end > int64(from) {
				return 0, &StreamError{NotWellFormed, "something follows the body"}
			}
			switch {
			case depth == 2 && token.Name.Space == nsIQAuth:
				iqAuth++
			case depth > 0 && beginsStream(token, depth):
				return 0, &StreamError{BadFormat, "the start of a stream inside the body"}
			}
			depth++
		case xml.EndElement:
			depth--
		case xml.CharData:
			raw := data[begin:end]
			switch {
			case depth == 0 && len(bytes.Trim(token, " \t\r\n")) > 0:
				return 0, &StreamError{NotWellFormed, "something follows the body"}
			case bytes.HasPrefix(raw, []byte("<![CDATA[")) && endsInside(token, depth):
				return 0, &StreamError{RestrictedXML, "end tags in a CDATA section"}
			}
		default: // the XML declaration is already checked
			if end > int64(from) {
				return 0, &StreamError{RestrictedXML, "comments and processing instructions are not allowed"}
			}
		}
	}
}

// beginsStream reports whether an element inside a body could begin a stream for some
// server. A message has a <body/> as well, without these attributes, and XEP-0047 has an
// <open/>.
func beginsStream(element xml.StartElement, depth int) bool {
	switch element.Name.Local {
	case "body":
		return depth == 1 || slices.ContainsFunc(element.Attr, func(a xml.Attr) bool {
			return a.Name.Space == "" && (a.Name.Local == "to" || a.Name.Local == "rid" || a.Name.Local == "sid")
		})
	case "open":
		return element.Name.Space == nsFraming
	case "stream":
		return isStream(element.Name, "stream")
	}
	return false
}

// checkCut checks markup without an end, which encoding/xml does not return: another
// reader could find tags in it, for example in a comment.
func checkCut(rest []byte) error {
	switch {
	case bytes.HasPrefix(rest, []byte("<!")), bytes.HasPrefix(rest, []byte("<?")):
		return &StreamError{RestrictedXML, "comments and processing instructions are not allowed"}
	case len(rest) > 0 && bytes.IndexByte(rest[1:], '<') >= 0:
		return &StreamError{NotWellFormed, "the body is not well-formed"}
	}
	return nil
}

// endsInside reports whether a reader that sees tags in a CDATA section would find the
// end of the element depth levels up in it.
func endsInside(text []byte, depth int) bool {
	for {
		_, after, found := bytes.Cut(text, []byte{'<'})
		if !found {
			return false
		}
		text = after
		tag, _, _ := bytes.Cut(after, []byte{'>'})
		switch {
		case bytes.HasPrefix(tag, []byte{'/'}):
			depth--
		case !bytes.Contains(tag, []byte{'/'}):
			depth++
		}
		if depth <= 0 {
			return true
		}
	}
}
