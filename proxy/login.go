package proxy

import (
	"time"

	"wssgate/xmpp"
)

// heardLogin follows the results of logins in a piece of an upstream's message. If a login
// ends while its address is refused, the tunnel ends before its client learns the result,
// and heardLogin returns true. So an attacker learns nothing then, on any number of
// tunnels.
func (t *tunnel) heardLogin(p *piece) (refused bool) {
	if t.stream.loggedIn || p.control() || t.why != reasonNone || t.info == nil || !t.info.suspect.IsValid() || !t.info.vhost.XMPP() {
		return false
	}
	if p.begins() {
		t.stream.login = &xmpp.LoginReader{Tried: t.stream.tried}
	}
	r := t.stream.login
	if r == nil {
		return false
	}
	before, tried := r.Failed, r.Tried
	if r.Feed(p.payload); t.upstream.scan.betweenMessages() || r.Failing() {
		r.End()
	}
	if r.In || t.upstream.scan.betweenMessages() {
		t.stream.login = nil
	}
	t.stream.loggedIn = r.In
	if tried && !r.Tried {
		t.stream.tried = false
	}
	failed := r.Failed - before
	if failed == 0 && !r.Succeeded {
		return false
	}
	guard, now := t.shared.guard, t.client.sock.turn.now
	slow, banned := guard.judge(t.info.suspect, failed, t.info.client, t.info.serverName)
	switch {
	case banned > 0:
		guard.refused[guardedTunnel].Add(1)
		t.withhold(p)
		if t.endFor(reasonLoginFailures, now+closeTimeout); t.closeWanted { // another message is incomplete
			t.cutOff()
		}
		return true
	case slow > 0:
		t.rest(now + slow)
	}
	return false
}

// withhold keeps a piece and the rest of its message from the client. If the client has
// received a part of the message, it gets nothing more at all, not even a Close frame.
func (t *tunnel) withhold(p *piece) {
	switch boundary, between := t.clientBefore(p); {
	case t.stage == stageAnswer && t.answering:
		t.greeting.answers = t.greeting.answers[:t.greeting.whole]
	case boundary && between:
		t.pend, t.answering = nil, true
	default:
		t.client.closeSent = true
		t.cutOff()
	}
}

// slowLogin makes a new tunnel wait because of failures on others: it is not read,
// except for data that came with its request.
func (t *tunnel) slowLogin(w *turn) {
	if t.info == nil || !t.info.suspect.IsValid() || t.info.elsewhere != "" {
		return
	}
	if _, slow := t.shared.guard.state(t.info.suspect, time.Now()); slow > 0 {
		t.rest(w.now + slow)
		if t.greetBy != 0 {
			t.greetBy += slow
		}
	}
}
