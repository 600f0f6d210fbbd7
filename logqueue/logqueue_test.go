package logqueue

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A reader that can stop reading.
type reader struct {
	mu    sync.Mutex
	text  strings.Builder
	gate  chan struct{} // nil: open
	fails error
}

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails != nil {
		return 0, r.fails
	}
	return r.text.Write(p)
}

func (r *reader) set(fails error, gate chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fails, r.gate = fails, gate
}

// Logging never blocks. Lines that fit are written in order when the reader continues;
// others are counted and reported.
func TestReaderStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{gate: make(chan struct{})}
		var q *Queue
		q = New(r, 1000, func(lost int) { fmt.Fprintf(q, "lost %d\n", lost) })
		began := time.Now()
		for i := range 1000 {
			if n, err := fmt.Fprintf(q, "line %04d\n", i); n != 10 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		time.Sleep(time.Minute)
		if s := q.State(); s.Lost != 900 || !s.Since.Equal(began) {
			t.Errorf("state %+v; want 900 lost, and since %v", s, began)
		}
		if q.bytes != 1000 {
			t.Errorf("%d bytes wait; want 1000", q.bytes)
		}
		close(r.gate)
		synctest.Wait()
		if s := q.State(); s.Lost != 900 || !s.Since.IsZero() {
			t.Errorf("state %+v; want 900 lost, and no write under way", s)
		}
		if !q.Close(time.Second) {
			t.Error("not all was written")
		}
		var want strings.Builder
		for i := range 100 {
			fmt.Fprintf(&want, "line %04d\n", i)
		}
		want.WriteString("lost 900\n")
		if got := r.text.String(); got != want.String() {
			t.Errorf("it wrote\n%s", got)
		}
	})
}

// Close waits for a slow reader, but only for its patience if the reader has stopped.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{gate: make(chan struct{})}
		q := New(r, 1000, nil)
		q.Write([]byte("one\n"))
		began := time.Now()
		if q.Close(time.Second) || time.Since(began) != time.Second {
			t.Errorf("it took %v, and says that all was written", time.Since(began))
		}
		q.Write([]byte("two\n"))
		time.AfterFunc(time.Second, func() { close(r.gate) })
		if !q.Close(2*time.Second) || r.text.String() != "one\n" || q.State().Lost != 1 {
			t.Errorf("it wrote %q, %+v", r.text.String(), q.State())
		}
	})
}

// Lines that the system refuses count as lost, and are reported when it accepts lines
// again.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{fails: errors.New("no space left on device")}
		var q *Queue
		q = New(r, 1000, func(lost int) { fmt.Fprintf(q, "lost %d\n", lost) })
		q.Write([]byte("one\n"))
		q.Write([]byte("two\nthree\n"))
		synctest.Wait()
		since := time.Now()
		time.Sleep(time.Minute)
		q.Write([]byte("three and a half\n"))
		synctest.Wait()
		if s := q.State(); s.Lost != 4 || s.Err != r.fails || !s.Failed.Equal(since) {
			t.Errorf("state %+v; want 4 lost, and since %v", s, since)
		}
		r.set(nil, nil)
		q.Write([]byte("four\n"))
		synctest.Wait()
		if s := q.State(); s.Lost != 4 || s.Err != nil || !s.Failed.IsZero() {
			t.Errorf("state %+v; want that it works", s)
		}
		q.Close(time.Second)
		if got := r.text.String(); got != "four\nlost 4\n" {
			t.Errorf("it wrote %q", got)
		}
	})
}

// Lines of many goroutines stay intact.
func TestConcurrent(t *testing.T) {
	r := new(reader)
	q := New(r, Size, nil)
	var wg sync.WaitGroup
	line := strings.Repeat("x", 300) + "\n"
	for range 8 {
		wg.Go(func() {
			for range 500 {
				q.Write([]byte(line))
			}
		})
	}
	wg.Wait()
	if !q.Close(time.Minute) || r.text.String() != strings.Repeat(line, 4000) {
		t.Errorf("%d bytes came through; want 4000 whole lines", r.text.Len())
	}
}
