package sample

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A thousand occurrences are three lines: the first at once, and one for each
// minute in which there were more, with their number.
func TestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
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
			if got := strings.TrimSpace(out.String()); got != want {
				t.Errorf("the log has %q; want %q", got, want)
			}
			out.Reset()
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
