package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"wssgate/demo/chat"
)

// The demo does what it prints: pages, logins and messages on both names, no
// third name, a probe; and it leaves nothing behind.
func TestDemoCommand(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	stdout, out := io.Pipe()
	var stderr lockedBuilder
	status := make(chan int, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer out.Close()
		status <- demoCommand(ctx, []string{"-listen", "127.0.0.1:0"}, out, &stderr)
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(stop)

	guide, addr, caFile := readGuide(t, stdout)
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	_, port, _ := net.SplitHostPort(addr)

	// The guide is there a moment before the gate is.
	waitForListener(t, addr)

	var clients []*chat.Client
	for _, name := range []string{"example1.localhost", "example2.localhost"} {
		origin := "https://" + net.JoinHostPort(name, port) + "/"
		if !strings.Contains(guide, origin) {
			t.Errorf("the guide does not name %s", origin)
		}
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
		}
		resp, err := (&http.Client{Transport: transport}).Get(origin)
		if err != nil {
			t.Fatal(err)
		}
		page, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		transport.CloseIdleConnections()
		if resp.StatusCode != 200 || !strings.Contains(string(page), "<title>wssgate demo") {
			t.Errorf("%s: %s, %.80q", origin, resp.Status, page)
		}
		c, err := chat.Login(t.Context(), chat.Target{URL: "wss://" + net.JoinHostPort(name, port) + "/", Addr: addr, RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Abort()
		clients = append(clients, c)
	}
	for i, c := range clients {
		other := clients[1-i]
		if err := c.Message(other.JID, "from "+c.JID); err != nil {
			t.Fatal(err)
		}
		e, err := other.ReadMessage()
		if err != nil || e.Attr("from") != c.JID || e.ChildText("body") != "from "+c.JID {
			t.Errorf("%s got %v, %v", other.JID, e, err)
		}
	}

	_, err = tls.Dial("tcp", addr, &tls.Config{ServerName: "example3.localhost", RootCAs: roots})
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("example3.localhost: err = %v, want the alert unrecognized_name", err)
	}

	var probed, problems strings.Builder
	args := regexp.MustCompile(`(?m)^  \S+ probe (.*)$`).FindStringSubmatch(guide)
	if args == nil {
		t.Fatalf("no probe in the guide:\n%s", guide)
	}
	if status := probeCommand(t.Context(), strings.Fields(args[1]), &probed, &problems); status != exitOK {
		t.Errorf("probe %s = %d\n%s%s", args[1], status, &probed, &problems)
	}

	stop()
	for _, c := range clients { // a drain waits for its clients
		for err := error(nil); err == nil; {
			_, err = c.Recv()
		}
		c.Abort()
	}
	if got := <-status; got != exitOK {
		t.Errorf("status %d after the end, want %d\n%s", got, exitOK, &stderr)
	}
	if _, err := os.Stat(filepath.Dir(caFile)); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", filepath.Dir(caFile), err)
	}
}

// readGuide reads what the demo prints, up to its last line.
func readGuide(t *testing.T, r io.Reader) (guide, addr, caFile string) {
	t.Helper()
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		guide += scanner.Text() + "\n"
		if strings.HasPrefix(scanner.Text(), "Ctrl-C") {
			break
		}
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, r) // the pipe has no buffer
	m := regexp.MustCompile(`-connect (\S+) -servername \S+ -CAfile (\S+)`).FindStringSubmatch(guide)
	if m == nil {
		t.Fatalf("no openssl line in the guide:\n%s", guide)
	}
	return guide, m[1], m[2]
}

func waitForListener(t *testing.T, addr string) {
	t.Helper()
	for t.Context().Err() == nil {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
	}
}

// A lockedBuilder takes writes from several goroutines.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestDemoMistakes(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, tt := range []struct {
		args   string
		status int
		stderr string
	}{
		{"-listen " + ln.Addr().String(), exitFailed, "hint: something listens there already"},
		{"-listen 5291", exitUsage, "missing port in address"},
		{"-listen 127.0.0.1:0 -upstream http://127.0.0.1:5280/", exitUsage, `scheme "http"`},
		{"-listen 127.0.0.1:0 -dir /dev/null/x", exitFailed, "/dev/null"},
		{"example1.com", exitUsage, `unexpected "example1.com"`},
		{"-upstraem x", exitUsage, "did you mean -upstream?"},
	} {
		var stdout, stderr strings.Builder
		status := demoCommand(t.Context(), strings.Fields(tt.args), &stdout, &stderr)
		if status != tt.status || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("demo %s = %d, %s%s; want %d, %q", tt.args, status, &stdout, &stderr, tt.status, tt.stderr)
		}
	}
}
