package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A watched is a gate that nobody signals: what it serves follows the files.
type watched struct {
	*gate.Gate
	t    *testing.T
	site *gate.Site
}

// watch starts a gate on certs/ with a certificate for name and one more, so
// that something is always served, and opens a tunnel which has to outlive the
// test.
func watch(t *testing.T, prepare func(site *gate.Site)) *watched {
	t.Helper()
	site := gate.NewSite(t, "other.test")
	prepare(site)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	tunnel := wire.Dial(t, g.Addr("wss"), site.Client("other.test"))
	t.Cleanup(func() {
		tunnel.SendText("still here")
		tunnel.WantText("still here")
	})
	return &watched{g, t, site}
}

// serves waits until clients of name get pair's certificate.
func (w *watched) serves(what string, pair *minica.Pair) {
	w.t.Helper()
	want := pair.Cert.SerialNumber.String()
	eventually(w.t, what+" is served", func() bool { return serial(w.t, w.site, w.Gate, name) == want })
}

// keeps checks that clients of name get pair's certificate now.
func (w *watched) keeps(pair *minica.Pair) {
	w.t.Helper()
	if got, want := serial(w.t, w.site, w.Gate, name), pair.Cert.SerialNumber.String(); got != want {
		w.t.Errorf("%s: serial number %q; want %s, the one that was there", name, got, want)
	}
}

// Files that come, change and go are noticed by the running program.
func TestWatchFiles(t *testing.T) {
	t.Parallel()
	w := watch(t, func(*gate.Site) {})
	one, two := w.site.CA.Issue(name), w.site.CA.Issue(name)
	w.site.Certify(t, name, one)
	w.serves("a new file", one)
	w.site.Certify(t, name, two)
	w.serves("a changed file", two)
	if err := os.Remove(filepath.Join(w.site.Dir, w.site.CertFile(name))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a removed file is not served", func() bool { return serial(t, w.site, w.Gate, name) == "" })
}

// A Kubernetes Secret: the kubelet swaps the link ..data, and removes the old
// folder.
func TestWatchSecret(t *testing.T) {
	t.Parallel()
	secret := func(site *gate.Site, version string, pair *minica.Pair) {
		dir := filepath.Join(site.Dir, "certs", "vhost1")
		must(t, os.MkdirAll(filepath.Join(dir, ".."+version), 0o755))
		site.Write(t, "certs/vhost1/.."+version+"/tls.crt", pair.ChainPEM())
		site.Write(t, "certs/vhost1/.."+version+"/tls.key", pair.KeyPEM())
		must(t, os.Symlink(".."+version, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	var one *minica.Pair
	w := watch(t, func(site *gate.Site) {
		one = site.CA.Issue(name)
		secret(site, "v1", one)
		for _, file := range []string{"tls.crt", "tls.key"} {
			must(t, os.Symlink("..data/"+file, filepath.Join(site.Dir, "certs/vhost1", file)))
		}
	})
	w.keeps(one)
	for version := 2; version < 5; version++ {
		next := w.site.CA.Issue(name)
		secret(w.site, fmt.Sprint("v", version), next)
		must(t, os.RemoveAll(filepath.Join(w.site.Dir, fmt.Sprint("certs/vhost1/..v", version-1))))
		w.serves("the Secret's new version", next)
	}
	if text := w.Text(); strings.Contains(text, `"ERROR"`) {
		t.Errorf("errors in the log:\n%s", text)
	}
}

// Certbot's renewal: four new files in archive, then the links in live are
// turned one by one, for a while longer than changes are gathered.
func TestWatchCertbot(t *testing.T) {
	t.Parallel()
	files := []string{"cert", "chain", "fullchain", "privkey"}
	archive := func(site *gate.Site, version int, pair *minica.Pair) {
		dir := filepath.Join("archive", name)
		must(t, os.MkdirAll(filepath.Join(site.Dir, dir), 0o700))
		chain := pair.ChainPEM()
		leaf := minica.CertPEM(pair.Cert)
		for i, data := range [][]byte{leaf, chain[len(leaf):], chain, pair.KeyPEM()} {
			site.Write(t, fmt.Sprintf("%s/%s%d.pem", dir, files[i], version), data)
		}
	}
	turn := func(site *gate.Site, version int, file string) {
		link := filepath.Join(site.Dir, "certs", name, file+".pem")
		os.Remove(link)
		must(t, os.Symlink(fmt.Sprintf("../../archive/%s/%s%d.pem", name, file, version), link))
	}
	ca := func(site *gate.Site) *minica.CA { return site.CA.Intermediate("R1") }
	var one *minica.Pair
	w := watch(t, func(site *gate.Site) {
		one = ca(site).Issue(name)
		archive(site, 1, one)
		must(t, os.MkdirAll(filepath.Join(site.Dir, "certs", name), 0o700))
		for _, file := range files {
			turn(site, 1, file)
		}
	})
	w.keeps(one)
	var slowest time.Duration
	for version := 2; version < 4; version++ {
		next := ca(w.site).Issue(name)
		archive(w.site, version, next)
		began := time.Now()
		for _, file := range files {
			turn(w.site, version, file)
			time.Sleep(300 * time.Millisecond) // so that each is looked at alone
			if serial(t, w.site, w.Gate, name) == "" {
				t.Fatalf("nothing is served once %s.pem is turned", file)
			}
		}
		slowest = max(slowest, time.Since(began))
		w.serves("the renewed certificate", next)
	}
	// What does not fit together for 2 s is an error, as where this test is that slow.
	if text := w.Text(); slowest < 2*time.Second && strings.Contains(text, `"ERROR"`) {
		t.Errorf("errors in the log:\n%s", text)
	}
}

// A file that is being written is read when it is whole.
func TestWatchHalfWritten(t *testing.T) {
	t.Parallel()
	var one *minica.Pair
	w := watch(t, func(site *gate.Site) {
		one = site.CA.Issue(name)
		site.Certify(t, name, one)
	})
	two := w.site.CA.Issue(name)
	data := two.PEM()
	out, err := os.OpenFile(filepath.Join(w.site.Dir, w.site.CertFile(name)), os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	defer out.Close()
	for len(data) > 200 {
		_, err := out.Write(data[:200])
		must(t, err)
		data = data[200:]
		time.Sleep(250 * time.Millisecond)
		w.keeps(one)
	}
	_, err = out.Write(data)
	must(t, err)
	w.serves("the whole file", two)
}

// A replacement that is bad takes nothing down. It is logged once, with file
// and reason, and stands in the metrics, on the status page and in "wssgate
// certs" until the file is mended, whatever is looked at meanwhile.
func TestWatchBadReplacement(t *testing.T) {
	past, future := time.Now().AddDate(0, 0, -1), time.Now().AddDate(0, 0, 1)
	for _, tt := range []struct {
		what, reason string
		content      func(site *gate.Site) []byte
	}{
		{"nonsense", "has no PEM block", func(*gate.Site) []byte { return []byte("nonsense\n") }},
		{"nothing", "is empty", func(*gate.Site) []byte { return nil }},
		{"another's key", "private key belongs to another certificate", func(site *gate.Site) []byte {
			return append(site.CA.Issue(name).ChainPEM(), site.CA.Issue(name).KeyPEM()...)
		}},
		{"expired", "expired " + past.UTC().Format(time.DateOnly), func(site *gate.Site) []byte {
			return site.CA.IssueSpec(minica.Spec{Names: []string{name}, NotBefore: past.AddDate(0, 0, -9), NotAfter: past}).PEM()
		}},
		{"not yet valid", "not valid before " + future.UTC().Format(time.DateOnly), func(site *gate.Site) []byte {
			return site.CA.IssueSpec(minica.Spec{Names: []string{name}, NotBefore: future}).PEM()
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			var one *minica.Pair
			w := watch(t, func(site *gate.Site) {
				one = site.CA.Issue(name)
				site.Certify(t, name, one)
			})
			file := w.site.CertFile(name)
			w.site.Write(t, file, tt.content(w.site))
			isAbout := func(l gate.Line) bool {
				return l.Str("level") == "ERROR" && strings.Contains(l.Msg(), file) && strings.Contains(l.Msg(), tt.reason)
			}
			w.WaitLine("a line with file and reason", isAbout)
			w.keeps(one)
			w.site.Certify(t, "other.test", w.site.CA.Issue("other.test")) // another change is no news of this one
			after := w.Mark()
			w.Signal(syscall.SIGHUP)
			after("the reload", func(l gate.Line) bool { return l.Msg() == "reloaded" })
			w.keeps(one)

			o := operate(t, w.Gate)
			o.want("GET", "/metrics", 200, "\nwssgate_certificate_file_problems 1\n")
			files := o.status().Files
			if len(files) != 1 || !files[0].Kept || !strings.Contains(files[0].Err, tt.reason) || !strings.HasSuffix(files[0].File, file) {
				t.Errorf("status: files = %+v; want %s, kept, %q", files, file, tt.reason)
			}
			if _, out := certs(t, w.site); !strings.Contains(out, file) || !strings.Contains(out, tt.reason) {
				t.Errorf("wssgate certs prints %s\nwant %s and %q in it", out, file, tt.reason)
			}
			if n := strings.Count(w.Text(), tt.reason); n != 1 {
				t.Errorf("logged %d times; want once:\n%s", n, w.Text())
			}

			two := w.site.CA.Issue(name)
			w.site.Certify(t, name, two)
			w.serves("the mended file", two)
			o.want("GET", "/metrics", 200, "\nwssgate_certificate_file_problems 0\n")
		})
	}
}

// certs runs "wssgate certs" on the site and returns its exit status and all
// that it prints.
func certs(t *testing.T, site *gate.Site, args ...string) (status int, out string) {
	t.Helper()
	binary, err := gate.Build(false)
	must(t, err)
	cmd := exec.Command(binary, append([]string{"certs"}, args...)...)
	cmd.Dir = site.Dir
	printed, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(printed)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
