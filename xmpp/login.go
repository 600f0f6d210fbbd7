package xmpp

import "bytes"

// maxLoginTag bounds how much a [LoginReader] keeps of a tag that is cut. A tag's
// meaning is at its beginning, unless the client arranged otherwise.
const maxLoginTag = 1 << 10 // bytes

// A LoginReader finds the results of logins in what a server sends: SASL (RFC 6120,
// section 6), SASL 2 (XEP-0388), and jabber:iq:auth (XEP-0078, obsolete), in a
// WebSocket message in either framing or in the body of a BOSH answer. A stream error
// may be such a result as well. It examines only tags at the depth of the server's own
// elements: the content of a stanza may come from another client.
//
// The zero value is ready. It is for one message, or one answer.
type LoginReader struct {
	// Failed counts the logins that failed because of their credentials, as the
	// function condition decides.
	Failed int
	// Succeeded is true after <success/>.
	Succeeded bool
	// In is true once a client is known to be logged in: after <success/>, or after a
	// stanza that only logged-in clients receive. The rest is not examined. An error
	// proves nothing, because servers also answer stanzas with an error before the
	// login.
	In bool

	// Asked takes one login by jabber:iq:auth that the session of a BOSH answer has
	// sent and that was not refused yet, and reports whether there was one. It is
	// called for an error that may be that refusal. Nil: there are none.
	Asked func() bool

	// Tried is true if the client may have tried to log in and has no result yet. A
	// stream error that refuses the client is then the result (RFC 6120, section
	// 6.4.5). Feed sets Tried to false at a result.
	Tried bool

	depth   int     // number of open elements
	around  int     // how many of those enclose the server's elements: <stream:stream>, BOSH's <body>
	failure bool    // inside a <failure/> whose condition has not been read yet
	bosh    bool    // the enclosing element is <body>
	iqError bool    // within an <iq type='error'/>
	refused bool    // inside an error that may answer a login
	ending  bool    // within a <stream:error>
	cut     []byte  // a tag that is not complete yet
	slash   bool    // the last byte of cut, kept or not, is "/"
	quote   byte    // not 0: inside an attribute's value that ends with it
	ends    []byte  // the end of the CDATA section or comment that is being skipped
	last    [2]byte // the previous two bytes, during the search for ends
}

// Feed reads the next bytes and does not keep them.
func (r *LoginReader) Feed(b []byte) {
	for len(b) > 0 && !r.In {
		switch {
		case r.ends != nil:
			b = r.skip(b)
		case len(r.cut) == 0:
			i := bytes.IndexByte(b, '<')
			if i < 0 {
				return
			}
			b = r.readTag(b[i:])
		default:
			b = r.readTag(b)
		}
	}
}

// Failing reports whether a <failure/> has begun and its condition has not been read
// yet.
func (r *LoginReader) Failing() bool { return r.failure }

// End marks the end of the input. A <failure/> that is cut counts as failed: most are
// wrong passwords.
func (r *LoginReader) End() {
	if r.In {
		return
	}
	if len(r.cut) > 0 && r.ends == nil {
		r.tag(r.cut, false)
		r.cut = nil
	}
	if r.failure {
		r.failure = false
		r.Failed++
	}
}

// readTag takes a tag from b, which begins with it or continues the one that was cut.
func (r *LoginReader) readTag(b []byte) (rest []byte) {
	for i, c := range b {
		switch {
		case r.quote != 0:
			if c == r.quote {
				r.quote = 0
			}
		case c == '\'' || c == '"':
			r.quote = c
		case c == '>':
			whole, empty := b[:i+1], r.slash
			if i > 0 {
				empty = b[i-1] == '/'
			}
			if len(r.cut) > 0 {
				r.keep(whole)
				whole = r.cut
			}
			r.tag(whole, empty)
			r.cut = r.cut[:0]
			return b[i+1:]
		case c == '[' && r.begins(b[:i+1], "<![CDATA["):
			r.cut, r.ends, r.last = r.cut[:0], []byte("]]>"), [2]byte{}
			return b[i+1:]
		case c == '-' && r.begins(b[:i+1], "<!--"):
			r.cut, r.ends, r.last = r.cut[:0], []byte("-->"), [2]byte{}
			return b[i+1:]
		}
	}
	r.keep(b)
	r.slash = b[len(b)-1] == '/'
	return nil
}

// begins reports whether r.cut and b together are start.
func (r *LoginReader) begins(b []byte, start string) bool {
	n := len(r.cut)
	return n+len(b) == len(start) && string(r.cut) == start[:n] && string(b) == start[n:]
}

func (r *LoginReader) keep(b []byte) {
	r.cut = append(r.cut, b[:min(len(b), maxLoginTag-len(r.cut))]...)
}

// skip skips a CDATA section or a comment.
func (r *LoginReader) skip(b []byte) (rest []byte) {
	for i, c := range b {
		if c == '>' && r.last[0] == r.ends[0] && r.last[1] == r.ends[1] {
			r.ends = nil
			return b[i+1:]
		}
		r.last[0], r.last[1] = r.last[1], c
	}
	return nil
}

// tag handles one tag, from its "<" to its ">" or to where it was cut.
func (r *LoginReader) tag(tag []byte, empty bool) {
	if len(tag) > 1 && (tag[1] == '?' || tag[1] == '!') {
		return
	}
	h := parseHead(tag)
	if h.end {
		if r.depth--; r.depth < r.around {
			r.around = max(r.depth, 0)
			r.depth = r.around
		}
		if r.depth == r.around {
			if r.failure { // it named no condition
				r.failure = false
				r.Failed++
			}
			r.iqError, r.refused, r.ending = false, false, false
		}
		return
	}
	inside := r.depth - r.around
	switch local := string(h.local); {
	case inside == 0 && r.depth == 0 && (local == "stream" && h.mayBe(nsStreams) || local == "body" && h.mayBe(nsBOSH)):
		r.around++
		r.bosh = local == "body"
	case inside == 0:
		r.word(h, local, empty)
	case inside == 1 && r.failure && local != "text":
		r.failure = false
		if condition(local) {
			r.Failed++
		}
	case inside == 1 && r.iqError && local == "query" && h.mayBe(nsIQAuth):
		r.refused = true
	case inside == 1 && r.iqError && local == "error":
		// Old servers send no condition. XEP-0086 has this code for not-authorized only.
		if code, _ := h.attr("code"); code == "401" {
			r.refuses(r.refused)
		}
	case inside == 2 && r.iqError && local == "not-authorized":
		r.refuses(r.refused)
	case inside == 1 && r.ending && local == string(NotAuthorized):
		// Over BOSH the attempt may be in another request, and the error cannot mean
		// anything else in a session that is logged in.
		r.refuses(r.Tried || r.bosh)
	case inside == 1 && r.ending && local == string(PolicyViolation):
		r.refuses(r.Tried)
	}
	if !empty {
		r.depth++
	}
}

// refuses handles an error that refuses a login if certain is true or the session asked.
func (r *LoginReader) refuses(certain bool) {
	if asked := r.Asked != nil && r.Asked(); asked || certain {
		r.Failed++
		r.Tried = false
	}
	r.iqError, r.refused, r.ending = false, false, false
}

// word handles the start of one of the server's own elements.
func (r *LoginReader) word(h head, local string, empty bool) {
	switch local {
	case "failure":
		switch {
		case !h.mayBe(nsSASL) && !h.mayBe(nsSASL2):
		case empty:
			r.Failed++
			r.Tried = false
		default:
			r.failure, r.Tried = true, false
		}
	case "error":
		r.ending = !empty && h.isStreamError()
	case "success":
		if h.mayBe(nsSASL) || h.mayBe(nsSASL2) {
			r.Succeeded, r.In = true, true
		}
	case "iq":
		switch kind, whole := h.attr("type"); {
		case kind == "error", !whole:
			// The client chooses the id. With a long one it cuts the tag before its
			// type, so the content of the iq also identifies an error.
			//
			// A BOSH answer may be for a client that is logged in, and for that client
			// such an error has another meaning. The answer must then contain the
			// question, or the session must have asked. Ids prove nothing: the client
			// may use one id for several questions.
			r.iqError, r.refused = !empty, !empty && !r.bosh
		case kind == "get", kind == "set":
			r.In = true
		}
	case "message", "presence":
		if kind, whole := h.attr("type"); whole && kind != "error" {
			r.In = true
		}
	}
}

// condition reports whether a failure with that condition (RFC 6120, section 6.5) means
// that the server checked the credentials and rejected them. These are
// "not-authorized", "account-disabled", which servers that lock an account send to
// clients that continue guessing, and every condition that the RFC does not define.
//
// Other conditions mean something else: the client gave up, or implements SASL wrongly,
// or uses a mechanism that is not accepted; the server's store is out of order, which
// affects all clients at once; the credentials are valid but too old, which a client
// with a stored token (XEP-0484) sees after each long absence.
func condition(local string) bool {
	switch local {
	case "aborted", "credentials-expired", "encryption-required", "incorrect-encoding", "invalid-authzid",
		"invalid-mechanism", "malformed-request", "mechanism-too-weak", "temporary-auth-failure":
		return false
	}
	return true
}

// attr returns the value of the attribute, or "". Whole is false if the tag is cut
// before the value is known.
func (h head) attr(want string) (value string, whole bool) {
	rest := h.attrs
	for {
		name, value, next, whole := nextAttr(rest)
		if !whole || name == nil {
			return "", whole
		}
		if string(name) == want {
			return string(value), true
		}
		rest = next
	}
}
