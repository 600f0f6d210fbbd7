package web

import (
	"hash/maphash"
	"net/netip"
	"sync"

	"wssgate/fair"
)

const (
	askedSessions = 4096 // that may have open logins; about 300 bytes each
	askedShare    = 8    // one address may have this part of them

	// askedIdle is how long a session keeps its place after its last request. The answer
	// comes within boshWait, and servers end a session that sends no requests for
	// less than that.
	askedIdle = 2 * boshWait
)

// askedLogins are the logins of jabber:iq:auth (XEP-0078) that sessions of BOSH have
// asked for and the server has not refused. They are open. The refusal may come in any
// answer of the session, and does not always repeat the question.
//
// An open login is closed by an error that may refuse it, which then counts, and by
// a proof that somebody is logged in. A result closes none: clients choose the ids, and
// so can have another result look like that of the login. The logins that succeed
// therefore stay open until that proof, and until then as many errors of other kinds can
// count.
//
// A full table takes no further session. It pushes none out, because a client could do
// that to its own with a sid that it invents.
//
// Sessions are known by their sid alone, whatever the vhost and the client's address.
// Servers make it unique, and hard to guess.
type askedLogins struct {
	seed maphash.Seed

	mu       sync.Mutex
	sessions map[uint64]*fair.Entry[*askedSession]
	used     fair.Set[*askedSession] // in the order of their last request
}

// An askedSession has open logins.
type askedSession struct {
	key   uint64
	owner netip.Addr
	open  int
}

func newAskedLogins() *askedLogins {
	return &askedLogins{seed: maphash.MakeSeed(), sessions: map[uint64]*fair.Entry[*askedSession]{}}
}

// add opens n logins, and reports false where there is no room.
func (a *askedLogins) add(sid string, owner netip.Addr, n int) bool {
	key := maphash.String(a.seed, sid)
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.sessions[key]; e != nil {
		e.Value.open += n
		return true
	}
	for e := a.used.GivesWay(owner, askedSessions, askedIdle); e != nil; e = a.used.GivesWay(owner, askedSessions, askedIdle) {
		a.forget(e)
	}
	if a.used.Len() >= askedSessions || a.used.Of(owner) >= askedSessions/askedShare {
		return false
	}
	a.sessions[key] = a.used.Add(owner, &askedSession{key, owner, n})
	return true
}

// touch notes a request of a session.
func (a *askedLogins) touch(sid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.sessions[maphash.String(a.seed, sid)]; e != nil {
		a.used.Remove(e)
		a.sessions[e.Value.key] = a.used.Add(e.Value.owner, e.Value)
	}
}

// take closes one login, and reports whether one was open.
func (a *askedLogins) take(sid string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.sessions[maphash.String(a.seed, sid)]
	if e == nil {
		return false
	}
	if e.Value.open--; e.Value.open == 0 {
		a.forget(e)
	}
	return true
}

// drop closes all of a session's, for somebody is logged in.
func (a *askedLogins) drop(sid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.sessions[maphash.String(a.seed, sid)]; e != nil {
		a.forget(e)
	}
}

// forget drops a session; a.mu is held.
func (a *askedLogins) forget(e *fair.Entry[*askedSession]) {
	a.used.Remove(e)
	delete(a.sessions, e.Value.key)
}
