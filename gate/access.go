package gate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"

	"wssgate/admin"
	"wssgate/config"
	"wssgate/files"
	"wssgate/panics"
)

// An accessWatch reloads access lists when their files change. Its methods belong to
// one goroutine, the gate's.
//
// Each real folder has its own Place, so that one that hangs does not delay the others.
type accessWatch struct {
	log     *slog.Logger
	folders []*accessFolder
}

// An accessFolder holds the lists in one folder.
type accessFolder struct {
	place *files.Place
	lists []*config.AccessFile
	watch *config.Watch
	log   *slog.Logger
	stop  context.CancelFunc
}

// set replaces the watched files with those of another configuration.
func (w *accessWatch) set(lists []*config.AccessFile) {
	for _, f := range w.folders {
		f.watch.Set(false)
		f.stop()
		f.place.Leave()
	}
	w.folders = nil
	byFolder := map[string][]*config.AccessFile{}
	for _, f := range lists {
		byFolder[f.Folder] = append(byFolder[f.Folder], f)
	}
	for folder, lists := range byFolder {
		sums := map[string][sha256.Size]byte{}
		for _, f := range lists {
			sums[f.Name] = f.LastSum()
		}
		place := files.At("access lists", folder, nil).CountedBy(panics.Access)
		f := &accessFolder{place: place, lists: lists, watch: config.NewFileWatch("access", place, sums, w.log), log: w.log}
		f.watch.Set(true)
		var ctx context.Context
		ctx, f.stop = context.WithCancel(context.Background())
		go panics.Keep(ctx.Done(), panics.Access, func() { f.follow(ctx) })
		w.folders = append(w.folders, f)
	}
}

// follow reads changed files, in jobs of the folder's Place.
func (d *accessFolder) follow(ctx context.Context) {
	for {
		select {
		case <-d.watch.Changed:
		case <-ctx.Done():
			return
		}
		files.Await(ctx, d.place, func() (struct{}, error) {
			for _, f := range d.lists {
				data, err := d.place.Read(f.Name, config.MaxFile)
				sum := config.Sum(data, err)
				d.watch.Note(f.Name, sum)
				if !f.IsNew(sum) {
					continue
				}
				if err := f.Take(data, err); err != nil {
					d.log.Error("access list: keeping the previous version", "file", f.Name, "err", err)
				} else {
					d.log.Info("access list reloaded", "file", f.Name)
				}
			}
			return struct{}{}, nil
		})
	}
}

// accessProblem describes a bad file for the admin page.
func accessProblem(f *config.AccessFile) (p admin.FileProblem, bad bool) {
	since, err := f.Problem()
	if err == nil {
		return p, false
	}
	return admin.FileProblem{File: f.Name, Err: fmt.Sprintf("access list %q: %v", f.Name, err), Since: since, Kept: true}, true
}
