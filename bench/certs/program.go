package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	changes = 5                // files that change, one after the other
	calm    = 15 * time.Second // in which spare memory goes back to the system, every 5 s at most
)

// A program is a running "wssgate serve".
type program struct {
	cmd  *exec.Cmd
	addr string // where it speaks TLS
	dir  string // its configuration and log; removed by stop
}

// runProgram measures the built program, with all that it has beside a Store:
// listeners, routes, the operator's page with its metrics.
func (r *rig) runProgram(binary string) {
	start := time.Now()
	p := startProgram(binary, r.dir)
	defer p.stop()
	last := r.serial(p, *count-1)
	if last == "" || r.serial(p, 0) == "" {
		log.Fatalf("certs: no certificate for the first or the last name")
	}
	fmt.Printf("wssgate serve, first handshakes included\n")
	fmt.Printf("ready to serve:      %6.2f s CPU, %.2f s on the clock (goal: 1 s CPU)\n", p.cpu().Seconds(), time.Since(start).Seconds())
	fmt.Printf("user memory:         %6.1f MB (goal: 40 MB)\n", private(p.cmd.Process.Pid))
	time.Sleep(calm)
	fmt.Printf("  %2.0f s later:        %6.1f MB\n", calm.Seconds(), private(p.cmd.Process.Pid))

	serials := map[int]string{}
	for i := range changes {
		serials[i] = r.serial(p, i*17)
	}
	before := p.cpu()
	for i := range changes {
		r.make(i * 17)
		time.Sleep(3 * time.Second) // the second look at what was young
	}
	used := p.cpu() - before
	before = p.cpu()
	time.Sleep(time.Duration(changes) * 3 * time.Second)
	idle := p.cpu() - before
	for i := range changes {
		if now := r.serial(p, i*17); now == "" || now == serials[i] {
			log.Fatalf("certs: %s: the new certificate is not served", name(i*17))
		}
	}
	fmt.Printf("one changed file:    %6.1f ms CPU (goal: 20 ms), mean of %d; as long without a change: %.1f ms\n",
		used.Seconds()*1e3/float64(changes), changes, idle.Seconds()*1e3/float64(changes))
	fmt.Printf("user memory then:    %6.1f MB\n", private(p.cmd.Process.Pid))
	before = p.cpu()
	handshakes := min(1000, *count)
	for i := range handshakes {
		r.serial(p, i*(*count)/handshakes)
	}
	fmt.Printf("handshake:           %6.1f µs CPU, each of %d with another name\n", (p.cpu()-before).Seconds()*1e6/float64(handshakes), handshakes)
	fmt.Printf("user memory then:    %6.1f MB\n", private(p.cmd.Process.Pid))
	time.Sleep(calm)
	fmt.Printf("  %2.0f s later:        %6.1f MB\n", calm.Seconds(), private(p.cmd.Process.Pid))
}

// buildProgram returns the path of a binary as "make build" makes it.
func buildProgram(dir string) string {
	path := filepath.Join(dir, "wssgate")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "wssgate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	check(build.Run())
	return path
}

// startProgram returns when the program listens.
func startProgram(binary, certs string) *program {
	dir, err := os.MkdirTemp("", "wssgate-bench-certs-")
	check(err)
	config := filepath.Join(dir, "config.toml")
	check(os.WriteFile(config, fmt.Appendf(nil, `
[listen]
wss = "127.0.0.1:0"
admin = "127.0.0.1:0"
[certificates]
directory = %q
[upstream.none]
nodes = ["ws://127.0.0.1:9/"]
`, certs), 0o600))
	cmd := exec.Command(binary, "serve", "-config", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	check(err)
	check(cmd.Start())
	p := &program{cmd: cmd, dir: dir}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if line := lines.Text(); strings.Contains(line, `"listener":"wss"`) {
			_, p.addr, _ = strings.Cut(line, `"addr":"`)
			p.addr, _, _ = strings.Cut(p.addr, `"`)
			go func() {
				for lines.Scan() {
				}
			}()
			return p
		}
	}
	log.Fatalf("certs: %s: ended early: %v", binary, cmd.Wait())
	return nil
}

func (p *program) stop() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	os.RemoveAll(p.dir)
}

// serial makes a handshake and returns the serial number of the certificate,
// "" where there is none.
func (r *rig) serial(p *program, i int) string {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", p.addr,
		&tls.Config{ServerName: name(i), RootCAs: r.ca.Pool()})
	if err != nil {
		return ""
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// cpu returns what the program has used so far, user and system: to the
// nanosecond, where /proc/PID/stat counts in hundredths of a second.
func (p *program) cpu() time.Duration {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	check(err)
	var sum time.Duration
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // Go ends a thread now and then
		}
		used, _, _ := strings.Cut(string(data), " ")
		ns, err := strconv.ParseInt(used, 10, 64)
		check(err)
		sum += time.Duration(ns)
	}
	return sum
}
