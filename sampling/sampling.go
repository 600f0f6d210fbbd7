// Package sampling keeps a log readable where strangers can cause lines of it: of
// each kind one a minute is written, with how many there were.
package sampling

import (
	"log/slog"
	"sync"
	"time"

	"wssgate/panics"
)

// Every is how often a kind of line is written.
const Every = time.Minute

// A Line is one kind of line in a log. Its first occurrence is written at once;
// those of the minute after it are counted, and the last of them is written at
// its end with their number as "count". The zero value is ready; methods may be
// called at the same time. There must be a fixed number of Lines, never one for
// each client.
type Line struct {
	mu      sync.Mutex
	waiting bool // the minute is not over
	count   int  // since it began, without the one that was written at once
	last    func(count int)
}

// Warn notes an occurrence, with a message and attributes as for slog's Warn.
func (l *Line) Warn(log *slog.Logger, msg string, attrs ...any) { l.note(log.Warn, msg, attrs) }

// Info is Warn for a line of that level.
func (l *Line) Info(log *slog.Logger, msg string, attrs ...any) { l.note(log.Info, msg, attrs) }

func (l *Line) note(write func(string, ...any), msg string, attrs []any) {
	l.mu.Lock()
	first := !l.waiting
	if first {
		l.waiting = true
		time.AfterFunc(Every, func() { panics.Catch(panics.Log, l.over) })
	} else {
		l.count++
		l.last = func(count int) { write(msg, append(attrs[:len(attrs):len(attrs)], []any{"count", count}...)...) }
	}
	l.mu.Unlock()
	if first {
		write(msg, attrs...)
	}
}

// over ends the minute. Another begins where there was something to tell.
func (l *Line) over() {
	l.mu.Lock()
	count, last := l.count, l.last
	l.count, l.last = 0, nil
	if l.waiting = count > 0; l.waiting {
		time.AfterFunc(Every, func() { panics.Catch(panics.Log, l.over) })
	}
	l.mu.Unlock()
	if count > 0 {
		last(count)
	}
}
