package gate

import (
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A recorder is a test that a helper may fail.
type recorder struct {
	testing.TB
	failed string
	ends   []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Log(...any)       {}
func (r *recorder) Failed() bool     { return r.failed != "" }
func (r *recorder) Cleanup(f func()) { r.ends = append(r.ends, f) }
func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// A server that ends instead of listening is not waited for, and its last words
// and its status can be read.
func TestServerEnds(t *testing.T) {
	r := &recorder{TB: t}
	var s string
	done := make(chan struct{})
	go func() {
		defer close(done)
		StartServer(r, exec.Command("sh", "-c", "echo port is taken; exit 3"), new(Output), FreeAddr(t))
		s = "listens"
	}()
	<-done
	if s != "" || !strings.Contains(r.failed, "exit status 3") {
		t.Errorf("StartServer: %q, %q; want that it ended with status 3", s, r.failed)
	}
	for _, end := range r.ends {
		end()
	}
}

// What runs and does not listen is described: its state, what it wrote, its log.
func TestServerReport(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := StartServer(t, exec.Command("sh", "-c", "echo waiting for a disk; sleep 600"), new(Output), ln.Addr().String(), "server.go")
	s.Wait("disk")
	for _, want := range []string{"(sleep), state S", "waiting for a disk", "package gate"} {
		for !strings.Contains(s.report(), want) { // sh may be about to start it
			time.Sleep(10 * time.Millisecond)
		}
	}
}
