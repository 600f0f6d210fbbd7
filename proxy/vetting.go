package proxy

import "wssgate/xmpp"

// A vetting holds every start tag of a client behind the first one against its
// vhost's domains, where that has any: a client may open its stream again, as after
// SASL, and nothing but the gate keeps it from naming another domain then.
type vetting struct {
	opens xmpp.LaterOpens
	kept  []byte // frames, from the first byte of a tag on that is not whole yet
	whole bool   // kept begins with a frame
}

// vet takes bytes of the client's, and the payload in them in the clear. It returns
// what may go on now, earlier bytes included; ok is false where the client was
// refused for what it said. With begins, wire begins with a frame.
func (t *tunnel) vet(wire, payload []byte, begins bool) (pass []byte, ok bool) {
	v := t.vetting
	for rest := payload; len(rest) > 0; {
		n, open, found, err := v.opens.Feed(rest)
		switch {
		case err != nil:
			t.refuseAgain(reasonBadStream, t.openedStream(), err)
			return nil, false
		case found:
			if why, err := t.judgeDomain(&open); err != nil {
				t.refuseAgain(why, open.Reply(), err)
				return nil, false
			}
		}
		rest = rest[n:]
	}
	held := v.opens.Held()
	switch {
	case held == 0 && len(v.kept) == 0:
		return wire, true
	case held > len(payload), held == len(payload) && len(v.kept) > 0: // it began before these
		return nil, t.keep(wire)
	}
	whole := begins && held == len(payload) && len(wire)-held <= maxHeader
	if whole {
		held = len(wire) // it begins with its frame: what comes between may pass
	}
	pass = append(v.kept, wire[:len(wire)-held]...)
	v.kept, v.whole = nil, whole
	return pass, t.keep(wire[len(wire)-held:])
}

// keep adds to what is kept. It reports false where that is too much, and the client
// was refused for it.
func (t *tunnel) keep(wire []byte) bool {
	v := t.vetting
	v.kept = append(v.kept, wire...)
	switch {
	case len(v.kept) > maxGreeting:
		t.refuseAgain(reasonBadStream, t.openedStream(), errTooLong)
		return false
	case t.stage != stageOver:
	case len(v.kept) == 0:
		t.greetBy = 0
	case t.greetBy == 0: // the rest is due as a first tag is
		t.greetBy = t.client.sock.turn.now + greetingTimeout
	}
	return true
}

// openedStream is the stream that the client has.
func (t *tunnel) openedStream() xmpp.Stream {
	return xmpp.Stream{Framing: t.stream.framing, Opened: t.stream.opened}
}

// passOn gives the upstream a piece of what the client sends behind its first start
// tag.
func (t *tunnel) passOn(p *piece) {
	if t.ignoresClient() {
		return
	}
	if pass, ok := t.vetted(p); ok {
		t.toUpstream(pass)
	}
}

// vetted is vet for a piece, where there is anything to vet.
func (t *tunnel) vetted(p *piece) (pass []byte, ok bool) {
	switch v := t.vetting; {
	case v == nil:
		return p.wire, true
	case p.control() && len(v.kept) > 0 && !v.whole: // it may not stand in a frame
		return nil, t.keep(p.wire)
	case p.control():
		return p.wire, true
	}
	w := t.client.sock.turn
	w.clear = p.unmasked(w.clear[:0])
	return t.vet(p.wire, w.clear, p.at == 0)
}

// judgeDomain says why a start tag may not name the domain that it does; nil: it may.
func (t *tunnel) judgeDomain(open *xmpp.Open) (reason, error) {
	domain, err := open.Domain()
	if err != nil {
		return reasonBadStream, err
	}
	return reasonHostUnknown, t.info.vhost.AllowsDomain(domain)
}

// refuseAgain ends a stream for a later start tag.
func (t *tunnel) refuseAgain(why reason, s xmpp.Stream, err error) {
	t.client.err, t.vetting.kept = err, nil
	condition, text := conditionOf(why, err)
	t.endStream(why, s.Error(condition, text))
}
