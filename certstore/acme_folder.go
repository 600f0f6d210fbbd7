package certstore

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"wssgate/files"
)

// acmeMark is a file that marks a folder as wssgate's cache. The gate removes
// other users' access to its cache and deletes files in it, so it accepts only
// a folder without other contents.
const acmeMark = ".wssgate"

const acmeMarkText = "wssgate keeps accounts, keys and certificates of its [acme] section in this folder.\n"

// own returns the reason why a folder cannot be our cache. It returns nil if
// the folder is empty, marked, or shows signs of a cache of an older version or
// of autocert: an account, a helper file, or only certificates that acmeEncode
// would write under the same names. With such signs, other files do not matter.
func (c acmeCache) own() error {
	info, err := c.place.Stat(c.dir)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSticky != 0 {
		return fmt.Errorf("%q is a folder that many share, as /tmp; name a folder of the gate's own", c.dir)
	}
	entries, err := c.place.ReadDir(c.dir)
	if err != nil {
		return err
	}
	stranger := ""
	var names []string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "lost+found" || strings.HasPrefix(name, acmeTempPrefix): // these may be in any folder
		case !e.IsDir() && acmeIsHelper(name):
			return nil
		case !e.IsDir() && acmeIsName(name):
			names = append(names, name)
		case stranger == "":
			stranger = name
		}
	}
	for _, name := range names { // many other files have names like host names
		data, err := c.place.Read(c.path(name), maxACMEFile)
		switch {
		case errors.Is(err, fs.ErrNotExist): // another gate has just removed it
		case err != nil:
			return err
		case !acmeIsEncoded(name, data):
			return c.strange(name)
		default:
			stranger = ""
		}
	}
	if stranger != "" {
		return c.strange(stranger)
	}
	return nil
}

func (c acmeCache) strange(name string) error {
	return fmt.Errorf("%q is no cache of wssgate's: it has %q; name an empty folder, or one that does not exist yet", c.dir, name)
}

// acmeIsHelper reports whether a name can only be that of a cache's file. Names
// of certificates do not count.
func acmeIsHelper(name string) bool {
	switch name {
	case acmeMark, acmeAccountFile, acmeAccountFileLegacy:
		return true
	}
	if strings.HasPrefix(name, acmeAccountFile+"+") {
		return true
	}
	for _, suffix := range []string{acmeStateSuffix, acmeLeaseSuffix} {
		if base, ok := strings.CutSuffix(name, suffix); ok && acmeIsName(base) {
			return true
		}
	}
	return acmeIsAnswer(name)
}

// acmeIsEncoded reports whether data is what acmeEncode returns for the certificate that
// belongs into a file.
func acmeIsEncoded(file string, data []byte) bool {
	block, _ := pem.Decode(data)
	if block == nil || !bytes.HasPrefix(data, []byte("-----BEGIN ")) || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return false
	}
	name, ok := acmeFileName(file)
	_, err := acmeDecode(name, data)
	return ok && err == nil
}

// acmeWildFile is how the file of a wildcard begins, instead of with a character that
// shells expand.
const acmeWildFile = "_."

// acmeFile returns the file of the certificate whose first name is name.
func acmeFile(name string) string {
	if domain, wildcard := strings.CutPrefix(name, "*."); wildcard {
		return acmeWildFile + domain
	}
	return name
}

// acmeFileName undoes acmeFile. ok is false if no certificate is in a file of that name.
func acmeFileName(file string) (name string, ok bool) {
	name = file
	if domain, wildcard := strings.CutPrefix(file, acmeWildFile); wildcard {
		name = "*." + domain
	}
	normal, err := acmeName(name)
	return name, err == nil && normal == name && acmeFile(name) == file
}

func acmeIsName(file string) bool {
	_, ok := acmeFileName(file)
	return ok
}

// usable returns the reason why this process cannot use the cache, or nil. It
// does not try to write.
func (c acmeCache) usable() error {
	if err := c.place.Writable(c.dir); err != nil {
		return err
	}
	return c.place.Readable(c.path(acmeAccountFile))
}

// apart returns an error if the cache and the certificate directory are the
// same folder, or one is inside the other. The gate would then remove other
// users' access to the directory, and serve the cache's files. Either may be
// missing. A directory that hangs is not an error. certificates may be empty.
func (c acmeCache) apart(ctx context.Context, certificates string) error {
	if certificates == "" {
		return nil
	}
	resolve := func(place *files.Place, path string) (string, error) {
		return files.Do(ctx, place, func() (string, error) { return acmeResolve(place, path) })
	}
	cache, err := resolve(c.place, c.dir)
	if err != nil {
		return nil // the Store reports it
	}
	place := files.At("acme: directory of certificates", certificates, slog.New(slog.DiscardHandler))
	defer place.Leave()
	directory, err := resolve(place, certificates)
	if err != nil {
		return nil
	}
	if acmeInside(cache, directory) || acmeInside(directory, cache) {
		return acmeCacheError(fmt.Errorf("%q and certificates.directory %q must not be the same folder, nor one inside the other; name another cache", c.dir, certificates))
	}
	return nil
}

// acmeInside reports whether path is outer or inside it. Neither may contain
// symbolic links.
func acmeInside(path, outer string) bool {
	rel, err := filepath.Rel(outer, path)
	return err == nil && filepath.IsLocal(rel)
}

// acmeResolve returns an absolute path, without symbolic links in the part that
// exists.
func acmeResolve(place *files.Place, path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	missing := ""
	for {
		real, err := place.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, missing), nil
		}
		parent := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || parent == path {
			return "", err
		}
		path, missing = parent, filepath.Join(filepath.Base(path), missing)
	}
}

// ACMECacheProblem returns the reason why this process cannot use dir as its
// cache beside the directory certificates, or nil. certificates may be empty,
// and dir need not exist yet. It changes nothing. For a folder that hangs, it
// waits as long as files.Do does.
func ACMECacheProblem(ctx context.Context, dir, certificates string) error {
	c := acmeCache{dir: dir, place: files.At("acme: cache", dir, slog.New(slog.DiscardHandler))}
	defer c.place.Leave()
	if err := c.apart(ctx, certificates); err != nil {
		return err
	}
	return c.do(ctx, func() error {
		_, err := c.place.Stat(dir)
		if err == nil {
			return errors.Join(c.own(), c.usable())
		}
		parent := dir
		for errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent) {
			parent = filepath.Dir(parent)
			_, err = c.place.Stat(parent)
		}
		if err == nil {
			err = c.place.Writable(parent)
		}
		if err != nil {
			return fmt.Errorf("%q cannot be made: %w", dir, err)
		}
		return nil
	})
}

// acmeCacheLook is how often a gate tests whether it can write to its cache.
const acmeCacheLook = 10 * time.Minute

// acmeCacheState is a problem of the whole cache, and when it began.
type acmeCacheState struct {
	err   error
	since time.Time
}

// CacheProblem returns the problem of the whole cache folder, and when it
// began. err is nil if there is no problem. It never blocks, and is safe for
// concurrent use.
func (a *ACME) CacheProblem() (since time.Time, err error) {
	if s := a.folder.Load(); s != nil {
		return s.since, s.err
	}
	return time.Time{}, nil
}

// watchCache detects an unusable cache before a renewal needs it.
func (a *ACME) watchCache() {
	tick := time.NewTicker(max(acmeCacheLook, a.opts.Poll))
	defer tick.Stop()
	a.cache.tidy(a.ctx, a.opts.Log)
	for first := true; ; first = false {
		a.noteCache(a.tryCache(first))
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tryCache writes the mark. It does not recreate a missing mark, except at the
// start: the volume may be unmounted.
func (a *ACME) tryCache(first bool) error {
	err := a.cache.do(a.ctx, func() error {
		if !first {
			if _, err := a.cache.place.Stat(a.cache.path(acmeMark)); err != nil {
				return err
			}
		}
		return a.cache.usable()
	})
	if err != nil {
		return err
	}
	err = a.cache.note(a.ctx, acmeMark, []byte(acmeMarkText))
	if errno := syscall.Errno(0); errors.As(err, &errno) { // drop the name of the temporary file, which always differs
		err = acmeCacheError(&fs.PathError{Op: "write", Path: a.cache.path(acmeMark), Err: errno})
	}
	return err
}

func (a *ACME) noteCache(err error) {
	if a.ctx.Err() != nil || errors.Is(err, files.ErrHangs) { // package files reports it
		return
	}
	old := a.folder.Load()
	switch {
	case err == nil && old != nil:
		a.opts.Log.Info("acme: the cache can be used again", "file", a.cache.dir)
		a.folder.Store(nil)
	case err != nil && (old == nil || old.err.Error() != err.Error()):
		a.opts.Log.Error("acme: the cache cannot be used; nothing can be renewed", "file", a.cache.dir, "err", err)
		a.folder.Store(&acmeCacheState{err, a.opts.wall()})
	}
}
