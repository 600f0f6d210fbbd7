package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"wssgate/bench/internal/process"
	"wssgate/demo/minica"
)

// serverName is the vhost that all gates serve.
const serverName = "example1.com"

// A kind is a program that can be measured.
type kind struct {
	name      string
	configure func(g *gate) (args []string, err error) // writes the configuration
	signal    syscall.Signal                           // asks for a reload
}

// A benchRun has what all gates of one run share.
type benchRun struct {
	ctx   context.Context
	dir   string
	kinds []kind
	roots *x509.CertPool
}

// newBench makes the certificate, and finds or builds the programs.
func newBench(ctx context.Context, list string) (*benchRun, error) {
	dir, err := os.MkdirTemp("", "wssgate-bench-")
	if err != nil {
		return nil, err
	}
	b := &benchRun{ctx: ctx, dir: dir}
	ca := minica.NewCA("Bench Root").Intermediate("Bench CA 1")
	pair := ca.Issue(serverName)
	b.roots = ca.Pool()
	err = errors.Join(
		os.Mkdir(b.path("certs"), 0o700),
		os.WriteFile(b.path("certs/one.pem"), pair.PEM(), 0o600),
		os.WriteFile(b.path("chain.pem"), pair.ChainPEM(), 0o600),
		os.WriteFile(b.path("key.pem"), pair.KeyPEM(), 0o600))
	for name := range strings.SplitSeq(list, ",") {
		if err == nil {
			err = b.find(strings.TrimSpace(name))
		}
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// find adds a program.
func (b *benchRun) find(name string) error {
	name, path, given := strings.Cut(name, "=")
	if !given {
		var err error
		switch name {
		case "wssgate":
			path = b.path("wssgate")
			build := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-o", path, "wssgate")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				return fmt.Errorf("build wssgate: %w\n%s", err, out)
			}
		case "nginx", "haproxy":
			if path, err = lookProgram(name); err != nil {
				fmt.Fprintf(os.Stderr, "bench: %s is not installed, and left out\n", name)
				return nil
			}
		default:
			return fmt.Errorf("gate %q: want wssgate, nginx, haproxy, or NAME=PATH of a wssgate binary", name)
		}
	}
	k := kind{name: name, signal: syscall.SIGHUP, configure: wssgateConfig(path)}
	switch {
	case given:
	case name == "nginx":
		k.configure = nginxConfig(path)
	case name == "haproxy":
		k.signal, k.configure = syscall.SIGUSR2, haproxyConfig(path)
	}
	b.kinds = append(b.kinds, k)
	return nil
}

// lookProgram also looks where servers are, which is in no user's PATH.
func lookProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

func (b *benchRun) path(name string) string { return filepath.Join(b.dir, name) }

func (b *benchRun) names() []string {
	var names []string
	for _, k := range b.kinds {
		names = append(names, k.name)
	}
	return names
}

func (b *benchRun) close() {
	if *keep {
		fmt.Fprintln(os.Stderr, "bench: kept", b.dir)
		return
	}
	os.RemoveAll(b.dir)
}

// A gate is one running program with its upstream.
type gate struct {
	kind
	bench    *benchRun
	dir      string
	addr     string // where clients connect
	upstream string // host:port
	files    int
	cmd      *exec.Cmd
	echo     *exec.Cmd
}

// start starts a gate, which may have so many files open (0: no limit), and its
// upstream, and waits until it accepts.
func (b *benchRun) start(k kind, files int) (*gate, error) {
	dir, err := os.MkdirTemp(b.dir, k.name+"-")
	if err != nil {
		return nil, err
	}
	g := &gate{kind: k, bench: b, dir: dir, files: files}
	if err := g.startUpstream(); err != nil {
		return nil, err
	}
	if err := g.startGate(); err != nil {
		g.stop()
		return nil, fmt.Errorf("%w\n%s", err, g.lastWords())
	}
	return g, nil
}

// startUpstream starts this program as an upstream; its first line of output
// is its address, and it ends when its input does.
func (g *gate) startUpstream() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-upstream")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.echo = cmd
	line, err := bufio.NewReader(out).ReadString('\n')
	g.upstream = strings.TrimSpace(line)
	return err
}

func (g *gate) startGate() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g.addr = ln.Addr().String()
	ln.Close() // none of the three tells which port the kernel chose
	args, err := g.configure(g)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(g.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	if g.files > 0 {
		args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, g.files), "sh"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = g.dir, log, log
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	if err := cmd.Start(); err != nil {
		return err
	}
	g.cmd = cmd
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", g.addr)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not accept: %w", g.name, err)
		}
	}
}

// stop ends the gate and its upstream hard: nothing is measured any more.
func (g *gate) stop() {
	for _, cmd := range []*exec.Cmd{g.cmd, g.echo} {
		if cmd == nil {
			continue
		}
		pids, _ := process.Tree(cmd.Process.Pid)
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		cmd.Wait()
	}
}

// lastWords is the end of the gate's log.
func (g *gate) lastWords() string {
	data, _ := os.ReadFile(filepath.Join(g.dir, "log"))
	return string(data[max(len(data)-2000, 0):])
}

func (g *gate) reload() error { return g.cmd.Process.Signal(g.signal) }

// processes are the gate's, old ones that linger included.
func (g *gate) processes() ([]int, error) { return process.Tree(g.cmd.Process.Pid) }

// private is the user memory of all the gate's processes, in bytes.
func (g *gate) private() (int64, error) { return sumOver(g, process.PrivateMemory) }

// peak is the most memory that the gate's processes had, in bytes.
func (g *gate) peak() (int64, error) { return sumOver(g, process.PeakMemory) }

func sumOver[N int64 | time.Duration](g *gate, of func(pid int) (N, error)) (sum N, err error) {
	pids, err := g.processes()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		n, err := of(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// cpuOf is the CPU time that the gate needs for each of the things f does.
func (g *gate) cpuOf(f func() (done int, err error)) (time.Duration, error) {
	before, err := sumOver(g, process.CPU)
	if err != nil {
		return 0, err
	}
	done, err := f()
	if err != nil {
		return 0, err
	}
	if done == 0 {
		return 0, errors.New("nothing was done")
	}
	after, err := sumOver(g, process.CPU)
	return (after - before) / time.Duration(done), err
}

func (g *gate) write(name, text string) (path string, err error) {
	path = filepath.Join(g.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func wssgateConfig(binary string) func(g *gate) ([]string, error) {
	return func(g *gate) ([]string, error) {
		file, err := g.write("config.toml", fmt.Sprintf(`
[listen]
wss = %q
admin = ""
[certificates]
directory = %q
[upstream.echo]
nodes = ["ws://%s/"]
xmpp = false
[log]
level = %q
`, g.addr, g.bench.path("certs"), g.upstream, *level))
		return []string{binary, "serve", "-config", file}, err
	}
}

func nginxConfig(binary string) func(g *gate) ([]string, error) {
	return func(g *gate) ([]string, error) {
		file, err := g.write("nginx.conf", fmt.Sprintf(`
daemon off;
user root;
pid nginx.pid;
error_log log error;
worker_processes 2;
events { worker_connections 19900; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  ssl_protocols TLSv1.3;
  ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
  server {
    listen %[1]s ssl backlog=4096 default_server;
    ssl_reject_handshake on;
  }
  server {
    listen %[1]s ssl;
    server_name %[2]s;
    ssl_certificate %[3]s;
    ssl_certificate_key %[4]s;
    location / {
      proxy_pass http://%[5]s;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }
  }
}
`, g.addr, serverName, g.bench.path("chain.pem"), g.bench.path("key.pem"), g.upstream))
		return []string{binary, "-p", g.dir, "-c", file}, err
	}
}

func haproxyConfig(binary string) func(g *gate) ([]string, error) {
	return func(g *gate) ([]string, error) {
		connections := 9900
		if g.files > 0 {
			connections = g.files/2 - 40 // or it does not start
		}
		file, err := g.write("haproxy.cfg", fmt.Sprintf(`
global
  nbthread 2
  maxconn %d
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend wss
  bind %s ssl crt %s strict-sni ssl-min-ver TLSv1.3
  default_backend echo
backend echo
  server echo %s
`, connections, g.addr, g.bench.path("certs/one.pem"), g.upstream))
		return []string{binary, "-W", "-f", file}, err
	}
}

// serveUpstream is the child that startUpstream starts.
func serveUpstream() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: upstream:", err)
		os.Exit(1)
	}
	fmt.Println(ln.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		conn, err := ln.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: upstream:", err)
			os.Exit(1)
		}
		go echo(conn)
	}
}
