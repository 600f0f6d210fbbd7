package chat

import (
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"
)

// resumeFor is how long a session waits to be resumed (XEP-0198).
const resumeFor = time.Minute

// A router knows all sessions of a Server and passes stanzas between them.
type router struct {
	mu        sync.Mutex
	accounts  map[string]map[string]*session // bare JID → resource → session
	resumable map[string]*session            // XEP-0198 id → session
}

// A session is a bound resource. It outlives its conn where it may be resumed.
// Lock order: router, session, conn's queue.
type session struct {
	account, resource, jid string

	mu      sync.Mutex
	conn    *Conn // nil while it waits to be resumed
	id      string
	managed bool // XEP-0198 counts are kept
	in, out uint32
	unacked []string // the newest of out
	expiry  *time.Timer
}

// bind makes a session; one that had the resource loses it (RFC 6120, 7.7.2.2).
func (r *router) bind(c *Conn, account, resource string) *session {
	ses := &session{account: account, resource: resource, jid: account + "/" + resource, conn: c}
	r.mu.Lock()
	resources := r.accounts[account]
	if resources == nil {
		resources = map[string]*session{}
		r.accounts[account] = resources
	}
	old := resources[resource]
	resources[resource] = ses
	r.mu.Unlock()
	if old != nil {
		r.remove(old)
		old.replaced()
	}
	return ses
}

// replaced tells the conn of a session that lost its resource.
func (ses *session) replaced() {
	ses.mu.Lock()
	c := ses.conn
	ses.conn = nil
	ses.mu.Unlock()
	if c != nil {
		c.streamError(c.framing.Load(), "conflict", "")
		c.end(FIN)
	}
}

// remove forgets a session for good.
func (r *router) remove(ses *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if r.accounts[ses.account][ses.resource] == ses {
		delete(r.accounts[ses.account], ses.resource)
		if len(r.accounts[ses.account]) == 0 {
			delete(r.accounts, ses.account)
		}
	}
	if ses.id != "" && r.resumable[ses.id] == ses {
		delete(r.resumable, ses.id)
	}
	if ses.expiry != nil {
		ses.expiry.Stop()
	}
}

// detach is called when conn c of a session has ended.
func (r *router) detach(ses *session, c *Conn) {
	ses.mu.Lock()
	if ses.conn != c { // resumed elsewhere, or replaced
		ses.mu.Unlock()
		return
	}
	ses.conn = nil
	waits := ses.id != ""
	if waits {
		ses.expiry = time.AfterFunc(resumeFor, func() { r.remove(ses) })
	}
	ses.mu.Unlock()
	if !waits {
		r.remove(ses)
	}
}

// enable turns XEP-0198 on and says so.
func (r *router) enable(ses *session, resume bool, node string) {
	answer := "<enabled" + attr("xmlns", nsSM)
	r.mu.Lock()
	ses.mu.Lock()
	ses.managed, ses.in, ses.out, ses.unacked = true, 0, 0, nil
	if resume {
		if ses.id == "" {
			ses.id = rand.Text()
			r.resumable[ses.id] = ses
		}
		answer += attr("id", ses.id) + attr("resume", "true") + attr("max", fmt.Sprint(int(resumeFor.Seconds())))
	}
	if ses.conn != nil {
		ses.conn.Send(answer + attr("location", node) + "/>")
	}
	ses.mu.Unlock()
	r.mu.Unlock()
}

// resume gives the session of that id to c, and what the peer has not had,
// or returns nil.
func (r *router) resume(c *Conn, id, account string, h uint32) *session {
	r.mu.Lock()
	ses := r.resumable[id]
	r.mu.Unlock()
	if ses == nil || ses.account != account {
		return nil
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.expiry != nil && !ses.expiry.Stop() {
		return nil
	}
	ses.expiry = nil
	if old := ses.conn; old != nil && old != c {
		old.end(FIN) // it is the same client, and a second session of it is not
	}
	ses.conn = c
	ses.ack(h)
	c.Send(fmt.Sprintf("<resumed xmlns='%s' previd='%s' h='%d'/>", nsSM, Escape(id), ses.in))
	for _, stanza := range ses.unacked {
		c.Send(stanza)
	}
	return ses
}

// deliver sends a stanza to the session's client, now or when it is resumed.
func (ses *session) deliver(stanza string) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.managed {
		ses.out++
		ses.unacked = append(ses.unacked, stanza)
	}
	if ses.conn != nil {
		ses.conn.Send(stanza)
	}
}

func (ses *session) received() {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.in++
}

func (ses *session) handled() uint32 {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return ses.in
}

func (ses *session) acked(h uint32) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.ack(h)
}

// ack forgets what the peer has had. mu is held.
func (ses *session) ack(h uint32) {
	if waiting := ses.out - h; int(waiting) <= len(ses.unacked) { // modulo 2^32, as the XEP counts
		ses.unacked = ses.unacked[len(ses.unacked)-int(waiting):]
	}
}

// close forgets all sessions.
func (r *router) close() {
	r.mu.Lock()
	var all []*session
	for _, resources := range r.accounts {
		for _, ses := range resources {
			all = append(all, ses)
		}
	}
	r.mu.Unlock()
	for _, ses := range all {
		r.remove(ses)
	}
}

// find returns the sessions that a JID means: one of a full JID, all of a bare
// one.
func (r *router) find(jid string) []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	account := bare(jid)
	if len(jid) > len(account) {
		if ses := r.accounts[account][jid[len(account)+1:]]; ses != nil {
			return []*session{ses}
		}
		return nil
	}
	var all []*session
	for _, ses := range r.accounts[account] {
		all = append(all, ses)
	}
	slices.SortFunc(all, func(a, b *session) int {
		if a.jid < b.jid {
			return -1
		}
		return 1
	})
	return all
}

// route passes a stanza on, or answers it.
func (r *router) route(st *stream, e *Element) {
	ses, to := st.session, e.Attr("to")
	toServer := to == "" || to == ses.account || st.c.s.serves(to)
	if e.Name == "iq" && toServer {
		r.serverIQ(ses, e)
		return
	}
	if e.Name == "presence" && to == "" {
		for _, other := range r.find(ses.account) {
			other.deliver(e.from(ses.jid))
		}
		return
	}
	if to == "" {
		to = ses.account
	}
	found := r.find(to)
	switch {
	case len(found) > 0:
		stanza := e.from(ses.jid)
		for _, other := range found {
			other.deliver(stanza)
		}
	case e.Name == "presence" || e.Attr("type") == "error" || e.Attr("type") == "result":
	case !st.c.s.serves(domainOf(to)):
		ses.deliver(stanzaError(e, to, ses.jid, "remote-server-not-found"))
	default:
		ses.deliver(stanzaError(e, to, ses.jid, "service-unavailable"))
	}
}

// serverIQ answers what is asked of the server or the account.
func (r *router) serverIQ(ses *session, e *Element) {
	if t := e.Attr("type"); t != "get" && t != "set" {
		return
	}
	result := "<iq" + attr("xmlns", nsClient) + attr("type", "result") + attr("from", e.Attr("to")) +
		attr("to", ses.jid) + attr("id", e.Attr("id"))
	switch q := e.first(); {
	case q.Space == nsSession || q.Space == nsPing:
		ses.deliver(result + "/>")
	case q.Space == nsRoster && e.Attr("type") == "get":
		ses.deliver(result + "><query" + attr("xmlns", nsRoster) + "/></iq>")
	default:
		ses.deliver(stanzaError(e, e.Attr("to"), ses.jid, "service-unavailable"))
	}
}

// stanzaError answers e with an error (RFC 6120, 8.3).
func stanzaError(e *Element, from, to, condition string) string {
	return "<" + e.Name + attr("xmlns", nsClient) + attr("type", "error") + attr("from", from) + attr("to", to) +
		attr("id", e.Attr("id")) + "><error type='cancel'><" + condition + attr("xmlns", nsStanzas) + "/></error></" + e.Name + ">"
}
