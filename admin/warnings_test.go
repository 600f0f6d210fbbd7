package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Warnings and errors are kept as text, regardless of the log's own level, and
// everything that the log accepts is passed on.
func TestWarnings(t *testing.T) {
	var out bytes.Buffer
	w := NewWarnings(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))
	log := slog.New(w).With("part", "acme").WithGroup("order")
	log.Info("nothing")
	log.Warn("slow", "name", "a b", "hint", "")
	log.Error("refused", "err", errors.New("no"), slog.Group("at", "step", 2))
	got := w.Last()
	if len(got) != 2 || got[0].Text != "refused part=acme order.err=no order.at.step=2" || got[0].Level != "error" ||
		got[1].Text != "slow part=acme order.name=a b" || got[1].Level != "warn" {
		t.Errorf("kept %+v", got)
	}
	if s := out.String(); strings.Contains(s, "slow") || !strings.Contains(s, "msg=refused part=acme order.err=no order.at.step=2") {
		t.Errorf("passed on %q; want the error alone", s)
	}
}

// Records that differ only in their client are one warning with a count, with the time
// and text of the last one; another reason is another warning.
func TestWarningsOfOneKind(t *testing.T) {
	w := NewWarnings(slog.NewTextHandler(io.Discard, nil))
	log := slog.New(w)
	log.Warn("upstream", "node", "t1")
	for i := range 1000 {
		name := fmt.Sprintf("n%d.example.com", i) // under a wildcard, chosen by the client
		log.Warn("tunnel", "client", fmt.Sprint("192.0.2.7:", i), "server_name", name, "vhost", name, "bytes_in", i, "reason", "slow_client")
		if i%2 == 0 {
			log.Warn("tunnel", "client", fmt.Sprint("192.0.2.8:", i), "bytes_in", i, "reason", "upstream_gone")
		}
	}
	got := w.Last()
	if len(got) != 3 {
		t.Fatalf("kept %d; want 3", len(got))
	}
	if got[0].Count != 1000 || !strings.Contains(got[0].Text, "client=192.0.2.7:999") || got[0].Last.Before(got[0].First) {
		t.Errorf("the last = %+v; want slow_client 1000 times, as it was last", got[0])
	}
	if got[1].Count != 500 || got[2].Count != 1 {
		t.Errorf("counts = %d, %d; want 500, 1", got[1].Count, got[2].Count)
	}
}

// Records about a name, not about its client, are kept for each name.
func TestWarningsOfNames(t *testing.T) {
	w := NewWarnings(slog.NewTextHandler(io.Discard, nil))
	log := slog.New(w)
	for range 2 {
		for _, name := range []string{"a.example", "b.example"} {
			log.Warn("acme: no certificate obtained", "server_name", name, "err", "refused")
		}
	}
	if got := w.Last(); len(got) != 2 || got[0].Count != 2 || got[1].Count != 2 {
		t.Errorf("kept %+v; want two, each twice", got)
	}
}

// The warnings are bounded in number, with the newest kept, and in length.
func TestWarningsBounded(t *testing.T) {
	w := NewWarnings(slog.NewTextHandler(io.Discard, nil))
	log := slog.New(w)
	for i := range 10 * maxWarnings {
		log.Warn("kind", "n", i)
	}
	if got := w.Last(); len(got) != maxWarnings || got[0].Text != fmt.Sprint("kind n=", 10*maxWarnings-1) {
		t.Errorf("kept %d, the newest %q; want %d", len(got), got[0].Text, maxWarnings)
	}
	log.Warn("long", "err", strings.Repeat("ü", 1<<20))
	if got := w.Last()[0]; len(got.Text) > maxWarningText+len("…") || len(got.kind) > maxWarningText+len("…") || !strings.HasSuffix(got.Text, "ü…") {
		t.Errorf("a long one has %d bytes and ends in %q", len(got.Text), got.Text[len(got.Text)-6:])
	}
}

// Refusals for failed logins are one kind, regardless of the number of addresses, and
// displace nothing else.
func TestWarningsOfRefusedLogins(t *testing.T) {
	w := NewWarnings(slog.DiscardHandler)
	log := slog.New(w)
	log.Warn("something else")
	for i := range 10 * maxWarnings {
		log.Warn("logins refused", "client", fmt.Sprintf("192.0.2.%d:1", i), "network", fmt.Sprintf("192.0.2.%d/32", i), "failures", i, "refused_for", 10*time.Minute, "server_name", fmt.Sprint("n", i))
	}
	if last := w.Last(); len(last) != 2 || last[0].Count != 10*maxWarnings || last[1].Text != "something else" {
		t.Errorf("%d kinds: %+v; want two", len(last), last)
	}
}
