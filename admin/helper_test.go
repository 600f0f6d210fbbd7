package admin

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"wssgate/internal/leaktest"
	"wssgate/proxy"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const goodToken = "0123456789abcdef0123"

// newServer creates a Server of an empty gate; edit changes its Options.
func newServer(t *testing.T, edit func(*Options)) *Server {
	t.Helper()
	o := Options{
		Gate:   func() Gate { return Gate{} },
		Counts: func() proxy.Counts { return proxy.Counts{} },
		Log:    slog.New(slog.DiscardHandler),
	}
	if edit != nil {
		edit(&o)
	}
	s := New(o)
	t.Cleanup(s.Close)
	return s
}

var (
	loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9291}
	outside  = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9291}
	socket   = &net.UnixAddr{Name: "/run/wssgate.sock", Net: "unix"}
)

// ask sends a request to the local address; header is name, value, …
func ask(s *Server, local net.Addr, method, url string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// serve answers on loopback until the test ends and returns the base URL.
func serve(t *testing.T, s *Server) (url string, ln net.Listener) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return "http://" + ln.Addr().String(), ln
}

func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func newClient(t *testing.T) *http.Client {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return client
}
