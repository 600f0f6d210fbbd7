// Package inventory reads what a configuration would serve, without serving it: the
// names, the certificate and the upstream of each, and what is wrong with them. It
// prints that for people, and as JSON.
//
// Only "wssgate check", "wssgate certs" and "wssgate ech" use it.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/files"
)

// An Inventory is a configuration with the certificates that serve would begin with.
// It does not change, and holds nothing open.
type Inventory struct {
	Config *config.Config

	certificates []certstore.Entry
	problems     []certstore.Problem
	rejected     []certstore.Warning
	ignored      []certstore.Ignored
	moreIgnored  int                    // that are not in the list
	acme         []certstore.ACMEStatus // names to obtain; empty where ACME is off
}

// Take reads a configuration, its certificates and its ACME cache. It asks no CA and
// changes no file. What would keep serve from starting is a *config.Error, or a
// config.ErrNotRead.
func Take(ctx context.Context, file string) (*Inventory, error) {
	cfg, err := config.Load(ctx, file)
	if err != nil {
		return nil, err
	}
	return of(cfg)
}

func of(c *config.Config) (*Inventory, error) {
	quiet := slog.New(slog.DiscardHandler) // what would be logged is in the inventory too
	store, err := c.OpenCertificates(false, quiet)
	if err != nil {
		return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{
			Key:  "certificates.directory",
			Text: fmt.Sprintf("%q: %v", c.Certificates.Directory, rootCause(err)),
			Hint: "make the folder, or name another one; relative names are relative to the configuration",
		}}}
	}
	defer store.Close()

	inv := &Inventory{Config: c}
	// The cache is made by the gate, with its own rights; not by a look at it.
	_, err = files.Do(context.Background(), config.Place, func() (fs.FileInfo, error) { return config.Place.Stat(c.ACME.Cache) })
	if !errors.Is(err, fs.ErrNotExist) && !files.IsHang(err) && c.ACME.On() {
		options, err := c.ACMEOptions(store, quiet)
		if err != nil {
			return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{Text: err.Error()}}}
		}
		acme, err := certstore.NewACME(options) // not started: only its cache is read
		if err != nil {
			return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{Key: "acme", Text: err.Error()}}}
		}
		defer acme.Close()
		inv.acme = acme.Status()
	} else {
		for _, name := range c.ACME.Names {
			inv.acme = append(inv.acme, certstore.ACMEStatus{Name: name, Names: []string{name}, State: certstore.ACMEWaiting})
		}
		for _, names := range c.ACME.Together() {
			inv.acme = append(inv.acme, certstore.ACMEStatus{Name: names[0], Names: names, State: certstore.ACMEWaiting})
		}
	}
	if list := files.Hanging(); len(list) > 0 { // half an inventory would be a wrong one
		return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{Text: list[0].What + ": " + list[0].Error(), Hint: "is the file system mounted?"}}}
	}
	inv.certificates, inv.problems = slices.Collect(store.Certificates()), store.Problems()
	inv.rejected = store.Warnings()
	inv.ignored, inv.moreIgnored = store.Ignored()
	if c.ACME.On() {
		if err := certstore.ACMECacheProblem(context.Background(), c.ACME.Cache, c.Certificates.Directory); err != nil {
			inv.problems = append(inv.problems, certstore.Problem{File: c.ACME.Cache, Err: err})
		}
	}
	return inv, nil
}

// rootCause is the innermost error of a chain.
func rootCause(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		err = u.Unwrap()
	}
}
