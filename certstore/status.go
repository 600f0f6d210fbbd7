package certstore

import (
	"cmp"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// States of a certificate, as Entry.State shows them.
const (
	StateOK          = "ok"
	StateExpired     = "expired"
	StateNotYetValid = "not yet valid"
)

// An Entry describes one certificate for one name. A name has an entry for each
// of its certificates. Exactly one of each key family is chosen, unless a
// wildcard certificate is better than all of them.
type Entry struct {
	Name      string    `json:"name"`     // exact name or wildcard, in normal form
	Source    string    `json:"source"`   // SourceDirectory or SourceACME
	File      string    `json:"file"`     // path of the leaf's file; empty for ACME
	KeyFile   string    `json:"key_file"` // path of the private key's file; often the same
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	KeyType   string    `json:"key_type"` // "ECDSA P-256", "RSA 2048", "Ed25519"
	State     string    `json:"state"`    // StateOK, StateExpired, StateNotYetValid
	Chosen    bool      `json:"chosen"`   // a client that can use this key type gets it
	Why       string    `json:"why"`      // the reason for choosing it or the other one
	Kept      bool      `json:"kept"`     // the file now contains something worse; see Problems
	Staple    bool      `json:"staple"`   // a fresh OCSP response is served with it
}

// A Problem is a file that cannot be used as it is, or a certificate outside
// its validity period that is still served because nothing better exists.
type Problem struct {
	File  string    // empty for a certificate from ACME
	Err   error     // contains the file name as well
	Hint  string    // what to do; may be empty
	Since time.Time // first seen
	Kept  bool      // clients get the file's former contents, or an expired certificate

	logged bool
}

// Certificates yields all entries at the time of the call, ordered by name, key
// type and preference.
func (s *Store) Certificates() iter.Seq[Entry] {
	t, now := s.table(), time.Now()
	return func(yield func(Entry) bool) {
		var list []Entry // all of one name
		for _, name := range slices.SortedFunc(t.patterns(), byLabels) {
			same, wild := t.lookupPattern(name)
			list = appendEntries(list[:0], name, same, wild, now)
			for _, e := range list {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// byLabels puts a domain directly before its subdomains, and its wildcard after
// it.
func byLabels(a, b string) int {
	for {
		i, j := strings.LastIndexByte(a, '.'), strings.LastIndexByte(b, '.')
		if c := cmp.Compare(a[i+1:], b[j+1:]); c != 0 || i < 0 || j < 0 {
			return cmp.Or(c, cmp.Compare(i, j))
		}
		a, b = a[:i], b[:j]
	}
}

// appendEntries appends an entry for each certificate in exact, compared with
// those in wild.
func appendEntries(out []Entry, name string, exact, wild []named, now time.Time) []Entry {
	chosen := best(exact, wild, now)
	for f := range families {
		var rows []candidate
		for _, c := range exact {
			if c.family() == f {
				rows = append(rows, candidate{c.certificate, false})
			}
		}
		slices.SortFunc(rows, func(a, b candidate) int { order, _ := prefer(a, b, now); return order })
		for i, c := range rows {
			e := c.entry(name, now)
			switch first := chosen[f]; {
			case c.certificate != first.certificate:
				_, why := prefer(first, c, now)
				e.Why = fmt.Sprintf("%s goes first: %s", first.where(), why)
			case len(rows) > 1:
				e.Chosen = true
				_, why := prefer(c, rows[i+1], now)
				e.Why = fmt.Sprintf("before %s: %s", rows[i+1].where(), why)
			default:
				e.Chosen = true
				e.Why = "the only one for this name and key type"
			}
			if c.facts.Value().common {
				e.Why += "; the name is only its common name, which browsers do not accept"
			}
			if e.Chosen && !c.public() && !c.self() {
				e.Why += "; private CA"
			}
			if c.kept {
				e.Why += "; kept, because the file now holds a worse certificate"
			}
			out = append(out, e)
		}
	}
	return out
}

func (c *certificate) entry(name string, now time.Time) Entry {
	facts := c.facts.Value()
	return Entry{
		Name: name, Source: facts.source, File: c.file(), KeyFile: c.keyFile(), Issuer: facts.issuer,
		NotBefore: time.Unix(c.notBefore, 0).UTC(), NotAfter: time.Unix(c.notAfter, 0).UTC(),
		KeyType: facts.kind, State: c.state(now), Kept: c.kept, Staple: c.staple.fresh(now),
	}
}

// where returns the certificate's file or source, for a message.
func (c *certificate) where() string {
	if c.base == "" {
		return "the one from " + c.source()
	}
	return filepath.Base(c.dir) + "/" + c.base
}

// Problems returns all problems, ordered by file. Each one stays until the file is
// fixed or removed.
func (s *Store) Problems() []Problem { return slices.Clone(s.table().problems) }

// problems returns the problems of the next table, each with the time when it
// was first seen. It logs new and fixed ones; with hasty, new ones are not
// logged yet, because the file may be half written.
func (s *Store) problems(next *table, before []Problem, hasty bool) []Problem {
	now := time.Now()
	faults := slices.Clip(s.read.faults)
	for _, c := range next.untimely(now) {
		faults = append(faults, fault{path: c.file(), err: fmt.Errorf("certificate %s: %w; still served", c.quoted(), c.dateError(now)), kept: []*certificate{c}})
	}
	served := func(c *certificate) bool { return next.serves(c, false, now) }
	old := make(map[string]Problem, len(before))
	for _, p := range before {
		old[p.Err.Error()] = p
	}
	out := make([]Problem, 0, len(faults))
	for _, f := range faults {
		if slices.ContainsFunc(f.bad, served) {
			f.err = fmt.Errorf("%w; served all the same", f.err)
		} else if len(f.bad) > 0 {
			f.err = fmt.Errorf("%w; not used, because there is a better one", f.err)
		}
		p, known := old[f.err.Error()]
		if !known {
			p = Problem{File: f.path, Err: f.err, Hint: hintOf(f.err), Since: now}
		}
		p.Kept = slices.ContainsFunc(f.kept, served)
		if !p.logged && !hasty {
			p.logged = true
			args := []any{"file", f.path, "old_one_served", p.Kept}
			if p.Hint != "" {
				args = append(args, "hint", p.Hint)
			}
			s.log.Error("certificates: "+f.err.Error(), args...)
		}
		delete(old, f.err.Error())
		out = append(out, p)
	}
	for _, p := range old {
		if p.logged && !slices.ContainsFunc(out, func(q Problem) bool { return q.File == p.File }) {
			s.log.Info("certificates: file fixed or removed", "file", p.File)
		}
	}
	slices.SortFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Err.Error(), b.Err.Error()))
	})
	return out
}

func (c *certificate) quoted() string {
	if c.base == "" {
		first, _, _ := strings.Cut(string(c.names), " ")
		return fmt.Sprintf("for %q from %s", first, c.source())
	}
	return fmt.Sprintf("%q", c.file())
}

// Names returns the number of names and wildcards that have a certificate. It
// is cheaper than Certificates.
func (s *Store) Names() int { return s.table().size() }

// Empty reports whether the Store has no certificate at all. Every handshake
// then fails.
func (s *Store) Empty() bool { return len(s.table().all) == 0 }
