// Package sampling keeps a log readable even if clients cause lines in it: of each
// kind, it writes one line a minute, with the number of occurrences.
package sampling

import (
	"log/slog"
	"sync"
	"time"

	"wssgate/panics"
)

// Every is the interval of lines of one kind.
const Every = time.Minute

// A Line is one kind of line in a log. Its first occurrence is written at once. Those
// of the following minute are counted, and the last of them is written at its end with
// their number as "count". The zero value is ready for use; methods are safe for
// concurrent use. The number of Lines must be fixed, not one for each client.
type Line struct {
	mu      sync.Mutex
	waiting bool // the minute has not ended
	count   int  // in this minute, without the first
	last    func(count int)
}

// Warn records an occurrence, with a message and attributes as for slog's Warn.
func (l *Line) Warn(log *slog.Logger, msg string, attrs ...any) { l.note(log.Warn, msg, attrs) }

// Info is Warn at level Info.
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

// over ends the minute. If it had further occurrences, another minute begins.
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
