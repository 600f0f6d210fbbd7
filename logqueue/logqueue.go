// Package logqueue decouples a log from its file, pipe or terminal, so that logging
// never blocks: the reader of a pipe may have stopped, a disk may be full or hang.
//
// # States and owners
//
//	lines   wait in the Queue, bounded in bytes; mu guards them
//	writer  one goroutine, the only one that writes; it may hang in a system call
//	lost    lines for which there was no room, or that the system did not accept
//
// Lines that don't fit are dropped, the newest first, because the oldest show the
// cause. They are counted, and their number is reported when lines are written again.
// Close gives the writer some time for the queued lines, and then abandons it: a
// program can end although its log hangs.
package logqueue

import (
	"io"
	"sync"
	"time"

	"wssgate/panics"
)

// Size is the maximum size of the queued lines in bytes: enough for all tunnels that
// end at once when the upstream of a large gate stops.
const Size = 8 << 20

// chunk is the maximum size of one write in bytes, so that room becomes free gradually.
const chunk = 32 << 10

// A Queue is a writer of lines that never blocks. Create one with New, end it with
// Close. All methods are safe for concurrent use.
type Queue struct {
	out    io.Writer
	size   int
	resume func(lost int)
	wake   chan struct{}
	done   chan struct{}

	mu     sync.Mutex
	chunks [][]byte  // whole lines each; the first is being written while writing is set
	bytes  int       // in chunks
	began  time.Time // start of the current write; zero: none
	lost   int       // lines not reported yet
	total  int64     // lost since New
	err    error     // of the last write
	failed time.Time // start of the current series of failed writes; zero: the last one succeeded
	closed bool
}

// State is the state of a Queue.
type State struct {
	Lost   int64     // lines since the start
	Since  time.Time // start of the current write; zero: none
	Err    error     // of the last write; nil: it succeeded
	Failed time.Time // start of the current series of failed writes; zero: the last one succeeded
}

// New returns a Queue of at most size bytes and starts its writer. When lines are
// written again after some were lost, the writer calls resume with their number;
// resume may log, and may be nil.
func New(out io.Writer, size int, resume func(lost int)) *Queue {
	q := &Queue{out: out, size: size, resume: resume, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(q.done)
		panics.Keep(nil, panics.Log, q.writeLines)
	}()
	return q
}

// Write queues one or several whole lines. It never fails: lines that don't fit are
// counted.
func (q *Queue) Write(line []byte) (int, error) {
	q.mu.Lock()
	if q.closed || q.bytes+len(line) > q.size {
		q.lose(1)
	} else {
		q.add(line)
	}
	q.mu.Unlock()
	q.poke()
	return len(line), nil
}

// add appends a line. The caller holds mu.
func (q *Queue) add(line []byte) {
	q.bytes += len(line)
	// The first chunk is possibly being written.
	if n := len(q.chunks) - 1; n > 0 && len(q.chunks[n])+len(line) <= chunk {
		q.chunks[n] = append(q.chunks[n], line...)
		return
	}
	q.chunks = append(q.chunks, append([]byte(nil), line...))
}

// lose counts lines. The caller holds mu.
func (q *Queue) lose(lines int) {
	q.lost += lines
	q.total += int64(lines)
}

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// State returns the state of the queue.
func (q *Queue) State() State {
	q.mu.Lock()
	defer q.mu.Unlock()
	return State{q.total, q.began, q.err, q.failed}
}

// Close writes what is queued, for at most patience, and reports whether all of it was
// written. Later lines are lost.
func (q *Queue) Close(patience time.Duration) bool {
	now := make(chan struct{})
	close(now)
	return q.CloseUntil(now, patience)
}

// CloseUntil is Close for a caller that can wait until hurry is closed, and for
// patience after that.
func (q *Queue) CloseUntil(hurry <-chan struct{}, patience time.Duration) bool {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.poke()
	select {
	case <-q.done:
		return true
	case <-hurry:
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-q.done:
		return true
	case <-deadline.C:
		return false
	}
}

func (q *Queue) writeLines() {
	for range q.wake {
		for q.writeChunk() {
		}
		q.mu.Lock()
		over := q.closed && len(q.chunks) == 0
		q.mu.Unlock()
		if over {
			return
		}
	}
}

// writeChunk writes the first chunk, and reports whether there was one.
func (q *Queue) writeChunk() bool {
	q.mu.Lock()
	if len(q.chunks) == 0 {
		q.mu.Unlock()
		return false
	}
	first := q.chunks[0]
	q.began = time.Now()
	q.mu.Unlock()

	n, err := q.out.Write(first)

	q.mu.Lock()
	q.chunks[0] = nil
	q.chunks = q.chunks[1:]
	q.bytes -= len(first)
	q.began = time.Time{}
	lost := 0
	if q.err = err; err != nil {
		q.lose(countLines(first[n:]))
		if q.failed.IsZero() {
			q.failed = time.Now()
		}
	} else {
		q.failed = time.Time{}
		lost, q.lost = q.lost, 0
	}
	q.mu.Unlock()
	if lost > 0 && q.resume != nil {
		q.resume(lost)
	}
	return true
}

func countLines(b []byte) (n int) {
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	return max(n, 1)
}
