package certstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unique"
)

// A fault is the reason why a file cannot be used.
type fault struct {
	path string
	err  error
	kept []*certificate // certificates that the file held before; the table knows whether they are served
	bad  []*certificate // certificates that it holds now, with a flaw

	lonely publicID // of a private key whose certificate is not in its own folder
}

// A located is a private key with the path of its file. Messages show the path
// relative to the leaf's folder.
type located struct {
	*keyPart
	name   string
	leaves []*certificate
}

// pairing combines the contents of one folder's files. It covers all layouts: a
// leaf belongs to the matching private key, in any file of the folder. Its
// chain comes from its own file first, then from the other issuers in the
// folder.
type pairing struct {
	*folder
	tree    *tree
	now     time.Time
	before  map[string][]*certificate // see gave; nil until needed
	staples bool                      // the folder has OCSP responses
	idled   int                       // length of idle before
	out     []*certificate
	faults  map[string]*fault // by file; nil: not known yet whether it is a fault
}

// pair starts to compute what the folder provides; decide completes it.
// Unchanged certificates keep their identity, and so their parsed form.
func (f *folder) pair(t *tree, now time.Time) *pairing {
	p := &pairing{folder: f, tree: t, now: now, faults: map[string]*fault{}}
	p.out = make([]*certificate, 0, len(f.out)+1)
	p.idled = len(f.idle)
	f.idle, f.asked = nil, false
	var loose []*file
	for i := range f.files {
		file := &f.files[i]
		if file.err != nil {
			p.fail(file.name, file.err)
		}
		file.fresh = false
		isLoose := false
		for _, part := range file.parts {
			switch part := part.(type) {
			case *certificate:
				p.out = append(p.out, part)
			case ocspPart:
				p.staples = true
			case foreignPart:
				p.foreign(file.name, part)
			default:
				isLoose = true
			}
		}
		if isLoose {
			loose = append(loose, file)
		}
	}
	if len(loose) > 0 {
		p.match(loose)
	}
	return p
}

// decide completes what pair has found and tree.judge has judged.
func (p *pairing) decide() {
	f, now := p.folder, p.now
	for _, c := range p.out { // includes those from match
		if c.flaw != nil {
			p.fail(c.base, c.flaw)
		}
		if _, failed := p.faults[c.base]; !failed && !c.timely(now) {
			p.faults[c.base] = nil // keepBetter decides whether this is a fault
		}
	}
	if p.staples {
		p.addStaples()
	}
	p.keepBetter()
	f.due = math.MaxInt64
	for _, c := range p.out {
		if fault := p.faults[c.base]; fault != nil && len(fault.kept) == 0 && c.flaw != nil {
			fault.bad = append(fault.bad, c)
		}
		if c.links.until >= now.Unix() {
			f.due = min(f.due, c.links.until+1)
		}
	}
	f.out, f.faults = p.out, nil
	for _, name := range slices.Sorted(maps.Keys(p.faults)) {
		if fault := p.faults[name]; fault != nil {
			f.faults = append(f.faults, *fault)
		}
	}
}

// gave returns the certificates that the folder provided before for the leaves
// in a file.
func (p *pairing) gave(base string) []*certificate {
	if p.before == nil {
		p.before = map[string][]*certificate{}
		for _, c := range p.folder.out {
			p.before[c.base] = append(p.before[c.base], c)
		}
	}
	return p.before[base]
}

func (p *pairing) fail(name string, err error) {
	if p.faults[name] == nil { // the first fault causes the others
		path := filepath.Join(p.path, name)
		p.faults[name] = &fault{path: path, err: fmt.Errorf("%s %q: %w", fileKind(name), path, err)}
	}
}

// foreign records a file that has nothing to use. That is a fault if the file
// was in use before.
func (p *pairing) foreign(name string, part foreignPart) {
	if p.gave(name) != nil {
		p.fail(name, advice{fmt.Errorf("is now %s", part.why), part.hint})
		return
	}
	part.name = name
	p.idle = append(p.idle, passed(part))
}

// match finds a key for each leaf whose own file has none.
func (p *pairing) match(loose []*file) {
	keys := make(map[publicID]*located, len(loose))
	order := make([]*located, 0, len(loose))
	from := issuers{}
	for _, file := range loose {
		for _, part := range file.parts {
			switch part := part.(type) {
			case *keyPart:
				if keys[part.id] == nil {
					keys[part.id] = &located{keyPart: part, name: file.name}
					order = append(order, keys[part.id])
				}
			case unique.Handle[issuer]:
				from.add(part)
			}
		}
	}
	whole := p.out[:len(p.out):len(p.out)] // from files that hold leaf and key
	own := map[publicID]*certificate{}
	for _, c := range whole {
		own[c.id] = c
	}
	blamed := map[string]bool{} // key files already reported as belonging to another certificate
	for _, file := range loose {
		for _, part := range file.parts {
			leaf, ok := part.(*leafPart)
			if !ok {
				continue
			}
			k := keys[leaf.id]
			c := own[leaf.id]
			if c != nil && c.flaw == nil && c.leaf.equal(leaf.leaf) {
				continue // such as cPanel's certificates beside combined
			}
			if k == nil && c != nil {
				k = &located{keyPart: &keyPart{c.key, c.id, c.readable}, name: c.keyBase}
			}
			if k == nil {
				k = p.abroad(leaf.id)
			}
			if k != nil && keys[leaf.id] == nil {
				keys[leaf.id] = k
				order = append(order, k)
			}
			if k == nil {
				if !leaf.optional || p.gave(leaf.base) != nil {
					partner, err := p.keyless(file)
					blamed[partner] = true
					p.fail(file.name, err)
				}
				continue
			}
			leaf.pair(k.keyPart, k.name, from, p.now)
			if leaf.ownFlaw != nil { // even if a copy without the flaw is served
				p.fail(file.name, leaf.ownFlaw)
			}
			k.leaves = append(k.leaves, leaf.certificate)
		}
	}
	for _, k := range order {
		p.out = append(p.out, withoutCopies(k.leaves)...)
		if k.leaves == nil && !blamed[k.name] && own[k.id] == nil {
			p.lonely(k.keyPart, k.name, from)
		}
	}
}

// lonely judges a private key whose folder has no certificate for it.
func (p *pairing) lonely(k *keyPart, name string, from issuers) {
	switch {
	case p.gave(name) != nil:
	case from.have(k.id):
		p.idle = append(p.idle, passed{name, whyAuthority, ""})
		return
	case isAccountKey(name), len(p.out) == 0 && hasAccounts(p.tree.root, p.path):
		p.idle = append(p.idle, passed{name, whyAccount, ""})
		return
	}
	p.fail(name, errors.New("no certificate for this private key in the folder"))
	if p.gave(name) == nil {
		p.faults[name].lonely = k.id
	}
}

// abroad returns the private key from another folder of the tree, or nil.
func (p *pairing) abroad(id publicID) *located {
	p.asked = true
	k, ok := p.tree.keyring()[id]
	if !ok {
		return nil
	}
	name, err := filepath.Rel(p.path, k.name)
	if err != nil {
		return nil
	}
	return &located{keyPart: k.keyPart, name: name}
}

// keyring returns the private keys of all folders that have a file of their
// own, with its path. Only leaves without a key in their folder need them:
// cPanel, easy-rsa and Debian separate the folders of certificates and keys.
func (t *tree) keyring() map[publicID]located {
	if t.ring != nil {
		return t.ring
	}
	t.ring = map[publicID]located{}
	for path, f := range t.folders {
		for i := range f.files {
			for _, part := range f.files[i].parts {
				k, ok := part.(*keyPart)
				if !ok {
					continue
				}
				name := filepath.Join(path, f.files[i].name)
				if have, ok := t.ring[k.id]; !ok || name < have.name {
					t.ring[k.id] = located{keyPart: k, name: name}
				}
			}
		}
	}
	return t.ring
}

// withoutCopies keeps one certificate for each leaf, the one with the longest
// chain. certbot, for example, writes each leaf to cert.pem and to
// fullchain.pem.
func withoutCopies(certs []*certificate) []*certificate {
	if len(certs) == 1 {
		return certs
	}
	type looks struct { // enough to tell most leaves apart; one key may have thousands
		names               names
		notBefore, notAfter int64
	}
	alike := make(map[looks][]int, len(certs)) // indexes into out
	var out []*certificate
next:
	for _, c := range certs {
		l := looks{c.names, c.notBefore, c.notAfter}
		for _, i := range alike[l] {
			have := out[i]
			if !c.leaf.equal(have.leaf) {
				continue
			}
			if len(c.chain.Value()) > len(have.chain.Value()) ||
				c.chain == have.chain && (c.flaw == nil && have.flaw != nil || (c.flaw == nil) == (have.flaw == nil) && c.base == "fullchain.pem") {
				out[i] = c
			}
			continue next
		}
		alike[l] = append(alike[l], len(out))
		out = append(out, c)
	}
	return out
}

// keyless explains why the leaf in a file has no key. It names the file in
// which an operator would look for it.
func (p *pairing) keyless(file *file) (partner string, err error) {
	name := file.name
	if file.hasKey() {
		return name, errors.New("its private key belongs to another certificate")
	}
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	for _, partner := range []string{stem + ".key", name + ".key", stem + "-key.pem", stem + ".key.pem", "privkey.pem", "key.pem", "tls.key"} {
		file := p.files.get(partner)
		switch {
		case file == nil:
		case file.err != nil:
			return partner, fmt.Errorf("private key %q: %w", filepath.Join(p.path, partner), file.err)
		case file.is(whyEncrypted) != nil:
			return partner, advice{fmt.Errorf("private key %q is encrypted", filepath.Join(p.path, partner)), file.is(whyEncrypted).hint}
		case file.hasKey():
			return partner, fmt.Errorf("private key %q belongs to another certificate", filepath.Join(p.path, partner))
		}
	}
	return "", errors.New("no private key for it in the folder")
}

// is returns the file's only part if that is foreign for this reason. Otherwise
// it returns nil.
func (f *file) is(why string) *foreignPart {
	if len(f.parts) == 1 {
		if part, ok := f.parts[0].(foreignPart); ok && part.why == why {
			return &part
		}
	}
	return nil
}

// hasKey reports whether the file holds a private key without its leaf.
func (f *file) hasKey() bool {
	return slices.ContainsFunc(f.parts, func(part part) bool { _, ok := part.(*keyPart); return ok })
}

// ocsp returns the contents of the file if it is an OCSP response, or nil.
func (f *file) ocsp() []byte {
	if f == nil || len(f.parts) == 0 {
		return nil
	}
	response, _ := f.parts[0].(ocspPart)
	return response
}

// addStaples attaches NAME.ocsp to the certificate from NAME.pem, NAME.crt or
// another file called NAME with an extension. NAME.pem.ocsp works, too. If
// NAME.pem has several certificates, for ECDSA and RSA, the response belongs to
// one of them.
func (p *pairing) addStaples() {
	took := map[string]bool{} // by file of the response
	refused := map[string]error{}
	for i, c := range p.out {
		for _, name := range []string{strings.TrimSuffix(c.base, filepath.Ext(c.base)) + ".ocsp", c.base + ".ocsp"} {
			response := p.files.get(name).ocsp()
			if response == nil {
				continue
			}
			next := p.stapled(c, response)
			if next == nil {
				s, err := newStaple(c, response)
				if err != nil {
					if refused[name] == nil {
						refused[name] = err
					}
					continue
				}
				next = c.copy()
				next.staple = s
			}
			p.out[i], took[name] = next, true
			break
		}
	}
	for name, err := range refused {
		if !took[name] {
			p.fail(name, err)
		}
	}
}

// stapled returns the earlier certificate for c that has the same response.
func (p *pairing) stapled(c *certificate, response []byte) *certificate {
	for _, old := range p.gave(c.base) {
		if old.staple != nil && bytes.Equal(old.staple.response, response) {
			same := *old.staple
			next := c.copy()
			next.staple = &same
			if old.same(next) {
				return old
			}
		}
	}
	return nil
}

// keepBetter visits the files with bad contents. The certificates that such a
// file provided before stay, unless the file now has a better one of the same
// key family. So a bad replacement never takes a certificate out of service.
func (p *pairing) keepBetter() {
	if len(p.faults) == 0 {
		return
	}
	given := map[string][]*certificate{}
	for _, c := range p.out {
		if _, bad := p.faults[c.base]; bad {
			given[c.base] = append(given[c.base], c)
		}
	}
	for name, fault := range p.faults {
		for _, old := range p.gave(name) {
			next := successor(old, given[name], p.now)
			if next != nil && (!old.timely(p.now) || next.leaf.equal(old.leaf) && next.chain == old.chain ||
				(next.flaw == nil || old.flaw != nil) && (next.timely(p.now) || next.leaf.equal(old.leaf))) {
				continue
			}
			if !old.kept {
				old = old.copy()
				old.kept = true
			}
			p.out = append(p.out, old)
			if fault == nil && next != nil {
				p.fail(name, next.dateError(p.now))
				fault = p.faults[name]
			}
			if fault != nil {
				fault.kept = append(fault.kept, old)
			}
		}
	}
}

// successor returns the certificate that replaces old in its file. It has the
// same key family and a common name with old. One for all names of old is
// preferred, then one that is valid.
func successor(old *certificate, fresh []*certificate, now time.Time) (next *certificate) {
	rank := func(c *certificate) (n int) {
		if c.names == old.names {
			n += 2
		}
		if c.timely(now) {
			n++
		}
		return n
	}
	for _, c := range fresh {
		if c.family() == old.family() && c.names.share(old.names) && (next == nil || rank(c) >= rank(next)) {
			next = c
		}
	}
	return next
}

// dateError returns an error for a certificate or a chain outside its validity period.
func (c *certificate) dateError(now time.Time) error {
	if c.valid(now) {
		return c.links.dateError(now)
	}
	if t := time.Unix(c.notBefore, 0).UTC(); now.Before(t) {
		return fmt.Errorf("not valid before %s", t.Format(time.RFC3339))
	}
	return fmt.Errorf("expired %s", time.Unix(c.notAfter, 0).UTC().Format(time.RFC3339))
}
