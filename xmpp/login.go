package xmpp

import "bytes"

// maxLoginTag bounds what a [LoginReader] keeps of a tag that is cut. What
// tells a tag's meaning stands at its beginning, unless the client saw to it that
// it does not.
const maxLoginTag = 1 << 10 // bytes

// A LoginReader finds out how logins end in what a server sends: SASL (RFC
// 6120, section 6), SASL 2 (XEP-0388), and the jabber:iq:auth of old
// (XEP-0078), in a message of a WebSocket in either framing or in the body of
// a BOSH answer. It looks at tags only, and only at those that stand where the
// server's own words do: what a stanza has inside may be another client's.
//
// The zero value is ready. It is for one message, or one answer.
type LoginReader struct {
	// Failed counts the logins that failed because of what they were made
	// with. The function condition says which do.
	Failed int
	// Succeeded is true after <success/>.
	Succeeded bool
	// In is true once it is clear that somebody is logged in, by <success/>
	// or by a stanza that only those get. What follows is not looked at. An
	// error proves nothing: servers answer stanzas with it before the login too.
	In bool

	// Asked takes one of the logins of jabber:iq:auth that the session of a BOSH
	// answer has asked for and had no refusal for, and reports whether there was one.
	// It is called for an error that may be that refusal. Nil: there are none.
	Asked func() bool

	depth   int     // of elements that are open
	around  int     // of those, what is around the server's words: <stream:stream>, BOSH's <body>
	failure bool    // within a <failure/> of which the condition is still to come
	bosh    bool    // what is around is <body>
	iqError bool    // within an <iq type='error'/>
	refused bool    // within one that answers a login, as far as it can tell
	cut     []byte  // a tag that is not whole yet
	slash   bool    // the last byte of cut, kept or not, is "/"
	quote   byte    // within an attribute's value
	ends    []byte  // what ends the CDATA section or comment that is passed over
	last    [2]byte // the bytes before, while that is looked for
}

// Feed reads the next bytes, which it does not keep.
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

// Failing reports whether a <failure/> is under way of which the condition is still to
// come.
func (r *LoginReader) Failing() bool { return r.failure }

// End says that there is no more. A <failure/> that was cut counts: most are
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

// readTag takes a tag off b, which begins with it or goes on with the one that
// was cut.
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

// begins reports whether what was cut and b are start together.
func (r *LoginReader) begins(b []byte, start string) bool {
	n := len(r.cut)
	return n+len(b) == len(start) && string(r.cut) == start[:n] && string(b) == start[n:]
}

func (r *LoginReader) keep(b []byte) {
	r.cut = append(r.cut, b[:min(len(b), maxLoginTag-len(r.cut))]...)
}

// skip passes over a CDATA section or a comment.
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

// tag acts on one tag, from its "<" to its ">" or to where it was cut.
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
			r.iqError, r.refused = false, false
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
	case inside == 2 && r.iqError && local == "not-authorized":
		if asked := r.Asked != nil && r.Asked(); asked || r.refused {
			r.Failed++
		}
		r.iqError, r.refused = false, false
	}
	if !empty {
		r.depth++
	}
}

// word acts on the start of one of the server's own words.
func (r *LoginReader) word(h head, local string, empty bool) {
	switch local {
	case "failure":
		switch {
		case !h.mayBe(nsSASL) && !h.mayBe(nsSASL2):
		case empty:
			r.Failed++
		default:
			r.failure = true
		}
	case "success":
		if h.mayBe(nsSASL) || h.mayBe(nsSASL2) {
			r.Succeeded, r.In = true, true
		}
	case "iq":
		switch kind, whole := h.attr("type"); {
		case kind == "error", !whole:
			// The client chooses the id, and with a long one cuts the tag before
			// its type. What such an iq has inside tells an error, too.
			//
			// Each answer of BOSH may be one to somebody who is logged in, and
			// to those such an error says other things. There the answer must
			// have the question in it, or the session have asked. Ids can't tell:
			// the client may give several of its questions the same one.
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

// condition reports whether a failure with that condition (RFC 6120, section
// 6.5) is one of the credentials: they were looked at, and did not open the
// account. That is "not-authorized", "account-disabled", with which servers
// that lock an account answer those who guess on, and every word that is not
// of the RFC.
//
// What is left says something else: the client gave up, or does SASL wrong,
// or has a mechanism that is not wanted; the server's store is out of order,
// which is everybody's trouble at once; the credentials were the right ones
// but are too old, which a client with a stored token (XEP-0484) meets after
// each long absence.
func condition(local string) bool {
	switch local {
	case "aborted", "credentials-expired", "encryption-required", "incorrect-encoding", "invalid-authzid",
		"invalid-mechanism", "malformed-request", "mechanism-too-weak", "temporary-auth-failure":
		return false
	}
	return true
}

// attr returns the value of the attribute, or "". Whole is false where the tag is
// cut before that is known.
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
