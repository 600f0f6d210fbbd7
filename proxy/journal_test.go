package proxy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/upstream"
)

// With a sample of n the first of n lines is written, with 0 and 1 each one;
// what is a warning always is.
func TestJournalSample(t *testing.T) {
	for _, test := range []struct {
		sample int64
		ends   string // one letter for each tunnel: "." an ordinary end, "w" a warning
		want   string // those that are written
	}{
		{0, "....", "...."},
		{1, "....", "...."},
		{3, ".......", "..."},
		{3, ".w.w...", ".ww."},
		{100, "wwww", "wwww"},
		{100, "..........", "."},
	} {
		var out bytes.Buffer
		j := newJournal(slog.New(slog.NewTextHandler(&out, nil)))
		j.sample.Store(test.sample)
		for _, end := range test.ends {
			e := entry{info: &tunnelInfo{vhost: new(upstream.Vhost)}, why: reasonClientClose}
			if end == 'w' {
				e.why = reasonUpstreamGone
			}
			j.add(e)
		}
		j.close()
		got := ""
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "level=WARN") {
				got += "w"
			} else {
				got += "."
			}
		}
		if got != test.want {
			t.Errorf("sample %d: of %q it wrote %q; want %q", test.sample, test.ends, got, test.want)
		}
	}
}

// A log that nobody reads costs lines, and no more memory than theirs.
func TestJournalBounded(t *testing.T) {
	var out bytes.Buffer
	j := &journal{log: slog.New(slog.NewTextHandler(&out, nil)), wake: make(chan struct{}, 1), done: make(chan struct{})}
	j.sample.Store(1 << 40) // so that the test need not write them all
	for range maxWaiting + 3 {
		j.add(entry{info: &tunnelInfo{vhost: new(upstream.Vhost)}, why: reasonClientClose})
	}
	if n := len(j.waiting); n != maxWaiting {
		t.Errorf("%d lines wait; want %d", n, maxWaiting)
	}
	go j.writeLines()
	j.close()
	if lines := out.String(); strings.Count(lines, "\n") != 2 || !strings.Contains(lines, "tunnels=3") {
		t.Errorf("it wrote\n%s\nwant the first line, and that 3 are lost", lines)
	}
}

// How long a tunnel was open does not depend on when its line is written.
func TestJournalDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		j := &journal{log: slog.New(slog.NewTextHandler(&out, nil)), wake: make(chan struct{}, 1), done: make(chan struct{})}
		s := &Server{journal: j}
		closed := &tunnel{info: &tunnelInfo{vhost: new(upstream.Vhost), began: time.Now()}, why: reasonClientClose}
		time.Sleep(5 * time.Second)
		s.tunnelDone(closed, 0)
		time.Sleep(time.Minute) // nobody reads the log
		go j.writeLines()
		j.close()
		if line := out.String(); !strings.Contains(line, " duration=5s ") {
			t.Errorf("it wrote %q; want duration=5s", line)
		}
	})
}

// A smaller sample holds from the next line on.
func TestJournalSampleShrinks(t *testing.T) {
	j := &journal{}
	j.sample.Store(1000)
	if !j.sampled() || j.sampled() {
		t.Fatal("not the first of a thousand lines, and that one alone, was written")
	}
	j.sample.Store(0)
	if !j.sampled() {
		t.Error("a line was left out without a sample")
	}
}
