package ech

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/files"
	"wssgate/panics"
	"wssgate/watch"
)

// The life of a key:
//
//	made ──Settle──▶ published ──▶ replaced by one made Rotate later ──Grace──▶ deleted
//
// Clients may use it from its beginning to its end. Nothing is agreed between gates that
// share the folder: each reads all keys, and if two make one at the same time, both are
// good and all gates publish the same.
const (
	// Rotate is the age at which a key is replaced. It is long because people copy the
	// records into DNS.
	Rotate = 30 * 24 * time.Hour

	// Grace is how long a replaced key is accepted: far longer than TTL.
	Grace = 30 * 24 * time.Hour

	// Settle is how long a key waits until it is published, so that by then all gates
	// have read it: several times longer than poll.
	Settle = 5 * time.Minute

	// foreignLife is the life of keys with another public name, which nothing replaces.
	foreignLife = Rotate + Grace

	// ahead is how far the clock of another gate may be ahead.
	ahead = time.Hour
)

const (
	poll       = time.Minute
	pollFailed = 10 * time.Second

	maxKeys   = 64       // keys that are read, the newest
	maxFile   = 16 << 10 // bytes
	tempStale = 7 * 24 * time.Hour

	fileTime   = "20060102T150405Z"
	fileSuffix = ".ech"
	tempPrefix = ".tmp-"
)

// madeAt returns the time in the name of a key's file.
func madeAt(file string) (time.Time, bool) {
	base, ok := strings.CutSuffix(file, fileSuffix)
	at, _, dash := strings.Cut(base, "-")
	if !ok || !dash {
		return time.Time{}, false
	}
	t, err := time.Parse(fileTime, at)
	return t, err == nil
}

// Options configure a Keeper. All are required.
type Options struct {
	PublicName string
	Folder     string
	Log        *slog.Logger
}

// A Keeper has the keys of a folder in memory, makes new ones in time and deletes old
// ones. Bad replaces nothing: a file that becomes unreadable, or a folder that disappears
// or is suddenly empty, leaves the keys in use as they are. Methods are safe for
// concurrent use.
type Keeper struct {
	o       Options
	place   *files.Place
	watcher *watch.Watcher
	ring    atomic.Pointer[Ring]

	held map[string]*Key // by file; belongs to Open, and then to the watcher's goroutine

	mu      sync.Mutex
	problem error
	since   time.Time
}

// Open reads the folder, and makes it and a key if there are none. It always returns a
// Keeper, which tries again; see Problem. Close it.
func Open(o Options) *Keeper {
	k := &Keeper{o: o, place: files.At("ech: keys", o.Folder, o.Log), held: map[string]*Key{}}
	k.ring.Store(&Ring{})
	k.watcher = watch.New(watch.Options{
		Look: func(ctx context.Context, _ watch.Changes) time.Duration {
			if err := k.look(ctx); err != nil {
				return pollFailed
			}
			return 0
		},
		Poll: poll, PollFailed: pollFailed, Panics: panics.Certificates,
	})
	k.look(context.Background())
	return k
}

// Start follows the folder until Close.
func (k *Keeper) Start() { k.watcher.Start() }

// Close ends what Open and Start began. The Ring stays valid.
func (k *Keeper) Close() {
	k.watcher.Close()
	k.place.Leave()
}

// Ring returns the current keys. It never blocks.
func (k *Keeper) Ring() *Ring { return k.ring.Load() }

// Problem returns why the folder can't be used as it should be, and since when; nil: it
// can. A folder that hangs is not one: see files.Hanging.
func (k *Keeper) Problem() (since time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.since, k.problem
}

// look reads the folder, and changes it if it is time.
func (k *Keeper) look(ctx context.Context) error {
	first := len(k.held) == 0 // a folder that disappears later is not made again: volumes do disappear
	found, err := files.Do(ctx, k.place, func() (*listing, error) {
		if _, err := k.place.Stat(k.o.Folder); first && errors.Is(err, fs.ErrNotExist) {
			if err := k.place.MkdirAll(k.o.Folder, 0o700); err != nil {
				return nil, err
			}
		}
		return list(k.place, k.watcher, k.o.Folder)
	})
	if err == nil && len(found.data)+len(found.errs) == 0 && len(k.held) > 0 {
		err = fmt.Errorf("%q is empty; is its volume mounted?", k.o.Folder)
	}
	if err == nil {
		var bad error
		k.held, bad = found.keys(k.o.Folder, k.held)
		err = errors.Join(bad, k.renew(ctx))
	}
	k.ring.Store(newRing(k.o.PublicName, k.held, time.Now()))
	k.note(ctx, err)
	return err
}

// renew makes a key if there is none that is new enough, and then deletes old ones.
func (k *Keeper) renew(ctx context.Context) error {
	now := time.Now()
	keys := slices.Collect(maps.Values(k.held))
	if !slices.ContainsFunc(keys, func(o *Key) bool { return o.PublicName == k.o.PublicName && o.isFresh(now) }) {
		fresh, err := newKey(k.o.PublicName, now, keys)
		if err != nil {
			return err
		}
		data, err := fresh.encode()
		if err != nil {
			return err
		}
		if err := k.do(ctx, func() error {
			return k.place.Replace(filepath.Join(k.o.Folder, fresh.File), tempPrefix, data, true, func() bool { return ctx.Err() == nil })
		}); err != nil {
			return err
		}
		k.held[fresh.File] = fresh
		keys = append(keys, fresh)
		k.o.Log.Info("ech: a new key", "file", filepath.Join(k.o.Folder, fresh.File))
	}
	var errs []error
	for _, old := range keys {
		if !old.isOver(k.o.PublicName, keys, now) {
			continue
		}
		if err := k.do(ctx, func() error { return ifThere(k.place.Remove(filepath.Join(k.o.Folder, old.File))) }); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(k.held, old.File)
	}
	return errors.Join(errs...)
}

func (k *Keeper) do(ctx context.Context, job func() error) error {
	_, err := files.Do(ctx, k.place, func() (struct{}, error) { return struct{}{}, job() })
	return err
}

func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// isFresh reports whether a key need not be replaced yet. One from the future, made while
// a clock was wrong, must not delay all others.
func (k *Key) isFresh(now time.Time) bool {
	age := now.Sub(k.Made)
	return age < Rotate && age > -ahead
}

// isOver reports whether clients no longer use a key, by the keys that there are.
func (k *Key) isOver(publicName string, keys []*Key, now time.Time) bool {
	if k.PublicName != publicName {
		return now.Sub(k.Made) > foreignLife
	}
	return slices.ContainsFunc(keys, func(o *Key) bool {
		return o.PublicName == publicName && o.Made.After(k.Made) && now.Sub(o.Made) > Grace
	})
}

// newRing chooses the key to publish: the newest that all gates have had time to read.
// If there is none, as after the first start, it is the oldest.
func newRing(publicName string, held map[string]*Key, now time.Time) *Ring {
	r := &Ring{keys: slices.Collect(maps.Values(held))}
	slices.SortFunc(r.keys, func(a, b *Key) int { return strings.Compare(a.File, b.File) }) // begins with the time
	for _, k := range r.keys {
		if k.PublicName == publicName && (r.now == nil || now.Sub(k.Made) >= Settle) {
			r.now = k
		}
	}
	return r
}

// note records the result of a look, and logs what is new.
func (k *Keeper) note(ctx context.Context, err error) {
	if ctx.Err() != nil || files.IsHang(err) { // package files reports hangs
		return
	}
	k.mu.Lock()
	before := k.problem
	if k.problem = err; err != nil && before == nil {
		k.since = time.Now()
	}
	k.mu.Unlock()
	switch {
	case err == nil && before != nil:
		k.o.Log.Info("ech: the keys are in order again", "file", k.o.Folder)
	case err != nil && (before == nil || before.Error() != err.Error()):
		k.o.Log.Warn("ech: keys", "err", err)
	}
}

// A listing is what a folder holds.
type listing struct {
	data map[string][]byte // by file
	errs map[string]error
}

// list reads the newest keys' files, in a job of the folder's Place. If there is a watcher,
// it follows the folder from then on, and leftovers of crashed gates are deleted.
func list(place *files.Place, watcher *watch.Watcher, folder string) (*listing, error) {
	if watcher != nil {
		watcher.Begin()
		place.Call(folder, func() error { watcher.Guard(folder); watcher.Add(folder); return nil })
		watcher.End()
	}
	entries, err := place.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		if _, ok := madeAt(e.Name()); ok {
			names = append(names, e.Name())
		} else if watcher != nil && strings.HasPrefix(e.Name(), tempPrefix) {
			if info, err := place.Lstat(path); err == nil && time.Since(info.ModTime()) > tempStale {
				place.Remove(path)
			}
		}
	}
	l := &listing{map[string][]byte{}, map[string]error{}}
	for _, name := range names[max(len(names)-maxKeys, 0):] { // in the order of time
		data, err := place.Read(filepath.Join(folder, name), maxFile)
		switch {
		case errors.Is(err, fs.ErrNotExist): // another gate has deleted it
		case err != nil:
			l.errs[name] = err
		default:
			l.data[name] = data
		}
	}
	return l, nil
}

// keys decodes the files. One that is bad keeps what it was before.
func (l *listing) keys(folder string, before map[string]*Key) (map[string]*Key, error) {
	keys := map[string]*Key{}
	for name, data := range l.data {
		k, err := decode(name, data)
		if err != nil {
			l.errs[name] = fmt.Errorf("key %q %w", filepath.Join(folder, name), err)
			continue
		}
		keys[name] = k
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l.errs)) {
		errs = append(errs, l.errs[name])
		if old := before[name]; old != nil {
			keys[name] = old
		}
	}
	return keys, errors.Join(errs...)
}

// Read returns the keys in a folder for a command, which changes nothing there. The error
// is fs.ErrNotExist if there is no folder. problem is what is wrong with some of the files.
func Read(ctx context.Context, folder, publicName string) (r *Ring, problem, err error) {
	place := files.At("ech: keys", folder, nil)
	defer place.Leave()
	l, err := files.Do(ctx, place, func() (*listing, error) { return list(place, nil, folder) })
	if err != nil {
		return nil, nil, err
	}
	keys, problem := l.keys(folder, nil)
	return newRing(publicName, keys, time.Now()), problem, nil
}
