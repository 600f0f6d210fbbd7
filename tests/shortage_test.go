package tests

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// limitMemory reloads the gate with limits.memory. The configuration ends with
// [limits].
func limitMemory(t *testing.T, site *gate.Site, o *operator, config, size string) {
	t.Helper()
	site.Config(t, fmt.Sprintf("%smemory = %q\n", config, size))
	o.want("POST", "/reload", 200)
}

// While memory is short nobody new gets in, what waits for BOSH is let go, and
// tunnels go on; the log says so once, and the page, the status and the metrics
// as long as it lasts. Then all is as before.
func TestMemoryShort(t *testing.T) {
	waits := make(chan struct{}, 1)
	bosh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) == "wait" {
			waits <- struct{}{}
			<-r.Context().Done()
		}
		fmt.Fprint(w, "answer")
	}))
	defer bosh.Close()
	site := gate.NewSite(t, name)
	config := toUpstream(wire.Echo(t).URL) + fmt.Sprintf("[[vhost]]\nnames = [%q]\nbosh = \"%s/http-bind\"\n[limits]\n", name, bosh.URL)
	g := site.Start(t, config)
	o := operate(t, g)
	post := func(body string) string {
		return fmt.Sprintf("POST /http-bind HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", name, len(body), body)
	}

	// Enough tunnels to need more than the least limit there may be.
	const limit = 32 << 20
	for n := 0; o.status().Memory.Used < limit+limit/8; n++ {
		if n == 100 {
			t.Fatalf("the gate uses %d bytes with %d tunnels; this test wants it above %d", o.status().Memory.Used, 20*n, limit)
		}
		for range 20 {
			wire.Dial(t, g.Addr("wss"), site.Client(name))
		}
	}
	tunnel := wire.Dial(t, g.Addr("wss"), site.Client(name))
	underWay := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	polling := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	held := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	polled := make(chan string, 1)
	go func() {
		fmt.Fprint(held.Conn, post("wait"))
		resp, err := http.ReadResponse(held.R, nil)
		if err != nil {
			polled <- err.Error()
			return
		}
		resp.Body.Close()
		polled <- resp.Status + ", Retry-After " + resp.Header.Get("Retry-After")
	}()
	<-waits

	limitMemory(t, site, o, config, "32MiB")
	isShort := func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "memory is above limits.memory") }
	line := g.WaitLine("that memory is short", isShort)
	if line.Str("level") != "WARN" || line.Fields["limit"] != float64(limit) || line.Fields["used"].(float64) < limit || line.Str("hint") == "" {
		t.Errorf("the line says too little: %s", line.Text)
	}
	if got, want := <-polled, "503 Service Unavailable, Retry-After 5"; got != want {
		t.Errorf("the request of BOSH that waited got %s; want %s", got, want)
	}
	for _, c := range []struct {
		what, request string
		conn          *wire.Conn
	}{{"an upgrade", wire.Request(name), underWay}, {"a request of BOSH", post("hello"), polling}} {
		if resp, _ := c.conn.Answer(c.request); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s got %s, %v; want 503 with Retry-After", c.what, resp.Status, resp.Header)
		}
	}
	for range 3 {
		if conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(name)); err == nil {
			conn.Close()
			t.Error("a newcomer got in")
		}
	}
	tunnel.SendText("still here")
	tunnel.WantText("still here")
	st := o.status()
	if m := st.Memory; !m.Short || m.Since == nil || m.Until != nil || m.Max != limit || m.Used < limit || m.ShedRequests == 0 {
		t.Errorf("the status of memory is %+v", m)
	}
	found := ""
	for _, f := range st.Findings {
		if f.Level == "error" {
			found += f.What
		}
	}
	if !strings.Contains(found, "memory has been short since") || !strings.Contains(found, "limits.memory is 32 MiB") {
		t.Errorf("the findings are %+v; want that memory is short", st.Findings)
	}
	for metric, want := range map[string]float64{
		`wssgate_memory_short`:                               1,
		`wssgate_memory_max_bytes`:                           limit,
		`wssgate_memory_shed_total{what="bosh"}`:             1,
		`wssgate_memory_shed_total{what="tunnel"}`:           0,
		`wssgate_connections_refused_total{limit="memory"}`:  3,
		`wssgate_upgrades_refused_total{status="503"}`:       1,
		`wssgate_connections_refused_total{limit="drain"}`:   0,
		`wssgate_tunnels_closed_total{reason="slow_client"}`: 0,
	} {
		if got := o.metric(metric); got != want {
			t.Errorf("%s = %v; want %v", metric, got, want)
		}
	}

	limitMemory(t, site, o, config, "off")
	g.WaitLine("that memory is enough again", func(l gate.Line) bool {
		return strings.HasPrefix(l.Msg(), "memory is well below limits.memory again") && l.Fields["requests"] == 1.0
	})
	if resp, body := wire.DialTLS(t, g.Addr("wss"), site.Client(name)).Answer(post("hello")); body != "answer" {
		t.Errorf("BOSH afterwards: %s, %q", resp.Status, body)
	}
	late := wire.Dial(t, g.Addr("wss"), site.Client(name))
	late.SendText("hello")
	late.WantText("hello")
	tunnel.SendText("still here")
	tunnel.WantText("still here")
	if st := o.status(); st.Memory.Short || st.Memory.Until == nil || st.FindingsTotal["error"] != 0 || st.FindingsTotal["warn"] != 1 {
		t.Errorf("afterwards memory is %+v, findings are %+v; want one that it was short", st.Memory, st.Findings)
	}
	if n := strings.Count(g.Text(), "memory is above limits.memory"); n != 1 {
		t.Errorf("%d lines say that memory is short; want one", n)
	}
}

const (
	slowReaders  = 200
	honest       = 20
	roomForSlow  = 128 << 20
	floodFrame   = 16 << 10
	slowReceives = 4 << 10 // bytes of a slow client's receive buffer, or the kernel would take it all
)

// Hundreds of clients that read nothing, each of which its upstream floods with as
// much as may wait for it, many times the limit together, don't get the gate above limits.memory for longer than it takes to
// notice: the largest backlogs are shed. Who reads what it is sent is not touched.
func TestMemoryFlood(t *testing.T) {
	needDescriptors(t, 2*slowReaders+500)
	flooded := payload(floodFrame)
	upstream := wire.ListenWS(t, func(c *wire.Conn) {
		for {
			f, err := wire.ReadFrame(c.R)
			if err != nil {
				return
			}
			f.Masked = false
			reply := c.Bytes(f)
			n := 1
			if string(f.Payload) == "flood" {
				n, reply = 1<<20, c.Bytes(wire.Frame{FIN: true, Op: wire.Binary, Payload: flooded})
			}
			for range n {
				if _, err := c.Write(reply); err != nil {
					return
				}
			}
		}
	})
	site := gate.NewSite(t, name)
	config := toUpstream(upstream.URL) + "[limits]\nclient_backlog = \"16MiB\"\n"
	g := site.Start(t, config, gate.Plain())
	o := operate(t, g)

	var readers []*wire.Conn
	for range honest {
		readers = append(readers, wire.Dial(t, g.Addr("wss"), site.Client(name)))
	}
	slow := make([]*wire.Conn, slowReaders)
	narrow := net.Dialer{Timeout: wire.Patience, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, slowReceives)
		})
	}}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < slowReaders; i += 8 {
				conn, err := tls.DialWithDialer(&narrow, "tcp", g.Addr("wss"), site.Client(name))
				if err != nil {
					t.Error(err)
					return
				}
				slow[i] = wire.NewConn(t, conn, true)
				if err := slow[i].TryUpgrade(wire.Request(name)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	base := o.status().Memory.Used
	limit := base + roomForSlow
	limitMemory(t, site, o, config, strconv.FormatInt(limit, 10))

	stop := make(chan struct{})
	peak := make(chan int64)
	go func() {
		most := int64(0)
		for {
			most = max(most, anonymous(g))
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	wait := g.Mark()
	for _, c := range slow {
		c.SendText("flood")
	}
	g.WaitLine("that memory is short", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "memory is above limits.memory") })
	end := wait("that memory is enough again", func(l gate.Line) bool {
		for i, c := range readers { // they go on meanwhile
			c.SendText(fmt.Sprint("hello ", i))
			c.WantText(fmt.Sprint("hello ", i))
		}
		return strings.HasPrefix(l.Msg(), "memory is well below limits.memory again")
	})
	eventually(t, "a newcomer gets in", func() bool {
		conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(name))
		if err != nil {
			return false
		}
		return wire.NewConn(t, conn, true).TryUpgrade(wire.Request(name)) == nil
	})
	close(stop)
	most := <-peak
	t.Logf("figure: %d MiB before, limit %d MiB, at the most %d MiB; shed: %s", base>>20, limit>>20, most>>20, end.Text)
	// What the kernel would kill a container of this limit at.
	if kill := limit / 80 * 100; most >= kill {
		t.Errorf("%d MiB at the most; want less than %d", most>>20, kill>>20)
	}
	if end.Fields["tunnels"].(float64) == 0 || o.metric(`wssgate_memory_shed_total{what="tunnel"}`) == 0 {
		t.Error("nothing was shed")
	}
	for i, c := range readers {
		c.SendText(fmt.Sprint("goodbye ", i))
		c.WantText(fmt.Sprint("goodbye ", i))
	}
}

// anonymous is the program's RssAnon in bytes.
func anonymous(g *gate.Gate) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", g.PID()))
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 3 {
		return 0
	}
	resident, _ := strconv.ParseInt(fields[1], 10, 64)
	shared, _ := strconv.ParseInt(fields[2], 10, 64)
	return (resident - shared) * int64(os.Getpagesize())
}
