package proxy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"wssgate/upstream"
)

// With a sample of n the first of every n lines is written, with 0 and 1 every line.
// Warnings are always written.
func TestJournalSample(t *testing.T) {
	for _, test := range []struct {
		sample int64
		ends   string // one letter per tunnel: "." a normal end, "w" a warning
		want   string // the written ones
	}{
		{0, "....", "...."},
		{1, "....", "...."},
		{3, ".......", "..."},
		{3, ".w.w...", ".ww."},
		{100, "wwww", "wwww"},
		{100, "..........", "."},
	} {
		var out bytes.Buffer
		j := &journal{log: slog.New(slog.NewTextHandler(&out, nil))}
		j.sample.Store(test.sample)
		for _, end := range test.ends {
			e := entry{info: &tunnelInfo{vhost: new(upstream.Vhost)}, why: reasonClientClose}
			if end == 'w' {
				e.why = reasonUpstreamGone
			}
			j.write(e)
		}
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

// A smaller sample applies from the next line on.
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
