package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/files"
)

// A unix socket on a file system that hangs costs one call, regardless of the number of
// clients and probes: the others fail at once. It is dialled again when it is back, and
// a late connection is closed.
func TestSocketPathHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const path = "/hang/socket"
		resume := files.Stall(path)
		var calls, open atomic.Int32
		o := Options{
			Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: "ws+unix://" + path + ":/ws"}}, Health: HealthOptions{Interval: 10 * time.Second}}},
			Dial: func(_ context.Context, network, address string) (net.Conn, error) {
				calls.Add(1)
				open.Add(1)
				ours, theirs := net.Pipe()
				go func() {
					defer open.Add(-1)
					theirs.Read(make([]byte, 1<<16))
					theirs.Close()
				}()
				return ours, nil
			},
		}
		tab := table(t, o)
		defer tab.Close()
		v, err := tab.Routes().Lookup("x")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				_, err := v.Dial(t.Context(), &Request{Host: "x", RequestURI: "/", Subprotocol: "xmpp"})
				e, ok := errors.AsType[*DialError](err)
				if !ok || e.Status != http.StatusServiceUnavailable || !files.IsHang(err) {
					t.Errorf("err = %v", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != files.Patience {
			t.Errorf("it took %v; want %v", took, files.Patience)
		}
		time.Sleep(time.Hour)
		if list := files.Hanging(); calls.Load() != 0 || len(list) != 1 || list[0].Path != path || list[0].What != `upstream "a"` {
			t.Errorf("%d calls went through, hanging: %+v", calls.Load(), list)
		}
		update(t, tab, o) // the node stays, with its place
		if list := files.Hanging(); len(list) != 1 {
			t.Errorf("after a reload: %+v", list)
		}
		resume()
		synctest.Wait()
		if n := calls.Load(); n > 1 || open.Load() != 0 || len(files.Hanging()) > 0 {
			t.Errorf("back: %d calls, %d open, %+v", n, open.Load(), files.Hanging())
		}
	})
}

// deafDNS never answers, even after the end of the context, like net's resolver for SRV
// records.
type deafDNS struct{ over chan struct{} }

func (d deafDNS) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	<-d.over
	return nil, errTimeout
}

func (d deafDNS) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	<-d.over
	return "", nil, errTimeout
}

// A resolver that does not answer delays neither the end nor a reload that removes its
// node.
func TestCloseWhileDNSIsDeaf(t *testing.T) {
	for _, url := range []string{"srv+ws://_xmpp._tcp.example.com/", "ws://t1.example.com:5290/"} {
		synctest.Test(t, func(t *testing.T) {
			d := deafDNS{make(chan struct{})}
			tab := table(t, Options{Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: url}}}}, Resolver: d})
			synctest.Wait() // it has sent a query
			began := time.Now()
			tab.Close()
			if took := time.Since(began); took > answerMoment {
				t.Errorf("%s: Close took %v", url, took)
			}
			close(d.over)
		})
	}
}
