package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"wssgate/bench/internal/process"
)

// ready is how long a peer may take to serve.
const ready = 2 * time.Minute

// A peer is another program that can serve the certificates.
type peer struct {
	name      string
	args      func(config string) []string
	configure func(addr, certs string) string
}

var knownPeers = []peer{
	{"nginx", func(config string) []string { return []string{"-p", filepath.Dir(config), "-c", config} }, nginxConfig},
	{"haproxy", func(config string) []string { return []string{"-W", "-f", config} }, haproxyConfig},
}

// runPeers measures those that are installed, each until it serves the last name.
// What one changed file costs them is a reload, which reads all files again.
func (r *rig) runPeers() {
	for _, p := range knownPeers {
		path, err := exec.LookPath(p.name)
		if err != nil {
			fmt.Printf("%s: not installed\n", p.name)
			continue
		}
		r.runPeer(p, path)
	}
}

func (r *rig) runPeer(p peer, path string) {
	dir, err := os.MkdirTemp("", "wssgate-bench-certs-")
	check(err)
	defer os.RemoveAll(dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	addr := ln.Addr().String()
	ln.Close()
	config := filepath.Join(dir, p.name+".cfg")
	check(os.WriteFile(config, []byte(p.configure(addr, r.dir)), 0o600))
	cmd := exec.Command(path, p.args(config)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Stderr = os.Stderr
	start := time.Now()
	check(cmd.Start())
	defer func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its workers too
		cmd.Wait()
	}()
	at := &program{cmd: cmd, addr: addr}
	for r.serial(at, *count-1) == "" {
		if time.Since(start) > ready {
			log.Fatalf("certs: %s does not serve the last name", p.name)
		}
		time.Sleep(20 * time.Millisecond)
	}
	took := time.Since(start)
	time.Sleep(time.Second) // until all its workers are there
	pids, err := process.Tree(cmd.Process.Pid)
	check(err)
	var used time.Duration
	var memory int64
	for _, pid := range pids {
		cpu, err := process.CPU(pid)
		check(err)
		used += cpu
		n, err := process.ProportionalMemory(pid) // workers share what was read before they were forked
		check(err)
		memory += n
	}
	fmt.Println(p.name)
	fmt.Printf("ready to serve:      %6.2f s CPU, %.2f s on the clock\n", used.Seconds(), took.Seconds())
	fmt.Printf("user memory:         %6.1f MB in %d processes\n", float64(memory)/1e6, len(pids))
}

func nginxConfig(addr, certs string) string {
	var servers strings.Builder
	for i := range *count {
		fmt.Fprintf(&servers, `
  server {
    server_name %[1]s *.%[1]s;
    listen %[2]s ssl;
    ssl_certificate %[3]s;
    ssl_certificate_key %[3]s;
    return 404;
  }
`, name(i), addr, filepath.Join(certs, name(i)+".pem"))
	}
	return fmt.Sprintf(`
daemon off;
user root;
pid nginx.pid;
error_log log crit;
worker_processes 2;
events { worker_connections 1024; }
http {
  access_log off;
  server_names_hash_max_size 65536;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
%s
}
`, servers.String())
}

func haproxyConfig(addr, certs string) string {
	return fmt.Sprintf(`
global
  nbthread 2
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend wss
  bind %s ssl crt %s strict-sni
  default_backend none
backend none
  server none 127.0.0.1:9
`, addr, certs)
}
