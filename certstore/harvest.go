package certstore

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
	"unique"

	"wssgate/files"
)

// A harvest is the result of a job on a tree. It never changes.
type harvest struct {
	all    []*certificate
	faults []fault
}

// do runs a job on the tree, in the tree's Place, and then publishes the
// result. If the job hangs or is slow, do publishes what the tree has so far.
// It calls then, which may be nil, after both. The error comes from the job or
// from files.Do.
func (t *tree) do(ctx context.Context, job func() error, then func()) error {
	whole, part := t.job(job, then)
	_, err := files.DoInParts(ctx, t.place, whole, part)
	return err
}

// doLater is do, but does not wait.
func (t *tree) doLater(job func() error, then func()) {
	whole, _ := t.job(job, then)
	files.Await(t.ctx, t.place, whole)
}

func (t *tree) job(job func() error, then func()) (whole func() (struct{}, error), part func()) {
	collect := func(whole bool) {
		if all, faults, changed := t.collect(time.Now()); changed {
			all, faults = t.suddenlyEmpty(all, faults, whole)
			t.have.Store(&harvest{all, faults})
		}
		if t.idleness {
			t.idleness = false
			t.ignored.Store(t.gather())
		}
		if then != nil {
			then()
		}
	}
	return func() (struct{}, error) {
		err := job()
		if info, err := t.place.Stat(t.root); err == nil {
			t.seenAs = info
		}
		t.done.Store(true)
		collect(true)
		return struct{}{}, err
	}, func() { collect(false) }
}

// suddenlyEmpty returns what the tree provides from now on. An empty directory
// counts only if it is the same directory that held certificates before: an
// operator has removed the files. Otherwise a volume has probably been
// unmounted, or is not mounted yet.
func (t *tree) suddenlyEmpty(all []*certificate, faults []fault, whole bool) ([]*certificate, []fault) {
	have := t.have.Load().all
	switch {
	case len(all) > 0:
		t.filled = t.seenAs
	case len(have) == 0:
	case !whole: // it is not known yet which directory this is
		t.pruned = true
		return have, faults
	case t.filled != nil && !os.SameFile(t.filled, t.seenAs):
		return have, append(faults, fault{path: t.root, kept: have, err: advice{
			fmt.Errorf("folder %q: has no certificates, and is not the folder that was read before", t.root),
			"is a volume not mounted? Mount it or put the files there, or restart wssgate if there should be none",
		}})
	}
	return all, faults
}

// collect pairs the folders that have changed. It returns what the whole tree
// provides, and whether that may differ from before.
func (t *tree) collect(now time.Time) (all []*certificate, faults []fault, changed bool) {
	changed, t.pruned = t.pruned, false
	t.ring = nil
	work := map[*folder]*pairing{}
	for _, f := range t.folders {
		if f.dirty || f.asked || f.hasKept() || now.Unix() >= f.due { // a kept certificate or a chain may have expired
			work[f] = f.pair(t, now)
		}
	}
	t.judge(work, now, !t.opened)
	t.opened = t.done.Load()
	for f, p := range work {
		before, idle := f.out, p.idled
		p.decide()
		t.idleness = t.idleness || idle+len(f.idle) > 0
		changed = changed || f.dirty || !sameSet(before, f.out)
		f.dirty = false
		if f.busy { // files that appear to be missing may exist
			f.faults, f.dirty = nil, true
		}
	}
	if !changed {
		return nil, nil, false
	}
	n := 0
	for _, f := range t.folders {
		n += len(f.out)
	}
	all = make([]*certificate, 0, n)
	for _, f := range t.folders {
		all = append(all, f.out...)
	}
	var served map[publicID]bool // see keysWithCertificate; nil: not needed yet
	for _, f := range t.folders {
		for _, fault := range f.faults {
			if fault.lonely != (publicID{}) && served == nil {
				served = t.keysWithCertificate(all)
			}
			if fault.lonely == (publicID{}) || !served[fault.lonely] { // its certificate may be in another folder
				faults = append(faults, fault)
			}
		}
		if f.err != nil {
			faults = append(faults, fault{path: f.path, err: fmt.Errorf("folder %q: %w", f.path, plainError(f.err)), kept: t.below(f)})
		}
	}
	if t.full {
		faults = append(faults, fault{path: t.root, err: fmt.Errorf("folder %q: contains more than %d folders, and the rest is not read; is it the right one?", t.root, t.limit)})
	}
	return all, faults, true
}

// keysWithCertificate returns the keys that have a certificate: one in all, or
// a CA's in any folder.
func (t *tree) keysWithCertificate(all []*certificate) map[publicID]bool {
	keys := make(map[publicID]bool, len(all))
	for _, c := range all {
		keys[c.id] = true
	}
	for _, f := range t.folders {
		for i := range f.files {
			for _, part := range f.files[i].parts {
				if i, ok := part.(unique.Handle[issuer]); ok {
					keys[i.Value().key] = true
				}
			}
		}
	}
	return keys
}

// below returns the certificates of a folder and of all folders below it.
func (t *tree) below(f *folder) (all []*certificate) {
	all = slices.Clone(f.out)
	for _, path := range f.subs {
		if sub := t.folders[path]; sub != nil {
			all = append(all, t.below(sub)...)
		}
	}
	return all
}

// sameSet reports whether two lists have the same certificates, in any order.
func sameSet(a, b []*certificate) bool {
	if len(a) != len(b) {
		return false
	}
	in := make(map[*certificate]bool, len(a))
	for _, c := range a {
		in[c] = true
	}
	return !slices.ContainsFunc(b, func(c *certificate) bool { return !in[c] })
}

func (f *folder) hasKept() bool {
	for _, fault := range f.faults {
		if len(fault.kept) > 0 {
			return true
		}
	}
	return false
}
