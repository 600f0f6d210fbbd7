package gate

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	"wssgate/config"
	"wssgate/logqueue"
)

// A LineQueue decouples the program from standard error, which may be a pipe
// that nobody reads. It is safe for concurrent use.
type LineQueue struct {
	*logqueue.Queue
	Terminal bool
	Serving  atomic.Bool // Serve is using it
	Served   atomic.Bool // Serve has closed it
}

// NewLineQueue returns a queue for stderr. The caller must close it.
func NewLineQueue(stderr io.Writer) *LineQueue {
	return &LineQueue{Terminal: isTerminal(stderr), Queue: logqueue.New(stderr, logqueue.Size, func(lost int) {
		slog.Warn("the log was not read: lines were lost", "lines", lost)
	})}
}

// QueueOf returns stderr if it is a LineQueue, and otherwise a new queue for it.
func QueueOf(stderr io.Writer) *LineQueue {
	if q, ok := stderr.(*LineQueue); ok {
		return q
	}
	return NewLineQueue(stderr)
}

// PrintError prints an error for a human reader, with its hint if it has one.
func PrintError(w io.Writer, err error) {
	fmt.Fprintf(w, "wssgate: %v\n", err)
	if hinted, ok := errors.AsType[interface {
		error
		HintText() string
	}](err); ok {
		fmt.Fprintf(w, "  hint: %s\n", hinted.HintText())
	}
}

// splitError splits joined errors, so that each is logged in its own line.
func splitError(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, err := range joined.Unwrap() {
		all = append(all, splitError(err)...)
	}
	return all
}

// NewLogger returns a logger that writes to w as cfg specifies. It sets level.
func NewLogger(w io.Writer, cfg config.Log, level *slog.LevelVar, terminal bool) *slog.Logger {
	setLevel(level, cfg.Level)
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String()) // JSON would show nanoseconds
		}
		return a
	}}
	if cfg.Format == "json" || cfg.Format == "auto" && !terminal {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// setLevel sets a level that config has checked.
func setLevel(level *slog.LevelVar, word string) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(word)); err == nil {
		level.Set(l)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
