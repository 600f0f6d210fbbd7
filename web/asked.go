package web

import (
	"hash/maphash"
	"net/netip"
	"sync"

	"wssgate/fair"
)

const (
	askedSessions = 4096 // sessions with open logins; about 300 bytes each
	askedShare    = 8    // one address may have one in this many

	// askedIdle is how long a session keeps its place after its last request. An answer
	// arrives within boshWait, and servers end an idle session sooner.
	askedIdle = 2 * boshWait
)

// askedLogins are the open logins of BOSH sessions: a session asked for a
// jabber:iq:auth login (XEP-0078), and the server has not refused it yet. The refusal
// may come in any answer of the session, and does not always repeat the question.
//
// An error that may be the refusal closes an open login and counts as a failure; proof
// of a login closes all of them. A result closes none, because clients choose the ids
// and could make another result look like that of the login. So successful logins stay
// open until the proof, and until then as many unrelated errors can count as failures.
//
// A full table accepts no more sessions. It evicts none, because a client could then
// evict its own by means of invented sids.
//
// The key is the sid alone, without vhost and client address. Servers make it unique
// and hard to guess.
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

// add opens n logins. It returns false if there is no room.
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

// touch records a request of a session.
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

// drop closes all logins of a session that has logged in.
func (a *askedLogins) drop(sid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.sessions[maphash.String(a.seed, sid)]; e != nil {
		a.forget(e)
	}
}

// forget drops a session. The caller holds a.mu.
func (a *askedLogins) forget(e *fair.Entry[*askedSession]) {
	a.used.Remove(e)
	delete(a.sessions, e.Value.key)
}
