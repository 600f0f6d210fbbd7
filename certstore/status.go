package certstore

import (
	"cmp"
	"fmt"
	"maps"
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

// An Entry is one certificate as it stands for one name. A name has an entry
// for each certificate that is for it, and among those of one key family
// exactly one is chosen, unless a wildcard's is better than all of them.
type Entry struct {
	Name      string    `json:"name"`     // exact name or wildcard, in normal form
	Source    string    `json:"source"`   // SourceDirectory or SourceACME
	File      string    `json:"file"`     // where the leaf is from; empty for ACME
	KeyFile   string    `json:"key_file"` // where the private key is from; often the same
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	KeyType   string    `json:"key_type"` // "ECDSA P-256", "RSA 2048", "Ed25519"
	State     string    `json:"state"`    // StateOK, StateExpired, StateNotYetValid
	Chosen    bool      `json:"chosen"`   // a client that can use this key type gets it
	Why       string    `json:"why"`      // why it was chosen, or which one was chosen instead
	Kept      bool      `json:"kept"`     // the file now holds something worse; see Problems
	Staple    bool      `json:"staple"`   // a fresh OCSP response is served with it
}

// A Problem is a file that cannot be used as it is.
type Problem struct {
	File  string
	Err   error     // names the file too
	Since time.Time // when it was first seen
	Kept  bool      // the certificate that the file held before is still served
}

// Certificates returns all entries, ordered by name, key type and preference,
// as they stand now. The caller may keep and change them.
func (s *Store) Certificates() []Entry {
	t, now := s.table.Load(), time.Now()
	var out []Entry
	for _, name := range slices.SortedFunc(maps.Keys(t.exact), byLabels) {
		exact, wild := t.lookup(name)
		out = append(out, entries(name, exact, wild, now)...)
	}
	for _, rest := range slices.SortedFunc(maps.Keys(t.wild), byLabels) {
		out = append(out, entries("*."+rest, t.wild[rest], nil, now)...)
	}
	slices.SortStableFunc(out, func(a, b Entry) int {
		return byLabels(strings.TrimPrefix(a.Name, "*."), strings.TrimPrefix(b.Name, "*."))
	})
	return out
}

// byLabels orders names so that a domain stands together with what is below
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

// entries describes one name: a row for each of exact, judged beside wild.
func entries(name string, exact, wild []*certificate, now time.Time) []Entry {
	var out []Entry
	chosen := best(exact, wild, now)
	for f := range families {
		var rows []candidate
		for _, c := range exact {
			if c.family == f {
				rows = append(rows, candidate{c, false})
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
			if c.common {
				e.Why += "; the name is only its common name, which browsers do not accept"
			}
			if c.kept {
				e.Why += "; kept, for the file now holds something worse"
			}
			out = append(out, e)
		}
	}
	return out
}

func (c *certificate) entry(name string, now time.Time) Entry {
	return Entry{
		Name: name, Source: c.source, File: c.file, KeyFile: c.keyFile, Issuer: c.issuer,
		NotBefore: time.Unix(c.notBefore, 0).UTC(), NotAfter: time.Unix(c.notAfter, 0).UTC(),
		KeyType: c.kind, State: c.state(now), Kept: c.kept, Staple: c.staple.fresh(now),
	}
}

// where names a certificate in a message.
func (c *certificate) where() string {
	if c.file == "" {
		return "the one from " + c.source
	}
	return filepath.Base(filepath.Dir(c.file)) + "/" + filepath.Base(c.file)
}

// Problems returns the files that cannot be used as they are, ordered by
// name. Each stays until the file is mended or removed.
func (s *Store) Problems() []Problem { return slices.Clone(s.table.Load().problems) }
