package gate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a test waits for what must come. It is no measure of
// speed: only a broken program makes a test wait that long.
const Patience = time.Minute

// A Gate is one run of the program.
type Gate struct {
	tb  testing.TB
	cmd *exec.Cmd

	mu      sync.Mutex
	lines   []Line
	changed chan struct{} // closed and replaced with every line and at the end
	ended   bool
	status  int

	stderr  io.Closer
	reading sync.Mutex // held by Deafen
}

// A Line is one line of standard error. Fields is nil where the line is no
// JSON object: usage, a panic, the race detector.
type Line struct {
	Text   string
	Fields map[string]any
}

// Msg returns the line's message, or the whole line where it is no JSON.
func (l Line) Msg() string {
	if l.Fields == nil {
		return l.Text
	}
	return l.Str("msg")
}

// Str returns a field in its textual form, "" if it is not there.
func (l Line) Str(key string) string {
	if v, ok := l.Fields[key]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// An Option changes how Start runs the program.
type Option func(*options)

type options struct {
	plain bool
	env   []string
	files int

	names   string
	sockets []*os.File
}

// Plain runs the binary without the race detector, and as on a machine with two
// processors: for everything that is measured. Each processor has caches of its own in
// Go's runtime, and an event loop.
func Plain() Option {
	return func(o *options) { o.plain, o.env = true, append(o.env, "GOMAXPROCS=2") }
}

// Env adds "KEY=value" to the program's environment.
func Env(kv string) Option { return func(o *options) { o.env = append(o.env, kv) } }

// Descriptors limits the program's descriptors to n.
func Descriptors(n int) Option { return func(o *options) { o.files = n } }

// Inherit passes sockets as systemd does: with their names, and the number of the
// process that they are for, which a shell knows that becomes the program.
func Inherit(names string, sockets ...*os.File) Option {
	return func(o *options) { o.names, o.sockets = names, sockets }
}

// Start runs "wssgate serve -config config.toml" in dir and returns when it
// listens for wss. When the test ends the program must still run, or have
// ended by Stop or Wait; and it must not have met a panic or a data race.
func Start(tb testing.TB, dir string, opts ...Option) *Gate {
	tb.Helper()
	g := Run(tb, dir, []string{"serve", "-config", "config.toml"}, opts...)
	g.Addr("wss")
	return g
}

// Run starts the program with the arguments in dir and does not wait.
func Run(tb testing.TB, dir string, args []string, opts ...Option) *Gate {
	tb.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	binary, err := Build(!o.plain)
	if err != nil {
		tb.Fatal(err)
	}
	g := &Gate{tb: tb, cmd: exec.Command(binary, args...), changed: make(chan struct{})}
	if o.files > 0 { // set by a shell that becomes the program
		shell := []string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, o.files), binary}
		g.cmd = exec.Command("/bin/sh", append(shell, args...)...)
	}
	if len(o.sockets) > 0 {
		g.cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary}, args...)...)
		g.cmd.ExtraFiles = o.sockets // from descriptor 3 on
		o.env = append(o.env, fmt.Sprintf("LISTEN_FDS=%d", len(o.sockets)), "LISTEN_FDNAMES="+o.names)
	}
	g.cmd.Dir = dir
	g.cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 exitcode=66 atexit_sleep_ms=0")
	g.cmd.Env = append(g.cmd.Env, o.env...)
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	g.stderr = stderr
	go g.follow(stderr)
	tb.Cleanup(g.finish)
	return g
}

// awaitReading waits while standard error is not to be read.
func (g *Gate) awaitReading() {
	g.reading.Lock()
	defer g.reading.Unlock()
}

// follow collects standard error, then the exit status.
func (g *Gate) follow(stderr io.Reader) {
	r := bufio.NewReader(stderr)
	for {
		g.awaitReading()
		text, err := r.ReadString('\n')
		if text = strings.TrimRight(text, "\n"); text != "" {
			line := Line{Text: text}
			if json.Unmarshal([]byte(text), &line.Fields) != nil {
				line.Fields = nil
			}
			g.mu.Lock()
			g.lines = append(g.lines, line)
			g.wake()
			g.mu.Unlock()
		}
		if err != nil {
			break
		}
	}
	err := g.cmd.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended, g.status = true, g.cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		g.lines = append(g.lines, Line{Text: "wait: " + err.Error()})
	}
	g.wake()
}

func (g *Gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// finish ends the program where the test did not, and looks for what no run
// may show.
func (g *Gate) finish() {
	g.mu.Lock()
	ended := g.ended
	g.mu.Unlock()
	if !ended {
		g.Signal(syscall.SIGTERM)
		g.Signal(syscall.SIGTERM)
		g.Wait()
	}
	text := g.Text()
	for _, bad := range []string{"panic:", `"msg":"panic"`, "WARNING: DATA RACE", "fatal error:"} {
		if strings.Contains(text, bad) {
			g.tb.Errorf("wssgate: %s", bad)
		}
	}
	if g.tb.Failed() {
		g.tb.Logf("standard error of wssgate:\n%s", text)
	}
}

// Deafen stops reading the program's standard error, but for a last few lines, until
// hear is called.
func (g *Gate) Deafen() (hear func()) {
	g.reading.Lock()
	return g.reading.Unlock
}

// HangUp closes the reading end of the program's standard error.
func (g *Gate) HangUp() { g.stderr.Close() }

// Signal sends the signal to the program.
func (g *Gate) Signal(sig syscall.Signal) {
	if err := g.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		g.tb.Errorf("signal %v: %v", sig, err)
	}
}

// Wait returns the exit status once the program has ended: -1 if a signal
// ended it. A program that does not end is killed and fails the test.
func (g *Gate) Wait() int {
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		g.mu.Lock()
		ended, status, changed := g.ended, g.status, g.changed
		g.mu.Unlock()
		if ended {
			return status
		}
		select {
		case <-changed:
		case <-deadline.C:
			g.tb.Errorf("wssgate did not end within %v; killing it", Patience)
			g.cmd.Process.Kill()
			deadline.Reset(Patience)
		}
	}
}

// Addr returns where the named listener ("wss", "http", "admin") listens.
func (g *Gate) Addr(listener string) string {
	g.tb.Helper()
	line := g.WaitLine("the "+listener+" listener", func(l Line) bool {
		return l.Msg() == "listening" && l.Str("listener") == listener
	})
	return line.Str("addr")
}

// WaitLine returns the first line that match accepts, of those that are there
// and those to come. It fails the test if the program ends without it, and
// when it waits in vain; what names the line for that message.
func (g *Gate) WaitLine(what string, match func(Line) bool) Line {
	g.tb.Helper()
	return g.waitFrom(0, what, match)
}

// Mark returns a function that waits as WaitLine does, but looks only at lines
// that come after the call of Mark.
func (g *Gate) Mark() func(what string, match func(Line) bool) Line {
	g.mu.Lock()
	from := len(g.lines)
	g.mu.Unlock()
	return func(what string, match func(Line) bool) Line {
		g.tb.Helper()
		return g.waitFrom(from, what, match)
	}
}

func (g *Gate) waitFrom(from int, what string, match func(Line) bool) Line {
	g.tb.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		g.mu.Lock()
		lines, changed, ended := g.lines, g.changed, g.ended
		g.mu.Unlock()
		for ; from < len(lines); from++ {
			if match(lines[from]) {
				return lines[from]
			}
		}
		if ended {
			g.tb.Fatalf("wssgate ended with status %d before %s", g.Wait(), what)
		}
		select {
		case <-changed:
		case <-deadline.C:
			g.tb.Fatalf("%s did not come within %v", what, Patience)
		}
	}
}

// Text returns what the program has written to standard error.
func (g *Gate) Text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var b bytes.Buffer
	for _, l := range g.lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}
