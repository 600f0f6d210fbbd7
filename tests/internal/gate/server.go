package gate

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Server is a process of somebody else's program that the gate stands in
// front of or beside: an XMPP server, a CA, another gate.
type Server struct {
	tb    testing.TB
	cmd   *exec.Cmd
	out   *Output
	logs  []string
	ended chan struct{}
}

// serverReport is after how much waiting a server that does not listen yet has
// its output shown, and how often then. It may only be slow, so that the test
// goes on waiting, for serverPatience.
const (
	serverReport   = 10 * time.Second
	serverPatience = 3 * time.Minute
)

// StartServer starts the command in a process group of its own and returns when
// something listens on addr. One that ends before fails the test at once. What
// it writes goes to out, and is shown where the test fails, as are the files in
// logs. The test ends it, or Stop does.
func StartServer(tb testing.TB, cmd *exec.Cmd, out *Output, addr string, logs ...string) *Server {
	tb.Helper()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // its children end with it
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, cmd: cmd, out: out, logs: logs, ended: make(chan struct{})}
	go func() { cmd.Wait(); close(s.ended) }()
	tb.Cleanup(func() {
		s.Stop(syscall.SIGTERM)
		if tb.Failed() {
			tb.Log(s.report())
		}
	})
	began := time.Now()
	for reported := began; ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return s
		}
		select {
		case <-s.ended:
			tb.Fatalf("%s ended before it listened on %s: %v", cmd, addr, cmd.ProcessState)
		default:
		}
		if time.Since(began) > serverPatience {
			tb.Fatalf("%s does not listen within %v: %v", cmd, serverPatience, err)
		}
		if time.Since(reported) > serverReport {
			reported = time.Now()
			fmt.Fprintf(os.Stderr, "%s: after %v: %v\n%s\n", tb.Name(), time.Since(began).Round(time.Second), err, s.report()) // at once, where -v is missing as well
		}
	}
}

// Stop sends the group a signal and waits for the process's end. It is fine to
// call it twice.
func (s *Server) Stop(sig syscall.Signal) {
	s.tb.Helper()
	select {
	case <-s.ended:
		return
	default:
	}
	syscall.Kill(-s.cmd.Process.Pid, sig)
	select {
	case <-s.ended:
	case <-time.After(serverPatience):
		s.tb.Errorf("%s did not end within %v of %v\n%s", s.cmd, serverPatience, sig, s.report())
		syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.ended
	}
}

// report is what can be known of the server: what its processes do, what it
// wrote.
func (s *Server) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", s.cmd)
	select {
	case <-s.ended:
		fmt.Fprintf(&b, "%v\n", s.cmd.ProcessState)
	default:
		fmt.Fprintf(&b, "runs: %s\n", strings.Join(groupStates(s.cmd.Process.Pid), "; "))
	}
	fmt.Fprintf(&b, "its output:\n%s", s.out)
	for _, file := range s.logs {
		data, err := os.ReadFile(file)
		fmt.Fprintf(&b, "\n%s (%v):\n%s", file, err, data)
	}
	return b.String()
}

// groupStates tells what each process of a group does: one that sleeps without
// having used more CPU time since the last report does not come up because it
// waits for something, not because the machine is slow.
func groupStates(group int) (all []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it is gone
		}
		head, rest, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest) // from the state on, see proc_pid_stat(5)
		if len(fields) < 13 || fields[2] != fmt.Sprint(group) {
			continue
		}
		waits, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "wchan"))
		all = append(all, fmt.Sprintf("%s), state %s, CPU ticks %s+%s, in %q", head, fields[0], fields[11], fields[12], waits))
	}
	return all
}

// An Output is a buffer that a process writes while the test may read it.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Wait waits until the process has written the text n times. It fails the test
// if ended, which may be nil, is closed before.
func (o *Output) Wait(tb testing.TB, text string, n int, ended <-chan struct{}) {
	tb.Helper()
	for began := time.Now(); strings.Count(o.String(), text) < n; time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			tb.Fatalf("the process ended before it wrote %q %d times", text, n)
		default:
		}
		if time.Since(began) > serverPatience {
			tb.Fatalf("%q did not come %d times within %v", text, n, serverPatience)
		}
	}
}

// Wait waits until the server has written the text.
func (s *Server) Wait(text string) {
	s.tb.Helper()
	s.out.Wait(s.tb, text, 1, s.ended)
}
