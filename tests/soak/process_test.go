package soak

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
)

// A process is the gate's. Package gate has one that keeps every line of the
// log, which an hour would have too many of, and that always reads it.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	admin *http.Client

	reading sync.Mutex // whoever holds it keeps standard error from being read

	mu       sync.Mutex
	tail     []string          // the last lines
	trouble  []string          // lines that no run may have
	listens  map[string]string // listener to address
	messages map[string]int    // by msg
}

const tailLines = 200

// noRun is what no run may say.
var noRun = regexp.MustCompile(`panic:|"msg":"panic"|fatal error:|DATA RACE`)

// startProcess runs the built binary in dir with a limit of descriptors and
// returns when it listens. Its pipe for standard error is as small as can be.
func startProcess(tb testing.TB, dir string, descriptors int) *process {
	tb.Helper()
	binary, err := gate.Build(false)
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{ended: make(chan struct{}), listens: map[string]string{}, messages: map[string]int{},
		admin: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}}
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	const setPipeSize = 1031 // F_SETPIPE_SZ
	syscall.Syscall(syscall.SYS_FCNTL, w.Fd(), setPipeSize, 4096)
	p.cmd = exec.Command("/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" serve -config config.toml`, descriptors), binary)
	p.cmd.Dir, p.cmd.Stderr = dir, w
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=2") // memory and goroutines come with processors
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	w.Close()
	go p.read(r)
	tb.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.trouble) > 0 {
			tb.Errorf("wssgate: %s", strings.Join(p.trouble, "\n"))
		}
		if tb.Failed() {
			tb.Logf("the last lines of standard error:\n%s", strings.Join(p.tail, "\n"))
		}
	})
	eventually(tb, "wssgate listens", func() error {
		if p.addr("wss") == "" || p.addr("admin") == "" {
			return fmt.Errorf("not yet; ended: %v", p.hasEnded())
		}
		return nil
	})
	return p
}

// awaitReading waits while standard error is not to be read.
func (p *process) awaitReading() {
	p.reading.Lock()
	defer p.reading.Unlock()
}

// read reads standard error, line by line, then waits for the process.
func (p *process) read(r io.ReadCloser) {
	defer close(p.ended)
	defer r.Close()
	lines := bufio.NewReader(r)
	for {
		p.awaitReading()
		line, err := lines.ReadString('\n')
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			p.take(line)
		}
		if err != nil {
			p.cmd.Wait()
			return
		}
	}
}

func (p *process) take(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.tail) == tailLines {
		p.tail = slices.Delete(p.tail, 0, tailLines/2)
	}
	p.tail = append(p.tail, line)
	if noRun.MatchString(line) && len(p.trouble) < 10 {
		p.trouble = append(p.trouble, line)
	}
	var fields struct{ Msg, Listener, Addr string }
	if json.Unmarshal([]byte(line), &fields) == nil {
		p.messages[fields.Msg]++
		if fields.Msg == "listening" {
			p.listens[fields.Listener] = fields.Addr
		}
	}
}

func (p *process) addr(listener string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listens[listener]
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// ask makes a request of the admin listener.
func (p *process) ask(method, path string) (string, error) {
	req, err := http.NewRequest(method, "http://"+p.addr("admin")+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := p.admin.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(body))
	}
	return string(body), err
}

// metrics returns the values of those that have no label, and of good reloads.
func (p *process) metrics() (map[string]float64, error) {
	body, err := p.ask("GET", "/metrics")
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = n
		}
	}
	return all, nil
}

// possessions are what must come back.
type possessions struct {
	descriptors, goroutines int
	footprint
}

func (p *process) possessions() (possessions, error) {
	f, err := p.footprint()
	if err != nil {
		return possessions{}, err
	}
	m, err := p.metrics()
	// The request for the metrics has a descriptor of its own.
	return possessions{int(m["process_open_fds"]), int(m["go_goroutines"]), f}, err
}

// peak is the most memory that the process ever had, in bytes.
func (p *process) peak() int64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	return number(string(data), "VmHWM: %d kB") << 10
}

// number returns what a line says in a place, as with Sscanf; 0 where none does.
func number(text, format string) (n int64) {
	for line := range strings.Lines(text) {
		if got, _ := fmt.Sscanf(line, format, &n); got == 1 {
			return n
		}
	}
	return 0
}

// patience is how long what must come is waited for. It is no measure of speed:
// only a broken gate makes the rig wait that long.
const patience = 2 * time.Minute

func eventually(tb testing.TB, what string, f func() error) {
	tb.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			tb.Fatalf("%s: not within %v: %v", what, patience, err)
		}
	}
}
