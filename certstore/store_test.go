package certstore

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/minica"
	"wssgate/files"
	"wssgate/watch"
)

// A handshake never waits for a lock that a reload holds, even for a name that
// has not been requested before.
func TestHandshakeDoesNotWaitForReload(t *testing.T) {
	d := newDir(t)
	p := ca.Issue("example1.com")
	d.put(t, "x.pem", p.PEM())
	s := d.open(t)
	resume := files.Stall(string(d)) // in the middle of a reload
	reloaded := make(chan error)
	go func() { reloaded <- s.Reload() }()
	defer func() { resume(); <-reloaded }()
	s.swap.Lock()
	defer s.swap.Unlock()
	wantServed(t, s, "example1.com", p)
	if !s.Has("example1.com") || len(slices.Collect(s.Certificates())) != 1 || len(s.Problems()) != 0 {
		t.Error("the status is not there")
	}
}

// Everything runs at once, for the race detector. A name that stays always has
// its certificate.
func TestConcurrentUse(t *testing.T) {
	d := newDir(t)
	d.put(t, "stays.pem", ca.Issue("example1.com").PEM())
	s := d.open(t)
	versions := [][]byte{ca.Issue("example1.com").PEM(), ca.Issue("example1.com").PEM(), []byte("bad")}
	acme := ca.Issue("example1.com", "example2.com").TLS()
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for h := hello("example1.com"); ; {
				select {
				case <-stop:
					return
				default:
				}
				if cert, err := s.GetCertificate(h); cert == nil || err != nil {
					t.Errorf("GetCertificate = %v, %v", cert, err)
					return
				}
				s.Has("example2.com")
				for range s.Certificates() {
				}
				s.Problems()
				runtime.Gosched()
			}
		})
	}
	writers.Go(func() {
		for i := range 15 {
			d.put(t, "changes.pem", versions[i%len(versions)])
			reload(t, s)
			runtime.GC() // releases unused chunks
		}
	})
	writers.Go(func() {
		for range 15 {
			if err := s.Install(SourceACME, "x", acme); err != nil {
				t.Error(err)
			}
			s.Remove(SourceACME, "x")
			if err := setDirectory(s, string(d), false); err != nil {
				t.Error(err)
			}
		}
	})
	writers.Wait()
	close(stop)
	readers.Wait()
}

// Certificates expire and become valid as time passes. Handshakes follow at
// once; reports follow with the next look.
func TestTimeGoesOn(t *testing.T) {
	d := newDir(t)
	synctest.Test(t, func(t *testing.T) {
		ca := minica.NewCA("Root of this time").Intermediate("CA of this time")
		in := func(from, to time.Duration) *minica.Pair {
			return ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)})
		}
		var log bytes.Buffer
		now, next := in(-time.Hour, 2*time.Hour), in(time.Hour, 4*time.Hour)
		d.put(t, "x.pem", now.PEM())
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		answers := func(want *minica.Pair) {
			t.Helper()
			if cert, err := s.GetCertificate(hello("example1.com")); err != nil || !bytes.Equal(cert.Certificate[0], want.Cert.Raw) {
				t.Errorf("after %v: another certificate, %v", time.Since(now.Cert.NotBefore)-time.Hour, err)
			}
		}
		d.put(t, "x.pem", next.PEM())
		reload(t, s)
		answers(now)
		wantProblems(t, s, "not valid before ")
		time.Sleep(61 * time.Minute)
		answers(next) // both are valid, this one for longer
		s.look(t.Context(), nil, watch.Changes{All: true, Recheck: true})
		answers(next)
		wantProblems(t, s)
		log.Reset()
		time.Sleep(3 * time.Hour)
		for range 3 {
			s.look(t.Context(), nil, watch.Changes{All: true, Recheck: true})
			wantProblems(t, s, "; still served")
			time.Sleep(time.Minute)
		}
		answers(next)
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("logged %d times, want once:\n%s", n, log.String())
		}
	})
}

// A directory with more folders than anyone has vhosts is reported, and reading
// it ends soon.
func TestTooManyFolders(t *testing.T) {
	d := newDir(t)
	for i := range 6 {
		d.put(t, fmt.Sprintf("%d/x.pem", i), ca.Issue(fmt.Sprintf("example%d.com", i)).PEM())
	}
	tree := newTree(string(d), slog.Default())
	tree.limit = 4
	if err := tree.scan(); err != nil {
		t.Fatal(err)
	}
	all, faults, _ := tree.collect(time.Now())
	if len(all) != 3 || len(faults) != 1 || !strings.Contains(faults[0].err.Error(), "more than 4 folders") {
		t.Errorf("%d certificates, faults %v", len(all), faults)
	}
}

// A der has the bytes that were put for as long as it is held, whatever else
// the arena allocates and frees.
func TestDer(t *testing.T) {
	var a arena
	want := map[int][]byte{}
	ders := map[int]der{}
	for i := range 3000 {
		b := bytes.Repeat([]byte{byte(i)}, 1+i%700)
		if i == 1500 {
			b = bytes.Repeat([]byte{7}, 2*chunkSize) // larger than a chunk
		}
		d := a.put(b)
		if i%500 == 0 { // most chunks are soon without ders
			want[i], ders[i] = b, d
		}
	}
	a = arena{}
	runtime.GC()
	runtime.GC()
	for i, d := range ders {
		if !bytes.Equal(d.bytes(), want[i]) || !d.equal(onHeap(want[i])) || !onHeap(want[i]).equal(d) {
			t.Errorf("der %d is not what was put", i)
		}
		if d.equal(onHeap(append(want[i], 0))) || d.equal(der{}) {
			t.Errorf("der %d equals another one", i)
		}
	}
	if b := (der{}).bytes(); b != nil || !(der{}).equal(der{}) {
		t.Errorf("the zero der has bytes %x", b)
	}
}
