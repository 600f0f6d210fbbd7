// Command certs measures what ten thousand certificates cost.
//
//	go run ./certs -n 10000 [-rsa 8] [-layout pem|pairs|folders|certbot] [-of store|program|both] [-peers]
//
// It makes that many certificates in a temporary directory, each with a key of
// its own and of the size that a public CA's have. Then it measures two things:
// a child of its own that does nothing but open a certstore.Store on them, and
// the built program, "wssgate serve" (program.go). For each it prints CPU until
// it is ready, user memory, and CPU for one changed file. With -peers it starts
// nginx and HAProxy on the same files (peers.go). User memory is what the kernel
// calls private: Private_Clean and Private_Dirty of
// /proc/PID/smaps_rollup.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"wssgate/bench/internal/process"
	"wssgate/certstore"
	"wssgate/demo/minica"
)

var (
	count  = flag.Int("n", 10_000, "number of certificates")
	rsaN   = flag.Int("rsa", 0, "RSA 2048 certificates instead, sharing this many keys (a key takes 0.1 s to make)")
	layout = flag.String("layout", "pem", "pem: one file each; pairs: NAME.crt and NAME.key; folders: NAME/fullchain.pem and NAME/privkey.pem; certbot: live/NAME with links into archive/NAME")
	of     = flag.String("of", "both", "what to measure: store, program or both")
	binary = flag.String("binary", "", "the program; empty: built from this source")
	gogc   = flag.Int("gogc", 50, "GOGC of the child with the store; the program sees to its own")
	peers  = flag.Bool("peers", false, "nginx and HAProxy too, where they are installed; -layout pem only")
	quick  = flag.Bool("quick", false, "a hundredth of the certificates, one change, no waits for memory: shows that all runs; its figures say nothing")
	child  = flag.String("child", "", "internal: be the child on this directory")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	if *child != "" {
		beChild(*child)
		return
	}
	if *peers && *layout != "pem" {
		log.Fatal("certs: nginx and HAProxy are only told of one PEM file for each name: -layout pem")
	}
	if *quick {
		*count, changes, calm = max(*count/100, 1), 1, 0
	}
	dir, err := os.MkdirTemp("", "wssgate-bench-certs-")
	check(err)
	defer os.RemoveAll(dir)
	start := time.Now()
	rig := newRig(dir)
	rig.makeAll()
	fmt.Printf("%d certificates in %s, made in %.1f s\n", *count, *layout, time.Since(start).Seconds())
	time.Sleep(3 * time.Second) // as old as files usually are: a young one is read twice
	if *of != "program" {
		rig.run()
	}
	if *of != "store" {
		if *binary == "" {
			tools, err := os.MkdirTemp("", "wssgate-bench-certs-")
			check(err)
			defer os.RemoveAll(tools)
			*binary = buildProgram(tools)
		}
		rig.runProgram(*binary)
	}
	if *peers {
		rig.runPeers()
	}
}

// A rig has the directory and the CA of one run.
type rig struct {
	dir  string
	ca   *minica.CA
	keys []*rsa.PrivateKey
}

func newRig(dir string) *rig {
	r := &rig{dir: dir, ca: minica.NewCA("Bench Root").Intermediate("Bench CA 1")}
	for range *rsaN {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		check(err)
		r.keys = append(r.keys, key)
	}
	return r
}

func (r *rig) makeAll() {
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				r.make(i)
			}
		})
	}
	for i := range *count {
		next <- i
	}
	close(next)
	wg.Wait()
}

func name(i int) string { return fmt.Sprintf("vhost%05d.example.com", i) }

// make writes certificate i anew, by renaming as certbot does.
func (r *rig) make(i int) {
	spec := minica.Spec{Names: []string{name(i), "*." + name(i)}, Edit: asPublic}
	if len(r.keys) > 0 {
		spec.Key = r.keys[i%len(r.keys)]
	} else {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		spec.Key = key
	}
	pair := r.ca.IssueSpec(spec)
	switch *layout {
	case "pem":
		r.write(name(i)+".pem", pair.PEM())
	case "pairs":
		r.write(name(i)+".key", pair.KeyPEM())
		r.write(name(i)+".crt", pair.ChainPEM())
	case "folders":
		check(os.MkdirAll(filepath.Join(r.dir, name(i)), 0o700))
		r.write(name(i)+"/privkey.pem", pair.KeyPEM())
		r.write(name(i)+"/fullchain.pem", pair.ChainPEM())
	case "certbot":
		r.makeLive(name(i), pair)
	default:
		log.Fatalf("certs: -layout is pem, pairs, folders or certbot, not %q", *layout)
	}
}

// makeLive writes what certbot does: the next version of four files, and links to
// them.
func (r *rig) makeLive(name string, pair *minica.Pair) {
	archive, live := filepath.Join(r.dir, "archive", name), filepath.Join(r.dir, "live", name)
	check(os.MkdirAll(archive, 0o700))
	check(os.MkdirAll(live, 0o700))
	old, err := filepath.Glob(filepath.Join(archive, "privkey*.pem"))
	check(err)
	for _, f := range []struct {
		name string
		data []byte
	}{{"privkey", pair.KeyPEM()}, {"cert", minica.CertPEM(pair.Cert)}, {"chain", minica.CertPEM(pair.Issuers[0])}, {"fullchain", pair.ChainPEM()}} {
		version := fmt.Sprintf("%s%d.pem", f.name, len(old)+1)
		check(os.WriteFile(filepath.Join(archive, version), f.data, 0o600))
		link := filepath.Join(live, f.name+".pem")
		os.Remove(link)
		check(os.Symlink(filepath.Join("../../archive", name, version), link))
	}
}

func (r *rig) write(file string, data []byte) {
	path := filepath.Join(r.dir, file)
	tmp := filepath.Join(filepath.Dir(path), ".new-"+filepath.Base(path))
	check(os.WriteFile(tmp, data, 0o600))
	check(os.Rename(tmp, path))
}

// asPublic makes the leaf as large as one of Let's Encrypt: addresses of the
// issuer, a policy, and two signed certificate timestamps.
func asPublic(c *x509.Certificate) {
	c.IssuingCertificateURL = []string{"http://ca1.i.bench.example/"}
	c.CRLDistributionPoints = []string{"http://ca1.c.bench.example/57.crl"}
	timestamps := make([]byte, 246)
	rand.Read(timestamps)
	c.ExtraExtensions = append(c.ExtraExtensions,
		pkix.Extension{Id: []int{2, 5, 29, 32}, Value: []byte{0x30, 0x0a, 0x30, 0x08, 0x06, 0x06, 0x67, 0x81, 0x0c, 0x01, 0x02, 0x01}},
		pkix.Extension{Id: []int{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: timestamps})
}

// run starts the child and asks it, step by step.
func (r *rig) run() {
	self, err := os.Executable()
	check(err)
	cmd := exec.Command(self, "-child", r.dir, "-n", fmt.Sprint(*count))
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOGC=%d", *gogc))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(err)
	out, err := cmd.StdoutPipe()
	check(err)
	start := time.Now()
	check(cmd.Start())
	lines := bufio.NewScanner(out)
	answer := func() (cpu time.Duration) { // each answer is what the child has used so far
		if !lines.Scan() {
			log.Fatal("certs: the child ended early")
		}
		_, err := fmt.Sscan(lines.Text(), &cpu)
		check(err)
		return cpu
	}
	ask := func(order string) time.Duration {
		_, err := io.WriteString(in, order+"\n")
		check(err)
		return answer()
	}
	pid := cmd.Process.Pid
	ready := answer()
	fmt.Println("the store alone")
	fmt.Printf("ready to serve:      %6.2f s CPU, %.2f s on the clock (goal: 1 s CPU)\n", ready.Seconds(), time.Since(start).Seconds())
	fmt.Printf("user memory:         %6.1f MB (goal: 40 MB)\n", private(pid))
	time.Sleep(time.Second)
	fmt.Printf("  a second later:    %6.1f MB\n", private(pid))

	before := ask("cpu")
	for i := range changes {
		r.make(i * 17)
		ask("changed " + name(i*17))
		time.Sleep(2500 * time.Millisecond) // the second look at what was young
	}
	after := ask("cpu")
	fmt.Printf("one changed file:    %6.1f ms CPU (goal: 20 ms), mean of %d\n", (after-before).Seconds()*1e3/float64(changes), changes)
	before = after
	after = ask("reload")
	fmt.Printf("a look at all files: %6.1f ms CPU\n", (after-before).Seconds()*1e3)
	before = after
	after = ask("answer")
	fmt.Printf("each name once:      %6.1f µs CPU for each, parsing included\n", (after-before).Seconds()*1e6/float64(*count))
	fmt.Printf("user memory then:    %6.1f MB\n", private(pid))
	in.Close()
	check(cmd.Wait())
}

// beChild opens a Store and does what it is told.
func beChild(dir string) {
	store, err := certstore.Open(certstore.Options{Directory: dir, Watch: true, Log: slog.New(slog.DiscardHandler)})
	check(err)
	defer store.Close()
	if !store.Has(name(0)) || !store.Has(name(*count-1)) || len(store.Problems()) > 0 {
		log.Fatalf("certs: not all was loaded: %v", store.Problems())
	}
	fmt.Println(int64(cpu()))
	leaf := func(name string) string {
		cert, err := store.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		check(err)
		return string(cert.Certificate[0])
	}
	known := map[string]string{}
	for i := range 5 {
		known[name(i*17)] = leaf(name(i * 17))
	}
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		switch order, arg, _ := strings.Cut(orders.Text(), " "); order {
		case "cpu":
		case "changed":
			for leaf(arg) == known[arg] {
				time.Sleep(50 * time.Millisecond)
			}
		case "reload":
			check(store.Reload())
		case "answer":
			for i := range *count {
				leaf(name(i))
			}
		}
		fmt.Println(int64(cpu()))
	}
}

// cpu returns what this process has used so far, user and system.
func cpu() time.Duration {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// private returns megabytes (10^6) that belong to a process alone.
func private(pid int) float64 {
	n, err := process.PrivateMemory(pid)
	check(err)
	return float64(n) / 1e6
}

func check(err error) {
	if err != nil {
		log.Fatal("certs: ", err)
	}
}
