package xmpp

// A Body is what the start tag of a BOSH body says (XEP-0124, section 6), as far
// as the gate wants to know. The attributes are as they were sent, entities
// replaced.
type Body struct {
	To    string
	HasTo bool
	SID   string // empty where the body begins a session
}

// ReadBody reads the start tag of a BOSH body. What follows it is not looked at. It
// is as strict as [OpenReader], and its errors are the same, but for the name and
// namespace of the element, which are the server's business: a server may know no
// better, and so go by the `to` of any.
func ReadBody(data []byte) (Body, error) {
	r := OpenReader{buf: data[:min(len(data), MaxOpen)]}
	for i := 0; i < len(r.buf) && r.state < openDone; i++ {
		if r.step(i); r.state == openDone {
			r.buf = r.buf[:i+1]
		}
	}
	switch {
	case r.err != nil:
		return Body{}, r.err
	case r.state < openDone && len(data) > MaxOpen:
		return Body{}, &StreamError{PolicyViolation, "the body's start tag is too long"}
	case r.state < openDone:
		return Body{}, &StreamError{NotWellFormed, "the body's start tag has no end"}
	}
	tag := r.buf[r.tag:]
	start, ok := startTag(string(tag))
	if ok {
		_, ok = resolve(start, false)
	}
	switch {
	case !ok && hasForeignEntity(tag):
		return Body{}, &StreamError{RestrictedXML, "only the five predefined entities are allowed"}
	case !ok:
		return Body{}, &StreamError{NotWellFormed, "the body's start tag is not well-formed"}
	}
	var b Body
	for _, a := range start.Attr {
		switch {
		case a.Name.Space != "":
		case a.Name.Local == "to":
			b.To, b.HasTo = a.Value, true
		case a.Name.Local == "sid":
			b.SID = a.Value
		}
	}
	return b, nil
}
