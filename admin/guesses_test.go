package admin

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/proxy"
)

// A lockedBuffer is for a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A client that sends wrong tokens repeatedly waits longer and longer for the answer,
// and causes a line a minute in the log. Requests with the right token never wait, even
// from the same address, nor do requests without a token.
func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		s := newServer(t, func(o *Options) {
			o.Access.Token = goodToken
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		send := func(client, path, token string) (code int, took time.Duration) {
			r := httptest.NewRequest("GET", "http://192.0.2.1"+path, nil)
			r.RemoteAddr = client
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			w := httptest.NewRecorder()
			began := time.Now()
			s.ServeHTTP(w, r)
			return w.Code, time.Since(began)
		}
		for i, want := range []time.Duration{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, firstWait, 2 * firstWait, 4 * firstWait, 8 * firstWait, 16 * firstWait, longestWait, longestWait} {
			// An open path also has different answers for a wrong and the right token.
			path, code := "/status", 401
			if i%2 == 1 {
				path, code = "/readyz", 200
			}
			if got, took := send("[2001:db8::1]:7", path, "wrong"); got != code || took != want {
				t.Errorf("wrong token %d: %d after %v; want %d after %v", i+1, got, took, code, want)
			}
		}
		if got, took := send("[2001:db8::1]:7", "/status", goodToken); got != 200 || took != 0 {
			t.Errorf("the right token from there: %d after %v; want 200 at once", got, took)
		}
		if got, took := send("[2001:db8::1]:7", "/readyz", ""); got != 200 || took != 0 {
			t.Errorf("a probe from there: %d after %v; want 200 at once", got, took)
		}
		if _, took := send("[2001:db8::2]:7", "/status", "wrong"); took != longestWait {
			t.Errorf("another address of the same /64 waits %v; want %v", took, longestWait)
		}
		if _, took := send("192.0.2.9:7", "/status", "wrong"); took != 0 {
			t.Errorf("another address waits %v", took)
		}
		if lines := strings.Count(log.String(), "wrong token"); lines != 1 || strings.Contains(log.String(), `"wrong"`) {
			t.Errorf("%d lines within the minute, want 1, without the token:\n%s", lines, &log)
		}
		time.Sleep(forgetAfter)
		if lines := strings.Count(log.String(), "wrong token"); lines != 2 || !strings.Contains(log.String(), "count=18") {
			t.Errorf("%d lines in the end, want 2, the last with the number:\n%s", lines, &log)
		}
		if _, took := send("[2001:db8::1]:7", "/status", "wrong"); took != 0 {
			t.Errorf("after five minutes without a guess it waits %v", took)
		}
		time.Sleep(time.Minute) // for the last line in the log
	})
}

// The number of addresses with a count of their own is limited; others share one.
func TestGuessesBounded(t *testing.T) {
	var g guesses
	now := time.Now()
	for i := range 3 * maxGuessers {
		g.note(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now)
	}
	if len(g.of) > maxGuessers+1 {
		t.Errorf("%d addresses are kept; want at most %d", len(g.of), maxGuessers+1)
	}
	if wait := g.note(netip.MustParseAddr("192.0.2.1"), now); wait != longestWait {
		t.Errorf("one more waits %v; want %v, with all others", wait, longestWait)
	}
	if wait := g.note(netip.MustParseAddr("192.0.2.1"), now.Add(forgetAfter)); wait != 0 || len(g.of) != 1 {
		t.Errorf("later: %v, %d addresses are kept; want 0 and 1", wait, len(g.of))
	}
}

// A panic ends only its request: in a handler, in the collector's own goroutine, in the
// one that takes samples. It is reported with its stack, and the next request is
// answered.
func TestPanics(t *testing.T) {
	told := make(chan any, 10)
	var broken atomic.Bool
	broken.Store(true)
	s := newServer(t, func(o *Options) {
		o.Panicked = func(v any) { told <- v }
		o.Counts = func() proxy.Counts {
			if broken.Load() {
				panic("counts")
			}
			return proxy.Counts{}
		}
		o.NotReady = func() []string { panic(http.ErrAbortHandler) }
	})
	<-told // by the first sample
	url, _ := serve(t, s)
	client := newClient(t)
	for _, path := range []string{"/status", "/readyz"} {
		if resp, err := client.Get(url + path); err == nil {
			t.Errorf("%s = %s; want the connection's end", path, resp.Status)
			resp.Body.Close()
		}
	}
	get(t, client, url+"/metrics")
	if len(told) != 2 {
		t.Errorf("told of %d; want the page and the metrics", len(told))
	}
	broken.Store(false)
	if code, _ := get(t, client, url+"/healthz"); code != 200 {
		t.Errorf("/healthz = %d", code)
	}
}

// Without a Panicked function, a panic is in the log with its stack.
func TestPanicLog(t *testing.T) {
	var log bytes.Buffer
	s := newServer(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		o.NotReady = func() []string { panic("at the disco") }
	})
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("panic %v; want net/http's own, which ends the connection", v)
		}
		if !strings.Contains(log.String(), "level=ERROR msg=panic") || !strings.Contains(log.String(), "serveReady") {
			t.Errorf("the log has no stack:\n%s", &log)
		}
	}()
	ask(s, loopback, "GET", "http://127.0.0.1/readyz")
}
