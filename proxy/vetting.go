package proxy

import "wssgate/xmpp"

// A vetting checks every later start tag of a client against the domains of its vhost. A
// client may open its stream again, as after SASL, and only the gate prevents it from
// naming another domain then. Tunnels of vhosts without domains have none.
type vetting struct {
	opens xmpp.LaterOpens
	kept  []byte // frames, from the first byte of an incomplete tag
	whole bool   // kept begins with a frame
}

// vet checks bytes of the client and their unmasked payload. It returns the bytes that may
// pass now, which include earlier ones; ok is false if the client was refused. With
// begins, wire begins with a frame.
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
	case held > len(payload), held == len(payload) && len(v.kept) > 0: // the tag began before these bytes
		return nil, t.keep(wire)
	}
	whole := begins && held == len(payload) && len(wire)-held <= maxHeader
	if whole {
		held = len(wire) // the tag begins with its frame, so control frames may pass before it
	}
	pass = append(v.kept, wire[:len(wire)-held]...)
	v.kept, v.whole = nil, whole
	return pass, t.keep(wire[len(wire)-held:])
}

// keep adds to the kept bytes. It returns false if they are too many; the client was then
// refused.
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
	case t.greetBy == 0: // the rest has as much time as a first tag
		t.greetBy = t.client.sock.turn.now + greetingTimeout
	}
	return true
}

// openedStream returns the client's open stream.
func (t *tunnel) openedStream() xmpp.Stream {
	return xmpp.Stream{Framing: t.stream.framing, Opened: t.stream.opened}
}

// passOn gives the upstream a piece that the client sent after its first start tag.
func (t *tunnel) passOn(p *piece) {
	if t.ignoresClient() {
		return
	}
	if pass, ok := t.vetted(p); ok {
		t.toUpstream(pass)
	}
}

// vetted is vet for a piece. Without a vetting, everything passes.
func (t *tunnel) vetted(p *piece) (pass []byte, ok bool) {
	switch v := t.vetting; {
	case v == nil:
		return p.wire, true
	case p.control() && len(v.kept) > 0 && !v.whole: // it must not be inside a frame
		return nil, t.keep(p.wire)
	case p.control():
		return p.wire, true
	}
	w := t.client.sock.turn
	w.clear = p.unmasked(w.clear[:0])
	return t.vet(p.wire, w.clear, p.at == 0)
}

// judgeDomain checks the domain of a start tag; a nil error means that it is allowed.
func (t *tunnel) judgeDomain(open *xmpp.Open) (reason, error) {
	domain, err := open.Domain()
	if err != nil {
		return reasonBadStream, err
	}
	return reasonHostUnknown, t.info.vhost.AllowsDomain(domain)
}

// refuseAgain ends a stream because of a later start tag.
func (t *tunnel) refuseAgain(why reason, s xmpp.Stream, err error) {
	t.client.err, t.vetting.kept = err, nil
	condition, text := conditionOf(why, err)
	t.endStream(why, s.Error(condition, text))
}
