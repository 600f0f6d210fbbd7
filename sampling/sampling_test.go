package sampling

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.b.Reset()
	return b.b.String()
}

// A thousand occurrences make three lines: the first at once, and one for each minute
// with more of them, with their number.
func TestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		var l Line
		wants := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := strings.TrimSpace(out.take()); got != want {
				t.Errorf("the log has %q; want %q", got, want)
			}
		}
		for i := range 500 {
			l.Warn(log, "wrong", "client", i)
		}
		wants("level=WARN msg=wrong client=0")
		time.Sleep(Every)
		wants("level=WARN msg=wrong client=499 count=499")
		l.Info(log, "wrong", "client", 7)
		time.Sleep(Every)
		wants("level=INFO msg=wrong client=7 count=1")
		time.Sleep(Every)
		wants("")
		l.Warn(log, "wrong", "client", 8)
		wants("level=WARN msg=wrong client=8")
		time.Sleep(Every)
		wants("")
	})
}
