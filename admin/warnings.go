package admin

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxWarnings    = 50   // kept
	maxWarningText = 1000 // bytes of one
)

// Warnings is a slog.Handler that keeps the last records of level Warn and Error in
// memory, and passes all records on. Records that differ only in keys that vary with
// every client are kept as one, with their number, so that many of one kind do not hide
// the others.
type Warnings struct {
	next   slog.Handler
	prefix string // of groups
	attrs  string // rendered
	ring   *warningRing
}

// A Warning is a log record as text.
type Warning struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Count int       `json:"count"`
	Level string    `json:"level"` // "warn" or "error"
	Text  string    `json:"text"`  // of the last one: the message, then key=value
	kind  string    // equal for records kept as one
}

type warningRing struct {
	mu   sync.Mutex
	list []Warning // oldest first
}

// NewWarnings returns a handler that passes records on to next.
func NewWarnings(next slog.Handler) *Warnings {
	return &Warnings{next: next, ring: &warningRing{}}
}

// Last returns the kept warnings, newest first.
func (w *Warnings) Last() []Warning {
	w.ring.mu.Lock()
	defer w.ring.mu.Unlock()
	list := append([]Warning{}, w.ring.list...)
	slices.Reverse(list)
	return list
}

// Enabled is true for all warnings, regardless of the log's own level.
func (w *Warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || w.next.Enabled(ctx, level)
}

func (w *Warnings) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		w.keep(r)
	}
	if !w.next.Enabled(ctx, r.Level) {
		return nil
	}
	return w.next.Handle(ctx, r)
}

func (w *Warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *w
	c.next = w.next.WithAttrs(attrs)
	var b strings.Builder
	b.WriteString(w.attrs)
	for _, a := range attrs {
		writeAttr(&b, w.prefix, a)
	}
	c.attrs = b.String()
	return &c
}

func (w *Warnings) WithGroup(name string) slog.Handler {
	c := *w
	c.next = w.next.WithGroup(name)
	if name != "" {
		c.prefix += name + "."
	}
	return &c
}

// varying are the keys that differ from client to client. In a record without a client,
// a name is the subject.
var varying = map[string]bool{
	"client": true, "duration": true, "host": true, "path": true, "server_name": true, "vhost": true,
	"bytes_in": true, "bytes_out": true, "frames_in": true, "frames_out": true, "network": true, "failures": true,
}

func (w *Warnings) keep(r slog.Record) {
	var text, kind strings.Builder
	for _, b := range []*strings.Builder{&text, &kind} {
		b.WriteString(r.Message)
		b.WriteString(w.attrs)
	}
	ofClient := false
	r.Attrs(func(a slog.Attr) bool {
		ofClient = ofClient || a.Key == "client"
		return !ofClient
	})
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&text, w.prefix, a)
		if a.Key != "count" && (!ofClient || !varying[a.Key]) {
			writeAttr(&kind, w.prefix, a)
		}
		return true
	})
	n := Warning{First: r.Time, Last: r.Time, Count: 1, Level: "warn", Text: shorten(text.String()), kind: shorten(kind.String())}
	if r.Level >= slog.LevelError {
		n.Level = "error"
	}
	w.ring.add(n)
}

func (r *warningRing) add(n Warning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.list, func(old Warning) bool { return old.kind == n.kind && old.Level == n.Level })
	if i >= 0 {
		n.First, n.Count = r.list[i].First, r.list[i].Count+1
	} else if len(r.list) >= maxWarnings {
		i = 0
	}
	if i >= 0 {
		r.list = slices.Delete(r.list, i, i+1)
	}
	r.list = append(r.list, n)
}

// writeAttr writes " key=value" like slog's TextHandler, but for people: without
// quotes, and nothing for an empty value.
func writeAttr(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if a.Equal(slog.Attr{}) || b.Len() > maxWarningText {
		return
	}
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			writeAttr(b, prefix, member)
		}
		return
	}
	if s := v.String(); s != "" {
		b.WriteString(" " + prefix + a.Key + "=" + s)
	}
}

// shorten truncates a text at the start of a rune.
func shorten(s string) string {
	if len(s) <= maxWarningText {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:maxWarningText], "") + "…"
}
